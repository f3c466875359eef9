"""What a whole training run takes: time, device hours, energy and rent.

Every step is taken to be like the one that was predicted: no failures, no evaluation, no restarts
(:mod:`perfmodel.sim` has those).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from perfmodel.errors import PlanError
from perfmodel.hardware import Cluster
from perfmodel.parallel.result import TrainResult
from perfmodel.units import format_seconds, number


@dataclass(frozen=True, slots=True)
class Budget:
    """A training run from its first token to its last.

    Parameters
    ----------
    tokens : float
        What is trained on.
    seconds : float
        From the first step to the last [s].
    device_hours : float
        Time of all devices of the plan [h].
    energy_kwh : float or None
        Energy of the devices [kWh]; None where a step's is unknown.
    cost_usd : float or None
        Rent of the devices [USD]; None where no price is known.
    """

    tokens: float
    seconds: float
    device_hours: float
    energy_kwh: float | None
    cost_usd: float | None

    def explain(self) -> str:
        """One line."""
        line = (
            f"{self.tokens:.4g} tokens: {format_seconds(self.seconds)},"
            f" {self.device_hours:,.0f} device hours"
        )
        if self.energy_kwh is not None:
            line += f", {self.energy_kwh:,.0f} kWh"
        return line if self.cost_usd is None else f"{line}, {self.cost_usd:,.0f} USD"

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready."""
        return {"time_s" if name == "seconds" else name: x for name, x in asdict(self).items()}


def budget(result: TrainResult, tokens: float, rent: float | None = None) -> Budget:
    """Time, energy and rent of a run, from one of its steps.

    ``seconds = tokens / (tokens a second of a device x devices)``

    Parameters
    ----------
    result : TrainResult
        The step, as :func:`~perfmodel.parallel.training.train` predicts it.
    tokens : float
        What is trained on, at least 1.
    rent : float, optional
        Of one device [USD/s]; see :func:`rent_of`.

    Raises
    ------
    PlanError
        If ``result`` is no step, ``tokens`` no number of at least 1, or ``rent`` negative.
    """
    if not isinstance(result, TrainResult):
        raise PlanError(
            "budget: result",
            f"<{type(result).__name__}>",
            "the step of one plan, a TrainResult",
            repair="give what pm.train returns, or found.best of what pm.plan returns",
        )
    if (number(tokens) or 0.0) < 1:
        raise PlanError(
            "budget: tokens", tokens, "a number of at least 1", repair="give it as 15e12"
        )
    if rent is not None and not (number(rent) is not None and rent >= 0):
        raise PlanError(
            "budget: rent", rent, "USD a second, not negative", repair="give a price or none"
        )
    devices = result.plan.world
    seconds = tokens / (result.tokens_per_s_per_device * devices)
    steps = seconds / result.step_time_s
    return Budget(
        tokens=float(tokens),
        seconds=seconds,
        device_hours=seconds * devices / 3600.0,
        energy_kwh=None if result.energy_j is None else result.energy_j * steps / 3.6e6,
        cost_usd=None if rent is None else rent * seconds * devices,
    )


def rent_of(cluster: Cluster) -> float | None:
    """What renting one device in use costs, by the node's price or the chip's [USD/s]."""
    if cluster.node.price is not None:
        return cluster.node.price / cluster.devices_per_node
    return cluster.accelerator.price
