"""Operators nobody measured whose work is known: factorizations, packed weights, distances.

Factorizations and packed products stay unknown (``Kernel.known`` is False) with bounds that follow
from their arithmetic; the general ones of :mod:`unknown` follow from bytes alone, and a
factorization is a chain of dependent steps.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Final

from perfmodel.workload.lowering.eager.unknown import unknown
from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.op import Gemm, Op

CUBES: Final = MappingProxyType(
    {
        "linalg_cholesky_ex": 1 / 3, "cholesky": 1 / 3, "linalg_lu_factor_ex": 2 / 3,
        "_linalg_det": 2 / 3, "_linalg_slogdet": 2 / 3, "linalg_qr": 4 / 3, "_linalg_svd": 20.0,
        "_linalg_eigh": 9.0, "linalg_eig": 25.0, "_linalg_eigvals": 10.0, "linalg_matrix_exp": 24.0,
        "linalg_householder_product": 4 / 3, "cholesky_inverse": 2.0,
    }
)  # fmt: skip
"""FLOP of a factorization over the cube of its sides: Golub and Van Loan, Matrix Computations
(4th ed.), chapters 3 to 8; a matrix exponential by about 12 products. Others count 2."""
_SWEEPS: Final = frozenset({"_linalg_svd", "_linalg_eigh", "linalg_eig", "_linalg_eigvals"})
_PANEL, _MOST_SWEEPS, _LONGEST = 32, 10, 4096
_FEW_ROWS = 16
_SOLVED = ("fp32", "fp64")
_NIBBLES = 8


def factorization(site: Site) -> Work:
    """At least its arithmetic in fp32 panels; at most a step for every column, one after another.

    Iterations of eigenvalues and singular values go up to ten times through the columns.
    """
    matrix = max(site.inputs, key=lambda tensor: (len(tensor.shape) > 1, numel(tensor.shape)))
    if len(matrix.shape) < 2 or not numel(matrix.shape):
        return unknown(site)
    rows, columns = matrix.shape[-2:]
    side, batch = min(rows, columns), numel(matrix.shape[:-2])
    depth = max(1, round(CUBES.get(site.name, 2.0) * max(rows, columns) / 2))
    panels = -(-side // _PANEL)
    panel = Gemm(side, min(side, _PANEL), depth, batch, "fp32")
    steps = side * (_MOST_SWEEPS if site.name in _SWEEPS else 1)
    step = Gemm(max(rows, columns), 1, 1, batch, "fp32")
    upper = (Gemm(side, side, depth, batch, "fp32"),) + (step,) * min(steps, _LONGEST)
    kernel = site.kernel("unknown", (panel,) * panels, name=site.node.target)
    return Work("unknown", (replace(kernel, known=False, upper=upper),))


def triangular(site: Site) -> Work:
    """``linalg_solve_triangular``: the right side is copied to the result and solved there.

    By panels of 32 columns, as blocked TRSM does: a triangle's product with its rows of the right
    side, then the update of the rows below, each behind the one before. Nobody measured it: the
    arithmetic is that of these products, the panels of a whole batch run together.
    """
    matrix, right = site.inputs[0], site.inputs[1]
    out = site.outputs[0] if site.outputs else right
    if matrix.dtype not in _SOLVED or min(numel(matrix.shape), numel(out.shape)) == 0:
        return unknown(site)
    left = bool(site.attribute("left", True))
    side, columns = matrix.shape[-1], out.shape[-1 if left else -2]
    batch = numel(out.shape[:-2])
    ops: list[Op] = []
    for start in range(0, side, _PANEL):
        width = min(_PANEL, side - start)
        below = side - start - width
        ops.append(Gemm(width, columns, width, batch, matrix.dtype))
        if below:
            ops.append(Gemm(below, columns, width, batch, matrix.dtype))
    size = site.bytes(out)
    copied = stream("copy", numel(out.shape), site.bytes(right), size, 0.0)
    copy = site.kernel("copy", copied, name=f"{site.name}: copy", reads=(right,))
    return Work("gemm", (copy, site.kernel("gemm", tuple(ops))))


def packed_product(site: Site) -> Work:
    """Half-precision rows times weights of 4 or 8 bits, unpacked on the way.

    At least the packed bytes once, or the product in the rows' format where there are many; at most
    both, with the weights unpacked in memory.
    """
    rows, out = site.inputs[0], site.outputs[0]
    m, n, k = numel(rows.shape[:-1]), out.shape[-1], rows.shape[-1]
    if not m * n * k:
        return Work("gemm")
    read = sum(size for _, size in site.traffic(site.inputs))
    packed = stream(site.name, m * n, read, site.bytes(out), 2.0 * n * k)
    product = Gemm(m, n, k, 1, rows.dtype)
    lower = packed if m <= _FEW_ROWS else product
    kernel = site.kernel("gemm", lower, name=site.node.target)
    return Work("gemm", (replace(kernel, known=False, upper=(packed, product)),))


def distance(site: Site) -> Work:
    """Every row of one operand with every row of another: 3 operations a component."""
    table = max((*site.inputs, *site.outputs), key=lambda tensor: numel(tensor.shape))
    pairs = numel((site.outputs if "forward" in site.name else site.inputs[:1])[0].shape)
    if not pairs:
        return Work("reduction")
    read = sum(size for _, size in site.traffic(site.inputs))
    written = sum(size for _, size in site.traffic(site.outputs))
    width = max(tensor.shape[-1] for tensor in site.inputs if tensor.shape)
    if table.shape and "backward" in site.name:
        width = site.outputs[0].shape[-1]
    op = stream(site.name, pairs, read, written, 3.0 * width * pairs)
    return Work("reduction", (site.kernel("reduction", op),))
