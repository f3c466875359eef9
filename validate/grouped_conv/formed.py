"""A form of a layer on a device: its weights with zeros between the groups, and the packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from perfmodel.optimize.grouped.forms import Form
from validate.grouped_conv.layer import Layer, Prepared, build, launch

PACK_ROWS, PACK_COLUMNS = 32, 64


@dataclass
class Formed:
    """What runs, and the index list and buffer of the packing kernel if there is one."""

    layer: Layer
    index: torch.Tensor | None


def form_layer(original: Layer, form: Form, device: str) -> Formed:
    """Build the layer of a form from the weights of the original one."""
    conv = original.conv
    weights = []
    for part, group in enumerate(form.conv.groups):
        shape = (group.outputs, len(group.channels), conv.kernel, conv.kernel)
        block = torch.zeros(shape, dtype=original.weights[0].dtype)
        at = 0
        for member, places in form.places(conv, part):
            w = original.weights[member]
            block[at : at + w.shape[0], torch.from_numpy(places)] = w
            at += w.shape[0]
        weights.append(block)
    made = build(form.conv, device, given=weights)
    if form.gather is None:
        return Formed(made, None)
    return Formed(made, torch.tensor(form.gather, dtype=torch.int32, device=device))


def pack(formed: Formed, x: torch.Tensor) -> torch.Tensor:
    """The packed input of a form; ``x`` itself where nothing is packed."""
    if formed.index is None:
        return x
    from validate.grouped_conv.kernel import pack_channels

    width = len(formed.index)
    out = torch.empty(*x.shape[:3], width, dtype=x.dtype, device=x.device)
    rows = x.shape[0] * x.shape[1] * x.shape[2]
    grid = (-(-rows // PACK_ROWS), -(-width // PACK_COLUMNS))
    pack_channels[grid](
        x, out, formed.index, rows, x.shape[3], width // 8, BM=PACK_ROWS, BN=PACK_COLUMNS
    )
    return out


def run_form(formed: Formed, ready: Prepared, x: torch.Tensor, y: torch.Tensor) -> Any:
    """Pack if needed, then the schedule; returns what has to be kept alive in a graph."""
    packed = pack(formed, x)
    launch(formed.layer, ready, packed, y)
    return packed
