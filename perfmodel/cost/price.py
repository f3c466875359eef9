"""What an operator costs on a device: bound, then mechanism, then correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.bound import lower_bound
from perfmodel.cost.efficiency import Coefficients, efficiency_of
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.parts import Floats, Parts
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.hardware import Accelerator
from perfmodel.workload.op import Op

BOUNDS = ("compute", "memory", "launch", "latency")


@dataclass(frozen=True, slots=True)
class Price:
    """Predicted kernel times, arrays of the operator's shape (0-d for a scalar operator).

    Parameters
    ----------
    seconds : array
        The prediction: time of one call in a steady stream of calls, host excluded [s].
    lower : array
        A time that cannot be beaten [s].
    low, high : array
        Ends of the 90 % interval [s].
    bound : array of str
        ``compute``, ``memory``, ``launch`` (the floor of a kernel in a stream) or ``latency`` (the
        floor of a kernel whose own work is a chain of waits).
    calibrated : array of bool
        Whether measurements of this chip, in range, stand behind the number.
    mechanism : array
        The time before the correction [s].
    """

    seconds: Floats
    lower: Floats
    low: Floats
    high: Floats
    bound: NDArray[np.str_]
    calibrated: NDArray[np.bool_]
    mechanism: Floats


def price(op: Op, accelerator: Accelerator, *, efficiency: Coefficients | None = None) -> Price:
    """Kernel time of an operator, or of many at once.

    Parameters
    ----------
    op : Op
        Sizes may be arrays that broadcast; the answer has their shape.
    accelerator : Accelerator
        The device.
    efficiency : Coefficients, optional
        By default what measurements of this chip gave, where there are any, otherwise its
        architecture's.

    Raises
    ------
    WorkloadError
        For an operator that does not run on one device (a collective).
    SpecError
        If the chip's description lacks the peak of the operator's dtype.

    Examples
    --------
    >>> from perfmodel.hardware import load_accelerator
    >>> from perfmodel.workload.op import Gemm
    >>> price(Gemm(4096, 4096, 4096), load_accelerator("h100-sxm5-80gb")).bound.item()
    'compute'
    """
    if efficiency is None:
        efficiency = efficiency_of(accelerator)
    shape, tasks = tasks_of(op)
    size = int(np.prod(shape))
    numbers = np.zeros((5, size))
    bounds = np.zeros(size, dtype=np.intp)
    calibrated = np.zeros(size, dtype=bool)
    for task in tasks:
        _price_task(task, accelerator, efficiency, numbers, bounds, calibrated)
    seconds, lower, low, high, plain = (row.reshape(shape) for row in numbers)
    return Price(
        seconds,
        lower,
        low,
        high,
        np.asarray(BOUNDS)[bounds].reshape(shape),
        calibrated.reshape(shape),
        plain,
    )


def _price_task(
    task: Task,
    accelerator: Accelerator,
    efficiency: Coefficients,
    numbers: Floats,
    bounds: NDArray[np.intp],
    calibrated: NDArray[np.bool_],
) -> None:
    """Fill the places of one kernel in the result."""
    device = task_device(task, accelerator)
    coefficients = efficiency.of(task.kernel)
    parts = mechanism(task, device, coefficients)
    lower = np.maximum(*lower_bound(task, device))
    seconds = np.maximum(parts.seconds, lower)
    low = np.clip(seconds * coefficients["interval_low"], lower, seconds)
    high = seconds * coefficients["interval_high"]
    numbers[:, task.places] = seconds, lower, low, high, parts.seconds
    bounds[task.places] = bound_of(parts)


def bound_of(parts: Parts) -> NDArray[np.intp]:
    """Index into :data:`BOUNDS` of what most of the time goes to."""
    work = np.maximum(np.maximum(parts.compute, parts.power), parts.memory)
    arithmetic = np.maximum(parts.compute, parts.power) >= parts.memory
    found = np.where(arithmetic, 0, 1)
    return np.where(parts.floor > work, 2, found)
