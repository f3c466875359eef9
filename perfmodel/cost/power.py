r"""Board power and energy of an operator while it runs, from measured shares of the design power.

.. math::

    P = P_{TDP}\,\min(c, s),
    \qquad s = r + m\,\frac{B}{t\,W} + a\,\frac{F}{t\,P_k}, \qquad E = P\,t

A chip that runs anything at all draws a large share ``r`` of its design power: clocks are up and
every unit holds waves. Traffic at the full rate ``W`` of device memory adds ``m``, arithmetic at
the peak of its format adds ``a``, and the power limit ends the sum at ``c``, a little above one
because the limit acts on an average over longer than the meter does. Operators shorter than any
whose power was read may leave most units idle and draw less than ``r``: there the answer is an
upper estimate, and not a calibrated one.

What a unit does without moving operands or multiplying (address arithmetic, waiting with many warps
in flight) is not seen by the formula and is what most of its error comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.efficiency import added_folder, efficiency_folder
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.parts import Floats
from perfmodel.cost.price import price
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.errors import CalibrationError, SpecError
from perfmodel.files import fitted_table
from perfmodel.hardware import Accelerator
from perfmodel.workload.op import Op

POWER_FILE = "power.toml"
SHARES = ("running", "memory", "arithmetic", "ceiling")


@dataclass(frozen=True, slots=True)
class PowerShares:
    """Shares of the design power, and how well they hold.

    Parameters
    ----------
    running : float
        Drawn as soon as kernels run back to back.
    memory, arithmetic : float
        Added by traffic at the full rate of device memory, and by arithmetic at its peak.
    ceiling : float
        Where the power limit ends the sum.
    shortest : float
        Shortest operator whose power was read [s].
    """

    running: float
    memory: float
    arithmetic: float
    ceiling: float
    shortest: float = 0.0


@dataclass(frozen=True, slots=True)
class Draw:
    """Power and energy of operators, arrays of the operator's shape.

    Parameters
    ----------
    watts : array
        Board power of one device while the operator runs back to back [W].
    joules : array
        Energy of one call [J].
    calibrated : array of bool
        Whether power was read on this chip, of operators that took no longer.
    """

    watts: Floats
    joules: Floats
    calibrated: NDArray[np.bool_]


def power_share(arithmetic: Floats, memory: Floats, shares: PowerShares) -> Floats:
    """Board power as a share of the design power.

    Parameters
    ----------
    arithmetic, memory : array
        Achieved over peak rates, arithmetic and device memory.
    """
    total = (
        shares.running + shares.memory * np.minimum(memory, 1.0) + shares.arithmetic * arithmetic
    )
    return np.asarray(np.minimum(total, shares.ceiling))


def rates(task: Task, device: Device, seconds: Floats | float) -> tuple[Floats, Floats]:
    """Achieved over peak rates of arithmetic and of device memory, arrays of shape (N,)."""
    moved = task.sizes["read"] + task.sizes["written"]
    arithmetic = task.sizes["flops"] / seconds / device.peak
    return np.asarray(arithmetic), np.asarray(moved / seconds / device.bandwidth)


def draw(op: Op, accelerator: Accelerator, *, seconds: Floats | None = None) -> Draw:
    """Power and energy of an operator, or of many at once.

    Parameters
    ----------
    op : Op
        Sizes may be arrays that broadcast.
    accelerator : Accelerator
        The device.
    seconds : array, optional
        Time of one call [s]; by default what :func:`perfmodel.cost.price` predicts.

    Raises
    ------
    SpecError
        If the design power of the chip is not known.
    """
    if accelerator.tdp is None:
        raise SpecError(
            f"{accelerator.name}: tdp",
            "<not given>",
            "the thermal design power of the package",
            repair="add tdp to the chip's description",
        )
    shares, own = shares_of(accelerator)
    shape, tasks = tasks_of(op)
    time = price(op, accelerator).seconds if seconds is None else seconds
    time = np.broadcast_to(time, shape)
    watts = np.zeros(int(np.prod(shape)))
    for task in tasks:
        device = task_device(task, accelerator)
        spent = time.reshape(-1)[task.places]
        watts[task.places] = accelerator.tdp * power_share(*rates(task, device, spent), shares)
    watts = watts.reshape(shape)
    return Draw(watts, watts * time, np.asarray(own & (time >= shares.shortest)))


def shares_of(accelerator: Accelerator) -> tuple[PowerShares, bool]:
    """The shares of this chip, else of the one with most measured rows; whether its own."""
    name = accelerator.name.lower()
    added = added_folder(name)
    if added is not None and (added / POWER_FILE).is_file():
        return load_shares(name, added.parent)
    return load_shares(name, efficiency_folder())


@lru_cache(maxsize=64)
def load_shares(device: str, folder: Path) -> tuple[PowerShares, bool]:
    """As :func:`shares_of`, by name and folder of the efficiency files.

    Raises
    ------
    CalibrationError
        If no chip was measured, or a file does not hold the four shares.
    """
    own = folder / device / POWER_FILE
    if own.is_file():
        return read_shares(own), True
    known = sorted(folder.glob(f"*/{POWER_FILE}"))
    if not known:
        raise CalibrationError(
            str(folder),
            f"<no {POWER_FILE} in it>",
            "the shares of at least one chip",
            repair="run `perfmodel calibrate` on measurements with a power_w column",
        )
    return read_shares(max(known, key=lambda path: int(fitted_table(path).get("rows", 0)))), False


def read_shares(path: Path) -> PowerShares:
    """The four shares of a file that `perfmodel calibrate` wrote, and where they hold."""
    whole = fitted_table(path)
    table, shortest = whole.get("shares", {}), whole.get("range", {}).get("shortest_s", 0.0)
    for name, value in [*((name, table.get(name)) for name in SHARES), ("shortest_s", shortest)]:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and value >= 0.0):
            raise CalibrationError(
                f"{path.name}: shares.{name}" if name in SHARES else f"{path.name}: range.{name}",
                value,
                "a share of the design power, or a time, 0 or more",
                repair="run `perfmodel calibrate` again, or restore the file",
            )
    return PowerShares(**{name: float(table[name]) for name in SHARES}, shortest=float(shortest))
