"""Normalisations and softmax, forward and backward."""

from __future__ import annotations

from perfmodel.workload.lowering.device import Device
from perfmodel.workload.lowering.eager.channels import channel_work
from perfmodel.workload.lowering.eager.columns import row_work
from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import OFFSETS, TURNED, in_turn, stream
from perfmodel.workload.op import LayerNorm, Op, RmsNorm, Softmax
from perfmodel.workload.program import Tensor

_MEASURED = ("bf16", "fp16", "fp32")
# bytes that a block moves in a cycle, and that a unit takes from the cache; share of the memory's
# bandwidth that a full launch reaches; all from profiled batch norms on an H100
_BLOCK_CYCLE, _CACHED_CYCLE, _FULL_SHARE = 3.79, 22.96, 0.687
_GRADIENT_CYCLE = 5.0  # the same for gradients: two operands in flight
# channels first, a block goes over one map of one image: cycles of a further turn of its threads,
# alone and in company, and between blocks of a unit; from 160 profiled batch norms on an H100
_TURN_CYCLES, _SHARED_TURN_CYCLES, _MAP_CYCLES = 465.0, 1090.0, 159.0
_MOST_MAPS, _FEWEST_THREADS, _MOST_BLOCKS = 256 * 1024, 64, 32
_START = 1.7e-6
_WARP_ROW = 1024  # a warp takes a row up to here: gradients of short rows were not measured


def layer_norm(site: Site) -> Work:
    """One kernel, a block a row; an operand that is not contiguous is copied first."""
    x = site.inputs[0]
    rows, cols = _rows(site, x)
    if rows * cols == 0:
        return Work("norm")
    kernel = site.kernel("norm", _row_op(LayerNorm, rows, cols, x.dtype), host="norm")
    first, scratch = _contiguous(site, x)
    return Work("norm", (*first, kernel), scratch)


def _contiguous(
    site: Site, x: Tensor, place: int = 0
) -> tuple[tuple[Kernel, ...], tuple[tuple[int, int], ...]]:
    """The copy that a kernel by rows needs of an operand that is not contiguous."""
    size, width = numel(x.shape) * item_bytes(x.dtype), item_bytes(x.dtype)
    if x.layout in ("contiguous", "sparse") or size == 0:
        return (), ()
    scratch = ((site.temporary(place), size),)
    each = max(site.turning, OFFSETS)
    copy = stream("copy", size // width, size, size, each * (size // width))
    kernel = site.kernel(
        "copy", copy, name="contiguous", reads=(x,), writes=(), extra_writes=scratch, host="norm",
        note="strided reads", turns=in_turn(size // width, width, False),
    )  # fmt: skip
    return (kernel,), scratch


def rms_norm(site: Site) -> Work:
    """PyTorch's fused RMS norm: one kernel."""
    rows, cols = _rows(site, site.inputs[0])
    op = _row_op(RmsNorm, rows, cols, site.inputs[0].dtype)
    return Work("norm", (site.kernel("norm", op, host="norm"),) if rows * cols else ())


def norm_backward(site: Site) -> Work:
    """Input gradient by rows; the gradients of weight and bias by columns."""
    grad, x = site.inputs[0], site.inputs[1]
    rows, cols = _rows(site, x)
    if rows * cols == 0:
        return Work("norm")
    rms = "rms" in site.name
    mask = list(site.attribute("output_mask", (True,) * len(site.outputs)))
    weights = site.outputs[1:] if mask[0] else site.outputs
    affine = any(mask[1:]) and len(weights) > 0
    op = _row_op(RmsNorm if rms else LayerNorm, rows, cols, x.dtype, "bwd")
    kernels = []
    if mask[0]:
        kernels.append(site.kernel("norm", op, writes=site.outputs[:1], host="norm"))
    scratch: tuple[tuple[int, int], ...] = ()
    if not rms:  # operands that are not contiguous are copied first
        for place, tensor in enumerate((grad, x)):
            first, copied = _contiguous(site, tensor, place)
            kernels, scratch = [*first, *kernels], (*scratch, *copied)
    if affine:
        elements = rows * cols
        read = site.bytes(grad) + site.bytes(x)
        columns = stream("column sums", elements, read, 8 * cols, 4.0 * elements)
        kernels.append(
            site.kernel(
                "reduction",
                columns,
                name=f"{site.name}: weight",
                reads=(grad, x),
                writes=weights,
                host="norm",
                launches=2,
            )
        )
    return Work("composite", tuple(kernels), scratch)


def batch_norm(site: Site) -> Work:
    """Evaluation scales and shifts; training takes statistics first, over the whole batch."""
    x, out = site.inputs[0], site.outputs[0]
    elements = numel(x.shape)
    if elements == 0:
        return Work("norm")
    size, written = site.bytes(x), site.bytes(out)
    in_order = (x.layout == "channels_last") != uses_cudnn(site)
    volume = len(x.shape) == 5 and x.layout == "channels_last" and not uses_cudnn(site)
    waiting = _waiting(x, size + written, site.device) if in_order and not volume else 0
    maps = x.layout != "channels_last" and not uses_cudnn(site)
    if maps:
        waiting = _by_maps(x, size + written, site.device)
    # volumes channels last have no kernel of their own: every operand is found one by one
    # (ATen/native/cuda/Normalization.cu, ``Impl::General``)
    each = TURNED if volume else 2.0
    scale = stream("batch_norm", elements, size + waiting, written, each * elements, x.dtype)
    name = f"{site.name}: general" if volume else f"{site.name}: maps" if maps else ""
    if not is_training(site):
        last = site.kernel("pointwise", scale, name=name, writes=(out,), host="norm")
        return Work("norm", (last,) if uses_cudnn(site) else (*_inverse(site), last))
    statistics = stream("moments", elements, size, 0, 3.0 * elements)
    if uses_cudnn(site):
        kernel = site.kernel("norm", (statistics, scale), host="norm")
        return Work("norm", (kernel,))
    if x.layout == "channels_last":
        few = _waiting(x, size, site.device, together=True)
        statistics = stream("moments", elements, size + few, 0, 3.0 * elements)
    apart = x.layout == "contiguous" and len(x.shape) > 2
    if apart:
        statistics = stream("moments", elements, size, 0, channel_work(x, size, site.device))
    first = site.kernel(
        "reduction",
        statistics,
        name=f"{site.name}: {'channels' if apart else 'moments'}",
        reads=(x,),
        writes=site.outputs[1:3],
        launches=3 if x.layout == "channels_last" else 2,  # semaphores, sums, running statistics
        host="norm",
    )
    second = site.kernel("pointwise", scale, name=name, writes=(out,), host="norm")
    return Work("norm", (first, second))


def norm_blocks(channels: int, rows: int, *, together: bool = False) -> int:
    """Blocks of PyTorch's channels-last batch norm (``flexible_launch_configs``).

    A block of 512 threads takes up to 32 channels and 16 rows a thread; at most 128 share the rows.
    Where they add up what they found (``together``), fewer than eight leave it to one.
    """
    width = min(1 << (channels.bit_length() - 1), 32)
    height = min(1 << (max(1, -(-rows // 16)).bit_length() - 1), 512 // width)
    if width * height != 512:
        width = min(1 << (channels.bit_length() - 1), 512 // height)
    down = min(128, -(-rows // (16 * height)))
    return -(-channels // width) * (1 if together and down < 8 else down)


def _waiting(
    x: Tensor, moved: int, device: Device, *, together: bool = False, rate: float = _BLOCK_CYCLE
) -> int:
    """Cached traffic that takes as long as too few blocks take beyond a kernel of full width [B].

    On an H100 a block moves 7.5 GB/s, all together 2.3 TB/s, and a kernel begins in 1.7 us. A block
    waits for its own loads, so that its rate follows the clock.
    """
    if len(x.shape) < 3:
        return 0
    channels = x.shape[1]
    last = x.layout == "channels_last"
    rows = numel(x.shape) // channels
    blocks = norm_blocks(channels, rows, together=together) if last else channels
    alone = moved / (blocks * rate * device.clock)
    beyond = alone - moved / (_FULL_SHARE * device.bandwidth) - _START
    return int(max(0.0, beyond) * _CACHED_CYCLE * device.units * device.clock)


def _by_maps(x: Tensor, moved: int, device: Device) -> int:
    """The same for channels first, with a block for each map of each image [B].

    Small maps leave most of a block's threads idle, and take as long as blocks take to begin and
    end (``batch_norm_transform_input_kernel``).
    """
    if len(x.shape) < 3:
        return 0
    images, channels, places = x.shape[0], x.shape[1], numel(x.shape[2:])
    width = max(_threads(places // 4), min(_threads(places), _FEWEST_THREADS))
    height = max(_FEWEST_THREADS // width, 1)
    down = max(1, min(_MOST_MAPS // channels, -(-images // height)))
    turns = -(-places // width) * -(-images // (down * height))
    resident = min(_MOST_BLOCKS, device.threads // (width * height))
    each = max(_MAP_CYCLES, turns * _SHARED_TURN_CYCLES / resident)
    cycles = max((turns - 1) * _TURN_CYCLES, channels * down * each / device.units)
    beyond = cycles / device.clock - moved / (_FULL_SHARE * device.bandwidth)
    return int(max(0.0, beyond) * _CACHED_CYCLE * device.units * device.clock)


def _threads(elements: int) -> int:
    """A block of PyTorch's normalisations: the least of 32, 64 ... 512 threads that is enough."""
    return next((size for size in (32, 64, 128, 256) if elements <= size), 512)


def batch_norm_backward(site: Site) -> Work:
    """Two sums a channel over gradient and input, then the input gradient."""
    # cuDNN's takes the input first; both have the same size
    grad, x, out = site.inputs[0], site.inputs[1], site.outputs[0]
    elements = numel(x.shape)
    if elements == 0:
        return Work("norm")
    read = site.bytes(grad) + site.bytes(x)
    sums = stream("channel sums", elements, read, 0, 4.0 * elements)
    apply = stream("batch_norm_backward", elements, read, site.bytes(out), 5.0 * elements, x.dtype)
    if uses_cudnn(site):
        if x.layout != "channels_last":  # a block a channel
            read += _waiting(x, read + site.bytes(out), site.device)
            sums = stream("channel sums", elements, read, 0, 4.0 * elements)
        return Work("norm", (site.kernel("norm", (sums, apply), host="norm"),))
    if x.layout == "contiguous" and len(x.shape) > 2:
        work = channel_work(x, read, site.device, passes=2)
        op = stream("batch_norm_backward", elements, read, site.bytes(out), work)
        name = f"{site.name}: channels"
        return Work("composite", (site.kernel("norm", op, name=name, host="norm"),))
    if x.layout == "channels_last":
        few = _waiting(x, read, site.device, together=True, rate=_GRADIENT_CYCLE)
        sums = stream("channel sums", elements, read + few, 0, 4.0 * elements)
        few = _waiting(x, read + site.bytes(out), site.device, rate=_GRADIENT_CYCLE)
        apply = stream(
            "batch_norm_backward", elements, read + few, site.bytes(out), 5.0 * elements, x.dtype
        )
    first = site.kernel(
        "reduction", sums, name=f"{site.name}: sums", reads=(grad, x), writes=site.outputs[1:],
        host="norm", launches=2 if x.layout == "channels_last" else 1,
    )  # fmt: skip
    second = site.kernel("pointwise", apply, writes=(out,), host="norm")
    return Work("composite", (first, second))


def _inverse(site: Site) -> tuple[Kernel, ...]:
    """What PyTorch's own evaluation does first: statistics to fp32, their inverse root."""
    statistics = site.inputs[-1]
    channels = numel(statistics.shape)
    if channels == 0:
        return ()
    width = item_bytes(statistics.dtype)
    root = stream("invstd", channels, 4 * channels, 4 * channels, 4.0 * channels)
    kernels = (
        site.kernel("pointwise", root, name=f"{site.name}: root", reads=(statistics,), writes=(),
                    host="norm"),
    )  # fmt: skip
    if width == 4:
        return kernels
    cast = stream("cast", channels, width * channels, 4 * channels)
    return (
        site.kernel("copy", cast, name=f"{site.name}: cast", reads=(statistics,), writes=(),
                    host="norm", casts=in_turn(channels, 4, True)),
        *kernels,
    )  # fmt: skip


def is_training(site: Site) -> bool:
    """Whether a batch norm computes its statistics."""
    if "no_training" in site.name or "no_update" in site.name:
        return False
    if "with_update" in site.name:
        return True
    return bool(site.attribute("training", site.attribute("train", True)))


def uses_cudnn(site: Site) -> bool:
    """Whether the recorder found cuDNN's batch norm: one kernel, both passes over its input."""
    return "cudnn" in site.name


def softmax(site: Site) -> Work:
    """A block (or warp) a row over the last axis; an operand with gaps is copied first."""
    kernels = _softmax(site, "fwd")
    first, scratch = _contiguous(site, site.inputs[0])
    return Work("norm", (*first, *kernels) if kernels else (), scratch)


def softmax_backward(site: Site) -> Work:
    """Reads the output and its gradient."""
    return Work("norm", _softmax(site, "bwd"))


def safe_softmax(site: Site) -> Work:
    """Softmax whose fully masked rows are zero: four more passes over the scores."""
    x, out = site.inputs[0], site.outputs[0]
    elements = numel(x.shape)
    if elements == 0:
        return Work("composite")
    width = item_bytes(out.dtype)
    bools = ((site.temporary(), elements),)
    compare = stream("eq", elements, elements * item_bytes(x.dtype), elements, elements)
    rows = elements // max(1, x.shape[int(site.attribute("dim", -1))] if x.shape else 1)
    every = stream("all", elements, elements, 0, row_work(rows, elements // rows, site.device))
    # One word for each row says whether it is masked: no flat vector beside the others.
    work = elements * (1.0 + OFFSETS)
    choose = stream("where", elements, elements * width, elements * width, work)
    kernels = (
        *_softmax(site, "fwd"),
        site.kernel("pointwise", compare, name="eq", writes=(), extra_writes=bools, host="norm"),
        site.kernel("reduction", every, name="all", reads=(), extra_reads=bools, writes=(),
                    host="norm"),
        site.kernel("pointwise", choose, name=f"{site.name}: where", reads=(out,),
                    host="norm"),
    )  # fmt: skip
    return Work("composite", kernels, bools)


def _softmax(site: Site, direction: str) -> tuple[Kernel, ...]:
    x = site.inputs[0]
    elements = numel(x.shape)
    if elements == 0:
        return ()
    rank = len(x.shape)
    dim = int(site.attribute("dim", -1)) % max(1, rank)
    cols = x.shape[dim] if rank else 1
    out = site.outputs[0]
    op: Op
    by_rows = (rank == 0 or dim == rank - 1) and x.dtype == out.dtype and x.dtype in _MEASURED
    if by_rows and (direction == "fwd" or cols > _WARP_ROW):
        op = Softmax(elements // cols, cols, x.dtype, direction)
    else:
        read = sum(site.bytes(tensor) for tensor in site.inputs)
        op = stream("softmax", elements, read, site.bytes(out), 5.0 * elements)
    return (site.kernel("softmax", op, host="norm"),)


def _rows(site: Site, x: Tensor) -> tuple[int, int]:
    """Rows and columns: the normalised axes are the last ones."""
    shape = site.attribute("normalized_shape")
    cols = numel(shape) if shape else (x.shape[-1] if x.shape else 1)
    return (numel(x.shape) // cols if cols else 0), cols


def _row_op(
    cls: type[LayerNorm] | type[RmsNorm], rows: int, cols: int, dtype: str, direction: str = "fwd"
) -> Op:
    return cls(max(1, rows), max(1, cols), dtype if dtype in _MEASURED else "fp32", direction)
