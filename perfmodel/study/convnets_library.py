r"""What is unknown about a source of published times: its host, its library, its companions.

With the kernel time :math:`K_k` of every kind of kernel
(:func:`~perfmodel.study.convnets_kinds.kind_of`)
and the host's calls :math:`h`, a row takes

.. math::

    t = m \max\left(\sum_k f_k K_k,\; \tau h\right) + t_\text{exposed}

:math:`\tau` is the host time of a call, one for each source, chip and task. :math:`f_k` is how the
library of that time does on that chip against the kernels that the prediction knows (measured on
other chips, or with a newer library): one for each source, chip and kind. :math:`m` is what several
devices take beyond one and its all-reduce (input pipelines, stragglers), one for each program: the
source, chip and task of a host. All are fitted on rows that may be fitted on, the factors with a
ridge towards 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from perfmodel.study.convnets import ConvnetStep

Floats = npt.NDArray[np.float64]
Key = tuple[str, ...]
RIDGE: Final = 0.3
"""Weight of a squared logarithm of a factor. Folds inside the rows that may be fitted on find 0.03,
0.1 and 0.3 alike (12.6, 12.7 and 13.2 % on the dle rows), 1.0 worse (14.7 %); the largest of those
alike is taken (the rule of one standard error)."""
LEAST_ROWS: Final = 4
"""A source with fewer rows to fit on keeps factors of 1. Leaving out one row of the fitted half at
a time, factors with this ridge help 9 of the 11 sources and dies that have 4 to 8 rows there, and
hurt one (22 to 25 %)."""
_LAUNCHES: Final = np.geomspace(1e-6, 2e-4, 107)
_ROUNDS: Final = 4
_STARTS: Final = (1.0, 0.5, 0.1)
"""First hosts tried, as shares of the host that explains most without a library's factors."""
_DIES: Final = {
    "a100-sxm4-40gb": "a100", "a100-sxm4-80gb": "a100", "v100-sxm2-16gb": "v100",
    "v100-sxm2-32gb": "v100",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A published step beside its prediction."""

    source: str
    chip: str
    task: str
    segments: bool
    devices: int
    measured: float
    step: ConvnetStep
    fits: bool

    @property
    def host(self) -> Key:
        """Rows of one host."""
        return (self.source, self.chip, self.task, str(self.segments))

    @property
    def library(self) -> Key:
        """Rows of one library on one die."""
        return (self.source, _DIES.get(self.chip, self.chip))


@dataclass(slots=True)
class Unknowns:
    """What was fitted: host times of a call [s], factors of kinds, factors of company."""

    launches: dict[Key, float] = field(default_factory=dict)
    factors: dict[Key, dict[str, float]] = field(default_factory=dict)
    company: dict[Key, float] = field(default_factory=dict)

    def kernels(self, row: Row) -> float:
        """Kernel time with the library's factors [s]."""
        factors = self.factors.get(row.library, {})
        return sum(factors.get(kind, 1.0) * seconds for kind, seconds in row.step.kinds)

    def seconds(self, row: Row) -> float:
        """Predicted time of a row [s]."""
        host = self.launches[row.host] * row.step.host_seconds
        busy = max(self.kernels(row), host)
        return busy * self._company(row) + row.step.exposed_comm_seconds

    def _company(self, row: Row) -> float:
        return self.company.get(row.host, 1.0) if row.devices > 1 else 1.0


def fit_unknowns(rows: Sequence[Row]) -> Unknowns:
    """Hosts and library of each source and die, on the rows that may be fitted on.

    Hosts and libraries are fitted in turn, from several first guesses of the hosts: a host that is
    thought too slow explains away kernels. The guess that ends closest counts.
    """
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.library].append(row)
    best = Unknowns()
    for members in groups.values():
        found = min((_in_turn(members, share) for share in _STARTS), key=lambda one: one[0])[1]
        best.launches |= found.launches
        best.factors |= found.factors
        best.company |= found.company
    return best


def _in_turn(rows: list[Row], share: float) -> tuple[float, Unknowns]:
    """Hosts, then the library, and again; the hosts begin with a share of their first value."""
    found = Unknowns()
    hosts: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        hosts[row.host].append(row)
    fitted = [row for row in rows if row.fits]
    for turn in range(_ROUNDS):
        for host, members in hosts.items():
            launch = _launch([r for r in members if r.fits] or members, found)
            found.launches[host] = launch * share if turn == 0 else launch
        if len(fitted) >= LEAST_ROWS:
            _factors(rows[0].library, fitted, found)
    errors = [abs(math.log(found.seconds(row) / row.measured)) for row in fitted or rows]
    logs = [math.log(value) for one in found.factors.values() for value in one.values()]
    logs += [math.log(value) for value in found.company.values()]
    return math.fsum(errors) + RIDGE * math.fsum(value**2 for value in logs), found


def _launch(rows: list[Row], found: Unknowns) -> float:
    """The launch time with the least mean error, the shortest where several are as good."""
    measured = np.array([row.measured for row in rows])
    kernels = np.array([found.kernels(row) for row in rows])
    calls = np.array([row.step.host_seconds for row in rows])
    exposed = np.array([row.step.exposed_comm_seconds for row in rows])
    company = np.array([found._company(row) for row in rows])
    times = np.maximum(kernels, _LAUNCHES[:, None] * calls) * company + exposed
    errors = np.mean(np.abs(np.log(times / measured)), axis=1)
    return float(_LAUNCHES[int(np.argmin(errors))])


def _factors(library: Key, rows: list[Row], found: Unknowns) -> None:
    kinds = sorted({kind for row in rows for kind, _ in row.step.kinds})
    parts = np.array([[dict(row.step.kinds).get(kind, 0.0) for kind in kinds] for row in rows])
    measured = np.array([row.measured for row in rows])
    exposed = np.array([row.step.exposed_comm_seconds for row in rows])
    host = np.array([found.launches[row.host] * row.step.host_seconds for row in rows])
    crowds = sorted({row.host for row in rows if row.devices > 1})
    several = np.array([[row.devices > 1 and row.host == key for key in crowds] for row in rows])

    def residual(logs: Floats) -> Floats:
        kernels = parts @ np.exp(logs[: len(kinds)])
        # smooth near the corner, so that a row at it pulls on both
        busy = (kernels**12 + host**12) ** (1 / 12)
        times = busy * np.exp(several @ logs[len(kinds) :]) + exposed
        return np.concatenate([np.log(times / measured), np.sqrt(RIDGE) * logs])

    old = found.factors.get(library, {})
    start = [np.log(old.get(kind, 1.0)) for kind in kinds]
    start += [np.log(found.company.get(key, 1.0)) for key in crowds]
    solved: Any = least_squares(residual, start, loss="soft_l1", f_scale=0.1)
    values = np.exp(solved.x).tolist()
    found.factors[library] = dict(zip(kinds, values[: len(kinds)], strict=True))
    found.company |= dict(zip(crowds, values[len(kinds) :], strict=True))
