"""Fused attention: flash, memory-efficient and cuDNN kernels."""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.op import Attention, Op
from perfmodel.workload.program import Tensor

# operations for each random number of dropout, beside the products of the forward and of the
# backward pass (1.3 and 0.45 ps a score on an H100, causal or not), and for each score that the
# backward pass adds a mask to again (0.85 ps)
PHILOX, PHILOX_BACK, _ADDED_BACK = 8.8, 3.2, 5.8
# microseconds that a block spends on adding a tile of a mask of 128 keys, by the bytes that its
# rows are aligned to; four times as long where heads of more than 128 leave no registers for it
# (18 masked shapes of 12 models on an H100, one block a unit); of one query only rows that are not
# so aligned take longer (seven of 256 to 2,048 keys 0.5 to 1.1 us in all, one of 511 5 us)
_TILE_SECONDS: Final = ((16, 1.0e-6), (8, 1.5e-6), (1, 3.5e-6))
_ONE_QUERY: Final = 0.95e-6
_ALIGNED: Final = 16
_WIDE: Final = 4.0
_TILE: Final = 128
_EACH_SECOND, _BEGUN = 6.85e12, 1.4e-6  # operations of an element-wise kernel, which begins too


def attention(site: Site) -> Work:
    """One kernel; a mask is read and added besides."""
    q, k, v = site.inputs[:3]
    if 0 in q.shape or 0 in k.shape:
        return Work("attention")
    op = attention_op(site, q, k, v, "fwd")
    ops: tuple[Op, ...] = (op,)
    masks = "attn_bias" not in site.attribute("absent", ()) and "flash" not in site.name
    mask = sum(site.bytes(tensor) for tensor in site.inputs[3:]) if masks else 0
    ops += _dropout(site, op, PHILOX)
    if mask:
        scores = int(op.batch * op.q_heads * op.q_len * op.kv_len)
        wait = max(0.0, _mask_seconds(site, op, site.inputs[3]) - _BEGUN)
        ops += (stream("mask", scores, mask, 0, wait * _EACH_SECOND),)
    return Work("attention", (site.kernel("attention", ops),))


def _mask_seconds(site: Site, op: Attention, mask: Tensor) -> float:
    """How long the blocks of a kernel add tiles of a mask [s]."""
    step = mask.shape[-1] * item_bytes(mask.dtype) if mask.shape else 1
    each = next(seconds for least, seconds in _TILE_SECONDS if step % least == 0)
    each *= _WIDE if op.head_dim > _TILE else 1.0
    if op.q_len == 1:
        each = 0.0 if step % _ALIGNED == 0 else _ONE_QUERY
    blocks = int(op.batch * op.q_heads) * -(-int(op.q_len) // _TILE)
    return each * -(-int(op.kv_len) // _TILE) * max(1.0, blocks / site.device.units)


def attention_backward(site: Site) -> Work:
    """Row sums of output times gradient, the five products, and the cast of dQ."""
    q, k, v = site.inputs[1:4]
    if 0 in q.shape or 0 in k.shape:
        return Work("attention")
    op = attention_op(site, q, k, v, "bwd")
    ops: tuple[Op, ...] = (op, *_dropout(site, op, PHILOX_BACK))
    masks = [tensor for tensor in site.inputs[4:] if _is_mask(tensor, op)]
    if masks and "attn_bias" not in site.attribute("absent", ()) and "flash" not in site.name:
        scores = int(op.batch * op.q_heads * op.q_len * op.kv_len)
        read = site.bytes(masks[-1])
        ops += (stream("mask", scores, read, 0, _ADDED_BACK * scores),)
    scratch = ((site.temporary(), 4 * numel(q.shape)),)
    kernel = site.kernel("attention", ops, launches=3)
    return Work("attention", (kernel,), scratch)


def _is_mask(tensor: Tensor, op: Attention) -> bool:
    return tensor.shape[-2:] == (op.q_len, op.kv_len) and tensor.dtype != "int64"


def _dropout(site: Site, op: Attention, each: float) -> tuple[Op, ...]:
    """The random numbers of dropout on the scores."""
    if not float(site.attribute("dropout_p", 0.0) or 0.0):
        return ()
    scores = int(op.batch) * int(op.q_heads) * int(op.pairs)
    return (stream("dropout", scores, 0, 0, each * scores),)


def attention_op(site: Site, q: Tensor, k: Tensor, v: Tensor, direction: str) -> Attention:
    """The priced attention; heads stand before the sequence, or after it in the raw kernels."""
    raw = "scaled_dot_product" not in site.name
    heads, length = (-2, -3) if raw and len(q.shape) == 4 else (-3, -2)
    batch = numel(q.shape[:-3]) if len(q.shape) > 3 else 1
    q_heads, kv_heads = (t.shape[heads] if len(t.shape) > 2 else 1 for t in (q, k))
    head_dim, v_dim = q.shape[-1], v.shape[-1]
    causal = bool(site.attribute("is_causal", site.attribute("causal", False)))
    # Flash attention ends its masks at the last key.
    first = causal and q.shape[length] != k.shape[length] and "flash" not in site.name
    dtype = q.dtype if q.dtype in ("bf16", "fp16", "fp32", "fp8_e4m3") else "fp32"
    return Attention(
        batch, q_heads, kv_heads, q.shape[length], k.shape[length], head_dim, causal, direction,
        dtype, v_head_dim=0 if v_dim == head_dim else v_dim,
        aligned="first" if first else "last",
    )  # fmt: skip
