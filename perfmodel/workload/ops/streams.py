"""Element-wise maps, fused chains, copies, optimizers, Fourier transforms and collectives."""

# ruff: noqa: D102 - flops and bytes are documented once, on Op
from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final

import numpy as np

from perfmodel.workload.ops.base import Count, Flag, Op, Size, exact, product, storage

# kind -> (tensors read, tensors written, FLOP an element)
ELEMENTWISE: Final = MappingProxyType(
    {
        "add": (2, 1, 1),
        "mul": (2, 1, 1),
        "gelu": (1, 1, 8),
        "silu": (1, 1, 4),
        "relu": (1, 1, 1),
        "copy": (1, 1, 0),
        "tanh": (1, 1, 4),
        "sigmoid": (1, 1, 3),
        "scale": (1, 1, 1),
        "zero": (0, 1, 0),
    }
)


@dataclass(frozen=True, slots=True)
class Elementwise(Op):
    """One element-wise kernel over ``numel`` elements; traffic and work follow the kind."""

    family: ClassVar[str] = "elementwise"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"kind": tuple(ELEMENTWISE)}

    kind: str
    numel: Size
    dtype: str = "bf16"

    @property
    def flops(self) -> Count:
        return exact(self.numel) * ELEMENTWISE[self.kind][2]

    @property
    def bytes_read(self) -> Count:
        return storage(self.dtype, exact(self.numel) * ELEMENTWISE[self.kind][0])

    @property
    def bytes_written(self) -> Count:
        return storage(self.dtype, exact(self.numel) * ELEMENTWISE[self.kind][1])


@dataclass(frozen=True, slots=True)
class Fused(Op):
    """One kernel for a chain of element-wise steps: only its ends touch memory.

    Parameters
    ----------
    chain : str
        What it does, for the reader, e.g. ``"bias+gelu"``.
    numel : int
        Elements it runs over.
    read, written : int
        Bytes in and out for each of them [B].
    operations : int
        FLOP for each of them.
    dtype : str
        The format it computes in.
    """

    family: ClassVar[str] = "fused"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"read", "written", "operations"})

    chain: str
    numel: Size
    read: Size
    written: Size
    operations: Size = 1
    dtype: str = "fp32"

    @property
    def flops(self) -> Count:
        return product(self.numel, self.operations)

    @property
    def bytes_read(self) -> Count:
        return product(self.numel, self.read)

    @property
    def bytes_written(self) -> Count:
        return product(self.numel, self.written)


@dataclass(frozen=True, slots=True)
class Copy(Op):
    """A copy of ``bytes`` inside device memory, or between host and device (``route``)."""

    family: ClassVar[str] = "copy"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "route": ("device", "host_to_device", "device_to_host")
    }

    bytes: Size
    route: str = "device"

    @property
    def flops(self) -> Count:
        return 0 * exact(self.bytes)

    @property
    def bytes_read(self) -> Count:
        return exact(self.bytes)

    @property
    def bytes_written(self) -> Count:
        return exact(self.bytes)


@dataclass(frozen=True, slots=True)
class AdamW(Op):
    """One fused AdamW step over ``numel`` parameters: 14 FLOP each.

    Reads weight, gradient and two moments; writes weight, moments and, where ``copy_dtype`` is
    set, the low-precision copy that the layers compute with.
    """

    family: ClassVar[str] = "adamw"

    numel: Size
    dtype: str = "fp32"
    grad_dtype: str = "fp32"
    moment_dtype: str = "fp32"
    copy_dtype: str = ""

    @property
    def flops(self) -> Count:
        return 14 * exact(self.numel)

    @property
    def bytes_read(self) -> Count:
        n = exact(self.numel)
        moments = storage(self.moment_dtype, 2 * n)
        return storage(self.dtype, n) + storage(self.grad_dtype, n) + moments

    @property
    def bytes_written(self) -> Count:
        n = exact(self.numel)
        copy = storage(self.copy_dtype, n) if self.copy_dtype else 0
        return storage(self.dtype, n) + storage(self.moment_dtype, 2 * n) + copy


@dataclass(frozen=True, slots=True)
class Sgd(Op):
    """One fused SGD step: 2 FLOP a parameter, 4 with momentum (one more tensor each way)."""

    family: ClassVar[str] = "sgd"

    numel: Size
    momentum: Flag = True
    dtype: str = "fp32"

    @property
    def flops(self) -> Count:
        return exact(self.numel) * 2 * _tensors(1, self.momentum)

    @property
    def bytes_read(self) -> Count:
        return storage(self.dtype, exact(self.numel) * _tensors(2, self.momentum))

    @property
    def bytes_written(self) -> Count:
        return storage(self.dtype, exact(self.numel) * _tensors(1, self.momentum))


def _tensors(least: int, one_more: Flag) -> Count:
    return least + (int(one_more) if isinstance(one_more, bool) else one_more.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Fft(Op):
    """``batch`` complex transforms of length ``n``: ``5 n log2 n`` FLOP each, rounded.

    ``dtype`` is the format of one real component; the transform reads and writes 2 n of them.
    """

    family: ClassVar[str] = "fft"

    batch: Size
    n: Size
    dtype: str = "fp32"

    @property
    def flops(self) -> Count:
        each: Any = np.rint(5 * np.asarray(self.n) * np.log2(self.n))
        if isinstance(self.n, int):
            return exact(self.batch) * int(each)
        return exact(self.batch) * each  # type: ignore[no-any-return]

    @property
    def bytes_read(self) -> Count:
        return storage(self.dtype, 2 * product(self.batch, self.n))

    @property
    def bytes_written(self) -> Count:
        return storage(self.dtype, 2 * product(self.batch, self.n))


COLLECTIVES: Final = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "p2p",
)


@dataclass(frozen=True, slots=True)
class Collective(Op):
    """A message among ``world`` ranks.

    ``bytes`` is the whole (larger) buffer as nccl-tests counts it: the gathered size of an
    all-gather, the input of a reduce-scatter, the per-rank buffer of an all-to-all [B].
    ``bytes_read`` and ``bytes_written`` are that buffer once; what crosses the links is the
    business of :mod:`perfmodel.network`.
    """

    family: ClassVar[str] = "collective"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"bytes"})
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"op": COLLECTIVES}

    op: str
    bytes: Size
    world: Size

    @property
    def flops(self) -> Count:
        return 0 * product(self.bytes, self.world)

    @property
    def bytes_read(self) -> Count:
        return exact(self.bytes)

    @property
    def bytes_written(self) -> Count:
        return exact(self.bytes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, with the collective's own name under ``op``."""
        record = Op.to_dict(self)
        return record | {"op": self.op}
