"""Sums, means, extremes over axes."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.rules.pointwise import scaled
from perfmodel.workload.importers.onnx.values import Shape, Spec, Value

_TARGETS: Final[MappingProxyType[str, tuple[str, dict[str, Any]]]] = MappingProxyType(
    {
        "ReduceSum": ("aten.sum", {}),
        "ReduceMean": ("aten.mean", {}),
        "ReduceMax": ("aten.amax", {}),
        "ReduceMin": ("aten.amin", {}),
        "ReduceProd": ("aten.prod", {}),
        "ReduceL1": ("aten.linalg_vector_norm", {"ord": 1}),
        "ReduceL2": ("aten.linalg_vector_norm", {"ord": 2}),
        "ReduceLogSumExp": ("aten.logsumexp", {}),
        "ReduceSumSquare": ("aten.sum", {}),
        "ReduceLogSum": ("aten.sum", {}),
    }
)


def reduction(call: Call) -> list[Value]:
    """``Reduce*`` over the axes of the attribute or of the second input."""
    x = call.x
    axes = call.ints("axes", 1)
    if not axes:
        if call.attributes.get("noop_with_empty_axes"):
            return [x]
        axes = list(range(x.rank))
    axes = call.normal(axes, x.rank)
    keep = bool(call.attributes.get("keepdims", 1))
    target, extra = _TARGETS[call.op]
    if call.op == "ReduceSumSquare":
        x = scaled(call.build, "pow", x, 2)
    spec = same(x, shape=reduced(x.shape, axes, keep=keep))
    value = call.build.one(target, [x], spec, {**extra, "dim": axes, "keepdim": keep})
    if call.op == "ReduceLogSum":
        value = call.build.one("aten.log", [value], spec)
    return [value]


def position(call: Call) -> list[Value]:
    """``ArgMax`` and ``ArgMin``."""
    axis = call.axis(call.x.rank)
    keep = bool(call.attributes.get("keepdims", 1))
    spec = Spec(reduced(call.x.shape, [axis], keep=keep), "int64")
    target = f"aten.{call.op.lower()}"
    return [call.build.one(target, [call.x], spec, {"dim": axis, "keepdim": keep})]


def reduced(shape: Shape, axes: list[int], *, keep: bool) -> Shape:
    """The shape after a reduction."""
    return tuple(1 if k in axes else size for k, size in enumerate(shape) if keep or k not in axes)


RULES: Final = MappingProxyType(
    {**dict.fromkeys(_TARGETS, reduction), "ArgMax": position, "ArgMin": position}
)
