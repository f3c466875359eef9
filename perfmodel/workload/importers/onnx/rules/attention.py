"""Attention as one operator: ONNX's own and the fused ones of ONNX Runtime.

A graph that spells attention out (product, softmax, product) keeps its three operators.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from perfmodel.workload.importers.onnx.call import Call, same
from perfmodel.workload.importers.onnx.rules.pointwise import combine
from perfmodel.workload.importers.onnx.rules.products import linear
from perfmodel.workload.importers.onnx.values import Spec, Value

_RANK = 4


def core(
    call: Call,
    q: Value,
    k: Value,
    v: Value,
    *,
    causal: bool,
    mask: Value | None = None,
) -> Value:
    """``scaled_dot_product_attention`` of (batch, heads, tokens, head) tensors.

    Half precision without a mask takes the flash kernel, everything else the memory-efficient one,
    as PyTorch's own choice does.
    """
    batch, heads, tokens, _ = q.shape
    out = Spec((batch, heads, tokens, v.shape[3]), q.dtype)
    attributes: dict[str, Any] = {"dropout_p": 0.0, "is_causal": causal}
    scale = call.attributes.get("scale") or None
    if scale is not None:
        attributes["scale"] = scale
    flash = mask is None and q.dtype in {"fp16", "bf16"}
    name = "flash" if flash else "efficient"
    sums = Spec((batch, heads, tokens if flash else 0), "fp32")
    if not flash:
        attributes["compute_log_sumexp"] = False
    target = f"aten._scaled_dot_product_{name}_attention"
    # the kernels of PyTorch write token by token
    width = v.shape[3]
    strides = (tokens * heads * width, width, heads * width, 1)
    like = replace(q, shape=out.shape, strides=strides)
    made = call.build.emit(target, [q, k, v, mask], [out, sums], attributes, like=like)
    return made[0]


def split_heads(call: Call, x: Value, heads: int) -> Value:
    """(batch, tokens, width) to (batch, heads, tokens, head), as a view."""
    if heads < 1 or x.rank != _RANK - 1 or x.shape[2] % heads:
        raise call.refuse(
            f"{heads} heads of {x.shape}", "heads that divide the width", "correct the file"
        )
    split = call.build.reshape(x, (*x.shape[:2], heads, x.shape[2] // heads))
    return call.build.permute(split, [0, 2, 1, 3])


def merge_heads(call: Call, x: Value) -> Value:
    """Back to (batch, tokens, width)."""
    back = call.build.permute(x, [0, 2, 1, 3])
    return call.build.reshape(back, (*back.shape[:2], back.shape[2] * back.shape[3]))


def attention(call: Call) -> list[Value]:
    """``Attention`` of operator set 23: 4-D operands, or 3-D with numbers of heads."""
    q, k, v, mask = call.input(0), call.input(1), call.input(2), call.get(3)
    flat = q.rank == _RANK - 1
    if flat:
        q = split_heads(call, q, int(call.attributes.get("q_num_heads", 0)))
        kv_heads = int(call.attributes.get("kv_num_heads", 0))
        k, v = split_heads(call, k, kv_heads), split_heads(call, v, kv_heads)
    k, v = (_with_past(call, new, call.get(4 + n)) for n, new in enumerate((k, v)))
    causal = bool(call.attributes.get("is_causal"))
    made = core(call, q, k, v, causal=causal, mask=mask)
    return [merge_heads(call, made) if flat else made, k, v]


def multi_head(call: Call) -> list[Value]:
    """``com.microsoft.MultiHeadAttention``: separate, or packed, queries, keys and values."""
    heads = int(call.attributes.get("num_heads", 0))
    q = call.x
    k, v, bias = call.get(1), call.get(2), call.get(3)
    if k is None or v is None:
        raise call.refuse(
            "packed queries, keys and values",
            "three operands",
            "export without packing (use_packed_qkv = False in the fusion options)",
        )
    if bias is not None:
        width = q.shape[-1]
        sizes = [width, k.shape[-1], bias.numel - width - k.shape[-1]]
        parts = call.build.split(bias, 0, sizes)
        q, k, v = (
            combine(call.build, "add", one, part)
            for one, part in zip((q, k, v), parts, strict=True)
        )
    q = split_heads(call, q, heads)
    k, v = (split_heads(call, one, heads) if one.rank == _RANK - 1 else one for one in (k, v))
    k, v = _with_past(call, k, call.get(6)), _with_past(call, v, call.get(7))
    causal = bool(call.attributes.get("unidirectional"))
    made = core(call, q, k, v, causal=causal, mask=call.get(5))
    return [merge_heads(call, made), k, v]


def packed(call: Call) -> list[Value]:
    """``com.microsoft.Attention``: one product makes queries, keys and values."""
    weight, bias = call.input(1), call.get(2)
    if bias is None:
        bias = call.build.value(Spec((weight.shape[1],), call.x.dtype), "constant")
    heads = int(call.attributes.get("num_heads", 0))
    sizes = call.attributes.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    parts = call.build.split(linear(call, bias), 2, [int(one) for one in sizes])
    q, k, v = (split_heads(call, part, heads) for part in parts)
    causal = bool(call.attributes.get("unidirectional"))
    made = core(call, q, k, v, causal=causal, mask=call.get(5))
    return [merge_heads(call, made), k]


def grouped_query(call: Call) -> list[Value]:
    """``com.microsoft.GroupQueryAttention``: fewer key-value heads, and a cache."""
    heads = int(call.attributes.get("num_heads", 0))
    kv_heads = int(call.attributes.get("kv_num_heads", 0))
    q, k, v = call.x, call.get(1), call.get(2)
    if k is None or v is None:
        head = q.shape[2] // max(1, heads + 2 * kv_heads)
        q, k, v = call.build.split(q, 2, [heads * head, kv_heads * head, kv_heads * head])
    q = split_heads(call, q, heads)
    k, v = split_heads(call, k, kv_heads), split_heads(call, v, kv_heads)
    if call.attributes.get("do_rotary"):
        q, k = rotated(call, q), rotated(call, k)
    k, v = _with_past(call, k, call.get(3)), _with_past(call, v, call.get(4))
    made = core(call, q, k, v, causal=True)
    return [merge_heads(call, made), k, v]


def rotary(call: Call) -> list[Value]:
    """``RotaryEmbedding`` of 4-D operands, or of 3-D ones with a number of heads."""
    heads = int(call.attributes.get("num_heads", 0))
    if call.x.rank == _RANK - 1 and heads:
        return [merge_heads(call, rotated(call, split_heads(call, call.x, heads)))]
    return [rotated(call, call.x)]


def rotated(call: Call, x: Value) -> Value:
    """The rotation, spelt out in element-wise steps as PyTorch models do.

    The cosines and sines of the positions are taken as ready.
    """
    build, half = call.build, x.shape[-1] // 2
    low, high = build.split(x, x.rank - 1, [half, x.shape[-1] - half])
    turned = build.one("aten.cat", [build.one("aten.neg", [high], same(high)), low], same(x))
    table = Spec(x.shape[-2:], x.dtype)
    cosine, sine = (build.shared(name, table) for name in ("cosine", "sine"))
    return combine(
        build, "add", combine(build, "mul", x, cosine), combine(build, "mul", turned, sine)
    )


def _with_past(call: Call, new: Value, past: Value | None) -> Value:
    if past is None or past.rank != _RANK:
        return new
    shape = (*new.shape[:2], past.shape[2] + new.shape[2], new.shape[3])
    return call.build.one("aten.cat", [past, new], same(new, shape=shape), {"dim": 2})


RULES: Final = MappingProxyType(
    {
        "Attention": attention,
        "RotaryEmbedding": rotary,
        "com.microsoft.RotaryEmbedding": rotary,
        "com.microsoft.MultiHeadAttention": multi_head,
        "com.microsoft.Attention": packed,
        "com.microsoft.GroupQueryAttention": grouped_query,
    }
)
