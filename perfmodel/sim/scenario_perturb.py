"""Slow devices and links of a scenario file as tables of factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import ScenarioError
from perfmodel.parallel.plan import Plan
from perfmodel.sim import scenario_files as files
from perfmodel.sim.perturb import Perturbation, check_cells, factors_from_ranks

Floats = NDArray[np.float64]


def perturbation_of(
    given: files.PerturbationFile, seed: int, devices: int, replicas: int, plan: Plan | None = None
) -> Perturbation:
    """The perturbation of a scenario; ranks may be named where there is a plan."""
    concentration = given.expert_concentration
    return Perturbation(
        compute=_factors(given.slow, "slow", devices, replicas, plan),
        links=_factors(given.links, "links", devices, replicas, plan),
        jitter=given.jitter,
        distribution=given.distribution,
        expert_share=given.expert_share,
        experts=given.experts,
        expert_concentration=float("inf") if concentration is None else concentration,
        seed=seed,
    )


def _factors(
    rows: Sequence[files.SlowFile], what: str, devices: int, replicas: int, plan: Plan | None
) -> Floats | float:
    """One table of factors from the rows of a file; the larger counts where two meet."""
    if not rows:
        return 1.0
    ranks: dict[int, float] = {}
    check_cells(devices * replicas)
    found = np.ones((devices, replicas))
    for k, row in enumerate(rows):
        where = f"scenario: perturbation.{what}.{k}"
        if row.rank is not None:
            if plan is None or row.device is not None or row.replica is not None:
                raise ScenarioError(
                    f"{where}.rank", row.rank, "device and replica, unless the kind is 'plan'",
                    repair="give device (and replica)",
                )  # fmt: skip
            ranks[row.rank] = max(row.factor, ranks.get(row.rank, 0.0))
            continue
        for name, value, size in (
            ("device", row.device, devices), ("replica", row.replica, replicas),
        ):  # fmt: skip
            if value is not None and value >= size:
                raise ScenarioError(
                    f"{where}.{name}", value, f"0 to {size - 1}", repair=f"name a {name} of the job"
                )
        place = (
            slice(None) if row.device is None else row.device,
            slice(None) if row.replica is None else row.replica,
        )
        found[place] = np.where(
            found[place] == 1.0, row.factor, np.maximum(found[place], row.factor)
        )
    if ranks and plan is not None:
        known = factors_from_ranks(ranks, tp=plan.tp, cp=plan.cp, pp=plan.pp, dp=plan.dp)
        found = np.maximum(found, known)
    return found
