"""Operators whose operands run along different axes: neighbours in one are far apart in the other.

The recorder says of a tensor that it is neither contiguous nor channels-last; how far apart its
elements lie is followed here through views and element-wise operators. Where that cannot be told,
nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from perfmodel.workload.lowering.eager.names import group_of
from perfmodel.workload.lowering.malformed import MALFORMED, malformed
from perfmodel.workload.lowering.site import item_bytes
from perfmodel.workload.lowering.stream import turning
from perfmodel.workload.program import Node, Program, Tensor

_SAME: Final = ("slice", "alias", "detach", "split", "split_with_sizes", "chunk", "narrow")
_RESHAPING: Final = ("view", "reshape", "_unsafe_view", "unflatten", "flatten")
_ITERATED: Final = ("pointwise", "cast")

Steps = tuple[int, ...]
Strides = dict[str, Steps | None]


def follow(program: Program) -> tuple[Mapping[int, float], Strides]:
    """Nodes of element-wise operators and copies with operands along different axes; and strides.

    Of each such node the operations an element that the detours cost; of each tensor that an
    operator returned the elements between neighbours along each axis, None where that is unknown.
    """
    known: Strides = {}
    found: dict[int, float] = {}
    for place, node in enumerate(program.nodes):
        name = node.target.removeprefix("aten.")
        group = group_of(name).rstrip("_0123456789")
        inputs = [program.tensor(one) for one in node.inputs]
        outputs = [program.tensor(one) for one in node.outputs]
        for output in outputs:
            try:
                known[output.name] = _strides_out(output, inputs, known, node, name, group)
            except MALFORMED as error:
                raise malformed(node, inputs, error) from error
        each = 0.0
        if group in _ITERATED:
            each = _detours(outputs or inputs[:1], inputs, known)
        elif group in ("layer_norm", "norm_backward"):
            for x in inputs[: 1 if group == "layer_norm" else 2]:
                each = max(each, _detour(x, contiguous(x.shape), known))
        if each:
            found[place] = each
    return found, known


def axis_of(tensor: Tensor, known: Strides) -> int | None:
    """The axis along which a tensor's elements follow each other; None where that is unknown."""
    steps = strides_of(tensor, known)
    return None if steps is None else _axis(tensor.shape, steps)


def strides_of(tensor: Tensor, known: Strides) -> Steps | None:
    """Elements between neighbours along each axis; None where that is unknown."""
    return known[tensor.name] if tensor.name in known else _by_layout(tensor)


def contiguous(shape: Sequence[int]) -> Steps:
    """Strides of a tensor whose last axis comes first."""
    return _dense(shape, range(len(shape)))


def _axis(shape: Sequence[int], steps: Steps) -> int | None:
    spans = [axis for axis, length in enumerate(shape) if length > 1]
    if not spans or any(steps[axis] == 0 for axis in spans):
        return None  # an expanded operand is read again, wherever its elements lie
    return min(reversed(spans), key=lambda axis: steps[axis])


def _by_layout(tensor: Tensor) -> Steps | None:
    shape = tensor.shape
    if tensor.layout == "channels_last" and len(shape) > 2:
        return _dense(shape, (0, *range(2, len(shape)), 1))
    return None if tensor.layout == "strided" else contiguous(shape)


def _dense(shape: Sequence[int], order: Sequence[int]) -> Steps:
    """Strides without gaps; ``order`` names the axes from the outermost to the innermost."""
    steps, step = [0] * len(shape), 1
    for axis in reversed(order):
        steps[axis] = step
        step *= max(1, shape[axis])
    return tuple(steps)


def _detours(outputs: Sequence[Tensor], inputs: Sequence[Tensor], known: Strides) -> float:
    """The dearest detour of an element-wise kernel, which goes in the order of its result."""
    if not outputs:
        return 0.0
    shape = outputs[0].shape
    whole = [one for one in inputs if one.shape == shape]
    axes = {axis_of(one, known) for one in (*whole, outputs[0])}
    order = strides_of(outputs[0], known)
    if len(axes) < 2 or None in axes or order is None:
        return 0.0
    return max((_detour(one, order, known) for one in whole), default=0.0)


def _detour(tensor: Tensor, order: Steps, known: Strides) -> float:
    """Operations an element of reading a tensor in another order than its own; 0 in its own."""
    shape, steps = tensor.shape, strides_of(tensor, known)
    if steps is None:
        return 0.0
    first = _axis(shape, order)
    if first is None or _axis(shape, steps) in (None, first):
        return 0.0
    width, apart = item_bytes(tensor.dtype), 1
    for axis in sorted(range(len(shape)), key=lambda axis: (order[axis], -axis)):
        if shape[axis] > 1 and steps[axis] == 1:
            break
        apart *= shape[axis]
    return turning(steps[first] * width, apart)


def _strides_out(
    output: Tensor,
    inputs: Sequence[Tensor],
    known: Strides,
    node: Node,
    name: str,
    group: str,
) -> Steps | None:
    if not inputs or output.layout != "strided":
        return _by_layout(output)
    if group in _ITERATED:  # the order of the first operand of full size, without gaps
        whole = [tensor for tensor in inputs if tensor.shape == output.shape]
        steps = strides_of(whole[0], known) if whole else None
        if steps is None or _axis(output.shape, steps) is None:
            return None
        return _dense(
            output.shape, [axis for _, axis in sorted((-s, k) for k, s in enumerate(steps))]
        )
    source, steps = inputs[0], strides_of(inputs[0], known)
    if steps is None:
        return None
    if name in _RESHAPING:
        return _viewed(source.shape, steps, output.shape)
    found = _moved(source.shape, steps, output.shape, node, name)
    return found if found is not None and len(found) == len(output.shape) else None


def _moved(
    shape: Sequence[int], steps: Steps, after: Sequence[int], node: Node, name: str
) -> Steps | None:
    """Strides of a view that drops, adds, swaps or shortens axes."""
    rank, get = len(shape), node.attributes.get
    moved = None
    if name in ("t", "mT", "numpy_T"):
        moved = tuple(reversed(steps)) if rank < 3 else None
    elif name == "transpose":
        one, two = int(get("dim0", 0)) % rank, int(get("dim1", 0)) % rank
        swapped = list(steps)
        swapped[one], swapped[two] = steps[two], steps[one]
        moved = tuple(swapped)
    elif name == "permute":
        moved = tuple(steps[int(dim) % rank] for dim in get("dims", ()))
    elif name in ("select", "unbind"):
        gone = int(get("dim", 0)) % rank
        moved = (*steps[:gone], *steps[gone + 1 :])
    elif name == "unsqueeze":
        new = int(get("dim", 0)) % (rank + 1)
        moved = (*steps[:new], shape[new] * steps[new] if new < rank else 1, *steps[new:])
    elif name == "squeeze" and rank - len(after) == 1 and isinstance(get("dim"), int):
        gone = int(get("dim", 0)) % rank
        moved = (*steps[:gone], *steps[gone + 1 :])
    elif name in ("expand", "expand_as"):
        lead = len(after) - rank
        kept = (step if after[lead + k] == shape[k] else 0 for k, step in enumerate(steps))
        moved = (*(0 for _ in range(lead)), *kept)
    elif name in _SAME and len(after) == rank:
        moved = steps
        if name == "slice":
            cut = int(get("dim", 0)) % rank
            wide = steps[cut] * int(get("step", 1) or 1)
            moved = (*steps[:cut], wide, *steps[cut + 1 :])
    return moved


def _viewed(shape: Sequence[int], steps: Steps, viewed: Sequence[int]) -> Steps | None:
    """Strides of the same elements in another shape; None where they must be copied for it.

    Axes that follow each other without a gap are one to a view (ATen/TensorUtils.cpp,
    ``computeStride``).
    """
    found, place = [0] * len(viewed), len(viewed) - 1
    step, held, seen = (steps[-1] if steps else 1), 1, 1
    for axis in range(len(shape) - 1, -1, -1):
        held *= shape[axis]
        if axis and (shape[axis - 1] == 1 or steps[axis - 1] == held * step):
            continue
        while place >= 0 and (seen < held or viewed[place] == 1):
            found[place] = seen * step
            seen *= viewed[place]
            place -= 1
        if seen != held:
            return None
        if axis:
            step, held, seen = steps[axis - 1], 1, 1
    return tuple(found) if place < 0 and 0 not in shape else None
