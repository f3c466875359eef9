"""Storages of a recorded step: who shares memory, how big it is, and when it dies.

PyTorch frees a storage when the last tensor over it goes: a Python frame's variable, a saved tensor
of autograd, an entry of a cache. A weak reference on the storage sees exactly that moment.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, layout, sparse_bsc, sparse_bsr, sparse_csc, sparse_csr, strided


class Storages:
    """Numbers the storages that a step touches, and collects the numbers of those that died."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.dead: list[int] = []
        self._numbers: dict[int, int] = {}
        self._watch: dict[int, Any] = {}
        self.on_death: Callable[[int], None] = lambda number: None

    def number(self, tensor: Tensor) -> tuple[int, bool]:
        """Number of the tensor's storage, and whether it is seen for the first time.

        A sparse tensor counts as one storage: its values and its indices.
        """
        dense = is_strided(tensor)
        storage = (tensor if dense else parts(tensor)[0]).untyped_storage()
        key = storage._cdata
        number = self._numbers.get(key)
        if number is None:
            size = storage.nbytes() if dense else sparse_bytes(tensor)
            return self._watched(key, storage, size), True
        if dense:  # resize_() and set_() grow a storage in place
            self.sizes[number] = max(self.sizes[number], storage.nbytes())
        return number, False

    def find(self, tensor: Tensor) -> int | None:
        """Number of the tensor's storage, None where it has none yet."""
        held = tensor if is_strided(tensor) else parts(tensor)[0]
        return self._numbers.get(held.untyped_storage()._cdata)

    def flush(self) -> tuple[int, ...]:
        """Numbers of the storages that died since the last call."""
        dead = tuple(self.dead)
        self.dead.clear()
        return dead

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
    return sum(part.numel() * part.element_size() for part in parts(tensor))


def nonzeros(tensor: Tensor) -> int:
    """Stored values of a sparse tensor."""
    return int(parts(tensor)[0].numel())


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Values first, then the indices."""
    if tensor.layout in (sparse_csr, sparse_bsr):
        return tensor.values(), tensor.crow_indices(), tensor.col_indices()
    if tensor.layout in (sparse_csc, sparse_bsc):
        return tensor.values(), tensor.ccol_indices(), tensor.row_indices()
    return tensor._values(), tensor._indices()
