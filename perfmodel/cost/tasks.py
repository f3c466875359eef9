"""From an operator to kernels: flat arrays of sizes, each with the name of its mechanism.

One operator object may describe many operators (its sizes are arrays), and these may run different
kernels: a query of length one is decoding, one channel a group is a depth-wise convolution. A
:class:`Task` holds those of one kernel, flattened, with their places in the operator's shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from perfmodel.cost.attention_steps import shares_keys
from perfmodel.cost.conv_depthwise import by_library
from perfmodel.cost.conv_point import POINT_TRANS, is_point, point_sizes, uneven
from perfmodel.cost.parts import Floats
from perfmodel.cost.scatter import FEW_ROWS
from perfmodel.errors import WorkloadError
from perfmodel.workload.dtype import bytes_per_element, output_dtype
from perfmodel.workload.op import FAMILIES, Attention, Conv2d, Conv3d, Embedding, Fused, Op, Permute
from perfmodel.workload.ops.base import product

RATE_CLASS = {"bf16": "half", "fp16": "half", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8": "fp8"}
# What PyTorch's CUDA kernels switch on: elements that a norm reads at once, the longest row that
# one warp reduces and the warps of a block (PersistentSoftmax.cuh), the most indices that are
# copied one after another (Indexing.cu, indexSelectSmallIndex).
VECTOR, WARP_COLUMNS, WARPS, FEW_TOKENS = 4, 2048, 4, 16
_NUMBERED = 2.0**31 - 1.0
POINT = "conv_point"
MAP = "map_"
"""Before the names of a convolution's sizes that stand beside those of its product."""
_MAP_SIZES = ("n", "c_in", "c_out", "h", "w", "inputs")
FOURIER = {"fft": "fourier", "rfft": "fourier_r2c", "irfft": "fourier_c2r"}
_KIN = dict.fromkeys(FOURIER.values(), "fourier") | {
    "rmsnorm_odd": "norm_odd",
    "layernorm_odd": "norm_odd",
    "recurrent_fwd": "recurrent",
    "recurrent_bwd": "recurrent",
}
_WORKS = (
    "gemm", "attention", "conv", "spmm", "fourier", "scatter_add", "recurrent", "copy_host",
)  # fmt: skip
_ROWS = {"rmsnorm", "layernorm", "softmax", "embedding", "permute", "cross_entropy"}


@dataclass(frozen=True, slots=True)
class Task:
    """Operators of one kernel.

    Parameters
    ----------
    kernel : str
        Name of the mechanism's coefficients, e.g. ``"gemm-half"``; what stands before the dash is
        the kernel, after it the class of arithmetic.
    sizes : dict of array, shape (N,)
        The operator's sizes, and ``flops``, ``read``, ``written``.
    dtype : str
        Operand format.
    words : dict of str
        The operator's other words (``direction``, ``layout``, ``kind`` ...).
    places : array of int, shape (N,)
        Where the N operators stand in the flattened operator.
    """

    kernel: str
    sizes: dict[str, Floats]
    dtype: str
    words: dict[str, str]
    places: np.ndarray[tuple[int], np.dtype[np.intp]]

    @property
    def element(self) -> float:
        """Bytes of one operand element [B]."""
        return bytes_per_element(self.dtype)

    @property
    def out_element(self) -> float:
        """Bytes of one output element [B]."""
        return bytes_per_element(output_dtype(self.dtype))

    @property
    def family(self) -> str:
        """What kernels share a way of working: the base without direction and layout of a conv."""
        if self.base.startswith("conv_depthwise"):
            native = self.words["layout"] == "nchw" and not self.kernel.endswith("-fp16")
            return "conv_depthwise_native" if native else "conv_depthwise"
        if self.base.startswith(POINT):
            return POINT
        if self.base in _KIN:
            return _KIN[self.base]
        for kin in ("conv_grouped", "conv3d"):
            if self.base.startswith(kin):
                return kin
        if self.base.startswith("conv_"):
            return f"conv_{self.words['direction']}"
        return self.base

    @property
    def product(self) -> bool:
        """Whether it is a matrix product by name or by form, with sizes ``m n k batch``."""
        return self.base.startswith(("gemm", POINT))

    @property
    def convolution(self) -> bool:
        """Whether it has the sizes of a convolution."""
        return self.base.startswith("conv") and not self.base.startswith(POINT)

    @property
    def streams(self) -> bool:
        """Whether it moves bytes, and works little on them: what :mod:`memory_bound` prices."""
        return not self.base.startswith(_WORKS)

    @property
    def base(self) -> str:
        """The kernel without its class of arithmetic."""
        return self.kernel.split("-")[0]


def tasks_of(op: Op) -> tuple[tuple[int, ...], list[Task]]:
    """The operator's shape, and its kernels.

    Raises
    ------
    WorkloadError
        For a collective (it runs on a network, not on one device) or an unknown operator.
    """
    if not isinstance(op, Op):
        raise WorkloadError(
            "cost.price: op",
            f"<{type(op).__name__}>",
            "an operator such as Gemm(m=1, n=1, k=1)",
            repair="make one of a dict with pm.op_from_dict",
        )
    if op.family not in FAMILIES:
        raise WorkloadError(
            "cost.price: op",
            op.family,
            ", ".join(FAMILIES),
            repair="price collectives with perfmodel.network.collective",
        )
    sizes, words = _columns(op)
    shape = np.broadcast_shapes(*(np.shape(value) for value in sizes.values()))
    flat = {
        name: np.ascontiguousarray(np.broadcast_to(value, shape), dtype=np.float64).reshape(-1)
        for name, value in sizes.items()
    }
    dtype = words.pop("dtype", "bf16")
    everywhere = np.arange(next(iter(flat.values())).size)
    tasks = []
    for kernel, mask in _kernels(op.family, flat, words, dtype):
        places = everywhere if mask is None else everywhere[mask]
        if places.size:
            chosen = flat if mask is None else {name: value[mask] for name, value in flat.items()}
            laid = words
            if kernel.startswith("conv_") and "_nhwc" in kernel:
                laid = words | {"layout": "nhwc"}
            if kernel.startswith(POINT):
                maps = {MAP + name: chosen[name] for name in _MAP_SIZES}
                chosen = maps | point_sizes(chosen, laid["direction"], laid["layout"])
                laid = laid | {"trans": POINT_TRANS[laid["layout"]][laid["direction"]]}
            tasks.append(Task(kernel, chosen, dtype, laid, places))
    return shape, tasks


def _columns(op: Op) -> tuple[dict[str, Any], dict[str, str]]:
    sizes: dict[str, Any] = {}
    words: dict[str, str] = {}
    for field in fields(op):  # type: ignore[arg-type]
        value = getattr(op, field.name)
        if isinstance(value, str):
            words[field.name] = value
        elif value is not None:
            sizes[field.name] = value
    if isinstance(op, Conv2d | Conv3d):
        sizes |= _convolution(op)
    if isinstance(op, Attention):
        sizes |= {"kv_len": op.keys_met, "all_keys": op.kv_len}
    sizes |= {"flops": op.flops, "read": op.bytes_read, "written": op.bytes_written}
    if isinstance(op, Embedding | Permute):
        return _looked_up(op, sizes), words
    if isinstance(op, Fused) and op.rows is not None:
        shape = {"rows": op.rows, "cols": np.asarray(op.numel) / np.asarray(op.rows)}
        return shape | {name: sizes[name] for name in ("flops", "read", "written")}, words
    return sizes, words


def _looked_up(op: Embedding | Permute, sizes: dict[str, Any]) -> dict[str, Any]:
    """Rows taken by index, which PyTorch does in the same kernels for a table and for an order.

    ``distinct`` of the ``vocab`` rows are looked at; ``read`` counts a row as often as it is.
    """
    if isinstance(op, Embedding):
        share = -np.expm1(-np.asarray(op.tokens) / np.asarray(op.vocab))
        return sizes | {"distinct": op.vocab * share}
    rows, source = np.asarray(op.rows), np.asarray(op.source)
    table = np.where(source > 0, source, rows)
    written = np.asarray(op.bytes_written, dtype=np.float64)  # may pass what an integer holds
    read = written + (op.bytes_read - written * table / rows)
    about = {name: sizes[name] for name in ("flops", "written")}
    of = {"tokens": op.rows, "vocab": table, "dim": op.cols, "distinct": np.minimum(table, rows)}
    return about | of | {"read": read}


def _convolution(op: Conv2d | Conv3d) -> dict[str, Any]:
    """What a convolution of any shape has in common with a square one.

    ``side`` and ``step`` are kernel and stride of the square (cubic) convolution with as many taps
    and as many steps, ``pad`` the mean padding; ``square`` is 1 where it is the very one, ``seen``
    the share of the input that outputs look at, ``inside`` the largest share of the taps that can
    fall on the input at once, ``winograd`` 1 for 3 x 3 taps of step 1.
    """
    first, *others = op.axes
    same = [
        (axis.kernel == first.kernel)
        & (axis.stride == first.stride)
        & (axis.before == first.before)
        for axis in others
    ]
    square = np.logical_and.reduce(np.broadcast_arrays(*same)) & np.logical_and.reduce(
        np.broadcast_arrays(
            *((axis.dilation == 1) & (axis.before == axis.after) for axis in op.axes)
        )
    )
    count = len(op.axes)
    steps = product(*(axis.stride for axis in op.axes))
    three = np.logical_and.reduce(
        np.broadcast_arrays(
            *((a.kernel == 3) & (a.stride == 1) & (a.dilation == 1) for a in op.axes)
        )
    )
    seen = [np.minimum(1.0, np.asarray(a.kernel) / np.asarray(a.stride)) for a in op.axes[-2:]]
    inside = [
        np.minimum(a.kernel, -(-a.length // np.asarray(a.dilation))) / np.asarray(a.kernel)
        for a in op.axes[-2:]
    ]
    return {
        "inputs": product(*(axis.length for axis in op.axes)),
        "outputs": product(*(axis.outputs for axis in op.axes)),
        "taps": op.taps,
        "steps": steps,
        "side": np.where(square, op.kernel, np.asarray(op.taps, dtype=float) ** (1.0 / count)),
        "step": np.where(square, op.stride, np.asarray(steps, dtype=float) ** (1.0 / count)),
        "pad": sum(np.asarray(axis.before + axis.after) for axis in op.axes) / (2.0 * count),
        "square": square * 1.0,
        "inside": inside[0] * inside[1],
        "seen": seen[0] * seen[1],
        "winograd": three * 1.0,
        "deepest": product(*(-(-np.asarray(a.kernel) // np.asarray(a.stride)) for a in op.axes)),
    }


def _kernels(
    family: str, sizes: dict[str, Floats], words: dict[str, str], dtype: str
) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.bool_]] | None]]:
    """Names of the kernels of a family, each with the operators that run it (None: all)."""
    rate = RATE_CLASS.get(dtype, dtype)
    direction = words.get("direction", "fwd")
    if family == "gemm":
        batched = sizes["batch"] > 1
        odd = odd_rows(sizes, words, dtype)
        yield f"gemm-{rate}", ~batched & ~odd
        yield f"gemm_odd-{rate}", ~batched & odd
        yield f"gemm_batched-{rate}", batched & ~odd
        yield f"gemm_batched_odd-{rate}", batched & odd
    elif family == "grouped_gemm":
        yield f"gemm_grouped-{rate}", None
    elif family == "attention":
        # In full precision one query is a prompt of one.
        decode = (sizes["q_len"] == 1) & (direction == "fwd") & (bytes_per_element(dtype) <= 2.0)
        steps = shares_keys(sizes) & (bytes_per_element(dtype) > 2.0)
        yield f"attention_{direction}-{rate}", ~decode & ~steps
        yield f"attention_decode-{rate}", decode
        yield f"attention_steps_{direction}-{rate}", steps
    elif family == "conv3d":
        # A plain product of a volume is one of a map with as many places.
        point = _even_points(sizes, words["layout"], dtype)
        yield f"{POINT}_{direction}_{words['layout']}-{rate}", point
        yield f"conv3d_{direction}-{rate}", ~point
    elif family == "conv2d":
        yield from _convolutions(sizes, direction, words["layout"], dtype)
    elif family in _ROWS:
        yield from _row_kernels(family, sizes, direction, dtype)
    elif family == "scatter_add":
        few = (sizes["rows"] <= FEW_ROWS) & (words["kind"] == "index_add")
        yield "scatter_add_few", few
        yield f"scatter_add_{'rows' if words['kind'] == 'index_add' else 'values'}", ~few
    elif family == "recurrent":
        yield f"recurrent_{'bwd' if direction == 'bwd' else 'fwd'}", None
    elif family == "fused":
        yield "elementwise_rows" if "rows" in sizes else "elementwise", None
    else:
        yield _only_kernel(family, words), None


def _odd_channels(
    sizes: dict[str, Floats], dtype: str
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where channels do not start on 16 bytes, and copies or other kernels have to serve."""
    step = 16.0 / bytes_per_element(dtype)
    odd = uneven(sizes["c_in"], step) | uneven(sizes["c_out"], step)
    return np.asarray(odd & (dtype != "fp32"))


def _even_points(
    sizes: dict[str, Floats], layout: str, dtype: str
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Plain products of rows that start on 16 bytes, on matrix units."""
    point = is_point(sizes) & (dtype != "fp32")
    if point.any():
        rows = sizes["inputs"] if layout == "nchw" else sizes["c_in"]
        point &= ~_odd_channels(sizes, dtype)
        point &= ~uneven(rows, 16.0 / bytes_per_element(dtype))
    return np.asarray(point)


def _convolutions(
    sizes: dict[str, Floats], direction: str, layout: str, dtype: str
) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.bool_]]]]:
    """Kernels of two-dimensional convolutions; a map of one place lies alike in both layouts."""
    flat = (sizes["inputs"] == 1) & (sizes["outputs"] == 1) & (sizes["groups"] == 1)
    flat &= layout == "nchw"
    for laid, among in (("nhwc", flat), (layout, ~flat)):
        if among.any():
            for kernel, mask in _laid_convolutions(sizes, direction, laid, dtype):
                yield kernel, mask & among


def _laid_convolutions(
    sizes: dict[str, Floats], direction: str, layout: str, dtype: str
) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.bool_]]]]:
    """Kernels of two-dimensional convolutions that lie as ``layout`` says."""
    rate = RATE_CLASS.get(dtype, dtype)
    depthwise = (sizes["groups"] > 1) & (sizes["groups"] == sizes["c_in"])
    grouped = (sizes["groups"] > 1) & ~depthwise
    odd = _odd_channels(sizes, dtype)
    point = _even_points(sizes, layout, dtype)
    other = ~depthwise & ~grouped & ~point
    # Channels last, other forms serve few or uneven channels.
    odd &= (layout == "nhwc") & (direction != "dgrad") & (rate == "half")
    yield f"{POINT}_{direction}_{layout}-{rate}", point
    # Plain fp32 kernels take either layout.
    each = f"_{direction}" if dtype == "fp32" else f"_{direction}_{layout}"
    yield f"conv_grouped{each}-{rate}", grouped
    yield f"conv_odd_{direction}_{layout}-{rate}", other & odd
    yield f"conv_{direction}_{layout}-{rate}", other & ~odd
    # PyTorch's own kernels serve channels-first maps, except some in fp16; channels last the
    # library has one more for fp16 than for bf16, and others for full precision.
    kernel = f"conv_depthwise_{direction}_{layout}"
    if layout == "nchw" and dtype == "fp16":
        library = by_library(sizes)
        yield f"{kernel}-fp16", depthwise & library
        yield kernel, depthwise & ~library
    else:
        yield f"{kernel}-{dtype}" if rate == "half" and layout == "nhwc" else kernel, depthwise


def _only_kernel(family: str, words: dict[str, str]) -> str:
    """The kernel of a family that one serves, whatever the sizes."""
    if family == "copy":
        return "copy" if words["route"] == "device" else "copy_host"
    if family == "fft":
        return FOURIER[words["kind"]]
    return family


def row_lengths(sizes: dict[str, Floats], words: dict[str, str]) -> tuple[Floats, Floats]:
    """What lies side by side in the left and in the right factor of a product [elements]."""
    trans = words.get("trans", "tn")
    if "trans" not in words:
        # A linear layer, or a batch of plain products.
        right = np.where(sizes["batch"] > 1, sizes["n"], sizes["k"])
        return sizes["k"], np.asarray(right)
    return sizes["m" if trans[1] == "t" else "k"], sizes["n" if trans[0] == "n" else "k"]


def odd_rows(
    sizes: dict[str, Floats], words: dict[str, str], dtype: str
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where rows of a product start beside 16 bytes, which keeps a library from its best kernels.

    ``sizes`` are m, n, k and batch, ``words`` may name the layout ``trans``.
    """
    step = 16.0 / bytes_per_element(dtype)
    odd = np.zeros(sizes["n"].size, dtype=np.bool_)
    for row in (sizes["n"], *row_lengths(sizes, words)):
        odd |= uneven(row, step) & (row > 1)  # single elements follow each other
    return odd


def _row_kernels(
    family: str, sizes: dict[str, Floats], direction: str, dtype: str
) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.bool_]] | None]]:
    """Kernels that PyTorch chooses among by the length of a row or the number of rows."""
    rate = f"-{RATE_CLASS.get(dtype, dtype)}" if family == "cross_entropy" else ""
    if direction == "bwd":
        # In fp32 the loss has no copy to cast.
        yield f"{family}_bwd{rate}", None
    elif family == "cross_entropy":
        yield f"{family}{rate}", None
    elif family == "softmax":
        short = sizes["cols"] <= WARP_COLUMNS
        yield "softmax_warp", short
        yield family, ~short
    elif family in ("embedding", "permute"):
        # A table that 32 bits cannot number goes to the kernel of many rows.
        few = (sizes["tokens"] <= FEW_TOKENS) & (sizes["vocab"] * sizes["dim"] < _NUMBERED)
        yield "embedding_few", few
        yield "embedding", ~few
    else:
        # Rows of whole vectors are read as such; others by an older pair of kernels.
        odd = sizes["cols"] % VECTOR > 0
        yield family, ~odd
        yield f"{family}_odd", odd
