"""Free coefficients of programs, and the least-squares problem that sets them.

Values are fitted as logarithms, robustly, and pulled towards where they start: a coefficient about
which the rows say nothing stays where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients

PULL: Final = 0.05
"""Cost of moving a coefficient by a factor of e, in rows that are wrong by 100 %; of a pace:"""
PACE_PULL: Final = 0.15
_STEP: Final = 1e-3
"""Of a logarithm, for slopes."""
_FLOOR_START: Final = 1e-7
_FLOOR_LIMITS: Final = (1e-9, 8e-6)
LIMITS: Final = {
    "cache_share": (0.05, 1.0),
    "cache_rate": (1.1, 5.0),
    "kernel_gap": (1e-8, 3e-6),
    "extra_launch": (2e-7, 5e-6),
    "turn": (1e-8, 1e-6),
    "turn_cast": (1e-8, 1e-6),
    "turn_cold": (1e-8, 1e-6),
    "graph_launch": (1e-7, 4e-5),
    "stream_gap": (1e-8, 4e-6),
    "step_host": (1e-7, 5e-4),
    "python_call": (1e-8, 1e-5),
    "outside_call": (1e-8, 2e-5),
    "autograd": (1e-8, 4e-5),
    "autograd_view": (1e-8, 2e-5),
    "autograd_norm": (1e-8, 5e-5),
    "autograd_conv": (1e-8, 5e-5),
    "recomputed": (1e-7, 2e-4),
    "packed": (1e-7, 1e-4),
    "backward_share": (0.1, 3.0),
    "backward_pace": (0.1, 1.0),
    "tensor": (1e-8, 2e-5),
    "gradient": (1e-7, 1e-4),
    "behind": (1e-6, 2e-3),
    "parameter": (1e-7, 2e-4),
    "stepping": (1e-6, 1e-3),
    "compiled_pace": (0.7, 2.0),
    "compiled_leaf": (1e-7, 2e-5),
    "compiled_saved": (1e-7, 5e-5),
    "compiled_behind": (1e-6, 2e-3),
    "compiled_break": (1e-6, 4e-3),
    "more_launch": (1e-7, 1e-5),
    "inside_call": (1e-7, 5e-5),
    "library_copy": (1e-7, 5e-5),
    "first_step": (1e-6, 1e-3),
    "probe_power": (0.7, 2.5),
    "profiler_launch": (1e-7, 2e-5),
}
_PACE_LIMITS: Final = (0.33, 3.0)
_HOST_LIMITS: Final = (2e-7, 4e-4)


class Free:
    """Free coefficients as a vector of logarithms, and back."""

    def __init__(
        self,
        start: ProgramCoefficients,
        scalars: Sequence[str],
        host: Sequence[str],
        pace: Sequence[str],
        floor: Sequence[str],
        pull: tuple[float, float],
    ) -> None:
        self.start = start
        self.names = (tuple(scalars), tuple(host), tuple(pace), tuple(floor))
        values = [start[name] for name in scalars]
        values += [start.host[name] for name in host]
        values += [start.pace.get(name, 1.0) for name in pace]
        values += [start.floor.get(name, _FLOOR_START) for name in floor]
        limits = [LIMITS[name] for name in scalars]
        limits += [_HOST_LIMITS] * len(host) + [_PACE_LIMITS] * len(pace)
        limits += [_FLOOR_LIMITS] * len(floor)
        self.low, self.high = (np.log([pair[side] for pair in limits]) for side in (0, 1))
        self.first = np.clip(np.log(values), self.low + 1e-3, self.high - 1e-3)
        pulls = [pull[0]] * len(scalars) + [pull[1]] * len(host) + [PACE_PULL] * len(pace)
        self.pull = np.array(pulls + [PULL] * len(floor))

    def coefficients(self, theta: Floats) -> ProgramCoefficients:
        """The start with the free values of ``theta``."""
        values = iter(np.exp(theta).tolist())
        scalars, host, pace, floor = (
            {name: next(values) for name in names} for names in self.names
        )
        return replace(
            self.start,
            scalars=dict(self.start.scalars) | scalars,
            host=dict(self.start.host) | host,
            pace=dict(self.start.pace) | pace,
            floor=dict(self.start.floor) | floor,
        )


def fit_values(
    predicted: Callable[[ProgramCoefficients], Floats],
    target: Floats,
    start: ProgramCoefficients,
    weight: Floats | float = 1.0,
    *,
    pull: float = PULL,
    host_pull: float = PULL,
    loss: Literal["soft_l1", "cauchy"] = "soft_l1",
    scalars: Sequence[str] = (),
    host: Sequence[str] = (),
    pace: Sequence[str] = (),
    floor: Sequence[str] = (),
    many: Callable[[Sequence[ProgramCoefficients]], Floats] | None = None,
) -> ProgramCoefficients:
    """The named coefficients moved so that predictions come closest to targets, (n,) of each.

    Parameters
    ----------
    predicted : callable
        Coefficients -> (n,) predictions [s].
    target : array, shape (n,)
        Measurements [s].
    start : ProgramCoefficients
        Where to begin, and what the others stay at.
    weight : array or float
        Of each row.
    pull, host_pull : float
        Towards the start, for scalars and for host classes.
    loss : str
        ``"soft_l1"``; ``"cauchy"`` where some rows are wrong for reasons of their own.
    scalars, host, pace, floor : sequence of str
        Names of the free ones.
    many : callable, optional
        Sets of coefficients -> predictions, shape (n, sets), where that takes far less than one set
        after another: slopes come from one call of it [s].
    """
    free = Free(start, scalars, host, pace, floor, (pull, host_pull))
    goal = np.log(target)

    def distance(theta: Floats) -> NDArray[np.float64]:
        apart = weight * (np.log(predicted(free.coefficients(theta))) - goal)
        return np.append(apart, free.pull * (theta - free.first))

    def slopes(theta: Floats) -> NDArray[np.float64]:
        assert many is not None
        sets = [free.coefficients(theta + step) for step in (0.0, *(_STEP * np.eye(theta.size)))]
        seen = np.log(many(sets))
        moved = (weight * (seen[:, 1:] - seen[:, :1]).T).T / _STEP
        return np.vstack([moved, np.diag(free.pull)])

    found = least_squares(
        distance,
        free.first,
        jac="2-point" if many is None else slopes,
        bounds=(free.low, free.high),
        loss=loss,
        f_scale=0.05,
        diff_step=[_STEP] * free.first.size,
        max_nfev=30,
    )
    return free.coefficients(found.x)


def moved(before: ProgramCoefficients, after: ProgramCoefficients) -> Mapping[str, float]:
    """Factor by which each coefficient moved; those that did not are left out."""
    found = {}
    for table, old, new in (
        ("scalars", before.scalars, after.scalars),
        ("host", before.host, after.host),
        ("pace", before.pace, after.pace),
        ("floor", before.floor, after.floor),
    ):
        for name, value in new.items():
            factor = value / old.get(name, 1.0)
            if abs(factor - 1.0) > 1e-6:
                found[f"{table}.{name}"] = factor
    return found
