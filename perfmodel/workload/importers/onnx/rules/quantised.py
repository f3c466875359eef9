"""Quantisation, and products of 8-bit integers."""

from __future__ import annotations

from math import prod
from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.rules.conv import convolve
from perfmodel.workload.importers.onnx.rules.products import product
from perfmodel.workload.importers.onnx.values import Spec, Value


def quantise(call: Call) -> list[Value]:
    """``QuantizeLinear``."""
    dtype = _zero_dtype(call, 2)
    return [_step(call, "quantize", call.x, call.inputs[1:], dtype)]


def dequantise(call: Call) -> list[Value]:
    """``DequantizeLinear``; one that a runtime would fold into the weight is run as written."""
    if call.x.constant:
        call.build.assume("quantised weights are expanded in every call, as the graph says")
    return [_step(call, "dequantize", call.x, call.inputs[1:], call.input(1).dtype)]


def _step(call: Call, verb: str, x: Value, around: list[Value | None], dtype: str) -> Value:
    target = "aten.dequantize" if verb == "dequantize" else "aten.quantize_per_tensor"
    return call.build.one(target, [x, *around], same(x, dtype=dtype), {"dtype": dtype}, like=x)


def dynamic(call: Call) -> list[Value]:
    """``DynamicQuantizeLinear``: the range, then the quantisation."""
    x = call.x
    low, high = call.build.emit("aten.aminmax", [x], [Spec((), x.dtype), Spec((), x.dtype)])
    zero = call.build.one("aten._to_copy", [low], Spec((), "uint8"), {"dtype": "uint8"})
    return [_step(call, "quantize", x, [high, zero], "uint8"), high, zero]


def integer_matmul(call: Call) -> list[Value]:
    """``MatMulInteger``: 8-bit operands, 32-bit sums."""
    a, b = call.input(0), call.input(1)
    if a.rank > 1 and b.rank == 2:
        rows = call.build.reshape(a, (prod(a.shape[:-1]), a.shape[-1]))
        spec = Spec((rows.shape[0], b.shape[1]), "int32")
        made = call.build.one("aten._int_mm", [rows, b], spec)
        return [call.build.reshape(made, (*a.shape[:-1], b.shape[1]))]
    return [product(call.build, a, b, "int32")]


def quantised_matmul(call: Call) -> list[Value]:
    """``QLinearMatMul``: the integer product, then its quantisation."""
    a, b = call.input(0), call.input(3)
    total = product(call.build, a, b, "int32")
    return [_step(call, "quantize", total, call.inputs[6:8], _zero_dtype(call, 7))]


def integer_conv(call: Call) -> list[Value]:
    """``ConvInteger``."""
    return [convolve(call, call.x, call.input(1), None, call.spec())]


def quantised_conv(call: Call) -> list[Value]:
    """``QLinearConv``: the integer convolution, then its quantisation."""
    spec = call.spec()
    total = convolve(call, call.x, call.input(3), call.get(8), Spec(spec.shape, "int32"))
    return [_step(call, "quantize", total, call.inputs[6:8], spec.dtype)]


def _zero_dtype(call: Call, index: int) -> str:
    zero = call.get(index)
    if zero is not None:
        return zero.dtype
    return call.specs[0].dtype if call.specs and call.specs[0] else "uint8"


RULES: Final = MappingProxyType(
    {
        "QuantizeLinear": quantise,
        "DequantizeLinear": dequantise,
        "com.microsoft.QuantizeLinear": quantise,
        "com.microsoft.DequantizeLinear": dequantise,
        "DynamicQuantizeLinear": dynamic,
        "MatMulInteger": integer_matmul,
        "QLinearMatMul": quantised_matmul,
        "ConvInteger": integer_conv,
        "QLinearConv": quantised_conv,
    }
)
