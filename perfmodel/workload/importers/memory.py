"""Storages of a recorded step: who shares memory, how big it is, and when it dies.

PyTorch frees a storage when the last tensor over it goes: a Python frame's variable, a saved tensor
of autograd, an entry of a cache. A weak reference on the storage sees exactly that moment.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, layout, strided


class Storages:
    """Numbers the storages that a step touches, and collects the numbers of those that died."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.dead: list[int] = []
        self._numbers: dict[int, int] = {}
        self._watch: dict[int, Any] = {}
        self.on_death: Callable[[int], None] = lambda number: None

    def number(self, tensor: Tensor) -> tuple[int, bool]:
        """Number of the tensor's storage, and whether it is seen for the first time."""
        if not is_strided(tensor):
            return self._sparse(tensor)
        storage = tensor.untyped_storage()
        key = storage._cdata
        number = self._numbers.get(key)
        if number is not None:
            # resize_() and set_() grow a storage in place
            self.sizes[number] = max(self.sizes[number], storage.nbytes())
            return number, False
        return self._watched(key, storage, storage.nbytes()), True

    def flush(self) -> tuple[int, ...]:
        """Numbers of the storages that died since the last call."""
        dead = tuple(self.dead)
        self.dead.clear()
        return dead

    def _sparse(self, tensor: Tensor) -> tuple[int, bool]:
        """A sparse tensor counts as one storage: its values and its indices."""
        number = self._numbers.get(id(tensor))
        if number is not None:
            return number, False
        return self._watched(id(tensor), tensor, sparse_bytes(tensor)), True

    def _watched(self, key: int, target: Any, size: int) -> int:
        number = len(self.sizes)
        self.sizes.append(size)
        self._numbers[key] = number

        def died(_: object, key: int = key, number: int = number) -> None:
            self._numbers.pop(key, None)
            self._watch.pop(number, None)
            self.dead.append(number)
            self.on_death(number)

        self._watch[number] = weakref.ref(target, died)
        return number


def is_strided(tensor: Tensor) -> bool:
    """Whether the tensor has one dense storage."""
    kind: layout = tensor.layout
    return bool(kind == strided)


def sparse_bytes(tensor: Tensor) -> int:
    """Bytes of the values and the indices of a sparse tensor [B]."""
    parts: tuple[str, ...]
    if "csr" in str(tensor.layout) or "bsr" in str(tensor.layout):
        parts = ("crow_indices", "col_indices", "values")
    elif "csc" in str(tensor.layout) or "bsc" in str(tensor.layout):
        parts = ("ccol_indices", "row_indices", "values")
    else:
        parts = ("_indices", "_values")
    total = 0
    for part in parts:
        piece = getattr(tensor, part)()
        total += piece.numel() * piece.element_size()
    return total
