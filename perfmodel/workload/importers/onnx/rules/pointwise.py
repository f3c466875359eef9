"""Element by element: activations, arithmetic, comparisons, casts."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from perfmodel.workload.importers.onnx.builder import Builder
from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.patterns import DOMAIN
from perfmodel.workload.importers.onnx.values import DTYPES, Spec, Value, broadcast

UNARY: Final = MappingProxyType(
    {
        "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh",
        "Atan": "atan", "Atanh": "atanh", "BitwiseNot": "bitwise_not", "Ceil": "ceil",
        "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor",
        "HardSwish": "hardswish", "IsInf": "isinf",
        "IsNaN": "isnan", "Log": "log", "Mish": "mish", "Neg": "neg", "Not": "logical_not",
        "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Sigmoid": "sigmoid",
        "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softplus": "softplus", "Sqrt": "sqrt",
        "Tan": "tan", "Tanh": "tanh",
    }
)  # fmt: skip
BINARY: Final = MappingProxyType(
    {
        "Add": "add", "And": "logical_and", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
        "BitwiseXor": "bitwise_xor", "Div": "div", "Equal": "eq", "Greater": "gt",
        "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "Mul": "mul",
        "Or": "logical_or", "Pow": "pow", "Sub": "sub", "Xor": "logical_xor",
    }
)  # fmt: skip
_MIRRORED: Final = MappingProxyType(
    {"add": "add", "mul": "mul", "sub": "rsub", "eq": "eq", "gt": "lt", "lt": "gt", "ge": "le",
     "le": "ge"}
)  # fmt: skip
_MANY: Final = MappingProxyType({"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"})


def unary(call: Call) -> list[Value]:
    """One tensor in, one of the same shape out."""
    name = UNARY[call.op]
    dtype = "bool" if name.startswith("is") or name == "logical_not" else call.x.dtype
    return [_one(call.build, name, call.x, dtype=dtype)]


def binary(call: Call) -> list[Value]:
    """Two tensors, or a tensor and a number that is known."""
    return [combine(call.build, BINARY[call.op], call.input(0), call.input(1))]


def combine(build: Builder, name: str, left: Value, right: Value) -> Value:
    """``aten.<name>`` of two operands; a known number becomes an argument, as in PyTorch."""
    shape = broadcast(left.shape, right.shape, where=f"node {build.node_name!r}")
    boolean = name in {"eq", "gt", "ge", "lt", "le"} or name.startswith("logical_")
    spec = Spec(shape, "bool" if boolean else left.dtype)
    number = right.scalar
    if number is not None and left.shape == shape:
        key = "exponent" if name == "pow" else "other"
        return build.one(f"aten.{name}", [left], spec, {key: number}, like=left)
    number = left.scalar
    if number is not None and right.shape == shape:
        if name in _MIRRORED:
            mirrored = f"aten.{_MIRRORED[name]}"
            return build.one(mirrored, [right], spec, {"other": number}, like=right)
        if name == "div" and right.dtype.startswith(("fp", "bf")):
            inverse = build.one("aten.reciprocal", [right], spec, like=right)
            if number == 1:
                return inverse
            return build.one("aten.mul", [inverse], spec, {"other": number}, like=right)
        return build.one(f"aten.{name}", [right], spec, {"self": number}, like=right)
    like = next((one for one in (left, right) if one.shape == shape and not one.constant), None)
    return build.one(f"aten.{name}", [left, right], spec, like=like)


def scaled(build: Builder, name: str, value: Value, number: float) -> Value:
    """``aten.<name>`` of a tensor and a number."""
    key = "exponent" if name == "pow" else "other"
    return build.one(f"aten.{name}", [value], same(value), {key: number}, like=value)


def _one(
    build: Builder,
    name: str,
    value: Value,
    attributes: dict[str, Any] | None = None,
    *,
    dtype: str | None = None,
) -> Value:
    return build.one(f"aten.{name}", [value], same(value, dtype=dtype), attributes, like=value)


def many(call: Call) -> list[Value]:
    """``Max``, ``Min``, ``Sum`` and ``Mean`` of any number of tensors, pair by pair."""
    values = call.rest()
    made = call.x
    for other in values[1:]:
        made = combine(call.build, _MANY[call.op], made, other)
    if call.op == "Mean" and len(values) > 1:
        made = scaled(call.build, "div", made, len(values))
    return [made]


def clip(call: Call) -> list[Value]:
    """``Clip``: ``aten.hardtanh`` for 0 to 6 (ReLU6), else ``aten.clamp``."""
    low, high = call.get(1), call.get(2)
    bounds = {
        key: value.scalar for key, value in (("min", low), ("max", high)) if value is not None
    }
    if any(number is None for number in bounds.values()):
        return [
            call.build.one("aten.clamp", [call.x, low, high], same(call.x), like=call.x),
        ]
    if bounds == {"min": 0, "max": 6}:
        return [_one(call.build, "hardtanh", call.x, {"min_val": 0, "max_val": 6})]
    return [_one(call.build, "clamp", call.x, bounds)] if bounds else [call.x]


def parametric(call: Call) -> list[Value]:
    """Activations with numbers of their own."""
    get = call.attributes.get
    name, attributes = {
        "LeakyRelu": ("leaky_relu", {"negative_slope": get("alpha", 0.01)}),
        "Elu": ("elu", {"alpha": get("alpha", 1.0)}),
        "Selu": ("elu", {"alpha": get("alpha", 1.67326), "scale": get("gamma", 1.0507)}),
        "Celu": ("celu", {"alpha": get("alpha", 1.0)}),
        "Gelu": ("gelu", {"approximate": get("approximate", "none")}),
        "ThresholdedRelu": ("threshold", {"threshold": get("alpha", 1.0), "value": 0}),
        "Shrink": ("softshrink", {"lambd": get("lambd", 0.5)}),
    }[call.op]
    return [_one(call.build, name, call.x, attributes)]


def swish(call: Call) -> list[Value]:
    """``Swish`` and ``QuickGelu``: x times the sigmoid of alpha x."""
    alpha = call.attributes.get("alpha", 1.0 if call.op == "Swish" else 1.702)
    if alpha == 1:
        return [_one(call.build, "silu", call.x)]
    gate = _one(call.build, "sigmoid", scaled(call.build, "mul", call.x, alpha))
    return [combine(call.build, "mul", call.x, gate)]


def hard_sigmoid(call: Call) -> list[Value]:
    """``HardSigmoid``: PyTorch's own slope is 1/6, another one is spelt out."""
    alpha, beta = call.attributes.get("alpha", 0.2), call.attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        return [_one(call.build, "hardsigmoid", call.x)]
    line = scaled(call.build, "add", scaled(call.build, "mul", call.x, alpha), beta)
    return [_one(call.build, "clamp", line, {"min": 0, "max": 1})]


def joined(call: Call) -> list[Value]:
    """What :mod:`..patterns` put together: one kernel of PyTorch."""
    return [_one(call.build, call.op.rpartition(".")[2].lower(), call.x)]


def softsign(call: Call) -> list[Value]:
    """``Softsign``: x / (1 + abs(x))."""
    below = scaled(call.build, "add", _one(call.build, "abs", call.x), 1)
    return [combine(call.build, "div", call.x, below)]


def biased_gelu(call: Call) -> list[Value]:
    """``FastGelu`` and ``BiasGelu``: a bias, then GELU."""
    bias = call.get(1)
    value = call.x if bias is None else combine(call.build, "add", call.x, bias)
    how = "tanh" if call.op.endswith("FastGelu") else "none"
    return [_one(call.build, "gelu", value, {"approximate": how})]


def prelu(call: Call) -> list[Value]:
    """``PRelu``."""
    inputs = [call.x, call.input(1)]
    return [call.build.one("aten._prelu_kernel", inputs, same(call.x), like=call.x)]


def cast(call: Call) -> list[Value]:
    """``Cast`` and ``CastLike``; nothing where the format stays."""
    if call.op == "CastLike":
        dtype = call.input(1).dtype
    else:
        code = int(call.attributes.get("to", 0))
        if code not in DTYPES:
            raise call.refuse(
                f"a cast to element type {code}",
                "a cast to numbers",
                "cut text processing out of the graph (onnx.utils.extract_model)",
            )
        dtype = DTYPES[code]
    if dtype == call.x.dtype:
        return [call.x]
    return [_one(call.build, "_to_copy", call.x, {"dtype": dtype}, dtype=dtype)]


def where(call: Call) -> list[Value]:
    """``Where``."""
    inputs = [call.input(k) for k in range(3)]
    shape = broadcast(*(value.shape for value in inputs), where=call.where)
    like = next((one for one in inputs[1:] if one.shape == shape and not one.constant), None)
    return [call.build.one("aten.where", inputs, Spec(shape, inputs[1].dtype), like=like)]


def modulo(call: Call) -> list[Value]:
    """``Mod``."""
    name = "fmod" if call.attributes.get("fmod") else "remainder"
    return [combine(call.build, name, call.input(0), call.input(1))]


def shift(call: Call) -> list[Value]:
    """``BitShift``."""
    left = call.attributes.get("direction") == "LEFT"
    name = "bitwise_left_shift" if left else "bitwise_right_shift"
    return [combine(call.build, name, call.input(0), call.input(1))]


def dropout(call: Call) -> list[Value]:
    """``Dropout``: nothing at inference, ``aten.native_dropout`` in training mode."""
    mode = call.get(2)
    if mode is None or not mode.scalar:
        return [call.x, *([call.x] if len(call.outputs) > 1 else [])]
    ratio = call.get(1)
    rate = 0.5 if ratio is None or ratio.scalar is None else float(ratio.scalar)
    specs = [same(call.x), same(call.x, dtype="bool")]
    attributes = {"p": rate, "train": True}
    return call.build.emit("aten.native_dropout", [call.x], specs, attributes, like=call.x)


def identity(call: Call) -> list[Value]:
    """Another name for the same tensor."""
    return [call.x]


RULES: Final = MappingProxyType(
    {
        **dict.fromkeys(UNARY, unary),
        **dict.fromkeys(BINARY, binary),
        **dict.fromkeys(_MANY, many),
        **dict.fromkeys(
            ("LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "ThresholdedRelu", "Shrink"), parametric
        ),
        "Clip": clip,
        "Swish": swish,
        "com.microsoft.QuickGelu": swish,
        "HardSigmoid": hard_sigmoid,
        "Softsign": softsign,
        "com.microsoft.FastGelu": biased_gelu,
        "com.microsoft.BiasGelu": biased_gelu,
        "com.microsoft.Gelu": biased_gelu,
        **dict.fromkeys([f"{DOMAIN}.{op}" for op in ("Silu", "HardSwish", "Rsqrt")], joined),
        "PRelu": prelu,
        "Cast": cast,
        "CastLike": cast,
        "Where": where,
        "Mod": modulo,
        "BitShift": shift,
        "Dropout": dropout,
        "Identity": identity,
    }
)
