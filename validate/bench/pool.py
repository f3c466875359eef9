"""Random operands cut from a few large buffers, so that an operand costs no generator call."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch

TORCH_DTYPE = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "int8": torch.int8,
}
_ALIGN = 512  # bytes, as the CUDA caching allocator aligns
_PIECE = 1 << 27  # elements drawn at a time


def _fill(dtype: torch.dtype, count: int, device: str) -> torch.Tensor:
    """`count` normal values of `dtype` (int8: rounded normals of deviation 32)."""
    out = torch.empty(count, dtype=dtype, device=device)
    for start in range(0, count, _PIECE):
        part = out[start : start + _PIECE]
        if dtype in {torch.float8_e4m3fn, torch.int8}:
            draw = torch.empty(part.numel(), dtype=torch.float16, device=device).normal_()
            part.copy_((draw * 32).round_() if dtype is torch.int8 else draw)
        else:
            part.normal_()
    return out


class Pool:
    """Bump allocator over random chunks; `begin` hands all of it back for the next operator.

    Parameters
    ----------
    device
        ``"cuda"`` or ``"cpu"``.
    target_bytes
        Footprint that the input sets of one operator reach together.
    chunk_bytes
        Least size of a chunk; by default 1 GiB, on a processor 8 MiB.
    filling
        Context in which a chunk is filled: what else holds the device then waits.
    """

    def __init__(
        self,
        device: str,
        target_bytes: float,
        max_sets: int = 48,
        chunk_bytes: int | None = None,
        filling: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.device = device
        self.filling = filling
        self.target_bytes = target_bytes
        self.max_sets = max_sets
        self.chunk_bytes = chunk_bytes or (1 << 30 if device == "cuda" else 1 << 23)
        self._chunks: dict[torch.dtype, list[list[Any]]] = {}

    def begin(self) -> None:
        """Forget what was handed out."""
        for chunks in self._chunks.values():
            for chunk in chunks:
                chunk[1] = 0

    def clear(self) -> None:
        """Give the memory back (after an out-of-memory error)."""
        self._chunks.clear()

    def sets(self, input_bytes: float) -> int:
        """Number of input sets that exceed the cache several times."""
        return max(1, min(self.max_sets, math.ceil(self.target_bytes / max(1.0, input_bytes))))

    def take(self, dtype: str, *shape: int) -> torch.Tensor:
        """Random tensor of `shape` that overlaps none handed out since `begin`."""
        kind = TORCH_DTYPE[dtype]
        count = math.prod(shape)
        step = _ALIGN // kind.itemsize
        need = -(-count // step) * step
        chunks = self._chunks.setdefault(kind, [])
        for chunk in chunks:
            if chunk[0].numel() - chunk[1] >= need:
                break
        else:
            least = self.chunk_bytes // kind.itemsize
            with self.filling():
                chunk = [_fill(kind, max(least, need), self.device), 0]
            chunks.append(chunk)
        start = chunk[1]
        chunk[1] += need
        return chunk[0][start : start + count].view(*shape)
