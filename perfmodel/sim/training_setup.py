"""A training run to be simulated: its size, what fails, how state is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.sim.power import Power
from perfmodel.sim.reliability import daly_interval, young_interval

MODES: Final = ("sync", "async")


@dataclass(frozen=True, slots=True)
class FailureClass:
    """One kind of interruption.

    Parameters
    ----------
    name : str
        Component or cause.
    rate : float
        Interruptions of the whole job [1/s].
    takes_node : bool
        Whether a node must be replaced (hardware) or a restart is enough (software).
    detect_seconds : float, optional
        Until it is noticed [s]; the run's value by default.
    """

    name: str
    rate: float
    takes_node: bool = True
    detect_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """How state is saved.

    Parameters
    ----------
    size : float
        Of one checkpoint [B].
    write_bandwidth, read_bandwidth : float
        Of the storage for the whole job [B/s].
    interval : float or str
        Training time between checkpoints [s], or ``"young"`` or ``"daly"``.
    mode : str
        ``"sync"``: training waits for the write; ``"async"``: it waits ``snapshot_seconds``, and
        the write goes on beside it.
    snapshot_seconds : float
        Copy to host memory [s].
    """

    size: float
    write_bandwidth: float
    read_bandwidth: float
    interval: float | str = "daly"
    mode: str = "sync"
    snapshot_seconds: float = 0.0

    @property
    def write_seconds(self) -> float:
        """Time of the write [s]."""
        return self.size / self.write_bandwidth

    @property
    def cost(self) -> float:
        """Training time that a checkpoint takes [s]."""
        return self.write_seconds if self.mode == "sync" else self.snapshot_seconds


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A job on a cluster that fails.

    Parameters
    ----------
    duration : float
        Wall time simulated [s].
    nodes, devices_per_node : int
        Size of the job.
    failures : sequence of FailureClass
        What interrupts it.
    checkpoints : Checkpoints
        How state is saved.
    detect_seconds, restart_seconds : float
        From a failure to its notice, and from there (node in hand) to the first step, without
        loading the checkpoint [s].
    step_seconds : float
        Of one training step at full size [s].
    spares : int
        Nodes kept ready.
    swap_seconds : float
        To put a spare in [s].
    repair_seconds : float
        Mean time until a failed node is back as a spare, exponential [s].
    elastic : bool
        Whether the job goes on smaller when no spare is left.
    shrink_nodes : int
        Nodes given up together (those of one data-parallel replica).
    power : Power, optional
        Draw and caps.
    seed : int
        Of everything random here.
    """

    duration: float
    nodes: int
    devices_per_node: int
    failures: Sequence[FailureClass]
    checkpoints: Checkpoints
    detect_seconds: float = 0.0
    restart_seconds: float = 0.0
    step_seconds: float = 1.0
    spares: int = 0
    swap_seconds: float = 0.0
    repair_seconds: float = 86400.0
    elastic: bool = False
    shrink_nodes: int = 1
    power: Power | None = None
    seed: int = 0
    names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "names", tuple(f.name for f in self.failures))

    @property
    def rate(self) -> float:
        """Interruptions of all kinds [1/s]."""
        return float(sum(f.rate for f in self.failures))

    @property
    def interval(self) -> float:
        """Training time between checkpoints [s]."""
        chosen = self.checkpoints.interval
        if not isinstance(chosen, str):
            return chosen
        if self.rate == 0:
            return self.duration
        # A free checkpoint has no best interval; a thousandth of a second stands for "no cost".
        cost = max(self.checkpoints.cost, 1e-3)
        rule = daly_interval if chosen == "daly" else young_interval
        # The next write cannot begin before the last has ended.
        return max(float(rule(cost, 1 / self.rate)), self.checkpoints.write_seconds)


def _check(run: TrainingRun) -> None:
    saves = run.checkpoints
    numbers: tuple[tuple[str, float, float], ...] = (
        ("duration", run.duration, 1e-9),
        ("nodes", run.nodes, 1),
        ("devices_per_node", run.devices_per_node, 1),
        ("detect_seconds", run.detect_seconds, 0),
        ("restart_seconds", run.restart_seconds, 0),
        ("step_seconds", run.step_seconds, 1e-12),
        ("spares", run.spares, 0),
        ("swap_seconds", run.swap_seconds, 0),
        ("repair_seconds", run.repair_seconds, 1e-9),
        ("shrink_nodes", run.shrink_nodes, 1),
        ("checkpoints.size", saves.size, 0),
        ("checkpoints.write_bandwidth", saves.write_bandwidth, 1e-9),
        ("checkpoints.read_bandwidth", saves.read_bandwidth, 1e-9),
        ("checkpoints.snapshot_seconds", saves.snapshot_seconds, 0),
    )
    numbers += tuple((f"failures.{f.name}.rate", f.rate, 1e-300) for f in run.failures)
    if not isinstance(saves.interval, str):
        numbers += (("checkpoints.interval", saves.interval, 1e-9),)
    for what, value, low in numbers:
        if not low <= value < float("inf"):
            raise ScenarioError(
                f"training run: {what}",
                value,
                "a finite number above 0" if low else "a finite number that is not negative",
                repair=f"correct {what} (leave out a failure class that never happens)",
            )
    for what, name, known in (
        ("mode", saves.mode, MODES),
        ("interval", saves.interval, ("young", "daly")),
    ):
        if isinstance(name, str) and name not in known:
            raise ScenarioError(
                f"training run: checkpoints.{what}",
                name,
                ", ".join(known) + (" or a time" if what == "interval" else ""),
                nearest=nearest_name(name, known),
                repair="name one of these",
            )
    if run.power is not None:
        for start, _ in run.power.caps:
            run.power.speed(run.nodes * run.devices_per_node, start)  # refuses a cap below idle
    names = [f.name for f in run.failures]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ScenarioError(
            "training run: failures", twice, "a name of its own for each class",
            repair="join the classes, or rename one",
        )  # fmt: skip
