"""Operators that move elements: casts, clones, concatenations, padding, shuffles."""

from __future__ import annotations

from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import CASTING, OFFSETS, in_turn, map_op, stream
from perfmodel.workload.op import Copy
from perfmodel.workload.program import Tensor

_ROUTES = {"cpu": "device_to_host", "cuda": "host_to_device"}
_BLOCK_BYTES = 1024  # 128 threads with a vector of 8 bytes each
_MOST_BLOCKS = 4224  # 32 a unit of an H100
_DIVISIONS = 30.0  # operations an element of a roll: 4.3 ps on an H100
_JOINING = 32.0  # operations an element of a concatenation element by element: 4.7 ps
_BESIDE_NOTHING = 42.0  # the same where an operand is empty, whose threads are idle: 6.2 ps
_IDLE_BLOCK = 1800  # an idle block takes 0.46 ns, what cached traffic of so many bytes takes


def cast(site: Site) -> Work:
    """A copy, with a change of format or order where the arguments say so."""
    if not site.inputs:
        return Work("copy")
    out = site.outputs[0] if site.outputs else site.inputs[0]
    source = site.inputs[-1] if site.name in ("copy_", "copy") else site.inputs[0]
    elements = numel(out.shape)
    if elements == 0:
        return Work("copy")
    device = str(site.attribute("device", "")).split(":")[0]
    read, written = site.bytes(source), elements * item_bytes(out.dtype)
    if site.name == "_to_copy" and device == "cpu":
        op = Copy(max(1, read), _ROUTES["cpu"])
        return Work("sync", (site.kernel("copy", op, reads=(source,), writes=(out,)),))
    if source.host and not out.host:
        up = Copy(max(1, written), _ROUTES["cuda"])
        host = "copy" if site.attribute("non_blocking", False) else "sync"
        return Work(host, (site.kernel("copy", up, reads=(), writes=(out,), host="copy"),))
    same = source.dtype == out.dtype
    plain = same and source.layout == out.layout != "strided"
    width = item_bytes(out.dtype)
    # down from fp32 PyTorch has kernels by vectors, all other formats are asked for one by one
    each = 0.0 if same or (source.dtype == "fp32" and width == 2) else 2.0 * CASTING
    work, chain = each * elements, "copy" if same else "cast"
    op_in = map_op(chain, elements, read, written, work, out.dtype, width)
    if plain and source.shape == out.shape and written == read:
        op_in = Copy(written)
    note = "" if plain or not same else "reorders elements"
    if note:
        each = max(site.turning, OFFSETS)
        op_in = stream("copy", elements, read, written, each * elements)
    casting = each > 0.0 and not same
    flat = source.layout == out.layout != "strided"
    turns = in_turn(elements, width, casting)
    kernel = site.kernel(
        "copy", op_in, reads=(source,), writes=(out,), note=note, turns=0.0 if flat else turns,
        casts=turns if casting else 0.0,
    )  # fmt: skip
    return Work("copy", (kernel,))


def move(site: Site) -> Work:
    """Each element of the result written once and, at most, read once."""
    out = site.outputs[0] if site.outputs else site.inputs[0]
    elements = numel(out.shape)
    if elements == 0:
        return Work("copy")
    written = site.bytes(out)
    read = min(sum(site.bytes(tensor) for tensor in site.inputs), written)
    width = item_bytes(out.dtype)
    op = map_op("copy", elements, read, written, 0.0, out.dtype, width)
    if site.name == "roll":  # an axis after the other, with divisions for each element
        op = stream("roll", elements, read, written, _DIVISIONS * elements)
        dims = site.attribute("dims", [0])
        axes = len(dims) if isinstance(dims, list | tuple) else 1
        return Work("copy", (site.kernel("copy", (op,) * max(1, axes), launches=max(1, axes)),))
    if site.name == "repeat":
        op = stream("repeat", elements, read, written, OFFSETS * elements)
        turns = in_turn(elements, width, False)
        kernel = site.kernel("copy", op, name="copy_", note="reorders elements", turns=turns)
        return Work("copy", (kernel,))
    if site.name == "constant_pad_nd":
        if out.shape == site.inputs[0].shape:
            return Work("copy", (site.kernel("copy", Copy(written)),))
        # filled first, then the middle is copied into it
        filled = stream("fill", elements, 0, written)
        return Work("composite", (site.kernel("copy", (filled, op), launches=2, host="copy"),))
    return Work("copy", (site.kernel("copy", op),))


def join(site: Site) -> Work:
    """One batched copy kernel for up to 128 inputs, 4 dimensions.

    Inputs in the order of the result are copied in vectors, others element by element. Every input
    gets as many blocks as the largest one fills (ATen/native/cuda/Shape.cu), most of which have
    nothing to do when one grows and many are small, as in DenseNet.
    """
    out = site.outputs[0]
    elements = numel(out.shape)
    if elements == 0:
        return Work("copy")
    read, written = sum(site.bytes(tensor) for tensor in site.inputs), site.bytes(out)
    same = all(tensor.dtype == out.dtype for tensor in site.inputs)
    width = item_bytes(out.dtype)
    parts = [tensor for tensor in site.inputs if numel(tensor.shape)]
    batched = same and all(len(tensor.shape) <= 4 for tensor in parts)
    launches = -(-len(parts) // 128) if batched else len(parts)
    vectors = all(tensor.layout == out.layout != "strided" for tensor in parts)
    op = map_op("copy" if same else "cast", elements, read, written, 0.0, out.dtype, width)
    if batched and vectors and len(parts) > 1:
        filled = -(-max(site.bytes(tensor) for tensor in parts) // _BLOCK_BYTES)
        idle = (len(parts) - 1) * min(filled, _MOST_BLOCKS) * _IDLE_BLOCK
        op = stream("cat", elements, read + idle, written, 0.0, out.dtype)
    note, name = "" if vectors or not batched else "reorders elements", ""
    empty = len(parts) < len(site.inputs)
    if note or (batched and empty and parts):
        each = _BESIDE_NOTHING if empty else _JOINING
        op = stream("cat", elements, read, written, each * elements)
        note, name = "element by element", "cat: elements"
    if not batched and len(parts) > 1 and _rows_of_parts(site, out):
        note, name = "reorders elements", "copy_"  # PyTorch copies part by part
        op = stream("copy", elements, read, written, OFFSETS * elements)
    kernel = site.kernel("copy", op, name=name, launches=max(1, launches), note=note)
    return Work("copy", (kernel,))


def _rows_of_parts(site: Site, out: Tensor) -> bool:
    """Whether every input lands in rows apart from each other: not behind the one before it."""
    rank = len(out.shape)
    dim = int(site.attribute("dim", 0)) % max(1, rank)
    outer = range(1) if dim == 1 and out.layout == "channels_last" else range(dim)
    return dim > 0 and numel([out.shape[axis] for axis in outer]) > 1


def view_gradient(site: Site) -> Work:
    """The gradient of a view: a zeroed tensor and a copy into the part that the view showed."""
    out = site.outputs[0]
    elements = numel(out.shape)
    if elements == 0:
        return Work("composite")
    width = item_bytes(out.dtype)
    grad = site.inputs[0]
    size = numel(grad.shape) * width
    zero = map_op("zero", elements, 0, site.bytes(out), 0.0, out.dtype, width)
    copy = map_op("copy", max(1, numel(grad.shape)), size, size, 0.0, out.dtype, width)
    kernels: tuple[Kernel, ...] = (
        site.kernel("fill", zero, reads=(), writes=(out,), host="composite"),
    )
    if size:
        kernels += (
            site.kernel(
                "copy",
                copy,
                reads=(grad,),
                writes=(),
                extra_writes=((out.storage, size),),
                host="composite",
            ),
        )
    return Work("composite", kernels)
