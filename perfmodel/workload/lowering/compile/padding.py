"""Matrix products whose rows do not start on 16 bytes are padded where arithmetic bounds them.

References
----------
torch/_inductor/fx_passes/pad_mm.py: ``should_pad_common``, ``is_mm_compute_bound``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.site import Work, item_bytes
from perfmodel.workload.op import Gemm

BALANCE: Final = 295.0
"""Operations for each byte above which a product counts as bound by arithmetic [FLOP/B]."""

_ALIGNED: Final = 16
_PADDED: Final = ("bf16", "fp16", "fp32", "tf32")


def padded(graph: Graph, operands: Sequence[int], work: Work) -> tuple[list[int], Work]:
    """The operands, copied into padded memory where that pays, and the padded product."""
    op = work.kernels[0].ops[0] if len(work.kernels) == 1 else None
    if not isinstance(op, Gemm) or len(operands) != 2 or op.dtype not in _PADDED:
        return list(operands), work
    m, n, k, batch = (int(size) for size in (op.m, op.n, op.k, op.batch))
    step = _ALIGNED // item_bytes(op.dtype)
    wide = [-(-size // step) * step for size in (m, n, k)]
    if wide == [m, n, k] or m * n * k / (m * k + n * k + m * n) < BALANCE:
        return list(operands), work
    sides = ((wide[0], wide[2]) != (m, k), (wide[1], wide[2]) != (n, k))
    result = [
        graph.map("pad", (arg,), graph.values[arg].shape, graph.values[arg].dtype, 0, heavy=True)
        if changed
        else arg
        for arg, changed in zip(operands, sides, strict=True)
    ]
    larger = Gemm(wide[0], wide[1], wide[2], batch, op.dtype)
    return result, replace(work, kernels=(replace(work.kernels[0], ops=(larger,)),))
