"""Shapes and order: views where PyTorch has views, copies where it copies."""

from __future__ import annotations

from math import prod
from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.values import Spec, Value


def reshape(call: Call) -> list[Value]:
    """``Reshape``, ``Flatten``: a view, or a copy and a view."""
    return [call.build.reshape(call.x, call.spec().shape)]


def squeeze(call: Call) -> list[Value]:
    """``Squeeze``."""
    x = call.x
    axes = call.ints("axes", 1)
    gone = [k for k, size in enumerate(x.shape) if size == 1]
    if axes is not None:
        gone = call.normal(axes, x.rank)
    shape = tuple(size for k, size in enumerate(x.shape) if k not in gone)
    strides = tuple(stride for k, stride in enumerate(x.strides) if k not in gone)
    if prod(shape) != x.numel:
        raise call.refuse(
            f"axes {gone} of {x.shape}",
            "axes of size 1",
            "a size may be fixed inside the graph: check the batch and the --dim sizes",
        )
    if not gone:
        return [x]
    return [call.build.view("aten.squeeze", x, shape, strides, {"dim": sorted(gone)})]


def unsqueeze(call: Call) -> list[Value]:
    """``Unsqueeze``."""
    x = call.x
    axes = call.ints("axes", 1) or []
    new = sorted(call.normal(axes, x.rank + len(axes)))
    shape, strides = list(x.shape), list(x.strides)
    for axis in new:
        inner = shape[axis] * strides[axis] if axis < len(shape) else 1
        shape.insert(axis, 1)
        strides.insert(axis, inner)
    made = call.build.view("aten.unsqueeze", x, tuple(shape), tuple(strides), {"dim": new[0]})
    return [made]


def transpose(call: Call) -> list[Value]:
    """``Transpose``: PyTorch permutes the strides; who reads it pays."""
    order = call.attributes.get("perm") or list(reversed(range(call.x.rank)))
    return [call.build.permute(call.x, call.normal(order, call.x.rank))]


def expand(call: Call) -> list[Value]:
    """``Expand``."""
    return [call.build.expand(call.x, call.spec().shape)]


def concat(call: Call) -> list[Value]:
    """``Concat``."""
    values = call.rest()
    if len(values) == 1:
        return [call.x]
    axis = call.axis(call.x.rank)
    return [call.build.one("aten.cat", values, call.spec(), {"dim": axis}, like=call.x)]


def split(call: Call) -> list[Value]:
    """``Split``: views."""
    axis = call.axis(call.x.rank)
    sizes = call.ints("split", 1)
    if sizes is None:
        sizes = [call.spec(k).shape[axis] for k in range(len(call.outputs))]
    return call.build.split(call.x, axis, sizes)


def slices(call: Call) -> list[Value]:
    """``Slice``: one view an axis; a negative step is a flipped copy."""
    x = call.x
    starts, ends = call.ints("starts", 1) or [], call.ints("ends", 2) or []
    axes = call.normal(call.ints("axes", 3) or list(range(len(starts))), x.rank)
    steps = call.ints("steps", 4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        if step == 0:
            raise call.refuse("a step of 0", "a step that is not 0", "correct the file")
        begin, stop, stride = slice(start, end, step).indices(size)
        if stride < 0:
            x = call.build.one("aten.flip", [x], same(x), {"dims": [axis]})
            begin, stop, stride = size - 1 - begin, size - 1 - stop, -stride
        x = call.build.slice(x, axis, begin, max(begin, stop), stride)
    return [x]


def tile(call: Call) -> list[Value]:
    """``Tile``."""
    repeats = call.ints("repeats", 1) or []
    if all(one == 1 for one in repeats):
        return [call.x]
    return [call.build.one("aten.repeat", [call.x], call.spec(), {"repeats": repeats})]


def pad(call: Call) -> list[Value]:
    """``Pad``: constant, reflected or replicated."""
    x = call.x
    spec = call.spec()
    if spec.shape == x.shape:
        return [x]
    mode = call.attributes.get("mode", "constant")
    axes = call.ints("axes", 3) if call.opset >= 18 else None
    pads = call.ints("pads", 1) or []
    places = call.normal(axes, x.rank) if axes is not None else list(range(x.rank))
    before = dict(zip(places, pads[: len(places)], strict=False))
    after = dict(zip(places, pads[len(places) :], strict=False))
    last_first = [n for k in reversed(range(x.rank)) for n in (before.get(k, 0), after.get(k, 0))]
    while last_first[-2:] == [0, 0]:
        del last_first[-2:]
    sides = max(1, len(last_first) // 2)
    if mode == "constant" or (mode == "reflect" and sides > 3):
        return [call.build.one("aten.constant_pad_nd", [x], spec, {"pad": last_first}, like=x)]
    name = {"reflect": "reflection", "edge": "replication"}.get(mode)
    if name is None:  # wrap
        return [call.build.one("onnx.Pad", [x], spec, {"pads": pads, "mode": mode})]
    return [call.build.one(f"aten.{name}_pad{min(sides, 3)}d", [x], spec, {"padding": last_first})]


def depth_to_space(call: Call) -> list[Value]:
    """``DepthToSpace`` and ``SpaceToDepth``: a view, a permutation, and the copy behind it."""
    n, c, h, w = call.x.shape
    block = int(call.attributes["blocksize"])
    if call.op == "SpaceToDepth":
        split_shape: tuple[int, ...] = (n, c, h // block, block, w // block, block)
        order = [0, 3, 5, 1, 2, 4]
    elif call.attributes.get("mode", "DCR") == "DCR":
        split_shape, order = (n, block, block, c // block**2, h, w), [0, 3, 4, 1, 5, 2]
    else:
        split_shape, order = (n, c // block**2, block, block, h, w), [0, 1, 4, 2, 5, 3]
    value = call.build.permute(call.build.reshape(call.x, split_shape), order)
    return [call.build.reshape(value, call.spec().shape)]


def triangle(call: Call) -> list[Value]:
    """``Trilu``."""
    diagonal = call.get(1)
    offset = 0 if diagonal is None or diagonal.scalar is None else int(diagonal.scalar)
    name = "triu" if call.attributes.get("upper", 1) else "tril"
    return [call.build.one(f"aten.{name}", [call.x], same(call.x), {"diagonal": offset})]


def resize(call: Call) -> list[Value]:
    """``Resize`` and ``Upsample`` of images: ``aten.upsample_*``."""
    x, spec = call.x, call.spec()
    if spec.shape == x.shape:
        return [x]
    sides = x.rank - 2
    mode = call.attributes.get("mode", "nearest")
    names = {
        "nearest": {1: "nearest1d", 2: "nearest2d", 3: "nearest3d"},
        "linear": {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"},
        "cubic": {2: "bicubic2d"},
    }
    name = names.get(mode, {}).get(sides)
    if name is None or spec.shape[:2] != x.shape[:2]:
        return [call.build.one(f"onnx.{call.op}", [x], spec, {"mode": mode})]
    aligned = call.attributes.get("coordinate_transformation_mode") == "align_corners"
    attributes: dict[str, object] = {"output_size": list(spec.shape[2:])}
    if mode != "nearest":
        attributes["align_corners"] = aligned
    return [call.build.one(f"aten.upsample_{name}", [x], spec, attributes, like=x)]


def reverse_sequence(call: Call) -> list[Value]:
    """``ReverseSequence``: a gather along time."""
    spec = Spec(call.x.shape, call.x.dtype)
    return [call.build.one("aten.gather", [call.x, call.input(1)], spec, {"dim": 0})]


RULES: Final = MappingProxyType(
    {
        "Reshape": reshape,
        "Flatten": reshape,
        "Squeeze": squeeze,
        "Unsqueeze": unsqueeze,
        "Transpose": transpose,
        "Expand": expand,
        "Concat": concat,
        "Split": split,
        "Slice": slices,
        "Tile": tile,
        "Pad": pad,
        "DepthToSpace": depth_to_space,
        "SpaceToDepth": depth_to_space,
        "Trilu": triangle,
        "Resize": resize,
        "Upsample": resize,
        "ReverseSequence": reverse_sequence,
    }
)
