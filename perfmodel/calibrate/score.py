"""How far predictions are from measurements: records, and their summary by any column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.calibrate.learn import Learned
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import Samples, samples_of
from perfmodel.cost.bound import lower_bound
from perfmodel.cost.efficiency import Efficiency, efficiency_on
from perfmodel.cost.parts import Floats
from perfmodel.cost.price import price_task
from perfmodel.errors import CalibrationError
from perfmodel.hardware import Accelerator

SIZE_CLASSES = ("<10us", "10-100us", "0.1-1ms", ">1ms")
_EDGES = (10e-6, 100e-6, 1000e-6)


@dataclass(frozen=True, slots=True)
class Record:
    """One measured operator and what was predicted for it; times in seconds."""

    chip: str
    kernel: str
    op: str
    dtype: str
    row: str
    size_class: str
    measured_s: float
    predicted_s: float
    mechanism_s: float
    lower_s: float
    low_s: float
    high_s: float
    calibrated: bool

    @property
    def error(self) -> float:
        """Signed relative error of the prediction."""
        return self.predicted_s / self.measured_s - 1.0

    @property
    def covered(self) -> bool:
        """Whether the interval holds the measurement."""
        return self.low_s <= self.measured_s <= self.high_s


def size_class(seconds: float) -> str:
    """Which of :data:`SIZE_CLASSES` a measured time belongs to."""
    return SIZE_CLASSES[int(np.searchsorted(_EDGES, seconds))]


def records_of(samples: Samples, learned: Learned, chip: str) -> list[Record]:
    """Every row of a kernel with its held-out prediction."""
    lower = np.concatenate(
        [np.maximum(*lower_bound(task, device)) for task, device in samples.blocks]
    )
    seconds = np.maximum(learned.predicted, lower)
    width = learned.fitted.half_width(seconds, np.ones_like(seconds))
    return [
        Record(
            chip,
            samples.kernel,
            str(row.record["op"]),
            str(row.record.get("dtype", "fp32")),
            row.file,
            size_class(row.seconds),
            row.seconds,
            float(seconds[index]),
            float(learned.plain[index]),
            float(lower[index]),
            float(max(seconds[index] * np.exp(-width[index]), lower[index])),
            float(seconds[index] * np.exp(width[index])),
            calibrated=True,
        )
        for index, row in enumerate(samples.rows)
    ]


def score_samples(
    samples: Iterable[Samples],
    accelerator: Accelerator,
    *,
    efficiency: Efficiency | None = None,
) -> list[Record]:
    """Rows of a chip priced as a user would price them."""
    efficiency = efficiency_on(accelerator, efficiency)
    found: list[Record] = []
    for one in samples:
        rows = iter(one.rows)
        for task, _ in one.blocks:
            answer = price_task(task, accelerator, efficiency)
            for place, row in zip(task.places, rows, strict=False):
                found.append(
                    Record(
                        accelerator.name.lower(),
                        one.kernel,
                        str(row.record["op"]),
                        task.dtype,
                        row.file,
                        size_class(row.seconds),
                        row.seconds,
                        float(answer.seconds[place]),
                        float(answer.mechanism[place]),
                        float(answer.lower[place]),
                        float(answer.low[place]),
                        float(answer.high[place]),
                        bool(answer.calibrated[place]),
                    )
                )
    return found


def score_operators(
    rows: Iterable[tuple[str, dict[str, Any]]],
    accelerator: Accelerator,
    *,
    efficiency: Efficiency | None = None,
) -> list[Record]:
    """A user's own measurements: objects with an operator's keys and ``latency_us``.

    Parameters
    ----------
    rows : iterable of (str, dict)
        Where a row stands, and the row.

    Raises
    ------
    WorkloadError
        If a row does not describe an operator.
    CalibrationError
        If it has no latency.
    """
    about = {"latency_us", "p10_us", "p90_us", "device", "mode"}
    kept = []
    for where, row in rows:
        seconds = row.get("latency_us")
        if not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
            raise CalibrationError(
                f"{where}: latency_us",
                seconds,
                "a time in microseconds, above zero",
                repair="add the measured time to the row",
            )
        record = {name: value for name, value in row.items() if name not in about}
        time = float(seconds) * 1e-6
        kept.append(Row(record, time, time, time, str(row.get("mode", "graph")), where, where))
    return score_samples(samples_of(kept, accelerator).values(), accelerator, efficiency=efficiency)


def summary(records: Sequence[Record], *, predicted: str = "predicted_s") -> dict[str, float]:
    """Count and errors in percent: mean, median, 90th percentile and worst of the absolute ones.

    ``bias`` is the geometric mean of predicted over measured, less one; ``covered`` the share of
    measurements inside the 90 % interval; ``under_bound`` the number below the lower bound.
    """
    if not records:
        nothing = float("nan")
        return dict.fromkeys(
            ("rows", "mape", "median", "p90", "worst", "bias", "covered", "under_bound"), nothing
        )
    ratio: Floats = np.array([getattr(r, predicted) / r.measured_s for r in records])
    error = 100.0 * np.abs(ratio - 1.0)
    return {
        "rows": float(len(records)),
        "mape": float(error.mean()),
        "median": float(np.median(error)),
        "p90": float(np.quantile(error, 0.9)),
        "worst": float(error.max()),
        "bias": float(100.0 * np.expm1(np.mean(np.log(ratio)))),
        "covered": float(100.0 * np.mean([r.covered for r in records])),
        "under_bound": float(sum(r.measured_s < r.lower_s for r in records)),
    }


def summaries(
    records: Iterable[Record], by: Callable[[Record], str]
) -> dict[str, dict[str, float]]:
    """A summary for every value of ``by``, in the order of their names."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(by(record), []).append(record)
    return {name: summary(groups[name]) for name in sorted(groups)}


def markdown(table: dict[str, dict[str, float]], title: str) -> str:
    """Summaries as a Markdown table."""
    lines = [
        f"| {title} | rows | MAPE % | median % | p90 % | worst % | bias % | in 90 % interval |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in table.items():
        lines.append(
            f"| {name} | {row['rows']:.0f} | {row['mape']:.1f} | {row['median']:.1f} "
            f"| {row['p90']:.1f} | {row['worst']:.0f} | {row['bias']:+.1f} "
            f"| {row['covered']:.0f} % |"
        )
    return "\n".join(lines)
