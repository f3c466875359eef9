"""Predict measured training steps: a table in, one record a row out.

:func:`express` turns a row into a model, a cluster and the plans it may mean;
:func:`score_training` prices every row that can be expressed and compares.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.study.training_case import Refused, TrainingCase, express
from perfmodel.study.training_convnet import ConvnetCase
from perfmodel.study.training_csv import read_rows
from perfmodel.study.training_price import batches, convnet_record, predicted
from perfmodel.study.training_report import Record, TrainingReport

__all__ = [
    "ConvnetCase",
    "Record",
    "Refused",
    "TrainingCase",
    "TrainingReport",
    "express",
    "published_path",
    "score_training",
]

PUBLISHED: Final = "training_published.csv"


def published_path() -> Path:
    """The table of published training steps that comes with the project."""
    packaged = Path(str(resources.files("perfmodel"))) / "_published" / PUBLISHED
    return (
        packaged
        if packaged.is_file()
        else (Path(__file__).resolve().parents[2] / "validate" / "published" / PUBLISHED)
    )


def score_training(path: str | Path | None = None, *, spread: Spread = in_turn) -> TrainingReport:
    """Predict every row of a table of measured training steps.

    Parameters
    ----------
    path : str or Path, optional
        A CSV with the columns of ``validate/published/training_published.csv``, in any order, any
        of them missing but what says what ran where; the published table itself by default.
    spread : callable
        Shares rows out among processes.

    Raises
    ------
    WorkloadError
        If the file is no such table. A row that cannot be predicted is refused with the reason,
        and the others go on.
    """
    rows = read_rows(published_path() if path is None else path)
    records: list[Record | None] = [None] * len(rows)
    cases: list[tuple[int, TrainingCase]] = []
    for place, row in enumerate(rows):
        case = express(row)
        if isinstance(case, Refused):
            records[place] = Record.refusal(row, case.error)
        elif isinstance(case, ConvnetCase):
            records[place] = convnet_record(case)
        else:
            cases.append((place, case))
    grids = [[cases[i] for i in members] for members in batches([case for _, case in cases])]
    answers = spread(predicted, (([case for _, case in part],) for part in grids))
    for part, found in zip(grids, answers, strict=True):
        for (place, _), record in zip(part, found, strict=True):
            records[place] = record
    return TrainingReport(tuple(record for record in records if record is not None))
