"""Estimate: the one result type.

A prediction is a time with its reasons: the parts it is made of, what bounds it, a lower bound
that no hardware can beat, an interval, whether measurements stand behind it, and citation keys.
Estimates combine in three ways only: ``a + b`` (one after another), ``overlap(a, b)`` (at once,
sharing no resource) and ``a.scale(n)`` (n times in a row).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Final

from perfmodel.errors import PerfmodelError, nearest_name
from perfmodel.units import format_seconds

BOUNDS: Final = ("compute", "memory", "network", "launch", "latency", "dependency", "none")


class EstimateError(PerfmodelError):
    """An Estimate whose numbers contradict each other."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted duration and everything needed to explain it.

    Parameters
    ----------
    name : str
        What is being timed.
    seconds : float
        The prediction [s].
    lower : float
        A time that cannot be beaten: the largest of the parts that could overlap [s].
    low, high : float
        Ends of the 90 % interval [s]; ``lower`` <= ``low`` <= ``seconds`` <= ``high`` is kept.
    bound : str
        What limits it: one of :data:`BOUNDS`.
    calibrated : bool
        Whether measurements of this chip, in range, stand behind the number.
    parts : tuple of Estimate
        What it consists of.
    relation : str
        ``"sum"`` if the parts run one after another, ``"overlap"`` if at once, ``"leaf"`` if none,
        ``"detail"`` if they explain the number without adding up to it.
    citations : tuple of str
        Keys of ``hardware_specs/references.toml``.
    note : str
        One sentence for the reader.
    """

    name: str
    seconds: float
    lower: float
    low: float
    high: float
    bound: str = "none"
    calibrated: bool = False
    parts: tuple[Estimate, ...] = ()
    relation: str = "leaf"
    citations: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for field in ("seconds", "lower", "low", "high"):
            value = getattr(self, field)
            if not math.isfinite(value) or value < 0:
                raise EstimateError(
                    f"Estimate {self.name!r}: {field}",
                    value,
                    "a finite time that is not negative, in seconds",
                    repair="check the sizes and rates that this part was computed from",
                )
        slack = 1e-9 * self.seconds + 1e-18
        if not (
            self.lower <= self.low + slack <= self.seconds + 2 * slack <= self.high + 3 * slack
        ):
            raise EstimateError(
                f"Estimate {self.name!r}",
                (self.lower, self.low, self.seconds, self.high),
                "lower <= low <= seconds <= high",
                repair="clip the interval to the prediction and to the lower bound",
            )
        if self.bound not in BOUNDS:
            raise EstimateError(
                f"Estimate {self.name!r}: bound",
                self.bound,
                ", ".join(BOUNDS),
                nearest=nearest_name(self.bound, BOUNDS),
                repair="name one of the accepted bounds",
            )

    def __add__(self, other: Estimate) -> Estimate:
        """One after the other; sums of sums are flattened."""
        if not isinstance(other, Estimate):
            return NotImplemented
        return total(f"{self.name} + {other.name}", (*_terms(self), *_terms(other)))

    def scale(self, times: float, name: str | None = None) -> Estimate:
        """``times`` repetitions in a row; every number of the tree is multiplied."""
        if not isinstance(times, Real) or not math.isfinite(times) or times < 0:
            raise EstimateError(
                f"Estimate {self.name!r}.scale",
                times,
                "a finite factor that is not negative",
                repair="pass the number of repetitions",
            )
        return replace(
            self,
            name=self.name if name is None else name,
            seconds=self.seconds * times,
            lower=self.lower * times,
            low=self.low * times,
            high=self.high * times,
            parts=tuple(part.scale(times) for part in self.parts),
        )

    def named(self, name: str, note: str = "") -> Estimate:
        """The same estimate under another name."""
        return replace(self, name=name, note=note or self.note)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Estimate]]:
        """Every node of the tree with its depth, this one first."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    def explain(self, depth: int = 6, smallest: float = 0.0) -> str:
        """The tree as text: time, share, bound, calibration and sources of every part.

        Parameters
        ----------
        depth : int
            Deepest level shown.
        smallest : float
            Parts below this share of the whole are left out, and counted.
        """
        lines: list[str] = []
        _draw(self, self.seconds, "", "", depth, smallest, lines)
        keys = sorted({key for _, node in self.walk() for key in node.citations})
        if keys:
            lines.append(f"sources: {', '.join(keys)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :func:`from_dict` reads it back."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "lower_s": self.lower,
            "low_s": self.low,
            "high_s": self.high,
            "bound": self.bound,
            "calibrated": self.calibrated,
            "relation": self.relation,
            "citations": list(self.citations),
            "note": self.note,
            "parts": [part.to_dict() for part in self.parts],
        }


def leaf(
    name: str,
    seconds: float,
    *,
    bound: str,
    lower: float | None = None,
    low: float | None = None,
    high: float | None = None,
    calibrated: bool = False,
    citations: Iterable[str] = (),
    note: str = "",
) -> Estimate:
    """An Estimate without parts; missing ends of the interval are the prediction itself."""
    low = seconds if low is None else low
    return Estimate(
        name=name,
        seconds=seconds,
        lower=min(low, seconds) if lower is None else lower,
        low=low,
        high=seconds if high is None else high,
        bound=bound,
        calibrated=calibrated,
        citations=tuple(citations),
        note=note,
    )


def total(name: str, parts: Iterable[Estimate]) -> Estimate:
    """The parts one after another: times, bounds and interval ends add.

    Adding the ends treats the errors as fully dependent: the honest choice for parts priced by the
    same model, and never too narrow.
    """
    kept = tuple(parts)
    return Estimate(
        name=name,
        seconds=math.fsum(part.seconds for part in kept),
        lower=math.fsum(part.lower for part in kept),
        low=math.fsum(part.low for part in kept),
        high=math.fsum(part.high for part in kept),
        bound=_main_bound(kept),
        calibrated=all(part.calibrated for part in kept) and bool(kept),
        parts=kept,
        relation="sum",
    )


def overlap(*parts: Estimate, name: str = "overlap") -> Estimate:
    """The parts at once: the longest decides, and so for each end of the interval."""
    if not parts:
        return leaf(name, 0.0, bound="none")
    longest = max(parts, key=lambda part: part.seconds)
    return Estimate(
        name=name,
        seconds=longest.seconds,
        lower=max(part.lower for part in parts),
        low=max(part.low for part in parts),
        high=max(part.high for part in parts),
        bound=longest.bound,
        calibrated=all(part.calibrated for part in parts),
        parts=parts,
        relation="overlap",
    )


def from_dict(data: dict[str, Any]) -> Estimate:
    """The inverse of :meth:`Estimate.to_dict`."""
    return Estimate(
        name=data["name"],
        seconds=data["seconds"],
        lower=data["lower_s"],
        low=data["low_s"],
        high=data["high_s"],
        bound=data["bound"],
        calibrated=data["calibrated"],
        relation=data["relation"],
        citations=tuple(data["citations"]),
        note=data["note"],
        parts=tuple(from_dict(part) for part in data["parts"]),
    )


def _terms(estimate: Estimate) -> tuple[Estimate, ...]:
    return estimate.parts if estimate.relation == "sum" else (estimate,)


def _main_bound(parts: tuple[Estimate, ...]) -> str:
    """The bound to which most of the time belongs."""
    if not parts:
        return "none"
    shares = {part.bound: 0.0 for part in parts}
    for part in parts:
        shares[part.bound] += part.seconds
    return max(shares, key=lambda bound: shares[bound])


def _draw(
    node: Estimate,
    whole: float,
    first: str,
    rest: str,
    depth: int,
    smallest: float,
    lines: list[str],
) -> None:
    share = node.seconds / whole if whole > 0 else 0.0
    tags = [node.bound] if node.bound != "none" else []
    tags += [] if node.calibrated else ["uncalibrated"]
    tags += ["at once"] if node.relation == "overlap" else []
    interval = ""
    if node.high > node.seconds * 1.0005 or node.low < node.seconds * 0.9995:
        interval = f" [{format_seconds(node.low)} .. {format_seconds(node.high)}]"
    note = f"  {node.note}" if node.note else ""
    lines.append(
        f"{first}{node.name}: {format_seconds(node.seconds)}{interval} {share:.1%}"
        f" ({', '.join(tags)}){note}"
    )
    if depth == 0 or not node.parts:
        return
    shown = [part for part in node.parts if part.seconds >= smallest * whole]
    for part in shown:
        last = part is shown[-1] and len(shown) == len(node.parts)
        _draw(
            part,
            whole,
            rest + ("└─ " if last else "├─ "),
            rest + ("   " if last else "│  "),
            depth - 1,
            smallest,
            lines,
        )
    if len(shown) < len(node.parts):
        left = math.fsum(part.seconds for part in node.parts) - math.fsum(
            part.seconds for part in shown
        )
        lines.append(
            f"{rest}└─ {len(node.parts) - len(shown)} smaller parts: {format_seconds(left)}"
        )
