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
    rows : int, optional
        Rows that it sums along, as a norm does, of ``numel / rows`` elements each. Without it the
        chain is flat: no element waits for another.
    """

    family: ClassVar[str] = "fused"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"read", "written", "operations"})

    chain: str
    numel: Size
    read: Size
    written: Size
    operations: Size = 1
    dtype: str = "fp32"
    rows: Size | None = None

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
    """``batch`` Fourier transforms over one axis or two.

    A complex transform of ``N`` points takes ``5 N log2 N`` FLOP, a real one half of that, both
    rounded; scaling takes one for each component of the result.

    Parameters
    ----------
    batch : int
        Independent transforms.
    n : int
        Length of the last axis, in real values on the real side.
    dtype : str
        The format of one real component.
    kind : str
        ``"fft"`` complex to complex, ``"rfft"`` real to the ``n // 2 + 1`` frequencies that are not
        mirrored, ``"irfft"`` back.
    rows : int
        Length of the axis before the last where that is transformed too, otherwise 1.
    scaled : bool
        Whether the result is multiplied by a constant, as a normalised inverse is.
    """

    family: ClassVar[str] = "fft"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"kind": ("fft", "rfft", "irfft")}

    batch: Size
    n: Size
    dtype: str = "fp32"
    kind: str = "fft"
    rows: Size = 1
    scaled: Flag = False

    @property
    def flops(self) -> Count:
        points = np.asarray(product(self.n, self.rows), dtype=np.float64)
        each: Any = np.rint((5 if self.kind == "fft" else 2.5) * points * np.log2(points))
        if isinstance(self.n, int) and isinstance(self.rows, int):
            each = int(each)
        scaling: Any = self._components(result=True) * (
            int(self.scaled) if isinstance(self.scaled, bool) else self.scaled.astype(np.float64)
        )
        return exact(self.batch) * each + scaling  # type: ignore[no-any-return]

    @property
    def bytes_read(self) -> Count:
        return storage(self.dtype, self._components(result=False))

    @property
    def bytes_written(self) -> Count:
        return storage(self.dtype, self._components(result=True))

    def _components(self, *, result: bool) -> Count:
        """Real numbers on one side of the transform."""
        lines = product(self.batch, self.rows)
        if self.kind == "fft":
            return 2 * product(lines, self.n)
        if (self.kind == "rfft") == result:
            return 2 * product(lines, self.n // 2 + 1)
        return product(lines, self.n)


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
