r"""Kernels of a lowered program as arrays: their time alone, and how much of it is memory.

An operator was calibrated in a stream of calls whose inputs cycle through some 400 MB, so it found
the share :math:`r_0` of them in the cache (nothing of a large one, all of a tiny one). Inside a
model it finds :math:`r`. With :math:`\rho` the rate of the cache over that of device memory, the
memory part :math:`t_m` of the mechanism becomes

.. math::

    t_m' = t_m \frac{1 - \phi r (1 - 1/\rho)}{1 - \phi r_0 (1 - 1/\rho)}

where :math:`\phi` is the share of the traffic that is reads, and the whole is put together from its
parts again. The learned correction, and the pace of the kernel's kind, multiply the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.bound import lower_bound
from perfmodel.cost.efficiency import Efficiency, efficiency_on
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.parts import Floats
from perfmodel.cost.price import price_task
from perfmodel.cost.program.residency import Reads, held_share, reuse
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import Accelerator
from perfmodel.workload.lowering.kernel import Kernel, Lowered
from perfmodel.workload.op import Op, TopK
from perfmodel.workload.stacked import stacked

SET_BYTES: Final = 400e6
SETS: Final = 48
"""Input sets of a calibrated operator: 400 MB of them, at most 48."""
LIBRARY: Final = (
    "gemm", "conv", "attention", "adamw", "sgd", "fourier", "scatter_add", "recurrent",
)  # fmt: skip
ONE_BLOCK: Final = ("nll_loss_forward", "nll_loss_backward")
"""Kernels in which one block goes through all rows, waiting for each turn."""
HALVES: Final = ("bf16", "fp16")
LEAST_BROADCAST: Final = 16
"""Bytes up to which an operand is a scalar, which a kernel takes as an argument [B]."""
_SHARPNESS: Final = 4.0
BOUNDS: Final = ("compute", "memory", "launch", "latency")


@dataclass(frozen=True, slots=True)
class PricedOps:
    """Operators of kernels, arrays of shape (M,).

    Parameters
    ----------
    kernel : int array
        Index of the kernel that runs the operator.
    seconds, low, high : array
        The price alone [s].
    arithmetic : array
        Lower bound of the arithmetic; memory bounds nothing where a cache may hold it [s].
    work, memory, floor : array
        Parts of the mechanism: arithmetic or power, whichever is longer; memory; floor [s].
    exponent : array
        How sharply the parts overlap.
    bytes : array
        Unique traffic [B].
    reading : array
        Share of the traffic that is reads.
    bound : int array
        Index into :data:`BOUNDS`.
    calibrated : bool array
        Whether measurements of this chip stand behind the price.
    pace : int array
        Index into ``classes``.
    classes : tuple of tuple of str
        What shares a pace: see :func:`pace_class`.
    """

    kernel: NDArray[np.intp]
    seconds: Floats
    arithmetic: Floats
    low: Floats
    high: Floats
    work: Floats
    memory: Floats
    floor: Floats
    exponent: Floats
    bytes: Floats
    reading: Floats
    bound: NDArray[np.intp]
    calibrated: NDArray[np.bool_]
    pace: NDArray[np.intp]
    classes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class PricedKernels:
    """Everything about the kernels of a program that no coefficient of a program changes.

    Parameters
    ----------
    ops : PricedOps
        The operators they run.
    reads : Reads
        What they read, with reuse distances.
    kinds : tuple of str
        Kind of each kernel, shape (N,).
    extra : array, shape (N,)
        Launches beyond the operators that are priced.
    turns, casts : array, shape (N,)
        Elements that a thread waits for one after another, beyond its first: for their places, and
        for their formats.
    upper : array, shape (N,)
        Time of the upper estimate where an operator is unknown, else 0 [s].
    cache : float
        Capacity of the last-level cache [B].
    """

    ops: PricedOps
    reads: Reads
    kinds: tuple[str, ...]
    extra: Floats
    turns: Floats
    casts: Floats
    upper: Floats
    cache: float

    @property
    def count(self) -> int:
        """Kernels."""
        return len(self.kinds)


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """Kernels inside the program, arrays of shape (N,).

    Parameters
    ----------
    seconds, low, high : array
        Prediction and its interval [s].
    alone : array
        Time of the same kernels with cold inputs, as calibrated [s].
    lower : array
        A time that cannot be beaten: that of the arithmetic [s].
    resident : array
        Share of the reads that the cache serves.
    """

    seconds: Floats
    low: Floats
    high: Floats
    alone: Floats
    lower: Floats
    resident: Floats


def price_kernels(
    lowered: Lowered, accelerator: Accelerator, *, efficiency: Efficiency | None = None
) -> PricedKernels:
    """Price all kernels of a program at once.

    Parameters
    ----------
    lowered : Lowered
        The program on a stack.
    accelerator : Accelerator
        The device.
    efficiency : Efficiency, optional
        As for :func:`perfmodel.cost.price`.
    """
    efficiency = efficiency_on(accelerator, efficiency)
    kernels = lowered.kernels
    cache = float(accelerator.last_level_cache or accelerator.l2_capacity or 0.0)
    reads = reuse(
        [kernel.reads for kernel in kernels],
        [kernel.writes for kernel in kernels],
        _deaths(lowered),
        horizon=4.0 * cache,
    )
    upper = np.zeros(len(kernels))
    unknown = [(k, op) for k, kernel in enumerate(kernels) for op in kernel.upper]
    if unknown:
        priced = _price_ops(unknown, kernels, accelerator, efficiency)
        np.add.at(upper, priced.kernel, priced.seconds)
    flat = [(k, op) for k, kernel in enumerate(kernels) for op in kernel.ops]
    return PricedKernels(
        ops=_price_ops(flat, kernels, accelerator, efficiency),
        reads=reads,
        kinds=tuple(kernel.kind for kernel in kernels),
        extra=np.array([_unpriced(kernel) for kernel in kernels], float),
        turns=np.array([kernel.turns for kernel in kernels], float),
        casts=np.array([kernel.casts for kernel in kernels], float),
        upper=upper,
        cache=cache,
    )


def _unpriced(kernel: Kernel) -> int:
    """Launches that no operator's price holds; that of a choice of the largest holds its sort."""
    whole = any(isinstance(op, TopK) for op in kernel.ops)
    return 0 if whole else max(kernel.launches - len(kernel.ops), 0)


def kernel_times(
    priced: PricedKernels,
    *,
    cache_share: float,
    cache_rate: float,
    extra_launch: float,
    turn: float,
    turn_cast: float,
    turn_cold: float,
    pace: Mapping[str, float],
    floor: Mapping[str, float],
) -> KernelTimes:
    """Times inside the program for one set of coefficients.

    Parameters
    ----------
    priced : PricedKernels
        The kernels.
    cache_share, cache_rate, extra_launch, turn, turn_cast, turn_cold, pace, floor
        As in :class:`~perfmodel.cost.program.coefficients.ProgramCoefficients`.
    """
    ops, count = priced.ops, priced.count
    usable = cache_share * priced.cache
    resident = _per_kernel_share(priced, usable)
    sets = np.clip(SET_BYTES / np.maximum(ops.bytes, 1.0), 1.0, float(SETS))
    before = held_share(np.maximum(ops.bytes * sets, 1.0), usable)
    spared = ops.reading * (1.0 - 1.0 / cache_rate)
    scale = (1.0 - spared * resident[ops.kernel]) / (1.0 - spared * before)
    now, then = (_together(ops, ops.memory * part) for part in (scale, 1.0))
    factor = now / np.where(then > 0.0, then, 1.0)
    paces = [math.prod(pace.get(name, 1.0) for name in names) for names in ops.classes]
    factor = factor * np.array(paces)[ops.pace]
    floors = [sum(floor.get(name, 0.0) for name in names) for names in ops.classes]
    begun = np.bincount(ops.kernel, np.array(floors)[ops.pace], minlength=count)
    more = priced.extra * extra_launch + begun

    def added(values: Floats) -> Floats:
        return np.bincount(ops.kernel, values, minlength=count).astype(float)

    turns = priced.turns * turn + priced.casts * turn_cast
    turns += (priced.turns + priced.casts) * turn_cold * (1.0 - resident)
    more += beyond(turns, added(np.maximum(ops.seconds - ops.floor, 0.0) * factor))

    seconds = added(ops.seconds * factor) + more
    high = added(ops.high * factor) + more
    upper = np.maximum(priced.upper, 0.0)
    middle = np.where(upper > 0.0, np.sqrt(np.maximum(seconds * upper, 0.0)), seconds)
    return KernelTimes(
        seconds=middle,
        low=np.minimum(added(ops.low * factor) + more, middle),
        high=np.maximum(np.maximum(high, upper), middle),
        alone=added(ops.seconds) + more,
        lower=np.minimum(added(ops.arithmetic), middle),
        resident=resident,
    )


def beyond(waited: Floats, work: Floats) -> Floats:
    """What waiting adds to work that goes on beside it, the longer of the two counting [s].

    With few elements each thread waits for its own, one after another; with many the device is
    busy with others meanwhile, and its rate decides.
    """
    longest = np.maximum(np.maximum(waited, work), 1e-12)
    both = longest * ((waited / longest) ** _SHARPNESS + (work / longest) ** _SHARPNESS) ** (
        1.0 / _SHARPNESS
    )
    return np.asarray(both - work)


def _together(ops: PricedOps, memory: Floats) -> Floats:
    """The mechanism's parts put together: floor, and work and memory that overlap [s]."""
    longest = np.maximum(ops.work, memory)
    scale = np.where(longest > 0.0, longest, 1.0)
    both = (ops.work / scale) ** ops.exponent + (memory / scale) ** ops.exponent
    return np.asarray(ops.floor + longest * both ** (1.0 / ops.exponent))


def _per_kernel_share(priced: PricedKernels, usable: float) -> Floats:
    """Share of the bytes that a kernel reads which the cache serves, shape (N,).

    Operators may count an operand more often than it exists (a weight that every product of a batch
    reads): what is beyond the distinct bytes comes from the cache.
    """
    reads, ops, count = priced.reads, priced.ops, priced.count
    held = np.bincount(reads.kernel, reads.size * held_share(reads.distance, usable), count)
    distinct = np.bincount(reads.kernel, reads.size, count)
    counted = np.bincount(ops.kernel, ops.bytes * ops.reading, count)
    again = np.maximum(counted - distinct, 0.0)
    total = distinct + again
    return np.asarray((held + again) / np.where(total > 0.0, total, 1.0))


def _price_ops(
    flat: Sequence[tuple[int, Op]],
    kernels: Sequence[Kernel],
    accelerator: Accelerator,
    efficiency: Efficiency,
) -> PricedOps:
    size = len(flat)
    numbers = np.zeros((10, size))
    bound = np.zeros(size, dtype=np.intp)
    calibrated = np.zeros(size, dtype=bool)
    names: list[tuple[str, ...]] = [()] * size
    for places, op in stacked(op for _, op in flat):
        read, moved = (
            np.broadcast_to(np.asarray(value, dtype=float), places.shape)
            for value in (op.bytes_read, op.bytes_moved)
        )
        _, tasks = tasks_of(op)
        for task in tasks:
            mine = places[task.places]
            priced = price_task(task, accelerator, efficiency)
            coefficients = efficiency.of(task.kernel)
            device = task_device(task, accelerator)
            parts = mechanism(task, device, coefficients)
            some = np.maximum(moved[task.places], 1.0)
            numbers[:, mine] = (
                priced.seconds,
                lower_bound(task, device)[0],
                priced.low,
                priced.high,
                np.maximum(parts.compute, parts.power),
                parts.memory,
                parts.floor,
                np.full(mine.size, coefficients.get("overlap_exponent", 4.0)),
                moved[task.places],
                read[task.places] / some,
            )
            bound[mine] = [BOUNDS.index(str(word)) for word in priced.bound]
            calibrated[mine] = priced.calibrated
            for place in mine.tolist():
                names[place] = pace_class(kernels[flat[place][0]], task.base)
    seconds, arithmetic, low, high, work, memory, floor, exponent, moved, reading = numbers
    kernel = np.array([k for k, _ in flat], dtype=np.intp)
    classes = tuple(sorted(set(names)))
    place_of = {name: k for k, name in enumerate(classes)}
    pace = np.array([place_of[name] for name in names], dtype=np.intp)
    return PricedOps(
        kernel, seconds, arithmetic, low, high, work, memory, floor, exponent, moved, reading,
        bound, calibrated, pace, classes,
    )  # fmt: skip


def pace_class(kernel: Kernel, base: str) -> tuple[str, ...]:
    """What shares a pace with an operator of a kernel, from the general to the particular.

    A library's kernel runs at the pace of what was calibrated under its name; products in the
    backward pass read operands in other orders than those of the calibration. Of the others, those
    that a compiler generated go together by kind; eager ones by kind and by whether they can read
    their operands as flat vectors, then by name.
    """
    if base.startswith(LIBRARY):
        name = base.removesuffix("_nhwc").removesuffix("_nchw")
        if name.startswith("conv_"):  # what runs in another form shares the pace of its pass
            name = name.replace("_point", "").replace("_odd", "").replace("_grouped", "")
        if base == "adamw" and any(getattr(op, "dtype", "") in HALVES for op in kernel.ops):
            name = "adamw half"  # calibrated with fp32 states, which it takes in longer vectors
        backward = kernel.phase == "backward" and base.startswith("gemm")
        return (name, f"{name} backward") if backward else (name,)
    if kernel.host == "triton":  # what generated code calls beside is PyTorch's own
        return (f"triton {kernel.kind}",)
    if kernel.name in ONE_BLOCK:  # neither a sum's rate nor a scatter's
        return (kernel.name,)
    if kernel.name == "convolution: reorder":  # a copy like any other
        return (kernel.kind + access(kernel),)
    return (kernel.kind + access(kernel), kernel.name)


def access(kernel: Kernel) -> str:
    """How an eager kernel reads: flat, with strides, or one operand again and again."""
    if kernel.note:
        return " strided"
    longest = max((size for _, size in (*kernel.reads, *kernel.writes)), default=0)
    again = any(LEAST_BROADCAST < size < 0.4 * longest for _, size in kernel.reads)
    return " broadcast" if again and kernel.kind == "pointwise" else ""


def _deaths(lowered: Lowered) -> dict[int, tuple[int, ...]]:
    """Kernel -> storages that are given back and that no later kernel touches."""
    freed = {event.storage for event in lowered.events if not event.allocate}
    last: dict[int, int] = {}
    for k, kernel in enumerate(lowered.kernels):
        for storage, _ in (*kernel.reads, *kernel.writes):
            if storage in freed:
                last[storage] = k
    found: dict[int, list[int]] = {}
    for storage, k in last.items():
        found.setdefault(k, []).append(storage)
    return {kernel: tuple(storages) for kernel, storages in found.items()}
