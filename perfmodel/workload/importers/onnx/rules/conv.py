"""Convolutions and pooling."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from perfmodel.workload.importers.onnx.call import Call, nonzero, same
from perfmodel.workload.importers.onnx.rules.pointwise import combine, scaled
from perfmodel.workload.importers.onnx.values import Spec, Value, view_strides


def conv(call: Call) -> list[Value]:
    """``Conv``: uneven padding is a padded copy before it."""
    x, weight = call.x, call.input(1)
    return [convolve(call, x, weight, nonzero(call.get(2)), call.spec())]


def convolve(call: Call, x: Value, weight: Value, bias: Value | None, spec: Spec) -> Value:
    """``aten.convolution`` with the attributes of ``Conv``."""
    sides = x.rank - 2
    kernel = [int(one) for one in call.attributes.get("kernel_shape") or weight.shape[2:]]
    stride, dilation = _each(call, "strides", sides), _each(call, "dilations", sides)
    before, after = _padding(call, x, kernel, stride, dilation)
    if before != after:
        x = padded(call, x, before, after, 0)
        before = [0] * sides
    attributes = {
        "stride": stride,
        "padding": before,
        "dilation": dilation,
        "transposed": False,
        "output_padding": [0] * sides,
        "groups": int(call.attributes.get("group", 1)),
    }
    return call.build.one("aten.convolution", [x, weight, bias], spec, attributes, like=x)


def conv_transpose(call: Call) -> list[Value]:
    """``ConvTranspose``."""
    x, weight = call.x, call.input(1)
    sides = x.rank - 2
    kernel = [int(one) for one in call.attributes.get("kernel_shape") or weight.shape[2:]]
    stride, dilation = _each(call, "strides", sides), _each(call, "dilations", sides)
    spec = call.spec()
    # padding on both sides together, from the output size that inference found
    extra = [int(one) for one in call.attributes.get("output_padding") or [0] * sides]
    cut = [
        s * (size - 1) + d * (k - 1) + 1 + e - out
        for s, size, d, k, e, out in zip(
            stride, x.shape[2:], dilation, kernel, extra, spec.shape[2:], strict=True
        )
    ]
    padding = [max(0, one) // 2 for one in cut]
    attributes = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "transposed": True,
        "output_padding": [e + 2 * p - c for e, p, c in zip(extra, padding, cut, strict=True)],
        "groups": int(call.attributes.get("group", 1)),
    }
    inputs = [x, weight, nonzero(call.get(2))]
    return [call.build.one("aten.convolution", inputs, spec, attributes, like=x)]


def pool(call: Call) -> list[Value]:
    """``MaxPool``, ``AveragePool`` and ``LpPool`` (as an average of powers)."""
    x, spec = call.x, call.spec()
    sides = x.rank - 2
    kernel = [int(one) for one in call.attributes["kernel_shape"]]
    stride, dilation = _each(call, "strides", sides), _each(call, "dilations", sides)
    before, after = _padding(call, x, kernel, stride, dilation)
    ceil = bool(call.attributes.get("ceil_mode"))
    largest = call.op == "MaxPool"
    if before != after and not ceil:
        x = padded(call, x, before, after, "-inf" if largest else 0)
        before = [0] * sides
    line = sides == 1
    if line:
        x = _unsqueezed(call, x)
        kernel, stride, dilation, before = [1, *kernel], [1, *stride], [1, *dilation], [0, *before]
        spec = same(x, shape=(*spec.shape[:2], 1, spec.shape[2]))
    attributes: dict[str, Any] = {
        "kernel_size": kernel, "stride": stride, "padding": before, "ceil_mode": ceil,
    }  # fmt: skip
    sides = max(sides, 2)
    if largest:
        attributes["dilation"] = dilation
        specs = [spec, Spec(spec.shape, "int64")]
        target = f"aten.max_pool{sides}d_with_indices"
        made = call.build.emit(target, [x], specs, attributes, like=x)
    else:
        attributes["count_include_pad"] = bool(call.attributes.get("count_include_pad", 0))
        power = int(call.attributes.get("p", 2)) if call.op == "LpPool" else 1
        if power != 1:
            x = scaled(call.build, "pow", x, power)
        made = [call.build.one(f"aten.avg_pool{sides}d", [x], spec, attributes, like=x)]
        if power != 1:
            made = [scaled(call.build, "pow", made[0], 1 / power)]
    return [_squeezed(call, one) for one in made] if line else made


def global_pool(call: Call) -> list[Value]:
    """``GlobalAveragePool`` and ``GlobalMaxPool``: reductions over the sides."""
    x = call.x
    axes = list(range(2, x.rank))
    spec = same(x, shape=(*x.shape[:2], *([1] * len(axes))))
    target = "aten.mean" if call.op == "GlobalAveragePool" else "aten.amax"
    return [call.build.one(target, [x], spec, {"dim": axes, "keepdim": True})]


def local_response(call: Call) -> list[Value]:
    """``LRN``, as ``torch.nn.functional.local_response_norm`` does it."""
    x, build = call.x, call.build
    size = int(call.attributes["size"])
    square = combine(build, "mul", x, x)
    column = _unsqueezed(call, square, axis=1)
    shape = (x.shape[0], 1, x.shape[1] + size - 1, *x.shape[2:])
    pads = [0, 0] * (x.rank - 2) + [size // 2, (size - 1) // 2]
    wide = build.one("aten.constant_pad_nd", [column], same(x, shape=shape), {"pad": pads})
    attributes = {
        "kernel_size": [size, *([1] * (x.rank - 2))],
        "stride": [1] * (x.rank - 1),
        "padding": [0] * (x.rank - 1),
        "ceil_mode": False,
        "count_include_pad": True,
    }
    pooled = build.one("aten.avg_pool3d", [wide], same(column), attributes)
    mean = build.reshape(pooled, x.shape)
    alpha, bias = call.attributes.get("alpha", 1e-4), call.attributes.get("bias", 1.0)
    raised = scaled(build, "add", scaled(build, "mul", mean, alpha), bias)
    below = scaled(build, "pow", raised, call.attributes.get("beta", 0.75))
    return [combine(build, "div", x, below)]


def padded(call: Call, x: Value, before: list[int], after: list[int], value: float | str) -> Value:
    """``aten.constant_pad_nd`` over the sides."""
    shape = list(x.shape)
    for k, (low, high) in enumerate(zip(before, after, strict=True), 2):
        shape[k] += low + high
    pairs = [
        n for low, high in reversed(list(zip(before, after, strict=True))) for n in (low, high)
    ]
    attributes = {"pad": pairs, "value": value}
    spec = same(x, shape=tuple(shape))
    return call.build.one("aten.constant_pad_nd", [x], spec, attributes, like=x)


def _each(call: Call, name: str, sides: int) -> list[int]:
    found = [int(one) for one in call.attributes.get(name) or [1] * sides]
    if len(found) != sides or any(one < 1 for one in found):
        raise call.refuse(
            f"{name} {found}", f"{sides} positive integers", "check that the file is valid"
        )
    return found


def _padding(
    call: Call, x: Value, kernel: list[int], stride: list[int], dilation: list[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each side."""
    sides = x.rank - 2
    auto = call.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True):
            whole = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small = whole // 2
            before.append(small if auto == "SAME_UPPER" else whole - small)
            after.append(whole - before[-1])
        return before, after
    pads = [int(one) for one in call.attributes.get("pads") or [0] * (2 * sides)]
    if auto == "VALID":
        pads = [0] * (2 * sides)
    if len(pads) != 2 * sides:
        raise call.refuse(f"pads {pads}", f"{2 * sides} integers", "check that the file is valid")
    return pads[:sides], pads[sides:]


def _unsqueezed(call: Call, x: Value, axis: int = 2) -> Value:
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    strides = view_strides(x.shape, x.strides, shape)
    if strides is None:
        return call.build.reshape(x, shape)
    return call.build.view("aten.unsqueeze", x, shape, strides, {"dim": axis})


def _squeezed(call: Call, x: Value, axis: int = 2) -> Value:
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    strides = (*x.strides[:axis], *x.strides[axis + 1 :])
    return call.build.view("aten.squeeze", x, shape, strides, {"dim": [axis]})


RULES: Final = MappingProxyType(
    {
        "Conv": conv,
        "ConvTranspose": conv_transpose,
        "MaxPool": pool,
        "AveragePool": pool,
        "LpPool": pool,
        "GlobalAveragePool": global_pool,
        "GlobalMaxPool": global_pool,
        "LRN": local_response,
    }
)
