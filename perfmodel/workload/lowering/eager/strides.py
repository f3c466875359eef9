"""Operators whose operands run along different axes: neighbours in one are far apart in the other.

The recorder says of a tensor that it is neither contiguous nor channels-last; which axis its
elements follow each other on, is followed here through transpositions and element-wise operators.
Where that cannot be told, nothing is claimed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.eager.names import group_of
from perfmodel.workload.program import Node, Program, Tensor

_KEEPING: Final = ("slice", "alias", "detach", "expand", "expand_as", "split", "split_with_sizes")
_ROWS: Final = "contiguous"
_ITERATED: Final = ("pointwise", "cast")


Axes = dict[str, int | None]


def follow(program: Program) -> tuple[frozenset[int], Axes]:
    """Nodes of element-wise operators and copies with operands along different axes; and the axes.

    Of each tensor that an operator returned, the axis along which its elements follow each other;
    None where that is unknown.
    """
    axes: Axes = {}
    found = set()
    for place, node in enumerate(program.nodes):
        name = node.target.removeprefix("aten.")
        group = group_of(name).rstrip("_0123456789")
        inputs = [program.tensor(one) for one in node.inputs]
        for output in (program.tensor(one) for one in node.outputs):
            axes[output.name] = _axis_out(output, inputs, axes, node, name, group)
        if group in _ITERATED:
            outputs = [program.tensor(one) for one in node.outputs] or inputs[:1]
            whole = [t for t in (*inputs, *outputs) if t.shape == outputs[0].shape]
            along = {axis_of(t, axes) for t in whole if t.shape}
            if len(along) > 1 and None not in along:
                found.add(place)
        elif group in ("layer_norm", "norm_backward"):
            for x in inputs[: 1 if group == "layer_norm" else 2]:
                if axis_of(x, axes) not in (None, axis_of(replace(x, layout=_ROWS), {})):
                    found.add(place)
    return frozenset(found), axes


def axis_of(tensor: Tensor, axes: Axes) -> int | None:
    """The axis along which a tensor's elements follow each other; None where that is unknown."""
    if tensor.name in axes:
        return axes[tensor.name]
    return _by_layout(tensor)


def _by_layout(tensor: Tensor) -> int | None:
    if tensor.layout == "channels_last" and len(tensor.shape) > 2 and tensor.shape[1] > 1:
        return 1
    if tensor.layout == "strided":
        return None
    spans = [axis for axis, length in enumerate(tensor.shape) if length > 1]
    return spans[-1] if spans else None  # an axis of one element leads nowhere


def _axis_out(
    output: Tensor,
    inputs: list[Tensor],
    axes: Axes,
    node: Node,
    name: str,
    group: str,
) -> int | None:
    if not inputs or output.layout != "strided":
        return _by_layout(output)
    source, rank = inputs[0], len(inputs[0].shape)
    before = axis_of(source, axes)
    if group in _ITERATED:  # the order of the first operand of full size
        whole = [tensor for tensor in inputs if tensor.shape == output.shape]
        return axis_of(whole[0], axes) if whole else None
    if before is None or (name.startswith("expand") and output.shape != source.shape):
        return None  # an expanded operand is read again, wherever its elements lie
    if name in ("view", "reshape", "_unsafe_view"):
        return _viewed(before, source.shape, output.shape)
    return _moved(before, rank, len(output.shape), node, name)


def _viewed(before: int, shape: tuple[int, ...], viewed: tuple[int, ...]) -> int | None:
    """Where a view takes an axis that stays as long or is split: the last of its parts."""
    ahead, end = math.prod(shape[:before]), math.prod(shape[: before + 1])
    starts = [math.prod(viewed[:place]) for place in range(len(viewed) + 1)]
    parts = [
        place
        for place, length in enumerate(viewed)
        if length > 1 and ahead <= starts[place] and starts[place + 1] <= end
    ]
    whole = math.prod(viewed[place] for place in parts) == shape[before]
    return parts[-1] if parts and whole else None


def _moved(before: int, rank: int, after: int, node: Node, name: str) -> int | None:
    """Where a view takes an axis."""
    if name in ("t", "mT", "numpy_T"):
        return rank - 1 - before
    if name == "transpose":
        swap = {int(node.attributes.get(key, 0)) % rank for key in ("dim0", "dim1")}
        return next(iter(swap - {before}), before) if before in swap else before
    if name == "permute":
        dims = [int(dim) % rank for dim in node.attributes.get("dims", ())]
        return dims.index(before) if before in dims else None
    return before if name in _KEEPING and after == rank else None
