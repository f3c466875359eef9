"""Element-wise operators: one TensorIterator kernel each, whatever the arguments."""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.workload.lowering.eager.names import base_name, operations
from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, arithmetic, item_bytes, numel
from perfmodel.workload.lowering.stream import CASTING, OFFSETS, in_turn, map_op, stream
from perfmodel.workload.op import Op
from perfmodel.workload.program import Tensor

# Kinds of ELEMENTWISE that the calibration measured under the aten name.
_COUNTED = frozenset(("add", "mul", "gelu", "silu", "relu", "tanh", "sigmoid"))
_COMPLEX_FACTOR = 4
_OUTER = 24.0  # operations of an outer sum or product: 3.5 ps (profiled on an H100)
_ARITHMETIC = frozenset(("add", "sub", "mul", "div"))
_FLOATS = frozenset(("fp64", "fp32", "tf32", "bf16", "fp16"))


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
    flops = 1.0 * flops_each(site.name, site.attribute("exponent"))
    if any(tensor.dtype.startswith("complex") for tensor in outputs):
        flops *= _COMPLEX_FACTOR
    strided = site.turning > 0.0 or _strided(site, elements)
    read, written = (sum(size for _, size in part) for part in (reads, writes))
    dtype, width = arithmetic(outputs[0].dtype), item_bytes(outputs[0].dtype)
    mixed = _formats(site.inputs, outputs, base_name(site.name) in _ARITHMETIC) > 1
    casting = CASTING * (len(site.inputs) + 1) if mixed else 0.0
    if strided or casting or _broadcast(site.inputs, elements):
        flops += max(casting, site.turning, _offsets(site.inputs, elements))
        op: Op = stream(site.name, elements, read, written, flops * elements, dtype)
    else:
        op = map_op(_kind(site, outputs), elements, read, written, flops * elements, dtype, width)
    note = "strided reads" if strided else ""
    turns = in_turn(elements, width, mixed)
    kernel = site.kernel(
        "pointwise", op, writes=outputs, note=note,
        turns=turns if strided or _spread(site.inputs, elements) else 0.0,
        casts=0.5 * (len(site.inputs) + 1) * turns if mixed else 0.0,
    )  # fmt: skip
    return Work("pointwise", (*_before(site), kernel))


def _strided(site: Site, elements: int) -> bool:
    """Whether offsets are worked out: not for one operand without gaps, in whatever order."""
    if not any(tensor.layout == "strided" for tensor in site.inputs if len(tensor.shape) > 1):
        return False
    large = [tensor for tensor in site.inputs if numel(tensor.shape) > 1]
    if len(large) != 1 or numel(large[0].shape) != elements:
        return True
    size = elements * item_bytes(large[0].dtype)
    return site.storages.get(large[0].storage, 0) != size


def _kind(site: Site, outputs: Sequence[Tensor]) -> str:
    """The measured kind of element-wise kernel, or the operator's own name."""
    base = base_name(site.name)
    dtypes = {tensor.dtype for tensor in (*site.inputs, *outputs) if tensor.shape}
    return base if base in _COUNTED and len(dtypes) <= 1 else ("fused" if base == "copy" else base)


def _formats(inputs: Sequence[Tensor], outputs: Sequence[Tensor], every: bool) -> int:
    """Formats among operands and results; a scalar is an argument.

    ``every``: masks and indices too, as in arithmetic; other kernels take them as they are.
    """
    tensors = [tensor for tensor in (*inputs, *outputs) if tensor.shape]
    return len({t.dtype for t in tensors if every or t.dtype in _FLOATS})


def _broadcast(inputs: Sequence[Tensor], elements: int) -> bool:
    """Whether an operand is read again and again; a scalar is an argument."""
    return any(1 < numel(tensor.shape) < elements for tensor in inputs)


def _spread(inputs: Sequence[Tensor], elements: int) -> bool:
    """Whether an operand on the device is smaller than the result, one element among them."""
    return any(numel(tensor.shape) < elements and not tensor.host for tensor in inputs)


def _offsets(inputs: Sequence[Tensor], elements: int) -> float:
    """Operations an element for its offsets: more where no operand has the shape of the result."""
    large = [numel(tensor.shape) for tensor in inputs if numel(tensor.shape) > 1]
    return OFFSETS if len(large) < 2 or max(large) == elements else _OUTER


def _before(site: Site) -> tuple[Kernel, ...]:
    """``masked_fill`` copies its operand and fills the copy."""
    if site.name != "masked_fill":
        return ()
    out = site.outputs[0]
    size, width = site.bytes(out), item_bytes(out.dtype)
    copy = map_op("copy", numel(out.shape), size, size, 0.0, arithmetic(out.dtype), width)
    kernel = site.kernel("copy", copy, name="masked_fill: copy", reads=site.inputs[:1],
                         host="pointwise")  # fmt: skip
    return (kernel,)
