"""A grouped convolution as device buffers: packed weights, group rows, offset tables; launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.optimize.grouped.tables import Tables
from perfmodel.optimize.grouped.tiles import Variant
from validate.grouped_conv.plans import side_by_side

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEVICE = "cuda"
SET_BYTES = 150e6
MODES = {"taps": 0, "flat": 1, "table": 2}


@dataclass
class Layer:
    """Weights and tables of a layer on a device.

    ``weights[g]`` is (outputs, inputs, k, k), on the host; ``packed`` holds every group's
    (k k inputs, outputs padded to 16) matrix one after another.
    """

    conv: GroupedConv
    weights: list[torch.Tensor]
    packed: torch.Tensor
    groups: torch.Tensor
    taps: torch.Tensor
    offsets: torch.Tensor


def build(
    conv: GroupedConv, device: str, seed: int = 0, given: list[torch.Tensor] | None = None
) -> Layer:
    """Random weights (rounded to the layer's type), or those given, and the groups' tables."""
    maker = torch.Generator().manual_seed(seed)
    dtype = DTYPES[conv.dtype]
    k = conv.kernel
    weights, blocks, rows, taps, offsets = [], [], [], [], []
    w_off = out_off = k_off = 0
    for index, group in enumerate(conv.groups):
        cg, og = len(group.channels), group.outputs
        if given is None:
            w = (torch.randn(og, cg, k, k, generator=maker) / (cg * k * k) ** 0.5).to(dtype)
        else:
            w = given[index]
        weights.append(w)
        opad = -(-og // 16) * 16
        block = torch.zeros(k * k * cg, opad, dtype=dtype)
        block[:, :og] = w.permute(2, 3, 1, 0).reshape(k * k * cg, og)
        blocks.append(block.reshape(-1))
        rows.append([cg, group.channels[0], og, opad, w_off, out_off, k_off, 0])
        kh, kw = np.divmod(np.arange(k * k), k)
        kh, kw = kh * conv.dilation, kw * conv.dilation
        base = (kh * conv.width + kw) * conv.in_channels
        offsets.append((base[:, None] + np.array(group.channels)[None, :]).reshape(-1))
        taps.append(np.repeat(kh * 1024 + kw, cg))
        w_off += block.numel()
        out_off += og
        k_off += k * k * cg
    as_int = lambda parts: torch.tensor(np.concatenate(parts), dtype=torch.int32, device=device)  # noqa: E731
    return Layer(
        conv,
        weights,
        torch.cat(blocks).to(device),
        torch.tensor(rows, dtype=torch.int32, device=device),
        as_int(taps),
        as_int(offsets),
    )


def make_input(conv: GroupedConv, device: str, seed: int) -> torch.Tensor:
    """Random NHWC input."""
    maker = torch.Generator(device=device).manual_seed(seed)
    shape = (conv.batch, conv.height, conv.width, conv.in_channels)
    return torch.randn(shape, generator=maker, device=device).to(DTYPES[conv.dtype])


def make_output(conv: GroupedConv, device: str) -> torch.Tensor:
    """NHWC output, poisoned: an element nobody writes stays NaN."""
    shape = (conv.batch, conv.out_height, conv.out_width, conv.out_channels)
    return torch.full(shape, float("nan"), dtype=DTYPES[conv.dtype], device=device)


def input_sets(conv: GroupedConv, most: int = 48, seed: int = 1) -> list[torch.Tensor]:
    """Random inputs that together exceed the last-level cache where ``most`` sets can; each starts
    on a 128-byte line.
    """
    shape = (conv.batch, conv.height, conv.width, conv.in_channels)
    size = int(np.prod(shape))
    stride = -(-size // 64) * 64
    each = 2 * (size + conv.rows * conv.out_channels)
    count = int(min(most, max(4, -(-SET_BYTES // each))))
    maker = torch.Generator(device=DEVICE).manual_seed(seed)
    flat = torch.randn(count * stride, generator=maker, device=DEVICE, dtype=DTYPES[conv.dtype])
    return [flat[i * stride : i * stride + size].view(shape) for i in range(count)]


def make_outputs(conv: GroupedConv, count: int) -> list[torch.Tensor]:
    """One output for each input set."""
    return [make_output(conv, DEVICE) for _ in range(count)]


def reference(conv: GroupedConv, weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The layer in float64, NHWC, on the device of ``x``."""
    nchw = x.double().permute(0, 3, 1, 2)
    parts = [
        torch.nn.functional.conv2d(
            nchw[:, list(group.channels)],
            w.to(x.device).double(),
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
        )
        for group, w in zip(conv.groups, weights, strict=True)
    ]
    return torch.cat(parts, dim=1).permute(0, 2, 3, 1)


def reference_of(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The float64 result, without tuning it."""
    torch.backends.cudnn.benchmark = False
    try:
        return reference(layer.conv, layer.weights, x)
    finally:
        torch.backends.cudnn.benchmark = True


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    """||out - ref|| / ||ref||; NaN if an element was not written."""
    return float((out.double() - ref).norm() / ref.norm())


@dataclass
class Prepared:
    """Tables of a schedule on the device, and what the launch needs."""

    variant: Variant
    first: torch.Tensor
    tiles: torch.Tensor
    timer: torch.Tensor
    slots: int


def prepare(variant: Variant, tables: Tables, device: str) -> Prepared:
    """Copy a schedule's tables to the device."""
    slots = len(tables.first) - 1
    return Prepared(
        variant,
        torch.tensor(tables.first, device=device),
        torch.tensor(tables.tiles, device=device),
        torch.zeros(slots, 3, dtype=torch.int64, device=device),
        slots,
    )


def constants(variant: Variant, out_run: int, *, timers: bool) -> dict[str, Any]:
    """The compile-time arguments of a variant."""
    found: dict[str, Any] = {}
    for index in range(3):
        tile = variant.tiles[min(index, len(variant.tiles) - 1)]
        found |= {f"BM{index}": tile.bm, f"BN{index}": tile.bn, f"BK{index}": tile.bk}
    found |= {
        "COUNT": len(variant.tiles),
        "MODE": MODES[variant.mode],
        "VEC": variant.run,
        "OVEC": out_run,
        "STAGES": variant.stages,
        "TIMERS": int(timers),
        "num_warps": variant.warps,
    }
    if variant.max_registers is not None:
        found["maxnreg"] = variant.max_registers
    return found


def store_runs(variant: Variant) -> tuple[int, int]:
    """Widths of a store that a variant is compiled for: as wide as its loads can be, or 1."""
    return (4, 1) if variant.run == 4 else (8, 1)


def stored_run(conv: GroupedConv, variant: Variant) -> int:
    """The widest of them that this layer's outputs allow."""
    widest = store_runs(variant)[0]
    return widest if conv.output_run % widest == 0 else 1


def launch(
    layer: Layer,
    prepared: Prepared,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    timers: bool = False,
) -> Any:
    """Run the schedule; returns the compiled kernel."""
    from validate.grouped_conv.kernel import run_schedule

    conv, variant = layer.conv, prepared.variant
    return run_schedule[(prepared.slots,)](
        x,
        layer.packed,
        y,
        layer.taps,
        layer.offsets,
        prepared.first,
        prepared.tiles,
        layer.groups,
        prepared.timer,
        conv.rows,
        conv.height,
        conv.width,
        conv.in_channels // variant.run,
        conv.out_height,
        conv.out_width,
        conv.out_channels,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.kernel,
        **constants(variant, stored_run(conv, variant), timers=timers),
    )


def packed_copy(layer: Layer, device: str) -> tuple[Layer, torch.Tensor]:
    """The same layer on gathered channels: groups side by side, each padded to 8 channels.

    Returns the layer and the index list that gathers its input (padding repeats a channel, under
    zero weights).
    """
    conv = layer.conv
    widths = [-(-len(group.channels) // 8) * 8 for group in conv.groups]
    index: list[int] = []
    weights = []
    for group, width, w in zip(conv.groups, widths, layer.weights, strict=True):
        extra = width - len(group.channels)
        index += [*group.channels, *[group.channels[0]] * extra]
        weights.append(torch.nn.functional.pad(w, (0, 0, 0, 0, 0, extra)))
    made = build(side_by_side(conv), device, given=weights)
    return made, torch.tensor(index, device=device)
