"""Fused attention: flash, memory-efficient and cuDNN kernels."""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.op import Attention, Op
from perfmodel.workload.program import Tensor

# integer operations for each number of Philox 4x32 with ten rounds (Salmon et al., SC 2011)
PHILOX: Final = 20
# operations for each score that a mask is added to: 0.43 ps, in kernels of cuDNN on an H100
_ADDED: Final = 3.0


def attention(site: Site) -> Work:
    """One kernel; a mask is read and added besides."""
    q, k, v = site.inputs[:3]
    if 0 in q.shape or 0 in k.shape:
        return Work("attention")
    op = attention_op(site, q, k, v, "fwd")
    ops: tuple[Op, ...] = (op,)
    masks = "attn_bias" not in site.attribute("absent", ()) and "flash" not in site.name
    mask = sum(site.bytes(tensor) for tensor in site.inputs[3:]) if masks else 0
    ops += _dropout(site, op)
    scores = op.batch * op.q_heads * op.q_len * op.kv_len
    if mask and min(op.q_len, op.kv_len) > 1:
        ops += (stream("mask", int(scores), mask, 0, _ADDED * float(scores)),)
    return Work("attention", (site.kernel("attention", ops),))


def attention_backward(site: Site) -> Work:
    """Row sums of output times gradient, the five products, and the cast of dQ."""
    q, k, v = site.inputs[1:4]
    if 0 in q.shape or 0 in k.shape:
        return Work("attention")
    op = attention_op(site, q, k, v, "bwd")
    ops = (op, *_dropout(site, op))
    scratch = ((site.temporary(), 4 * numel(q.shape)),)
    kernel = site.kernel("attention", ops, launches=3)
    return Work("attention", (kernel,), scratch)


def _dropout(site: Site, op: Attention) -> tuple[Op, ...]:
    """The random numbers of dropout on the scores, in both passes."""
    if not float(site.attribute("dropout_p", 0.0) or 0.0):
        return ()
    scores = int(op.batch) * int(op.q_heads) * int(op.pairs)
    return (stream("dropout", scores, 0, 0, float(PHILOX * scores)),)


def attention_op(site: Site, q: Tensor, k: Tensor, v: Tensor, direction: str) -> Attention:
    """The priced attention; heads stand before the sequence, or after it in the raw kernels."""
    raw = "scaled_dot_product" not in site.name
    heads, length = (-2, -3) if raw and len(q.shape) == 4 else (-3, -2)
    batch = numel(q.shape[:-3]) if len(q.shape) > 3 else 1
    q_heads, kv_heads = (t.shape[heads] if len(t.shape) > 2 else 1 for t in (q, k))
    head_dim, v_dim = q.shape[-1], v.shape[-1]
    causal = bool(site.attribute("is_causal", site.attribute("causal", False)))
    dtype = q.dtype if q.dtype in ("bf16", "fp16", "fp32", "fp8_e4m3") else "fp32"
    return Attention(
        batch, q_heads, kv_heads, q.shape[length], k.shape[length], head_dim, causal, direction,
        dtype, v_head_dim=0 if v_dim == head_dim else v_dim,
    )  # fmt: skip
