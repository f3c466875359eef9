"""Reductions, scans, losses and pooling: each input read once, a smaller result written."""

from __future__ import annotations

from perfmodel.workload.lowering.eager.columns import column_work, row_work
from perfmodel.workload.lowering.eager.names import base_name, operations
from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import CASTING, in_turn, map_op, stream
from perfmodel.workload.op import Fused, Op
from perfmodel.workload.program import Tensor

# gradients that are gathered, not scattered: no zeroed result
_GATHERED = ("avg_pool2d_backward", "upsample_nearest2d_backward", "_adaptive_avg_pool2d_backward")
# what the device could do while a block of nll_loss goes once through its threads: 0.65 and 0.32 us
_TURN, _TURN_BACK = 4.5e6, 2.2e6
# operations for each tap that a gradient is compared with: 4 ps, in fp32 as in bf16
_WINDOW = 28.0
# what the device could do while a block of 1,024 threads takes a place each to the next channel,
# and while a few do: 1.8 us (from a step of a detector that resamples 11 embeddings of 384 channels
# to their own size) and the latency of a load and a store
_PLACES, _LOAD_AND_STORE = 1.23e7, 5.5e6
_THREADS = 1024
_COUNTED = ("bool", "uint8", "int8", "int16", "int32")
_TAPS = {"bilinear": 4, "bicubic": 16, "linear": 2, "trilinear": 8, "nearest": 1}


def reduction(site: Site) -> Work:
    """One kernel; a second stage happens inside it."""
    elements = max((numel(tensor.shape) for tensor in site.inputs), default=0)
    if elements == 0:
        return Work("reduction")
    flops = float(operations(site.name))
    across = _across(site)
    if across:
        rows, x = elements // max(1, numel(site.outputs[0].shape)), site.inputs[0]
        work = column_work(rows, elements, site.device, width=item_bytes(x.dtype))
        flops = max(flops, work / elements)
    elif site.outputs:
        rows = numel(site.outputs[0].shape)
        if rows > 1:
            work = row_work(rows, elements // rows, site.device)
            flops = max(flops, work / elements)
    note = "strided reads" if across else ""
    first, counted = _widened(site, elements)
    if counted:
        written = sum(site.bytes(tensor) for tensor in site.outputs)
        size = sum(size for _, size in counted)
        op: Op = stream(site.name, elements, size, written, float(flops) * elements)
        kernel = site.kernel("reduction", op, reads=(), extra_reads=counted, note=note)
        return Work("reduction", (*first, kernel), counted)
    op = _totals(site, site.name, elements, float(flops) * elements)
    return Work("reduction", (site.kernel("reduction", op, note=note),))


def _widened(site: Site, elements: int) -> tuple[tuple[Kernel, ...], tuple[tuple[int, int], ...]]:
    """The copy that a sum of masks or narrow integers makes in the format of its result."""
    if base_name(site.name) not in ("sum", "prod") or not site.outputs:
        return (), ()
    x, out = site.inputs[0], site.outputs[0]
    if x.dtype == out.dtype or x.dtype not in _COUNTED:
        return (), ()
    width = item_bytes(out.dtype)
    copy = ((site.temporary(), elements * width),)
    cast = stream("cast", elements, site.bytes(x), elements * width, 2.0 * CASTING * elements)
    kernel = site.kernel(
        "copy", cast, name=f"{site.name}: cast", reads=(x,), writes=(), extra_writes=copy,
        host="reduction", casts=in_turn(elements, width, True),
    )  # fmt: skip
    return (kernel,), copy


def _across(site: Site) -> bool:
    """Whether neighbours in memory belong to different results: sums down the columns."""
    x = site.inputs[0]
    dims = site.attribute("dim")
    if dims is None or not x.shape or not site.outputs:
        return False
    rank = len(x.shape)
    reduced = {int(dim) % rank for dim in (dims if isinstance(dims, list | tuple) else [dims])}
    inner = 1 if x.layout == "channels_last" and rank > 2 else rank - 1
    return bool(reduced) and inner not in reduced


def scan(site: Site) -> Work:
    """A prefix sum reads and writes every element."""
    elements = max((numel(tensor.shape) for tensor in site.inputs), default=0)
    if elements == 0:
        return Work("reduction")
    op = _totals(site, site.name, elements, 2.0 * elements)
    return Work("reduction", (site.kernel("scan", op, host="reduction"),))


def loss(site: Site) -> Work:
    """The element-wise part, and the mean of what it wrote."""
    elements = max((numel(tensor.shape) for tensor in site.inputs), default=0)
    if elements == 0:
        return Work("composite")
    out = site.outputs[0]
    width = item_bytes(out.dtype)
    read = sum(site.bytes(tensor) for tensor in site.inputs)
    if numel(out.shape) == elements:
        op = stream(site.name, elements, read, elements * width, operations(site.name) * elements)
        return Work("pointwise", (site.kernel("pointwise", op),))
    scratch = ((site.temporary(), elements * width),)
    first = stream(site.name, elements, read, elements * width, operations(site.name) * elements)
    second = stream("mean", elements, elements * width, width, elements)
    kernels = (
        site.kernel("pointwise", first, writes=(), extra_writes=scratch),
        site.kernel("reduction", second, name="mean", reads=(), extra_reads=scratch),
    )
    return Work("composite", kernels, scratch)


def nll(site: Site) -> Work:
    """Picks one log-probability a row; the gradient is a zeroed tensor with one value a row."""
    backward = "backward" in site.name
    scores = site.inputs[1] if backward else site.inputs[0]
    cols = scores.shape[1] if len(scores.shape) > 1 else scores.shape[-1] if scores.shape else 1
    rows = max(1, numel(scores.shape) // max(1, cols))
    width = item_bytes(scores.dtype)
    turns = -(-rows // min(1024, max(32, rows // 16)))  # one block goes through all rows
    waiting = turns * (_TURN_BACK if backward else _TURN)
    pick = stream("pick", rows, rows * (8 + width), rows * width if backward else 8, waiting)
    touched = rows * width
    target = site.inputs[2] if backward else site.inputs[1]
    if not backward:
        kernel = site.kernel(
            "reduction", pick, reads=(target,), extra_reads=((scores.storage, touched),)
        )
        return Work("reduction", (kernel,))
    out = site.outputs[0]
    zero = map_op("zero", numel(out.shape), 0, site.bytes(out), 0.0, out.dtype, width)
    kernels = (
        site.kernel("fill", zero, name=f"{site.name}: zero", reads=(), host="reduction"),
        site.kernel(
            "scatter", pick, reads=(target,), writes=(), extra_writes=((out.storage, touched),),
            host="reduction",
        ),
    )  # fmt: skip
    return Work("composite", kernels)


def pool_gradient(site: Site) -> Work:
    """Scattered with atomic sums into a zeroed tensor, or gathered where windows are regular."""
    out, grad = site.outputs[0], site.inputs[0]
    elements = numel(out.shape)
    if elements == 0:
        return Work("reduction")
    operands = site.inputs if "max_pool" not in site.name else (grad, site.inputs[-1])
    if "avg_pool" in site.name:
        operands = (grad,)
    read = sum(site.bytes(tensor) for tensor in operands)
    written = site.bytes(out)
    larger = max(elements, numel(grad.shape))
    flops = float(larger * min(taps(site), 4))
    if site.name == "max_pool2d_with_indices_backward":
        flops = max(flops, _WINDOW * numel(grad.shape) * taps(site))
    flops = max(flops, bicubic_turns(site, grad))
    op = stream(site.name, larger, read, written, flops)
    kernels: tuple[Kernel, ...] = (site.kernel("pool", op, reads=operands, writes=(out,)),)
    if site.name not in _GATHERED:
        width = item_bytes(out.dtype)
        zero = map_op("zero", elements, 0, written, 0.0, out.dtype, width)
        first = site.kernel(
            "fill", zero, name=f"{site.name}: zero", reads=(), writes=(out,), host="pool"
        )
        return Work("composite", (first, *kernels))
    return Work("reduction", kernels)


def bicubic_turns(site: Site, image: Tensor) -> float:
    """What the device could do while threads of a place go through all images and channels.

    Loads wait for the stores before them, and images of less than 1,024 places have one block
    (ATen/native/cuda/UpSampleBicubic2d.cu); 0 of other operators.
    """
    if not site.name.startswith("upsample_bicubic2d") or len(image.shape) != 4:
        return 0.0
    places = numel(image.shape[2:])
    each = max(_LOAD_AND_STORE, _PLACES * min(1.0, places / _THREADS))
    return each * numel(image.shape[:2]) * max(1.0, places / _THREADS / site.device.units)


def taps(site: Site) -> int:
    """Inputs that one output of a pooling or resampling operator looks at."""
    for word, count in _TAPS.items():
        if word in site.name:
            return count
    window = site.attribute("kernel_size")
    if isinstance(window, int):
        return window * window
    if window:
        return numel(window) if len(window) > 1 else int(window[0]) ** 2
    large = max((numel(tensor.shape) for tensor in site.inputs), default=1)
    small = min((numel(tensor.shape) for tensor in site.outputs), default=1)
    return max(1, large // max(1, small))


def _totals(site: Site, chain: str, elements: int, flops: float) -> Fused:
    read = sum(size for _, size in site.traffic(site.inputs))
    written = sum(size for _, size in site.traffic(site.outputs))
    return stream(chain, elements, read, written, flops)
