"""Element-wise operators: one TensorIterator kernel each, whatever the arguments."""

from __future__ import annotations

from perfmodel.workload.lowering.eager.names import base_name, operations
from perfmodel.workload.lowering.site import Site, Work, arithmetic, item_bytes, numel
from perfmodel.workload.lowering.stream import map_op

# Kinds of ELEMENTWISE that the calibration measured under the aten name.
_COUNTED = frozenset(("add", "mul", "gelu", "silu", "relu", "tanh", "sigmoid"))
_COMPLEX_FACTOR = 4


def flops_each(name: str, exponent: object = None) -> int:
    """FLOP an element.

    A transcendental function counts as in the measured element-wise kinds. A small whole power is
    a product or two.
    """
    if base_name(name) == "pow" and exponent in (2, 3):
        return int(exponent) - 1
    return operations(name)


def pointwise(site: Site) -> Work:
    """Every input read once, every output written once."""
    outputs = site.outputs or site.inputs[:1]
    elements = max((numel(tensor.shape) for tensor in outputs), default=0)
    if elements == 0:
        return Work("pointwise")
    reads, writes = site.traffic(site.inputs), site.traffic(outputs)
    flops = flops_each(site.name, site.attribute("exponent"))
    if any(tensor.dtype.startswith("complex") for tensor in outputs):
        flops *= _COMPLEX_FACTOR
    base = base_name(site.name)
    dtypes = {tensor.dtype for tensor in (*site.inputs, *outputs) if tensor.shape}
    kind = base if base in _COUNTED and len(dtypes) <= 1 else ("fused" if base == "copy" else base)
    op = map_op(
        kind,
        elements,
        sum(size for _, size in reads),
        sum(size for _, size in writes),
        float(flops * elements),
        arithmetic(outputs[0].dtype),
        item_bytes(outputs[0].dtype),
    )
    strided = any(tensor.layout == "strided" for tensor in site.inputs if len(tensor.shape) > 1)
    note = "strided reads" if strided else ""
    return Work("pointwise", (site.kernel("pointwise", op, writes=outputs, note=note),))
