"""Power and energy over time: what devices draw, and what a cap does to their speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.errors import ScenarioError


@dataclass(frozen=True, slots=True)
class Power:
    """What one device draws, and caps on all of them together.

    Parameters
    ----------
    busy, idle : float
        Draw of a device at work, and waiting [W].
    caps : sequence of (start, watts)
        From ``start`` [s] on, all devices together draw at most ``watts``; ascending starts.
    exponent : float
        Dynamic power grows with this power of the clock (between 2 and 3 on real chips, as voltage
        follows frequency); speed is taken as proportional to the clock.
    overhead : float
        Power usage effectiveness: facility over device energy.
    """

    busy: float
    idle: float
    caps: Sequence[tuple[float, float]] = ()
    exponent: float = 3.0
    overhead: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.idle <= self.busy < float("inf") or self.busy <= 0:
            raise ScenarioError(
                "power: busy, idle",
                (self.busy, self.idle),
                "0 <= idle <= busy watts, busy above 0",
                repair="give the draw of one device in watts",
            )
        if not self.exponent >= 1 or not self.overhead >= 1:
            raise ScenarioError(
                "power: exponent, overhead",
                (self.exponent, self.overhead),
                "numbers of at least 1",
                repair="leave them out to take the defaults",
            )
        starts = [start for start, _ in self.caps]
        if starts != sorted(set(starts)) or any(start < 0 for start in starts):
            raise ScenarioError(
                "power: caps",
                list(self.caps),
                "ascending start times that are not negative",
                repair="sort the caps by start",
            )

    def cap_at(self, now: float) -> float:
        """The cap in force [W]; infinite before the first."""
        found = float("inf")
        for start, watts in self.caps:
            if start <= now:
                found = watts
        return found

    def speed(self, devices: int, now: float) -> float:
        """Speed of ``devices`` working under the cap, 1 when it does not bind.

        Raises
        ------
        ScenarioError
            If the cap is below what the devices draw doing nothing.
        """
        cap = self.cap_at(now)
        if devices * self.busy <= cap:
            return 1.0
        dynamic = cap / devices - self.idle
        if dynamic <= 0:
            raise ScenarioError(
                f"power: cap at {now:.6g} s",
                cap,
                f"more than the {devices * self.idle:.6g} W that {devices} idle devices draw",
                repair="raise the cap, or use fewer devices",
            )
        return float((dynamic / (self.busy - self.idle)) ** (1 / self.exponent))

    def draw(self, working: int, waiting: int, now: float) -> float:
        """What ``working`` and ``waiting`` devices draw together, under the cap [W]."""
        cap = self.cap_at(now)
        rest = waiting * self.idle
        return min(working * self.busy, max(cap - rest, working * self.idle)) + rest


@dataclass(slots=True)
class EnergyMeter:
    """Integrates a draw that changes at known times.

    Parameters
    ----------
    overhead : float
        Multiplies every joule.
    """

    overhead: float = 1.0
    joules: float = 0.0
    since: float = 0.0
    watts: float = 0.0
    history: list[tuple[float, float]] | None = None

    def set(self, now: float, watts: float) -> None:
        """The draw from ``now`` on."""
        self.joules += self.watts * self.overhead * (now - self.since)
        self.since, self.watts = now, watts
        if self.history is not None and (not self.history or self.history[-1][1] != watts):
            self.history.append((now, watts))


def energy_summary(joules: float, devices: int, seconds: float) -> dict[str, Any]:
    """JSON-ready: energy, and mean power per device."""
    mean = joules / (devices * seconds) if seconds > 0 else 0.0
    return {
        "energy_j": float(joules),
        "energy_kwh": float(joules) / 3.6e6,
        "mean_power_per_device_w": float(np.float64(mean)),
    }
