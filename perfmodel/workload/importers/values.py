"""Values of small tensors that do not depend on weights, followed beside the meta tensors.

Masks, positions, token ids, drop rates: a model may look at them (``mask.all()``, ``.item()``,
``nonzero``). Where every operand's value is known and small, the operator is also run on the host,
so such a look has an answer. Where it has none, the step depends on data and cannot be recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch.utils._pytree import tree_flatten, tree_map

LARGEST: Final = 1 << 23
"""Elements above which a value is not followed."""
_TABLE: Final = 4096
"""Entries of a table that may be filled one after another."""
_META: Final = torch.device("meta")
_CPU: Final = torch.device("cpu")
_RANDOM: Final = torch.Tag.nondeterministic_seeded
_EMPTY: Final = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
)
_Key = tuple[int, int, tuple[int, ...], tuple[int, ...], torch.dtype]


_BLOCKED: Final = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class Unknown(Exception):
    """An operator needs a value that is not known."""


class Values:
    """Host copies of the tensors whose values are known."""

    def __init__(self) -> None:
        self._known: dict[int, dict[_Key, torch.Tensor]] = {}

    def set(self, tensor: torch.Tensor, value: torch.Tensor, storage: int) -> None:
        """Remember what a meta tensor holds."""
        if value.numel() <= LARGEST:
            self._known.setdefault(storage, {})[_key(tensor, storage)] = value

    def forget(self, storage: int) -> None:
        """Drop what is known of a storage: it died, or something unknown was written to it."""
        self._known.pop(storage, None)

    def get(self, tensor: torch.Tensor, storage: int) -> torch.Tensor | None:
        """The host copy, or None."""
        known = self._known.get(storage)
        return None if known is None else known.get(_key(tensor, storage))

    def __bool__(self) -> bool:
        return bool(self._known)


def run_on_host(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], find: Any
) -> tuple[bool, Any]:
    """Run an operator on known values.

    Parameters
    ----------
    find : callable
        Tensor to its host copy, or None.

    Returns
    -------
    bool
        Whether it could be run.
    object
        Its result on the host.
    """
    if _RANDOM in func.tags:
        return False, None
    blank = func._schema.name.removeprefix("aten::") in _EMPTY
    flat, _ = tree_flatten((args, dict(kwargs)))
    size = 0
    for leaf in flat:
        if isinstance(leaf, torch.Tensor):
            value = leaf if leaf.device == _CPU else find(leaf)
            if value is None or not value.is_cpu:
                return False, None
            size += value.numel()
    if size > 4 * LARGEST:
        return False, None

    def host(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf if leaf.device == _CPU else find(leaf)
        return _CPU if leaf == _META and isinstance(leaf, torch.device) else leaf

    try:
        out = func(*tree_map(host, args), **tree_map(host, dict(kwargs)))
    except (RuntimeError, TypeError, IndexError):
        return False, None
    if blank:  # a small table of whole numbers that is filled entry by entry
        if out.dtype.is_floating_point or out.dtype.is_complex or out.numel() > _TABLE:
            return False, None
        out.zero_()
    return True, out


def drawn(func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """One half for a single random number, which a model compares with a rate of dropping."""
    name = func._schema.name.removeprefix("aten::")
    if name != "rand" or not args or math.prod(args[0]) != 1:
        return None
    return torch.full(tuple(args[0]), 0.5)


def checked(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether PyTorch's own code asks if a condition of its operands is broken.

    ``at::is_scalar_tensor_true`` compares one boolean with a fresh ``True``: so does the inverse of
    a short-time Fourier transform ask for gaps between its windows.
    """
    if func._schema.name != "aten::equal":
        return False
    return all(one.dim() == 0 and one.dtype == torch.bool for one in args[:2])


def assumed(func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """What a look for infinities and NaN finds in finite numbers, None for any other operator."""
    name = func._schema.name.removeprefix("aten::")
    if not args or not isinstance(args[0], torch.Tensor) or args[0].numel() > LARGEST:
        return None
    other = args[1] if len(args) > 1 else None
    itself = other is args[0]
    infinite = isinstance(other, float) and other in (math.inf, -math.inf)
    if name in ("isinf", "isnan") or (name == "ne" and itself) or (name == "eq" and infinite):
        return torch.zeros(args[0].shape, dtype=torch.bool)
    if name == "isfinite" or (name == "eq" and itself) or (name == "ne" and infinite):
        return torch.ones(args[0].shape, dtype=torch.bool)
    return None


def picked(func: Any, args: tuple[Any, ...], find: Any) -> torch.Tensor | None:
    """What a mask of known value picks from a tensor of unknown value, None where it is unknown.

    Parameters
    ----------
    find : callable
        Tensor to its host copy, or None.
    """
    name = func._schema.name.removeprefix("aten::")
    if name == "masked_select":
        mask = find(args[1])
        if mask is None:
            return None
        shape = torch.broadcast_shapes(args[0].shape, mask.shape)
        return cast("torch.Tensor", args[0].new_empty(int(mask.expand(shape).sum())))
    if name not in ("index", "_unsafe_index"):
        return None
    indices: list[torch.Tensor | None] = []
    for index in args[1]:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            indices.append(index)
            continue
        mask = find(index)
        if mask is None:
            return None
        indices += [place.to("meta") for place in mask.nonzero(as_tuple=True)]
    return cast("torch.Tensor", func(args[0], indices))


def shaped_on_host(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Meta tensors of the shapes that an operator without a meta kernel gives for zeros.

    Raises
    ------
    Unknown
        If its shapes depend on values.
    NotImplementedError
        If the operands are too big to try.
    """
    if any(tag in func.tags for tag in _BLOCKED):
        raise Unknown(str(func))
    flat, _ = tree_flatten((args, dict(kwargs)))
    size = sum(leaf.numel() for leaf in flat if _dense_meta(leaf))
    if size > 16 * LARGEST:
        raise NotImplementedError(f"{func} has no meta kernel")

    def host(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_meta:
            return leaf
        if leaf.layout == torch.strided:
            return torch.zeros(leaf.shape, dtype=leaf.dtype)
        return _hollow(leaf)

    def meta(leaf: Any) -> Any:
        return leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf

    out = func(*tree_map(host, args), **tree_map(host, dict(kwargs)))
    return tree_map(meta, out)


def _dense_meta(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_meta and leaf.layout == torch.strided


def _hollow(tensor: torch.Tensor) -> torch.Tensor:
    """A sparse tensor of that shape and format with nothing in it."""
    shape, dtype = tensor.shape, tensor.dtype
    if tensor.layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(size=shape, dtype=dtype)
    along = 0 if tensor.layout == torch.sparse_csr else 1
    ends, none = torch.zeros(shape[along] + 1, dtype=torch.long), torch.empty(0, dtype=torch.long)
    empty = torch.empty(0, dtype=dtype)
    return torch.sparse_compressed_tensor(ends, none, empty, shape, layout=tensor.layout)


def _key(tensor: torch.Tensor, storage: int) -> _Key:
    return (
        storage,
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
    )
