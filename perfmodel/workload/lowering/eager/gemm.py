"""Matrix products: cuBLAS and cuBLASLt calls, with what PyTorch does around them."""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import map_op, stream
from perfmodel.workload.op import Gemm, GroupedGemm, Spmm
from perfmodel.workload.program import Tensor

_COMPLEX_PRODUCTS = 4
_LAID = ("bf16", "fp16", "fp32", "tf32")
SHORTEST_TILE: Final = 64
"""Rows that a product of a batch counts as at least where all of them share a matrix: 50 products
of 4 rows take 36 us on an H100, 197 of 64 rows 89 us."""


def product_dtype(site: Site) -> str:
    """The format that the product is computed in."""
    dtype = site.inputs[-1].dtype if site.inputs else "fp32"
    if dtype.startswith("complex"):
        dtype = "fp64" if dtype == "complex128" else "fp32"
    if dtype == "fp32":
        return site.matmul
    if dtype in ("int64", "int32", "int16", "uint8", "bool"):
        return "int8"
    return dtype


def product(site: Site) -> Work:
    """``mm`` and its relatives: one library kernel, and a copy for a full-size addend."""
    sizes = _sizes(site)
    if sizes is None or min(sizes) == 0:
        return Work("gemm")
    m, n, k, batch = sizes
    dtype = product_dtype(site)
    is_complex = any(tensor.dtype.startswith("complex") for tensor in site.inputs)
    batch *= _COMPLEX_PRODUCTS if is_complex else 1
    op = Gemm(m, n, k, batch, dtype, trans=_layouts(site, dtype) if batch == 1 else None)
    kernels: list[Kernel] = []
    out = site.outputs[0] if site.outputs else site.inputs[0]
    addend = site.inputs[0] if _has_addend(site) else None
    operands = site.inputs
    if addend is not None and len(addend.shape) != 1 and not site.name.endswith("_"):
        if site.attribute("beta", 1) != 0:
            size, width = site.bytes(out), item_bytes(out.dtype)
            copy = map_op("copy", numel(out.shape), site.bytes(addend), size, 0.0, out.dtype, width)
            kernels.append(
                site.kernel("copy", copy, name=f"{site.name}: copy", reads=(addend,), host="gemm")
            )
        operands = site.inputs[1:]
    kernels.append(site.kernel("gemm", op, reads=operands))
    return Work("gemm", tuple(kernels))


def _has_addend(site: Site) -> bool:
    base = site.name.rstrip("_")
    return base in ("addmm", "baddbmm", "addmv", "addbmm", "_addmm_activation", "addr")


def _layouts(site: Site, dtype: str) -> str | None:
    """How the factors lie in memory: the right one, then the left; None where nobody knows.

    A transposed product swaps the factors and turns both, which leaves the word as it was where one
    is turned in each.
    """
    first = 1 if _has_addend(site) else 0
    axes = site.axes[first : first + 2]
    if dtype not in _LAID or len(axes) < 2 or None in axes:
        return None
    if any(len(tensor.shape) != 2 for tensor in site.inputs[first : first + 2]):
        return None
    left, right = axes
    return ("t" if right == 0 else "n") + ("t" if left == 0 else "n")


def _sizes(site: Site) -> tuple[int, int, int, int] | None:
    """Rows, columns, depth and batch of the product, or None where shapes are unusual."""
    base = site.name.rstrip("_")
    operands = site.inputs[1:] if _has_addend(site) else site.inputs
    if len(operands) < 2 or not (operands[0].shape and operands[1].shape):
        return None
    a, b = operands[0].shape, operands[1].shape
    if base == "linear":
        return numel(a[:-1]), b[0], a[-1], 1
    if base in ("outer", "ger", "addr"):
        return a[-1], b[-1], 1, 1
    rows, depth = (a[-2] if len(a) > 1 else 1), a[-1]
    columns = b[-1] if len(b) > 1 else 1
    out = site.outputs[0].shape if site.outputs else ()
    batch = numel(out[:-2]) if len(a) > 2 or len(b) > 2 else 1
    if batch > 1 and _is_one_matrix(site, operands[1]):
        # every product of the batch fills tiles of its own, and reads the matrix from the cache
        return -(-rows // SHORTEST_TILE) * SHORTEST_TILE * batch, columns, depth, 1
    if is_odd_transposed(operands[0], columns):
        # the transposed product: its columns are what lies side by side
        return columns, rows, depth, batch
    return rows, columns, depth, batch


def is_odd_transposed(left: Tensor, columns: int) -> bool:
    """Whether the left operand is transposed and its rows do not start on 16 bytes."""
    step = max(1, 16 // item_bytes(left.dtype))
    rows = left.shape[-2] if len(left.shape) > 1 else 1
    return left.layout == "strided" and rows % step > 0 and columns % step == 0


def _is_one_matrix(site: Site, operand: Tensor) -> bool:
    """Whether all matrices of a batch are the same one, expanded: a weight, or a part of one."""
    if len(operand.shape) < 3:
        return False
    one = numel(operand.shape[-2:]) * item_bytes(operand.dtype)
    held, every = site.bytes(operand), numel(operand.shape) * item_bytes(operand.dtype)
    return held <= one or (operand.role == "parameter" and held < every)


def grouped(site: Site) -> Work:
    """Products of several groups of rows with a matrix each; group sizes live on the device."""
    a, b = site.inputs[0].shape, site.inputs[1].shape
    dtype = product_dtype(Site(site.node, site.index, site.inputs[:2], site.outputs,
                               site.storages, site.matmul, site.convolution))  # fmt: skip
    if len(a) == 2 and len(b) == 3:
        groups, k, n = b
        op = GroupedGemm(groups, max(1, a[0] // groups), n, k, rows=a[0], dtype=dtype)
    elif len(a) == 2 and len(b) == 2:  # weight gradient: groups along the rows that are summed
        out = site.outputs[0].shape
        groups = out[0]
        rows = a[1]
        op = GroupedGemm(
            groups, max(1, rows // groups), out[2], out[1], rows=rows, direction="wgrad",
            dtype=dtype,
        )  # fmt: skip
    elif len(a) == 3 and len(b) == 3:
        op_batched = Gemm(a[1], b[2], a[2], a[0], dtype)
        return Work("gemm", (site.kernel("gemm", op_batched),))
    else:
        groups, m, k = a
        op = GroupedGemm(groups, max(1, b[1] // groups), m, k, rows=b[1], dtype=dtype)
    return Work("gemm", (site.kernel("gemm", op, launches=2),))


def sparse(site: Site) -> Work:
    """A sparse matrix times a dense one; stored elements by attribute, else unknown density."""
    dense = site.inputs[-1]
    out = site.outputs[0]
    nnz = int(site.attribute("nnz", max(1, numel(site.inputs[0].shape))))
    if len(out.shape) < 2:
        op = stream("spmv", nnz, 12 * nnz, site.bytes(out), 2.0 * nnz)
        return Work("gemm", (site.kernel("spmm", op, host="gemm"),))
    dtype = dense.dtype if dense.dtype in ("fp32", "fp64", "bf16", "fp16") else "fp32"
    sparse_op = Spmm(out.shape[-2], out.shape[-1], dense.shape[-2], nnz, dtype)
    return Work("gemm", (site.kernel("spmm", sparse_op, host="gemm"),))
