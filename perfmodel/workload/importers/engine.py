"""What autograd writes in place when no dispatch mode watches it.

Under a dispatch mode PyTorch takes every tensor for one of a subclass, and its backward formulas
avoid writing in place. On CUDA they do write in place: the sum of two gradients goes into the first
of them, a scattered gradient into the zeros made for it. One allocation and one copy are spared.

Reference: ``accumulate`` in ``torch/csrc/autograd/input_buffer.cpp``, and the uses of
``areAnyTensorSubclassLike`` in ``FunctionsManual.cpp``.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import _prims_common as prims
from torch.autograd.function import BackwardCFunction

_ATEN: Final = torch.ops.aten
_DENSE: Final = (
    getattr(prims, "is_non_overlapping_and_dense_or_false", None)
    or prims.is_non_overlapping_and_dense
)
_SCATTERED: Final = {
    _ATEN.index_put.default: "aten._index_put_impl_",
    _ATEN.scatter_add.default: "aten.scatter_add_",
    _ATEN.scatter.src: "aten.scatter_",
    _ATEN.scatter.value: "aten.scatter_",
    _ATEN.index_add.default: "aten.index_add_",
}
_CHAINS: Final = {
    "BinaryCrossEntropyWithLogitsBackward0": {
        _ATEN.sub.Tensor: "aten.sub_",
        _ATEN.mul.Tensor: "aten.mul_",
    }
}
# References that a tensor has while a mode handles its operator, where a buffer holds it alone.
_SOLE_TENSOR: Final = 4
_SOLE_STORAGE: Final = 2


def in_place(func: Any, args: tuple[Any, ...], kwargs: Any) -> str | None:
    """The in-place operator that the engine would call instead, None for any other call."""
    if func not in _SCATTERED and func not in _CANDIDATES:
        return None
    node = torch._C._current_autograd_node()
    if node is None or torch.is_grad_enabled() or isinstance(node, BackwardCFunction):
        return None
    first = args[0]
    if not isinstance(first, torch.Tensor) or first.layout != torch.strided or not _alone(first):
        return None
    named = _SCATTERED.get(func) or _CHAINS.get(node.name(), {}).get(func)
    if named is None and func is _ATEN.add.Tensor and len(args) == 2 and not kwargs:
        return "aten.add_" if _summable(first, args[1]) else None
    return named


def _summable(first: torch.Tensor, other: Any) -> bool:
    if not isinstance(other, torch.Tensor) or first.shape != other.shape:
        return False
    return first.dtype == other.dtype and bool(_DENSE(first))


_CANDIDATES: Final = frozenset({_ATEN.add.Tensor, *(f for c in _CHAINS.values() for f in c)})


def _alone(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    uses = getattr(tensor, "_use_count", lambda: _SOLE_TENSOR)()
    sole: bool = torch._C._storage_Use_Count(storage._cdata) <= _SOLE_STORAGE
    return sole and uses <= _SOLE_TENSOR
