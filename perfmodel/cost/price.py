"""What an operator costs on a device: bound, then mechanism, then correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.bound import lower_bound
from perfmodel.cost.device import Device
from perfmodel.cost.efficiency import Efficiency, efficiency_on
from perfmodel.cost.features import extent, features
from perfmodel.cost.fitted import Fitted
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.parts import Floats, Parts
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.errors import CalibrationError
from perfmodel.hardware import Accelerator, Hardware, accelerator_of
from perfmodel.workload.op import Op

# A sibling chip's correction is trusted less: its interval is widened by this in the logarithm.
SIBLING_WIDTH = 1.5
BOUNDS = ("compute", "memory", "launch")


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
        ``compute``, ``memory`` or ``launch`` (the floor of a kernel in a stream).
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


def price(op: Op, accelerator: Hardware, *, efficiency: Efficiency | None = None) -> Price:
    """Kernel time of an operator, or of many at once.

    Parameters
    ----------
    op : Op
        Sizes may be arrays that broadcast; the answer has their shape.
    accelerator : Accelerator, Cluster, str or Path
        The device, or the name or file of one; of a cluster, the device that it is made of.
    efficiency : Efficiency, optional
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
    accelerator = accelerator_of(accelerator)
    efficiency = efficiency_on(accelerator, efficiency)
    shape, tasks = tasks_of(op)
    size = int(np.prod(shape))
    numbers = np.zeros((5, size))
    bounds = np.full(size, BOUNDS[0], dtype="<U7")
    calibrated = np.zeros(size, dtype=bool)
    for task in tasks:
        part = price_task(task, accelerator, efficiency)
        numbers[:, task.places] = part.seconds, part.lower, part.low, part.high, part.mechanism
        bounds[task.places] = part.bound
        calibrated[task.places] = part.calibrated
    seconds, lower, low, high, plain = (row.reshape(shape) for row in numbers)
    return Price(seconds, lower, low, high, bounds.reshape(shape), calibrated.reshape(shape), plain)


def price_task(task: Task, accelerator: Accelerator, efficiency: Efficiency) -> Price:
    """Price of the operators of one kernel, arrays of shape (N,)."""
    device = task_device(task, accelerator)
    coefficients = efficiency.of(task.kernel)
    parts = mechanism(task, device, coefficients)
    lower = np.maximum(*lower_bound(task, device))
    calibrated = np.zeros(lower.shape, dtype=bool)
    fitted = efficiency.fitted.get(task.kernel)
    if fitted is None:
        seconds = np.maximum(parts.seconds, lower)
        low, high = seconds * coefficients["interval_low"], seconds * coefficients["interval_high"]
    else:
        inside = fitted.inside(extent(task))
        factor = fitted.log_factor(matched(fitted, task, device, parts))
        seconds = np.maximum(parts.seconds * np.exp(inside * factor), lower)
        own = efficiency.own and fitted.device == efficiency.name
        # The learned residual of a square convolution holds for one of another form, unproven.
        inside = inside * task.sizes.get("square", 1.0)
        width = fitted.half_width(seconds, inside) * (1.0 if own else SIBLING_WIDTH)
        low, high = seconds * np.exp(-width), seconds * np.exp(width)
        calibrated = own & (inside > 0.99)
    low = np.clip(low, lower, seconds)
    bound = np.asarray(BOUNDS)[bound_of(parts)]
    return Price(seconds, lower, low, high, bound, calibrated, parts.seconds)


def matched(fitted: Fitted, task: Task, device: Device, parts: Parts) -> Floats:
    """The features of a task that were learned on; a later version may have more behind them.

    Raises
    ------
    CalibrationError
        If this version's are others.
    """
    # Trees and networks work in single precision, distances do not.
    names, values, _ = features(task, device, parts, single=fitted.smooth is None)
    count = len(fitted.features)
    if names[:count] != fitted.features:
        raise CalibrationError(
            f"efficiency of {fitted.device}: {fitted.kernel}",
            f"<{len(fitted.features)} features>",
            f"the {len(names)} features that this version computes",
            repair="run `perfmodel calibrate` again with this version",
        )
    return values[:, :count]


def bound_of(parts: Parts) -> NDArray[np.intp]:
    """Index into :data:`BOUNDS` of what most of the time goes to."""
    work = np.maximum(np.maximum(parts.compute, parts.power), parts.memory)
    arithmetic = np.maximum(parts.compute, parts.power) >= parts.memory
    found = np.where(arithmetic, 0, 1)
    return np.where(parts.floor > work, 2, found)
