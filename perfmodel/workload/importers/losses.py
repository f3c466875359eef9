"""Losses that have no kernel on the meta device."""

from __future__ import annotations

import math
from typing import Any, Final

import torch

_ATEN: Final = torch.ops.aten


def composites() -> dict[Any, Any]:
    """Composite losses with CUDA's branch."""
    return dict.fromkeys((_ATEN.ctc_loss.IntList, _ATEN.ctc_loss.Tensor), _ctc_loss)


def _ctc_loss(
    scores: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> torch.Tensor:
    """Lengths come to the host; those of the labels go back for the mean."""
    for lengths in (input_lengths, target_lengths):
        if isinstance(lengths, torch.Tensor):
            lengths.to("cpu")
    batch = scores.shape[1] if scores.dim() > 2 else 1
    longest = _longest(targets, batch)
    counts = [scores.shape[0]] * batch, [longest] * batch
    loss: torch.Tensor = _ATEN._ctc_loss(scores, targets, *counts, blank, zero_infinity)[0]
    if zero_infinity:
        zero = torch.scalar_tensor(0.0, dtype=loss.dtype, device=loss.device)
        loss = torch.where(loss == math.inf, zero, loss)
    if reduction == 1:
        each = torch.full((batch,), float(longest), dtype=loss.dtype, device=loss.device)
        return (loss / each.clamp_min(1)).mean()
    return loss.sum() if reduction == 2 else loss


def _longest(targets: torch.Tensor, batch: int) -> int:
    """Labels of the longest sequence; of an average one where they stand one after another."""
    return int(targets.shape[1]) if targets.dim() > 1 else -(-targets.numel() // max(1, batch))


def run(func: Any, args: tuple[Any, ...]) -> Any:
    """Empty results of the operators below, None for any other."""
    kernel = _RUN.get(func)
    return None if kernel is None else kernel(*args)


def _ctc(scores: torch.Tensor, targets: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """Losses, and what is kept for each step and each place between and at the labels."""
    steps, batch = scores.shape[0], scores.shape[1] if scores.dim() > 2 else 1
    places = 2 * _longest(targets, batch) + 1
    return scores.new_empty(batch), scores.new_empty((batch, steps, places))


def _ctc_gradient(grad: torch.Tensor, scores: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.empty_like(scores)


_RUN: Final = {
    _ATEN._ctc_loss.default: _ctc,
    _ATEN._ctc_loss.Tensor: _ctc,
    _ATEN._ctc_loss_backward.default: _ctc_gradient,
    _ATEN._ctc_loss_backward.Tensor: _ctc_gradient,
}
