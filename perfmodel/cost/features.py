"""What the correction may look at: sizes, their fit to the chip, and the mechanism's own parts.

Everything is dimensionless or a logarithm, so that a correction learned on one chip means something
on its sibling: the number of waves rather than of tiles, shares of the mechanism's time rather than
seconds. The names are stored with a correction and compared when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.choice import chosen_columns
from perfmodel.cost.conv_depthwise import FULL
from perfmodel.cost.conv_groups import padded_groups
from perfmodel.cost.conv_kernels import pointwise, repacking
from perfmodel.cost.depthwise_grids import grid_columns
from perfmodel.cost.device import Device
from perfmodel.cost.fourier import factors, steps
from perfmodel.cost.mechanism import product_sizes, row_count
from perfmodel.cost.memory_bound import by_words, stream_bytes
from perfmodel.cost.parts import Floats, Parts
from perfmodel.cost.proposed import SIZES, proposed_columns
from perfmodel.cost.tasks import MAP, POINT, Task, row_lengths
from perfmodel.cost.tiles import tile_times
from perfmodel.workload.ops.recurrent import GATES

_TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
_DTYPES = ("bf16", "fp16", "fp32", "tf32", "fp64", "fp8_e4m3", "fp8_e5m2", "int8")
_WORDS = ("add", "mul", "gelu", "silu", "relu", "copy", "fwd", "bwd", "dgrad", "wgrad", "nhwc",
          "nchw", "train", "lstm", "gru", "rnn")  # fmt: skip
_TINY = 1e-3
# Logarithms of times in tiles, against the mechanism's.
_FASTEST_TILE, _SLOWEST_TILE = -4.0, 3.0


class _Columns:
    """Names and columns, gathered in order."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.names: list[str] = []
        self.values: list[Floats] = []
        self.smooth: list[bool] = []

    def add(self, name: str, value: Floats | float, *, smooth: bool = False) -> None:
        """One more feature; ``smooth`` ones are also shown to the Gaussian process."""
        self.names.append(name)
        column = np.asarray(value)
        if column.dtype != np.float32:
            column = np.asarray(column, dtype=float)
        if column.shape != (self.count,):
            column = np.broadcast_to(column, (self.count,))
        self.values.append(column)
        self.smooth.append(smooth)

    def add_all(self, names: tuple[str, ...], values: Iterable[Floats]) -> None:
        """Several more, which the Gaussian process is not shown."""
        for name, value in zip(names, values, strict=True):
            self.add(name, value)


def tiled(task: Task) -> str:
    """Pass of the convolution whose times in tiles are looked at; empty if it is none."""
    return task.words["direction"] if task.convolution or task.family == POINT else ""


def features(
    task: Task, device: Device, parts: Parts, like: str = "", *, single: bool = False
) -> tuple[tuple[str, ...], Floats, NDArray[np.bool_]]:
    """Names (F,), values (N, F), and which of them a smooth learner sees (F,).

    Values have single precision where ``single`` asks for it.
    ``like`` is what :func:`tiled` says of the kernel that the task's rows teach; its own counts.
    """
    columns = _Columns(task.places.size)
    s = task.sizes
    for name in ("compute", "memory", "power", "floor"):
        share = getattr(parts, name) / parts.seconds
        columns.add(f"share_{name}", np.log(share + _TINY), smooth=name in ("memory", "floor"))
    balance = device.peak if np.isfinite(device.peak) else 1.0
    columns.add("balance", np.log2(balance / device.bandwidth))
    columns.add("seconds", np.log2(parts.seconds), smooth=True)
    columns.add("read_in_cache", np.log2(1.0 + s["read"] / max(device.cache, 1.0)))
    columns.add("written_in_cache", np.log2(1.0 + s["written"] / max(device.cache, 1.0)))
    columns.add("dtype", float(_DTYPES.index(task.dtype)) if task.dtype in _DTYPES else -1.0)
    columns.add("element", np.log2(task.element), smooth=True)
    for word in ("kind", "direction", "layout"):
        value = task.words.get(word, "")
        columns.add(word, float(_WORDS.index(value)) if value in _WORDS else -1.0, smooth=True)
    if task.product or task.convolution:
        _product(task, device, parts, columns)
    if task.base.startswith("attention"):
        _attention(task, device, columns)
    if task.convolution:
        _conv(task, device, columns)
    if task.base.startswith("conv_grouped"):
        _groups(task, device, parts, columns)
    like = tiled(task) or like
    if like:
        for name, time in zip(*tile_times(task, device, like), strict=True):
            apart = np.log(time / parts.seconds)
            columns.add(name, np.clip(apart, _FASTEST_TILE, _SLOWEST_TILE))
    if not task.base.startswith(("gemm", "conv", "attention")):
        _rows(task, device, parts, columns)
    if task.product and not like:
        _chosen(task, device, parts, columns)
    if like or task.convolution:
        _proposed(task, parts, columns)
    values = np.stack(columns.values, dtype=np.float32 if single else float, casting="same_kind")
    together: Floats = values.T  # a column lies together
    return tuple(columns.names), together, np.asarray(columns.smooth)


def extent(task: Task) -> dict[str, Floats]:
    """Base-2 logarithms of the sizes that span an operator's space, in which ranges are kept."""
    s = task.sizes
    names: tuple[str, ...]
    if task.convolution:
        s = s | {"kernel": s["side"], "stride": s["step"]}
        names = ("n", "c_in", "c_out", "h", "w", "kernel", "stride", "groups")
    elif task.base.startswith("attention"):
        names = ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim")
    else:
        skip = ("flops", "read", "written", "operations", "padding", "momentum", "distinct")
        names = tuple(name for name in s if name not in skip and not name.startswith(MAP))
    found = {name: np.log2(np.maximum(s[name], 1.0)) for name in names if name in s}
    moved = np.maximum(s["read"] + s["written"], 1.0)  # a pass may move nothing
    return found | {"flops": np.log2(s["flops"] + 1.0), "moved": np.log2(moved)}


def _evenness(value: Floats, largest: int = 512) -> Floats:
    """Base-2 logarithm of the largest power of two, up to ``largest``, that divides ``value``."""
    whole = np.clip(value, 1.0, 2.0**53).astype(np.int64)  # above, float64 holds even ones only
    return np.asarray(np.log2(np.minimum(whole & -whole, largest).astype(float)))


def _fill(value: Floats, step: int) -> Floats:
    return np.asarray(value / (np.ceil(value / step) * step))


def _product(task: Task, device: Device, parts: Parts, columns: _Columns) -> None:
    m, n, k, batch = product_sizes(task)
    for name, value in (("m", m), ("n", n), ("k", k), ("batch", batch)):
        columns.add(f"log_{name}", np.log2(value), smooth=True)
    columns.add("log_mn", np.log2(m * n * batch))
    columns.add("log_mnk", np.log2(m * n * k * batch))
    columns.add("m_to_n", np.log2(m / n))
    columns.add("k_to_side", np.log2(k / np.minimum(m, n)))
    columns.add("choice", parts.choice)
    for rows, cols in _TILES:
        waves = np.ceil(m / rows) * np.ceil(n / cols) * batch / device.units
        big = rows * cols >= 128 * 128
        columns.add(f"waves_{rows}x{cols}", np.log2(waves))
        columns.add(f"wave_fill_{rows}x{cols}", waves / np.ceil(waves), smooth=big)
    for step in (64, 128, 256):
        columns.add(f"m_fill_{step}", _fill(m, step))
        columns.add(f"n_fill_{step}", _fill(n, step))
    for name, value in (("m", m), ("n", n), ("k", k)):
        columns.add(f"even_{name}", _evenness(value))
    columns.add("even_row", np.minimum(_evenness(n), _evenness(k)), smooth=True)
    if task.product:
        _layout(task, columns)


def _trans(task: Task) -> NDArray[np.str_]:
    """Layout of every product; ``tn`` is that of a linear layer."""
    if "trans" in task.words:
        return np.asarray(task.words["trans"])
    if "batch" in task.sizes:
        return np.where(task.sizes["batch"] > 1, "nn", "tn")
    return np.asarray("tn")


def _chosen(task: Task, device: Device, parts: Parts, columns: _Columns) -> None:
    """The kernel that a library takes by its rule, where that is known."""
    dtype = "" if task.base.startswith("gemm_grouped") else task.dtype
    odd = "odd" in task.base
    found = chosen_columns(
        product_sizes(task), _trans(task), dtype, device.bandwidth, parts.seconds, odd
    )
    columns.add_all(*found)


def _proposed(task: Task, parts: Parts, columns: _Columns) -> None:
    """The plans that a library's search tries, where it searches and its proposals are known."""
    s, words = task.sizes, task.words
    dtype = task.dtype
    if task.base.startswith(POINT) and f"{MAP}n" in s:
        one = np.ones_like(parts.seconds)
        s = {name.removeprefix(MAP): value for name, value in s.items() if name.startswith(MAP)}
        s |= {"outputs": s["inputs"], "taps": one, "side": one, "step": one, "groups": one}
        s |= {"pad": np.zeros_like(one)}
    elif not task.convolution or task.family == "conv_depthwise_native":
        dtype = ""
    sizes = {name: s[name] for name in SIZES} if dtype else {}
    found = proposed_columns(
        sizes, words.get("direction", ""), words.get("layout", ""), dtype, parts.seconds
    )
    columns.add_all(*found)


def _layout(task: Task, columns: _Columns) -> None:
    """How the factors lie: transposed from what a linear layer has, and their rows' evenness."""
    s = task.sizes
    trans = _trans(task)
    columns.add("right_plain", np.asarray(np.char.startswith(trans, "n"), dtype=np.float64))
    columns.add("left_turned", np.asarray(np.char.endswith(trans, "t"), dtype=np.float64))
    _, _, k, _ = product_sizes(task)
    left, right = row_lengths(s, task.words) if "m" in s and "batch" in s else (k, k)
    columns.add("even_left", _evenness(left))
    columns.add("even_right", _evenness(right))
    columns.add("stream_bytes", np.log2(stream_bytes(s["read"])))


def _attention(task: Task, device: Device, columns: _Columns) -> None:
    s = task.sizes
    for name in ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim"):
        columns.add(f"log_{name}", np.log2(s[name]), smooth=name in ("kv_len", "head_dim", "q_len"))
    columns.add("causal", s["causal"], smooth=True)
    columns.add("group", np.log2(s["q_heads"] / s["kv_heads"]), smooth=True)
    heads = np.where(s["q_len"] == 1, s["kv_heads"], s["q_heads"]) * s["batch"]
    columns.add("log_heads", np.log2(heads), smooth=True)
    columns.add("heads_on_units", heads / device.units / np.ceil(heads / device.units))
    columns.add("keys", np.log2(heads * s["kv_len"]))
    for block in (64, 128, 192, 256):
        waves = heads * np.ceil(s["q_len"] / block) / device.units
        columns.add(f"waves_{block}", np.log2(waves))
        columns.add(f"wave_fill_{block}", waves / np.ceil(waves), smooth=block == 128)
        columns.add(f"q_fill_{block}", _fill(s["q_len"], block))
    columns.add("kv_fill_128", _fill(s["kv_len"], 128))
    columns.add("even_q", _evenness(s["q_len"]))
    columns.add("even_kv", _evenness(s["kv_len"]))
    columns.add("even_head", _evenness(s["head_dim"]))


def _conv(task: Task, device: Device, columns: _Columns) -> None:
    s = task.sizes
    for name in ("n", "c_in", "c_out", "h", "w"):
        columns.add(f"size_{name}", np.log2(s[name]), smooth=name in ("c_in", "c_out"))
    columns.add("kernel", s["side"], smooth=True)
    columns.add("stride", s["step"], smooth=True)
    columns.add("padding", s["pad"])
    columns.add("groups", np.log2(s["groups"]))
    for name in ("c_in", "c_out"):
        columns.add(f"group_{name}", np.log2(s[name] / s["groups"]))
        columns.add(f"even_{name}", _evenness(s[name] / s["groups"]), smooth=True)
    columns.add("image", np.log2(s["h"] * s["w"]))
    columns.add("even_image", _evenness(s["inputs"]))
    columns.add("even_outputs", _evenness(s["outputs"]))
    columns.add("pointwise", pointwise(task), smooth=True)
    moved, kernels, weights, padded = repacking(task)
    whole = s["read"] + s["written"]
    columns.add("repacked", np.log2(1.0 + (moved + weights) / whole), smooth=True)
    columns.add("padded_weights", np.log2(1.0 + padded))
    columns.add("fp16", np.full_like(moved, task.dtype == "fp16"))
    columns.add("repack_kernels", kernels, smooth=True)
    columns.add("taps_inside", s["inside"])
    columns.add("even_w", _evenness(s["w"]))
    columns.add("odd_channels", (s["c_in"] % 8 > 0) * 1.0 + 2.0 * (s["c_out"] % 8 > 0))
    if task.family == "conv_depthwise":
        half = task.dtype not in FULL
        columns.add_all(*grid_columns(s, task.words["direction"], half, float(device.units)))


_GROUP_FORMS = 4  # sliced, direct, generic, padded


def _groups(task: Task, device: Device, parts: Parts, columns: _Columns) -> None:
    """What padding takes against the form that was chosen: a search may not have tried both."""
    padded, kernels, moved = padded_groups(task.sizes, task.element, task.words["direction"])
    columns.add("padded_tensors", kernels, smooth=True)
    share = moved / device.bandwidth / parts.seconds
    columns.add("padding_share", np.log2(share + 2.0**-6), smooth=True)
    columns.add("group_width", np.log2(padded["c_in"] / task.sizes["groups"]))
    beside = parts.beside if parts.beside is not None else np.ones((1, parts.seconds.size))
    for number in range(_GROUP_FORMS):
        other = np.full_like(parts.seconds, np.inf)
        if number < len(beside):
            other = beside[number]
        apart = np.log2(np.clip(other / parts.seconds, 2.0**-6, 2.0**6))
        columns.add(f"form_{number}", apart, smooth=True)


def _rows(task: Task, device: Device, parts: Parts, columns: _Columns) -> None:
    s = task.sizes
    names = ("rows", "cols", "numel", "tokens", "vocab", "dim", "heads", "head_dim", "k", "batch",
             "n", "m", "nnz", "bytes", "targets", "steps", "width", "hidden", "layers",
             "ways")  # fmt: skip
    for name in names:
        if name in s:
            columns.add(f"log_{name}", np.log2(s[name]), smooth=True)
            columns.add(f"even_{name}", _evenness(s[name], 4096), smooth=name in ("cols", "vocab"))
    rows = row_count(task)
    if np.any(rows > 0):
        columns.add("rows_on_units", np.log2(rows / device.units))
        for each in (1, 2, 4, 8):
            waves = rows / (device.units * each)
            columns.add(f"row_fill_{each}", waves / np.ceil(waves))
        width = s.get("cols", s.get("vocab", s.get("dim", np.ones_like(rows))))
        columns.add("row_bytes", np.log2(width * task.element))
        for step in (1024, 4096):
            columns.add(f"row_steps_{step}", _fill(width, step))
        columns.add("row_doublings", np.ceil(np.log2(width)))
        columns.add("row_filled", width / 2.0 ** np.ceil(np.log2(width)))
        columns.add("row_vectors", (width * task.element % 16 == 0) * 1.0, smooth=True)
    if "vocab" in s and "dim" in s:
        table = s["vocab"] * s["dim"] * task.element
        columns.add("table_in_cache", np.log2(1.0 + table / max(device.cache, 1.0)))
        columns.add("repeats", np.log2(s["tokens"] / s["vocab"]))
    if task.base.startswith("recurrent"):
        columns.add("persistent", parts.choice, smooth=True)
        columns.add("weights", np.log2(s["hidden"] ** 2 * task.element), smooth=True)
        columns.add("cells", np.log2(s["steps"] * s["layers"] * s["ways"]), smooth=True)
        columns.add("beside", np.minimum(s["layers"] * s["ways"], 2.0), smooth=True)
        _step_product(task, device, parts, columns)
    if task.base.startswith("fourier"):
        _fourier(task, columns)
    moved = np.maximum(s["read"] + s["written"], 1.0)  # a pass may move nothing
    columns.add("log_moved", np.log2(moved))
    columns.add("waves_moved", np.log2(moved / (device.units * 2048 * 16)))
    if task.base == "elementwise":  # the driver copies whole words, and slower what is none
        copied = float(task.words.get("kind") == "copy")
        columns.add("odd_copy", np.where(s["written"] % 4.0 > 0.0, copied, 0.0), smooth=True)
        columns.add("page_copy", copied * (1.0 - by_words(s["written"])), smooth=True)


def _step_product(task: Task, device: Device, parts: Parts, columns: _Columns) -> None:
    """The kernel of a step's product of states and weights, against what a step takes in all."""
    s, back = task.sizes, task.words["direction"] == "bwd"
    wide = s["hidden"] * GATES[task.words["kind"]]
    n, k = (s["hidden"], wide) if back else (wide, s["hidden"])
    cells = s["steps"] * s["layers"] * s["ways"]
    of = (s["batch"], n, k, np.ones_like(n))
    trans, each = "nn" if back else "tn", parts.seconds / cells
    columns.add_all(*chosen_columns(of, trans, task.dtype, device.bandwidth, each))


def _fourier(task: Task, columns: _Columns) -> None:
    """What the library makes of both lengths: passes, kernels and the sort of their factors."""
    s = task.sizes
    last, across, beside = steps(task.words["kind"], s["n"], s["batch"], s["rows"], s["scaled"])
    for name, axis in (("last", last), ("across", across)):
        columns.add(f"{name}_passes", axis.passes)
        columns.add(f"{name}_kernels", axis.kernels, smooth=True)
        columns.add(f"{name}_primes", axis.primes)
        columns.add(f"{name}_slow", np.log2(1.0 + axis.primes) + 3.0 * axis.chirp, smooth=True)
    columns.add("kernels_beside", beside, smooth=True)
    found = factors(s["n"])
    columns.add("largest_factor", found.largest)
    columns.add("factor_left", found.left)
