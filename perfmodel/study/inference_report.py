"""How far predicted answers of a decoder are from a user's own measurements: records and scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import PerfmodelError
from perfmodel.parallel.inference import infer
from perfmodel.study.inference_case import INFERENCE, InferenceCase, express
from perfmodel.study.scores import Score, groups, score
from perfmodel.study.training_csv import Row, read_rows

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRecord:
    """What became of one row.

    Parameters
    ----------
    row_id : str
        The row.
    quantity : str
        What was measured: ``ttft_s``, ``tpot_s`` or ``e2e_s``.
    predicted_s, measured_s : float or None
        That time; ``measured_from`` names the column that it was read, or derived, from [s].
    low_s, high_s : float or None
        90 % interval, where one pass was measured [s].
    ratio : float or None
        Predicted over measured.
    fits : bool or None
        Whether weights and cache stay within the devices' memory.
    refused : str or None
        Why there is no prediction; ``error`` has its five parts.
    assumed : tuple of str
        Columns that were filled in by rule.
    """

    row_id: str
    line: int
    source_id: str = ""
    model: str = ""
    chip: str = ""
    quantity: str = ""
    predicted_s: float | None = None
    measured_s: float | None = None
    measured_from: str = ""
    low_s: float | None = None
    high_s: float | None = None
    ratio: float | None = None
    peak_memory_bytes: float | None = None
    fits: bool | None = None
    asked: dict[str, Any] | None = None
    assumed: tuple[str, ...] = ()
    refused: str | None = None
    error: dict[str, str | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what is empty."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        keep = ("row_id", "predicted_s", "measured_s", "refused")
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in record.items()
            if name in keep or value not in (None, "", ())
        }


@dataclass(frozen=True, slots=True)
class InferenceReport:
    """Records of a table, one a row, and what they add up to."""

    records: tuple[InferenceRecord, ...]

    def compared(self) -> tuple[InferenceRecord, ...]:
        """Rows with a prediction and a measurement."""
        return tuple(record for record in self.records if record.ratio is not None)

    def by(self, key: Callable[[InferenceRecord], str]) -> dict[str, Score]:
        """Scores of the compared rows by some key."""
        rows = self.compared()
        found: dict[str, Score] = {}
        for name, places in groups([key(record) for record in rows]).items():
            some = score([rows[i].ratio or 0.0 for i in places], np.ones(len(places)))
            if some is not None:
                found[str(name)] = some
        return found

    def scatter(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
        """Measured and predicted times by quantity [s], for a picture."""
        rows = self.compared()
        places = groups([record.quantity for record in rows])
        return (
            {str(n): np.array([rows[i].measured_s for i in at], float) for n, at in places.items()},
            {
                str(n): np.array([rows[i].predicted_s for i in at], float)
                for n, at in places.items()
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: one record a row, and the scores."""
        return {
            "records": [record.to_dict() for record in self.records],
            "scores": {
                name: {each: one.to_dict() for each, one in self.by(key).items()}
                for name, key in _KEYS.items()
            },
            "refused": sum(record.refused is not None for record in self.records),
        }

    def markdown(self) -> str:
        """The report for people."""
        lines = ["## Answers of a batch", ""]
        lines += [f"{len(self.records)} rows, {len(self.compared())} compared."]
        for name, key in _KEYS.items():
            table = self.by(key)
            if not table:
                continue
            lines += ["", f"| {name} | rows | MAPE | median | p90 | worst | bias |"]
            lines += ["| --- |" + " ---: |" * 6]
            lines += [
                f"| {each} | {one.count} | {one.mape:.1%} | {one.median:.1%} | {one.p90:.1%} "
                f"| {one.worst:+.1%} | {one.bias:+.1%} |"
                for each, one in table.items()
            ]
        refused = [record for record in self.records if record.refused is not None]
        if refused:
            lines += ["", f"{len(refused)} of {len(self.records)} rows were refused:", ""]
            lines += [f"- {record.row_id}: {record.refused}" for record in refused[:_SHOWN]]
            if len(refused) > _SHOWN:
                lines.append(f"- and {len(refused) - _SHOWN} more")
        return "\n".join(lines)


_KEYS: Final[dict[str, Callable[[InferenceRecord], str]]] = {
    "quantity": lambda record: record.quantity,
    "model and chip": lambda record: f"{record.model}, {record.chip}",
}


def score_inference(path: str | Path) -> InferenceReport:
    """Predict every row of a table of measured answers.

    Parameters
    ----------
    path : str or Path
        A CSV with the columns of :data:`~perfmodel.study.inference_case.INFERENCE`, in any order,
        any of them missing but the model, the chip and the batch.

    Raises
    ------
    WorkloadError
        If the file is no such table. A row that cannot be predicted is refused with the reason, and
        the others go on.
    """
    return InferenceReport(tuple(_record(row) for row in read_rows(path, INFERENCE)))


def _record(row: Row) -> InferenceRecord:
    identity: dict[str, Any] = {
        "row_id": row.row_id,
        "line": row.line,
        **{name: row.text(name) for name in ("source_id", "model", "chip")},
    }
    try:
        case = express(row)
        return InferenceRecord(**identity, **_predicted(case))
    except PerfmodelError as error:
        where = error.where.removeprefix(f"{row.where}: ")
        return InferenceRecord(
            **identity,
            refused=f"{where}: got {error.got}; accepted: {error.accepted}",
            error=error.to_dict(),
        )


def _predicted(case: InferenceCase) -> dict[str, Any]:
    found = infer(case.model, case.device, **case.asked)
    seconds = float(getattr(found, case.quantity))
    one = {"ttft_s": found.prefill, "tpot_s": found.decode}.get(case.quantity)
    return {
        "quantity": case.quantity,
        "predicted_s": seconds,
        "measured_s": case.measured_s,
        "measured_from": case.measured_from,
        "low_s": None if one is None else one.low * seconds / one.seconds,
        "high_s": None if one is None else one.high * seconds / one.seconds,
        "ratio": None if case.measured_s is None else seconds / case.measured_s,
        "peak_memory_bytes": float(sum(found.memory.values())),
        "fits": found.fits,
        "asked": case.asked,
        "assumed": case.assumed,
    }
