"""Normalisations and softmax."""

from __future__ import annotations

from math import prod
from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.rules.pointwise import combine
from perfmodel.workload.importers.onnx.values import Spec, Value


def batch_norm(call: Call) -> list[Value]:
    """``BatchNormalization``."""
    x = call.x
    train = bool(call.attributes.get("training_mode"))
    attributes = {
        "training": train,
        "momentum": 1 - call.attributes.get("momentum", 0.9),
        "eps": call.attributes.get("epsilon", 1e-5),
    }
    inputs = [x, *(call.input(k) for k in range(1, 5))]
    saved = Spec((x.shape[1] if train else 0,), "fp32")
    specs = [same(x), saved, saved]
    made = call.build.emit("aten.native_batch_norm", inputs, specs, attributes, like=x)
    return [made[0], inputs[3], inputs[4], *made[1:]]


def layer_norm(call: Call) -> list[Value]:
    """``LayerNormalization``."""
    axis = call.axis(call.x.rank, -1)
    eps = call.attributes.get("epsilon", 1e-5)
    return norm(call, call.x, call.input(1), call.get(2), axis, eps)


def norm(
    call: Call, x: Value, weight: Value, bias: Value | None, axis: int, eps: float
) -> list[Value]:
    """``aten.native_layer_norm`` over the axes from ``axis`` on."""
    attributes = {"normalized_shape": list(x.shape[axis:]), "eps": eps}
    rows = Spec((*x.shape[:axis], *([1] * (x.rank - axis))), "fp32")
    specs = [same(x), rows, rows]
    return call.build.emit("aten.native_layer_norm", [x, weight, bias], specs, attributes)


def rms_norm(call: Call) -> list[Value]:
    """``RMSNormalization`` and ``SimplifiedLayerNormalization``."""
    axis = call.axis(call.x.rank, -1)
    return _rms(call, call.x, call.input(1), axis, call.attributes.get("epsilon", 1e-5))


def _rms(call: Call, x: Value, weight: Value, axis: int, eps: float) -> list[Value]:
    attributes = {"normalized_shape": list(x.shape[axis:]), "eps": eps}
    rows = Spec((*x.shape[:axis], *([1] * (x.rank - axis))), "fp32")
    return call.build.emit("aten._fused_rms_norm", [x, weight], [same(x), rows], attributes)


def skip_norm(call: Call) -> list[Value]:
    """``com.microsoft.SkipLayerNormalization``: a residual sum, then the norm."""
    x = combine(call.build, "add", call.x, call.input(1))
    simplified = "Simplified" in call.op
    bias = call.get(3 if simplified else 4)
    if bias is not None:
        x = combine(call.build, "add", x, bias)
    eps = call.attributes.get("epsilon", 1e-5 if simplified else 1e-12)
    axis = x.rank - 1
    if simplified:
        made = _rms(call, x, call.input(2), axis, eps)
        return [made[0], made[1], made[1], x]
    made = norm(call, x, call.input(2), call.get(3), axis, eps)
    return [*made, x]


def group_norm(call: Call) -> list[Value]:
    """``GroupNormalization``."""
    x = call.x
    groups = int(call.attributes["num_groups"])
    if groups < 1 or x.rank < 2 or x.shape[1] % groups:
        raise call.refuse(
            f"{groups} groups of {x.shape}", "groups that divide the channels", "correct the file"
        )
    n, c, sides = x.shape[0], x.shape[1], prod(x.shape[2:])
    eps = call.attributes.get("epsilon", 1e-5)
    attributes = {"N": n, "C": c, "HxW": sides, "group": groups, "eps": eps}
    saved = Spec((n, groups), x.dtype)
    inputs = [x, call.input(1), call.input(2)]
    specs = [same(x), saved, saved]
    return call.build.emit("aten.native_group_norm", inputs, specs, attributes)[:1]


def instance_norm(call: Call) -> list[Value]:
    """``InstanceNormalization``: a batch norm of n x c channels, as PyTorch runs it."""
    x, build = call.x, call.build
    n, c = x.shape[:2]
    scale, shift = (
        build.one("aten.repeat", [call.input(k)], Spec((n * c,), x.dtype), {"repeats": [n]})
        for k in (1, 2)
    )
    flat = build.reshape(x, (1, n * c, *x.shape[2:]))
    saved = Spec((n * c,), "fp32")
    attributes = {
        "training": True, "momentum": 0.0, "eps": call.attributes.get("epsilon", 1e-5),
    }  # fmt: skip
    specs = [same(flat), saved, saved]
    made = build.emit("aten.native_batch_norm", [flat, scale, shift], specs, attributes)
    return [build.reshape(made[0], x.shape)]


def softmax(call: Call) -> list[Value]:
    """``Softmax`` and ``LogSoftmax``; up to operator set 12 over all axes from ``axis`` on."""
    x, build = call.x, call.build
    target = "aten._softmax" if call.op == "Softmax" else "aten._log_softmax"
    if call.opset < 13:
        axis = call.axis(x.rank, 1)
        flat = build.reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))
        made = build.one(target, [flat], same(flat), {"dim": 1, "half_to_float": False})
        return [build.reshape(made, x.shape)]
    attributes = {"dim": call.axis(x.rank, -1), "half_to_float": False}
    return [build.one(target, [x], same(x), attributes, like=x)]


RULES: Final = MappingProxyType(
    {
        "BatchNormalization": batch_norm,
        "LayerNormalization": layer_norm,
        "com.microsoft.LayerNormalization": layer_norm,
        "RMSNormalization": rms_norm,
        "SimplifiedLayerNormalization": rms_norm,
        "com.microsoft.SimplifiedLayerNormalization": rms_norm,
        "com.microsoft.SkipLayerNormalization": skip_norm,
        "com.microsoft.SkipSimplifiedLayerNormalization": skip_norm,
        "GroupNormalization": group_norm,
        "InstanceNormalization": instance_norm,
        "Softmax": softmax,
        "LogSoftmax": softmax,
    }
)
