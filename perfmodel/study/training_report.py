"""The accuracy of predicted training steps: records, scores, Markdown.

Half of the rows, by a hash of their identifiers, may guide the choice of coefficients; the other
half is what the report leads with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import PerfmodelError
from perfmodel.parallel.plan import Plan
from perfmodel.study.scores import (
    REPORT,
    TUNE,
    Score,
    groups,
    half,
    regret,
    score,
    spearman,
)
from perfmodel.study.training_csv import Row
from perfmodel.study.training_measured import Measured

CONTEXT: Final = "C"
"""The quality that is listed but not scored."""
RANKED: Final = 3
"""Least number of rows in a group whose order is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of one row.

    Parameters
    ----------
    row_id : str
        The row.
    step_time_s : float or None
        Predicted [s].
    measured_s : float or None
        Measured, or derived from the row's rate [s]; ``measured_from`` names the column.
    ratio : float or None
        Predicted over measured.
    peak_mem_gb, measured_mem_gb : float or None
        Peak memory of a device, in the unit that the row uses (GB, or GiB where it says so).
    fits : bool or None
        Whether the prediction stays within the device's memory.
    refused : str or None
        Why there is no prediction; ``error`` has its five parts.
    assumed : tuple of str
        Columns that were filled in by rule.
    split : str
        ``"tune"`` or ``"report"``.
    """

    row_id: str
    line: int
    split: str
    source_id: str = ""
    model: str = ""
    family: str = ""
    chip: str = ""
    chips_total: int | None = None
    quality: str = ""
    step_time_s: float | None = None
    measured_s: float | None = None
    measured_from: str = ""
    ratio: float | None = None
    peak_mem_gb: float | None = None
    measured_mem_gb: float | None = None
    memory_ratio: float | None = None
    fits: bool | None = None
    group: tuple[Any, ...] = ()
    plan: dict[str, Any] | None = None
    parts: dict[str, float] | None = None
    stack: str = ""
    cluster: str = ""
    assumed: tuple[str, ...] = ()
    refused: str | None = None
    error: dict[str, str | None] | None = None

    @staticmethod
    def refusal(row: Row, error: PerfmodelError) -> Record:
        """A row without a prediction."""
        where = error.where.split(": ", 1)[-1] if error.where.startswith("row ") else error.where
        return Record(
            **_identity(row),
            refused=f"{where}: got {error.got}; accepted: {error.accepted}",
            error=error.to_dict(),
        )

    @staticmethod
    def prediction(
        row: Row,
        *,
        seconds: float,
        peak_memory: float | None,
        capacity: float,
        plan: Plan,
        parts: dict[str, float],
        measured: Measured,
        family: str,
        stack: str,
        cluster: str,
        assumed: tuple[str, ...],
    ) -> Record:
        """A predicted row."""
        there = measured.step_time_s
        held = measured.peak_memory
        both = peak_memory is not None and held is not None
        default = Plan()
        return Record(
            **_identity(row) | {"family": family},
            step_time_s=seconds,
            measured_s=there,
            measured_from=measured.source,
            ratio=None if there is None else seconds / there,
            peak_mem_gb=None if peak_memory is None else peak_memory / measured.memory_unit,
            measured_mem_gb=None if held is None else held / measured.memory_unit,
            memory_ratio=peak_memory / held if both and held and peak_memory else None,
            fits=None if peak_memory is None else peak_memory <= capacity,
            group=_group(row),
            plan={
                name: value
                for name, value in plan.to_dict().items()
                if name in ("tp", "pp", "dp", "micro_batch_size", "precision", "recompute", "zero")
                or getattr(plan, name) != getattr(default, name)
            },
            parts=parts,
            stack=stack,
            cluster=cluster,
            assumed=assumed,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what is empty."""
        record: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "group"
        }
        keep = ("row_id", "step_time_s", "peak_mem_gb", "measured_s", "refused")
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in record.items()
            if name in keep or value not in (None, "", ())
        }


def _identity(row: Row) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "line": row.line,
        "split": half(row.row_id),
        "source_id": row.text("source_id"),
        "model": row.text("model"),
        "chip": row.text("chip"),
        "chips_total": row.count("chips_total"),
        "quality": row.text("quality").upper(),
    }


def _group(row: Row) -> tuple[Any, ...]:
    """Rows that differ in the plan alone."""
    sizes = ("layers", "hidden", "heads", "seq_len", "global_batch", "chips_total")
    words = ("source_id", "model", "chip", "chip_mem_gb", "dtype")
    return (*(row.text(name) for name in words), *(row.count(name) for name in sizes))


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well one group of plans for the same job is put in order."""

    name: str
    source_id: str
    count: int
    spearman: float
    regret: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        value = self.spearman if np.isfinite(self.spearman) else None
        return {
            "name": self.name,
            "source_id": self.source_id,
            "count": self.count,
            "spearman": value,
            "regret": self.regret,
        }


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Records of a table, one a row, and what they add up to."""

    records: tuple[Record, ...]

    @property
    def expressed(self) -> tuple[Record, ...]:
        """Rows with a prediction."""
        return tuple(record for record in self.records if record.refused is None)

    @property
    def refused(self) -> tuple[Record, ...]:
        """Rows without one."""
        return tuple(record for record in self.records if record.refused is not None)

    def compared(self, split: str | None = None) -> tuple[Record, ...]:
        """Rows with a prediction and a measurement, but for context; of one half if named."""
        return tuple(
            record
            for record in self.expressed
            if record.ratio is not None
            and record.quality != CONTEXT
            and split in (None, record.split)
        )

    def false_out_of_memory(self) -> tuple[Record, ...]:
        """Rows that ran, and that the prediction says do not fit."""
        return tuple(record for record in self.expressed if record.fits is False)

    def reasons(self) -> dict[str, int]:
        """Refused rows by reason, most frequent first."""
        counted = Counter(record.refused or "" for record in self.refused)
        return dict(counted.most_common())

    def by(self, key: Callable[[Record], str], split: str | None = None) -> dict[str, Score]:
        """Scores of the compared rows by some key."""
        rows = self.compared(split)
        found: dict[str, Score] = {}
        for name, places in groups([key(record) for record in rows]).items():
            if (scored := scored_rows(rows[i] for i in places)) is not None:
                found[str(name)] = scored
        return found

    def rankings(self, split: str | None = None, least: int = RANKED) -> tuple[Ranking, ...]:
        """Groups of at least ``least`` compared rows that differ in their plan alone."""
        rows = self.compared(split)
        found = []
        for places in groups([record.group for record in rows]).values():
            if len(places) < least:
                continue
            members = [rows[i] for i in places]
            predicted = [record.step_time_s or 0.0 for record in members]
            measured = [record.measured_s or 0.0 for record in members]
            first = members[0]
            found.append(
                Ranking(
                    name=f"{first.model} on {first.chips_total} x {first.chip}",
                    source_id=first.source_id,
                    count=len(members),
                    spearman=spearman(predicted, measured),
                    regret=regret(predicted, measured),
                )
            )
        return tuple(found)

    def memory(self, split: str | None = None) -> Score | None:
        """Errors of the peak memory where it was measured."""
        ratios = [
            record.memory_ratio
            for record in self.expressed
            if record.memory_ratio is not None and split in (None, record.split)
        ]
        return score(ratios, np.ones(len(ratios)))

    def scatter(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
        """Measured and predicted step times by family of models [s], for a picture."""
        rows = self.compared()
        measured: dict[str, NDArray[np.float64]] = {}
        predicted: dict[str, NDArray[np.float64]] = {}
        for name, places in groups([record.family for record in rows]).items():
            measured[str(name)] = np.array([rows[i].measured_s for i in places], dtype=float)
            predicted[str(name)] = np.array([rows[i].step_time_s for i in places], dtype=float)
        return measured, predicted

    def summary(self) -> dict[str, Any]:
        """The scores as plain values."""
        ranks = self.rankings()
        order = [rank.spearman for rank in ranks if np.isfinite(rank.spearman)]
        fresh = self.rankings(REPORT)
        return {
            "rows": len(self.records),
            "expressed": len(self.expressed),
            "expressed_share": len(self.expressed) / max(len(self.records), 1),
            "refused": len(self.refused),
            "compared": len(self.compared()),
            "report": _plain(scored_rows(self.compared(REPORT))),
            "tune": _plain(scored_rows(self.compared(TUNE))),
            "memory_report": _plain(self.memory(REPORT)),
            "memory_tune": _plain(self.memory(TUNE)),
            "false_out_of_memory": [record.row_id for record in self.false_out_of_memory()],
            "ranked_groups": len(ranks),
            "mean_spearman": float(np.mean(order)) if order else None,
            "mean_regret": float(np.mean([rank.regret for rank in ranks])) if ranks else None,
            "worst_regret": max((rank.regret for rank in ranks), default=None),
            "mean_regret_report": float(np.mean([r.regret for r in fresh])) if fresh else None,
            "worst_regret_report": max((rank.regret for rank in fresh), default=None),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: one record a row, and the scores."""
        return {
            "records": [record.to_dict() for record in self.records],
            "summary": self.summary(),
            "reasons": self.reasons(),
            "by_source": {
                split: _all_plain(self.by(lambda record: record.source_id, split))
                for split in (REPORT, TUNE)
            },
            "by_chip": {
                split: _all_plain(self.by(lambda record: record.chip, split))
                for split in (REPORT, TUNE)
            },
            "by_family": {
                split: _all_plain(self.by(lambda record: record.family, split))
                for split in (REPORT, TUNE)
            },
            "by_quality": {
                split: _all_plain(self.by(lambda record: record.quality, split))
                for split in (REPORT, TUNE)
            },
            "rankings": [rank.to_dict() for rank in self.rankings()],
        }

    def markdown(self, picture: str = "") -> str:
        """The report as Markdown, with a link to a picture where one was drawn."""
        from perfmodel.study.training_markdown import report_text

        return report_text(self, picture)


def scored_rows(rows: Iterable[Record]) -> Score | None:
    """Errors of the step times of some compared rows."""
    ratios = [record.ratio for record in rows if record.ratio is not None]
    return score(ratios, np.ones(len(ratios)))


def _plain(value: Score | None) -> dict[str, Any] | None:
    return None if value is None else value.to_dict()


def _all_plain(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: value.to_dict() for name, value in scores.items()}
