"""Scaled dot-product attention as CUDA dispatches it: cuDNN, flash, memory-efficient or math.

On the meta device PyTorch would always take the math path, whose scores no CUDA kernel stores. The
rules below are PyTorch's own for compute capability 8.0 and above (``sdp_utils.cpp``, 2.11 to
2.13); the order of preference is an argument: it depends on the chip and the version of cuDNN.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch

CUDNN_FIRST: Final = ("cudnn", "flash", "efficient", "math")
"""Order on compute capability 9.0 and 10.x with cuDNN above 9.15."""
FLASH_FIRST: Final = ("flash", "efficient", "math")
"""Order anywhere else."""
_HALF: Final = (torch.float16, torch.bfloat16)


def backend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    causal: bool,
    *,
    gqa: bool,
    order: tuple[str, ...],
) -> str:
    """The first backend of ``order`` that takes the call."""
    usable = {"cudnn": _cudnn, "flash": _flash, "efficient": _efficient}
    for name in order:
        if name == "math" or usable[name](query, key, value, mask, dropout, causal, gqa):
            return name
    return "math"


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    order: tuple[str, ...] = CUDNN_FIRST,
) -> torch.Tensor:
    """What ``F.scaled_dot_product_attention`` dispatches on a CUDA device."""
    ops = torch.ops.aten
    chosen = backend(
        query, key, value, attn_mask, dropout_p, is_causal, gqa=enable_gqa, order=order
    )
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    if chosen == "math":
        out: torch.Tensor = ops._scaled_dot_product_attention_math(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )[0]
        return out
    if chosen == "flash":
        width = query.shape[-1]
        scale = scale if scale is not None else 1.0 / math.sqrt(width)
        query, key, value = (_padded(t, 8) for t in (query, key, value))
        out = ops._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
        return out if width % 8 == 0 else out[..., :width]
    mask = _additive(attn_mask, query.dtype)
    if chosen == "cudnn":
        out = ops._scaled_dot_product_cudnn_attention(
            query, key, value, mask, grad, dropout_p, is_causal, False, scale=scale
        )[0]
        return out
    if mask is not None:
        mask = _aligned(mask).expand(*query.shape[:-1], key.shape[-2])
    out = ops._scaled_dot_product_efficient_attention(
        query, key, value, mask, grad, dropout_p, is_causal, scale=scale
    )[0]
    return out


def _flash(
    query: Any, key: Any, value: Any, mask: Any, dropout: float, causal: bool, gqa: bool
) -> bool:
    width = query.shape[-1]
    return bool(
        mask is None
        and _dense(query, key, value)
        and query.dtype in _HALF
        and key.shape[-1] == width == value.shape[-1] <= 256
        and not (causal and query.shape[-2] != key.shape[-2])
        and _heads_match(query, key, value, gqa)
    )


def _cudnn(
    query: Any, key: Any, value: Any, mask: Any, dropout: float, causal: bool, gqa: bool
) -> bool:
    widths = (query.shape[-1], value.shape[-1])
    return bool(
        _dense(query, key, value)
        and query.dtype in _HALF
        and max(widths) <= 256
        and all(width % 8 == 0 for width in widths)
        and key.shape[-2] != 1
        and not (query.shape[-2] == 1 and dropout)
        and _heads_match(query, key, value, gqa)
        and (mask is None or not mask.requires_grad)
        and _rows_in_order(mask)
        and _of_two_or_four_axes(mask)
    )


def _efficient(
    query: Any, key: Any, value: Any, mask: Any, dropout: float, causal: bool, gqa: bool
) -> bool:
    step = 8 if query.dtype in _HALF else 4
    return bool(
        _dense(query, key, value)
        and query.dtype in (*_HALF, torch.float32)
        and query.shape[-1] == key.shape[-1]
        and query.shape[-1] % step == 0
        and value.shape[-1] % step == 0
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and _rows_in_order(mask)
    )


def _dense(query: Any, key: Any, value: Any) -> bool:
    return all(t.dim() == 4 and 0 not in t.shape and t.stride(-1) == 1 for t in (query, key, value))


def _rows_in_order(mask: torch.Tensor | None) -> bool:
    """No fused kernel takes a mask whose last axis is strided, such as a permuted position bias."""
    return mask is None or mask.shape[-1] == 1 or mask.stride(-1) == 1


def _of_two_or_four_axes(mask: torch.Tensor | None) -> bool:
    """One of three axes goes to the memory-efficient kernel (``check_attn_mask_shape``)."""
    return mask is None or mask.dim() in (2, 4)


def _heads_match(query: Any, key: Any, value: Any, gqa: bool) -> bool:
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        return False
    heads, kv = query.shape[1], key.shape[1]
    if kv != value.shape[1]:
        return False
    return bool(heads == kv or (gqa and heads % kv == 0))


def _padded(tensor: torch.Tensor, step: int) -> torch.Tensor:
    short = -tensor.shape[-1] % step
    return torch.nn.functional.pad(tensor, (0, short)) if short else tensor


def _additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    lowest = torch.scalar_tensor(-math.inf, dtype=dtype, device=mask.device)
    return torch.where(mask, 0.0, lowest)


def _aligned(mask: torch.Tensor) -> torch.Tensor:
    """The memory-efficient kernel wants every stride of the mask to be a multiple of 8."""
    if all(stride % 8 == 0 for stride in mask.stride()[:-1]) and mask.stride(-1) == 1:
        return mask
    width = mask.shape[-1]
    return torch.nn.functional.pad(mask, (0, 16 - width % 16))[..., :width]
