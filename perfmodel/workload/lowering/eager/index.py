"""Gathers, scatters, look-ups, sorting: kernels whose addresses are data."""

from __future__ import annotations

import math
from typing import Final

from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import map_op, stream
from perfmodel.workload.op import Copy, Embedding, Fused, Op, ScatterAdd, TopK

# Above this many indices PyTorch sorts them first (ATen/native/cuda/Embedding.cu).
SORTED_ABOVE: Final = 3072
_RADIX_BITS = 8
_DIVISIONS = 50.0  # operations an element whose place is worked out axis by axis: 7 ps on an H100
_BLOCK = 4140.0  # operations in which a device starts a block: 0.60 ns on an H100
_LINE = 16  # bytes of a row that a thread copies
_NARROW, _MANY = 256, 4096  # bytes of a row and rows for which nothing but that counts
_NEIGHBOURS = 30.0  # the same along the axis on which elements follow each other: 4.3 ps


def lookup(site: Site) -> Work:
    """Rows of a table by index."""
    table, index = site.inputs[0], site.inputs[1]
    tokens = numel(index.shape)
    if tokens == 0:
        return Work("index")
    vocab, dim = table.shape[0], numel(table.shape[1:])
    op: Op = Embedding(tokens, max(1, vocab), max(1, dim), _float(table.dtype))
    out = site.outputs[0]
    touched = min(site.bytes(table), site.bytes(out))
    row = dim * item_bytes(table.dtype)
    if row % _LINE == 0 and row <= _NARROW and tokens >= _MANY:  # blocks begin no faster
        read = site.bytes(index) + touched
        op = stream("embedding", max(1, numel(out.shape)), read, site.bytes(out), _BLOCK * tokens)
    kernel = site.kernel("index", op, reads=(index,), extra_reads=((table.storage, touched),))
    return Work("index", (kernel,))


def lookup_gradient(site: Site) -> Work:
    """A zeroed table; few tokens are added one by one, many are sorted first."""
    grad, index, out = site.inputs[0], site.inputs[1], site.outputs[0]
    tokens = numel(index.shape)
    if numel(out.shape) == 0:
        return Work("composite")
    width = item_bytes(out.dtype)
    zero = map_op("zero", numel(out.shape), 0, site.bytes(out), 0.0, out.dtype, width)
    kernels: list[Kernel] = [
        site.kernel("fill", zero, name=f"{site.name}: zero", reads=(), host="index")
    ]
    scratch: tuple[tuple[int, int], ...] = ()
    touched = min(site.bytes(out), site.bytes(grad))
    if tokens > SORTED_ABOVE:
        scratch = ((site.temporary(), 4 * 8 * tokens),)
        kernels.append(
            site.kernel(
                "sort", sort_ops(tokens, 8, 8), name=f"{site.name}: sort", reads=(index,),
                writes=(), extra_writes=scratch, launches=sort_launches(tokens, 8) + 4,
                host="index",
            )
        )  # fmt: skip
    add = stream(
        "row sums", max(1, numel(grad.shape)), site.bytes(grad) + 16 * tokens + touched, touched,
        float(numel(grad.shape)),
    )  # fmt: skip
    kernels.append(
        site.kernel(
            "scatter", add, reads=(grad, index), writes=(), extra_writes=((out.storage, touched),),
            launches=2 if tokens > SORTED_ABOVE else 1, host="index",
        )
    )  # fmt: skip
    return Work("composite", tuple(kernels), scratch)


def gather(site: Site) -> Work:
    """Elements or rows by index: what is written was read somewhere."""
    out = site.outputs[0]
    elements = numel(out.shape)
    if elements == 0:
        return Work("index")
    source, indices = site.inputs[0], site.inputs[1:]
    touched = min(site.bytes(source), elements * item_bytes(source.dtype))
    read = touched + sum(site.bytes(tensor) for tensor in indices)
    each = _DIVISIONS if site.name == "gather" or len(out.shape) > 2 else 0.0
    if site.name == "gather" and len(out.shape) > 1 and source.layout == "contiguous":
        last = int(site.attribute("dim", 0)) % len(out.shape) == len(out.shape) - 1
        each = _NEIGHBOURS if last else each
    written = sum(site.bytes(tensor) for tensor in site.outputs)
    work = each * elements
    name = ""
    if _takes_rows(site):  # a block a row (ATen/native/cuda/IndexKernelUtils.cu)
        work, name = _BLOCK * numel(indices[0].shape), "index: rows"
    op = stream(site.name, elements, read, written, work)
    kernel = site.kernel(
        "index", op, name=name, reads=indices, extra_reads=((source.storage, touched),)
    )
    waits = site.name == "masked_select"
    above = [tensor for tensor in indices if tensor.host] if not out.host else []
    if above:  # indices in host memory are copied first, and the host waits for that
        copies = (Copy(max(1, site.bytes(t)), "host_to_device") for t in above)
        up = tuple(site.kernel("copy", op, name="copy_", reads=(), writes=()) for op in copies)
        return Work("sync", (*up, kernel))
    return Work("sync" if waits else "index", (kernel,))


def _takes_rows(site: Site) -> bool:
    """Whether one index picks whole rows, of as many bytes as threads copy at once."""
    source, indices = site.inputs[0], site.inputs[1:]
    if site.name != "index" or len(indices) != 1 or source.layout != "contiguous":
        return False
    if indices[0].dtype in ("bool", "uint8") or not source.shape:
        return False
    row = numel(source.shape[1:])
    first = numel(site.outputs[0].shape) == numel(indices[0].shape) * row
    return first and row * item_bytes(source.dtype) % _LINE == 0


def scatter(site: Site) -> Work:
    """Values into places: atomics, or sorted indices where ``index_put`` accumulates.

    The form without an underscore copies its first operand beforehand.
    """
    target = site.inputs[0]
    out = site.outputs[0] if site.outputs else target
    others = site.inputs[1:]
    width = item_bytes(out.dtype)
    in_place = site.name.endswith("_")
    values = others[-1:] if len(others) > 1 else ()
    moved = numel(values[0].shape) if values else numel(others[0].shape) if others else 0
    kernels: list[Kernel] = []
    if not in_place and numel(out.shape):
        size = site.bytes(out)
        copy = map_op("copy", numel(out.shape), site.bytes(target), size, 0.0, out.dtype, width)
        kernels.append(
            site.kernel(
                "copy", copy, name=f"{site.name}: copy", reads=(target,), writes=(out,),
                host="index",
            )
        )  # fmt: skip
    if moved == 0:
        return Work("index", tuple(kernels))
    accumulate = _accumulates(site)
    touched = min(site.bytes(out), moved * width)
    read = sum(site.bytes(tensor) for tensor in others) + (touched if accumulate else 0)
    scratch: tuple[tuple[int, int], ...] = ()
    if accumulate and "index_put" in site.name:
        rows = max((numel(t.shape) for t in others[:-1]), default=moved)
        scratch = ((site.temporary(), 4 * 8 * max(1, rows)),)
        kernels.append(
            site.kernel(
                "sort", sort_ops(max(1, rows), 8, 8), name=f"{site.name}: sort",
                reads=others[:-1], writes=(), extra_writes=scratch,
                launches=sort_launches(rows, 8) + 3, host="index",
            )
        )  # fmt: skip
    op = _sums(site, moved) or stream(
        site.name, moved, read, touched, float(moved if accumulate else 0)
    )
    kernels.append(
        site.kernel(
            "scatter", op, reads=others, writes=(), extra_writes=((out.storage, touched),),
            host="index",
        )
    )  # fmt: skip
    return Work("composite" if len(kernels) > 1 else "index", tuple(kernels), scratch)


def _sums(site: Site, moved: int) -> Op | None:
    """Sums with an index a row, or one a value: what lies behind the axis goes to one place."""
    kind = next((k for k in ("index_add", "scatter_add", "scatter_reduce") if k in site.name), None)
    target = site.inputs[0]
    if kind is None or len(site.inputs) < 3 or not target.shape:
        return None
    values = site.inputs[2] if kind == "index_add" else site.inputs[1]
    axis = int(site.attribute("dim", 0)) % len(target.shape)
    cols = numel(values.shape[axis + 1 :])
    if cols == 0 or moved % cols or numel(target.shape) == 0:
        return None
    targets = numel(target.shape) // numel(target.shape[axis + 1 :])
    how = "index_add" if kind == "index_add" else "scatter_add"
    return ScatterAdd(moved // cols, cols, targets, _float(target.dtype), how)


def _accumulates(site: Site) -> bool:
    if "index_put" in site.name:
        return bool(site.attribute("accumulate", False))
    return any(word in site.name for word in ("add", "reduce"))


def sort(site: Site) -> Work:
    """A radix sort: keys and 8-byte positions, a pass for every eight bits."""
    x = site.inputs[0]
    elements = numel(x.shape)
    if elements == 0:
        return Work("sort")
    width = item_bytes(x.dtype)
    scratch = ((site.temporary(), elements * (width + 8)),)
    kernel = site.kernel(
        "sort", sort_ops(elements, width, 8), launches=sort_launches(elements, width)
    )
    host = "sync" if "unique" in site.name else "sort"
    return Work(host, (kernel,), scratch)


def topk(site: Site) -> Work:
    """The largest of each row."""
    x, out = site.inputs[0], site.outputs[0]
    cols = x.shape[int(site.attribute("dim", -1))] if x.shape else 1
    if numel(x.shape) == 0:
        return Work("sort")
    rows = numel(x.shape) // cols
    k = max(1, numel(out.shape) // max(1, rows))
    op = TopK(rows, cols, min(k, cols), _float(x.dtype))
    return Work("sort", (site.kernel("sort", op, launches=2),))


def count(site: Site) -> Work:
    """Histograms: atomics into a small table."""
    elements = max((numel(t.shape) for t in site.inputs), default=0)
    if elements == 0:
        return Work("index")
    read = sum(site.bytes(tensor) for tensor in site.inputs)
    written = sum(site.bytes(tensor) for tensor in site.outputs)
    op = stream(site.name, elements, read, written, float(elements))
    host = "sync" if site.name in ("bincount", "one_hot") else "index"
    return Work(host, (site.kernel("scatter", op, host="index", launches=2),))


def sync(site: Site) -> Work:
    """A value that the host waits for."""
    elements = max((numel(t.shape) for t in site.inputs), default=0)
    if elements <= 1 or site.name in ("item", "_local_scalar_dense", "is_nonzero"):
        return Work("sync")
    read = sum(site.bytes(tensor) for tensor in site.inputs)
    written = sum(site.bytes(tensor) for tensor in site.outputs)
    op = stream(site.name, elements, read, written, float(elements))
    return Work("sync", (site.kernel("index", op, launches=3),))


def sort_ops(elements: int, key: int, value: int) -> tuple[Op, ...]:
    """The passes of a radix sort of ``key``-byte keys with ``value``-byte values."""
    passes = key * 8 // _RADIX_BITS
    each = key + value
    return (Fused("radix sort", elements, passes * (each + key), passes * each, passes * 4),)


def sort_launches(elements: int, key: int) -> int:
    """Device kernels of a sort: one block for few, else a histogram and a kernel a pass."""
    if elements <= 4096:
        return 1 + int(math.log2(max(2, elements)) > 11)
    return 2 + key * 8 // _RADIX_BITS


def _float(dtype: str) -> str:
    return dtype if dtype in ("fp64", "fp32", "bf16", "fp16", "int64", "int32", "int8") else "fp32"
