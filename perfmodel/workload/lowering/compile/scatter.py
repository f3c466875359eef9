"""Writes at places that are data: atomic additions, plain stores, and what stays with the library.

References
----------
torch/_inductor/lowering.py, ``index_put_impl_`` and ``scatter_reduce_``; decomposition.py,
``index_add``; utils.py, ``use_scatter_fallback``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.buffers import Buffer
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.eager.table import eager_work
from perfmodel.workload.lowering.kernel import Traffic
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.op import Op, ScatterAdd

NO_ATOMICS: Final = ("int64", "bool")
"""Formats whose sums are left to the library."""
SUM: Final = "scatter_add"
"""The step that adds values at places that are data."""
TARGET: Final = "written over"
"""The copy that such a step writes into."""
ADDITION: Final = 6
"""Operations that a byte takes which is added atomically (profiled sums of 3 to 20 million values
on an H100: 1.7 ps for an fp32 value, half that in half precision)."""
CROWDED: Final = 256
"""Values for each place from which on they wait for each other, as those of the library do."""
NARROW: Final = 32
"""Values of a row below which the threads of a warp meet on one address, one after another."""
ONE_BY_ONE: Final = 6500
"""Operations in the time of such an addition: 0.95 ns (2.1 million into a table of 32 by 8)."""
SLICE: Final = 1024
"""Bytes of a table that one slice of the cache adds to, one value after another [B]."""
_SUMS: Final = ("", "sum", "add")


def by_library(site: Site) -> bool:
    """Whether a scatter is a call of the library: sums without atomics, and other reductions."""
    name = site.name.rstrip("_")
    dtype = site.inputs[0].dtype if site.inputs else ""
    if "segment_reduce" in name:
        return True
    if name == "index_reduce":
        return str(site.attribute("reduce", "")) != "mean" or dtype in NO_ATOMICS
    if name == "index_add":
        return dtype in (*NO_ATOMICS, "bf16")
    if name in ("scatter_add", "scatter_reduce"):
        return dtype in NO_ATOMICS or str(site.attribute("reduce", "")) not in _SUMS
    if "index_put" in name:
        masks = any(t.dtype in ("bool", "uint8") for t in site.inputs[1:-1])
        one = numel(site.inputs[-1].shape) == 1
        return (masks and not one) or (_accumulates(site) and dtype in NO_ATOMICS)
    return False


JOIN: Final = "concat"
JOINED: Final = 8
"""Operands up to which a concatenation is a map; more are copied one by one, each of them to all
its places at once (torch/_inductor/lowering.py, ``cat``; config ``max_pointwise_cat_inputs``)."""


def _accumulates(site: Site) -> bool:
    return bool(site.attribute("accumulate", False))


def functional(site: Site) -> Site:
    """The form that leaves its operand alone, which is what a graph without mutation holds."""
    target = site.node.target.rstrip("_")
    return replace(site, node=replace(site.node, target=target)) if site.outputs else site


def target(graph: Graph, base: int, name: str) -> int:
    """Memory of its own for what a write leaves as it was, made in the pass that writes."""
    again, graph.again = graph.again, True
    value = graph.values[base]
    copy = graph.map(TARGET, (base,), value.shape, value.dtype, 0, arguments=name)
    graph.again = again
    return copy


def put(graph: Graph, base: int, others: Sequence[int], dtype: str) -> int:
    """A plain write into the memory of ``base``."""
    shape = graph.values[base].shape
    return graph.map("scatter", (base, *others), shape, dtype, 2, scatter=True)


def joined(
    graph: Graph, parts: Sequence[int], shape: tuple[int, ...], dtype: str, name: str
) -> int:
    """A concatenation of many operands: each is copied to its place in the result's memory."""
    whole = graph.map("empty", (), shape, dtype, 0, arguments=name, heavy=True)
    for place, part in enumerate(parts):
        whole = graph.map(JOIN, (whole, part), shape, dtype, 0, arguments=place, scatter=True)
    return whole


def add(
    graph: Graph, base: int, others: Sequence[int], dtype: str, crowded: Work | None = None
) -> int:
    """A sum by index into the memory of ``base``."""
    shape = graph.values[base].shape
    each = ADDITION * item_bytes(dtype)
    return graph.map(SUM, (base, *others), shape, dtype, each, scatter=True, work=crowded)


def is_sum(site: Site) -> bool:
    """Whether a scatter adds to what is there."""
    if "index_put" in site.name:
        return _accumulates(site)
    reduced = str(site.attribute("reduce", ""))
    return "_add" in site.name or (reduced != "" and reduced in _SUMS)


def crowded(site: Site) -> Work | None:
    """The library's additions, where many values meet in few places; None elsewhere.

    A generated loop goes over values, not over rows that share an index.
    """
    kernels = eager_work(site).kernels
    op: Op | None = kernels[-1].ops[0] if kernels else None
    if "index_put" in site.name:
        op = _put(site)
    elif site.name == "embedding_dense_backward":
        op = _table(site)
    if not isinstance(op, ScatterAdd) or int(op.rows) < CROWDED * int(op.targets):
        return None
    if int(op.cols) < NARROW:
        values, width = int(op.rows) * int(op.cols), item_bytes(op.dtype)
        table = int(op.targets) * int(op.cols) * width
        work = ONE_BY_ONE * values / max(1.0, table / SLICE)
        single = stream(SUM, values, values * width, table, work)
        return Work("index", (replace(kernels[-1], ops=(single,)),))
    return Work("index", (replace(kernels[-1], ops=(replace(op, kind="scatter_add"),)),))


def _table(site: Site) -> ScatterAdd | None:
    """Gradients of tokens into a table's rows."""
    tokens, table = numel(site.inputs[1].shape), site.outputs[0].shape
    if not tokens or not numel(table):
        return None
    return ScatterAdd(tokens, numel(table[1:]), table[0], "fp32")


def _put(site: Site) -> ScatterAdd | None:
    """Rows of values into rows of the target: the axes behind those that are indexed."""
    target, values = site.inputs[0], site.inputs[-1]
    cols = 1
    for size, other in zip(reversed(target.shape[1:]), reversed(values.shape), strict=False):
        if size != other:
            break
        cols *= size
    rows = max(numel(values.shape), *(cols * numel(t.shape) for t in site.inputs[1:-1])) // cols
    if not rows or not numel(target.shape):
        return None
    dtype = target.dtype if target.dtype in ("fp64", "fp32", "bf16", "fp16") else "fp32"
    return ScatterAdd(rows, cols, numel(target.shape) // cols, dtype)


def waiting(members: Sequence[Buffer], name: str, reads: Traffic) -> tuple[Op, ...]:
    """What a kernel is priced as whose sums' values wait for each other; empty for any other.

    The additions hide the loads of as many bytes as they add; operands beyond those are streamed.
    """
    crowds = [m.value.work for m in members if m.value.scatter and m.value.work is not None]
    if not crowds:
        return ()
    ops = tuple(op for work in crowds for op in work.kernels[0].ops)
    more = sum(size for _, size in reads) - int(sum(op.bytes_read for op in ops))
    if more <= 0:
        return ops
    elements = max(member.numel * member.reduced for member in members)
    return (*ops, stream(name, elements, more, 0))
