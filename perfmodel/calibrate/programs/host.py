"""Fit what calls cost on the host, and how a probe tells the pace of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.programs.least import fit_values
from perfmodel.calibrate.programs.measured import Measured
from perfmodel.calibrate.programs.rows import ModelRow
from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.host import column_seconds, pace_of_probe
from perfmodel.workload.lowering.kernel import HOST_CLASSES

HOST_PULL: Final = (0.2, 0.2)
"""Of scalars and of classes: what did best when a sixth of the fitted models was left out."""
HOST_SCALARS: Final = ("step_host", "module_call", "autograd", "tensor")
FEWEST_PROBES: Final = 8
UNPROBED_WEIGHT: Final = 0.3
PACES: Final = ("fast_pace", "usual_pace", "slow_pace")
SUDDEN: Final = 1.5
"""Two probes around a stream that lie further from the nine before it caught a moment."""


def fit_host(cases: Sequence[Measured], start: ProgramCoefficients) -> ProgramCoefficients:
    """Costs of host calls in the reference state, and how a host's probe tells its pace.

    From the time in which a step is issued to an idle device, with the probe beside it. Rows
    without a probe say how costs compare with each other: the median of their run stands for its
    pace.
    """
    sums = [one for one in map(_host_sum, cases) if one is not None]
    if not sums:
        return start
    counts = np.array([one.counts for one in sums])
    launches = np.array([one.launches for one in sums])
    target = np.array([one.seconds for one in sums])
    probe = np.array([np.nan if one.probe is None else one.probe for one in sums])
    attached = np.array([one.attached for one in sums])
    known = np.isfinite(probe)
    if np.count_nonzero(known) < FEWEST_PROBES:
        known[:] = False
    # Where nobody probed, the machine is its own reference.
    runs = _places([one.run for one in sums], ~known) if known.any() else []
    weight = np.where(known, 1.0, UNPROBED_WEIGHT)
    width = len(HOST_CLASSES)
    both = counts[:, :width] + counts[:, width : 2 * width]
    kinds = [kind for k, kind in enumerate(HOST_CLASSES) if np.count_nonzero(both[:, k]) >= 2]
    scalars = ["step_host", "module_call"]
    training = counts[:, width : 2 * width].sum(axis=1) > 0
    if np.count_nonzero(training) >= 2:
        scalars += ["autograd", "backward_share", "tensor"]
    if np.count_nonzero(attached) >= 2:
        scalars += ["profiler_launch"]
    if known.any():
        scalars += ["probe_power"]

    def predicted(c: ProgramCoefficients) -> Floats:
        usual = c["probe_call"] + attached * c["profiler_probe"]
        pace = np.where(known, probe / usual, 1.0) ** c["probe_power"]
        more = attached * launches * c["profiler_launch"]
        found = np.asarray(pace * (counts @ column_seconds(c) + c["step_host"] + more))
        for places in runs:
            found[places] *= np.exp(np.median(np.log(target[places] / found[places])))
        return found

    # Processors differ first of all by a factor; only then by what they are slow at.
    at = known if known.any() else np.ones_like(known)
    factor = float(np.exp(np.median(np.log(target / predicted(start))[at])))
    paced = replace(
        start,
        scalars=dict(start.scalars) | {name: factor * start[name] for name in HOST_SCALARS},
        host={kind: factor * value for kind, value in start.host.items()},
    )
    fitted = fit_values(
        predicted,
        target,
        paced,
        weight,
        pull=HOST_PULL[0],
        host_pull=HOST_PULL[1],
        scalars=scalars,
        host=kinds,
    )
    return replace(fitted, scalars=dict(fitted.scalars) | _usual(cases, fitted))


@dataclass(frozen=True, slots=True)
class _HostSum:
    """Host work of a row beside the time that it took."""

    counts: Floats
    launches: float
    seconds: float
    probe: float | None
    attached: float
    run: str


def _host_sum(one: Measured) -> _HostSum | None:
    row, work = one.row, one.prepared.work
    if row.host_s is None:
        return None
    return _HostSum(
        counts=work.counts.sum(axis=0),
        launches=float(work.launches.sum()),
        seconds=row.host_s,
        probe=row.probe_call_s,
        attached=float(row.after_profiler),
        run=f"{row.run} {row.mode}",
    )


def _places(names: Sequence[str], chosen: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Places of the chosen entries by name."""
    found: dict[str, list[int]] = {}
    for k in np.flatnonzero(chosen).tolist():
        found.setdefault(names[k], []).append(k)
    return [np.array(places) for places in found.values()]


def _usual(cases: Sequence[Measured], c: ProgramCoefficients) -> dict[str, float]:
    """Median pace of the measured hosts, and the paces that one in twenty lies beyond."""
    paces = [row_pace(one.row, c) for one in cases]
    known = [pace for pace in paces if pace is not None]
    if len(known) < FEWEST_PROBES:
        return {word: c[word] / c["usual_pace"] for word in PACES}
    fast, usual, slow = np.quantile(known, (0.05, 0.5, 0.95)).tolist()
    return dict(zip(PACES, (fast, usual, slow), strict=True))


def issue_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the host while single steps of a row were issued, from nine probes between."""
    if row.probe_call_s is None:
        return None
    return pace_of_probe(row.probe_call_s, c, profiler=row.after_profiler)


def row_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the host while the stream of a row ran, from the probes around it.

    Two probes around a stream are few: they count as much as those between the single steps just
    before it, and never lie further from them than :data:`SUDDEN`.
    """
    if row.stream_call_s is None or row.probe_call_s is None:
        return None
    before = row.probe_call_s
    around = min(max(row.stream_call_s, before / SUDDEN), before * SUDDEN)
    probe = float(np.sqrt(before * around))
    return pace_of_probe(probe, c, profiler=row.after_profiler)
