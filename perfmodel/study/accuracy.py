"""The accuracy report: predictions against everything published and measured, part by part.

Without files of the user's own, five parts: training steps (published rows that no coefficient was
chosen on), operators (measured ones, each predicted by a fit that did not see it), a later draw of
operators that calibration never reads, whole models (the half that no fit read), and collectives
(the held half of the published curves, and sizes drawn later).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.errors import CalibrationError, PerfmodelError, WorkloadError
from perfmodel.hardware import load
from perfmodel.study.executor import processes
from perfmodel.study.measured_rows import measured_rows
from perfmodel.study.operators import (
    MEASURED_KEYS,
    one_operator,
    price_or_refuse,
    price_records,
)
from perfmodel.study.scores import score

Floats = npt.NDArray[np.float64]
_HEADER: Final = "| {} | rows | MAPE | median | p90 | worst | bias | in 90 % interval |"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the report.

    Parameters
    ----------
    name : str
        ``"training"``, ``"inference"``, ``"operators"``, ``"unseen"``, ``"models"`` or
        ``"collectives"``.
    document : dict
        JSON-ready: one record a row, and the scores.
    markdown : str
        The same for people.
    measured, predicted : mapping of str to (n,) array
        Points of each series, for the scatter [s].
    """

    name: str
    document: dict[str, Any]
    markdown: str
    measured: Mapping[str, Floats] = field(default_factory=dict)
    predicted: Mapping[str, Floats] = field(default_factory=dict)


def parts(
    *,
    training: Path | None = None,
    inference: Path | None = None,
    ops: Path | None = None,
    on: str | None = None,
    jobs: int | None = None,
) -> Iterator[Part]:
    """The parts that were asked for; all shipped ones when no file was named.

    Parameters
    ----------
    training : Path, optional
        Training rows of the user (CSV).
    inference : Path, optional
        Answers of decoders that the user measured (CSV).
    ops : Path, optional
        Measured operators of the user (JSON lines, or a CSV of the harness), taken ``on`` a chip,
        node or cluster.
    jobs : int, optional
        Processes that price what is shipped; by default one for each processor.

    Raises
    ------
    CalibrationError
        If the shipped data are not there (an installed package holds none).
    """
    if training is not None or inference is not None or ops is not None:
        if training is not None:
            yield training_part(training)
        if inference is not None:
            yield inference_part(inference)
        if ops is not None:
            yield own_operators(ops, str(on))
        return
    folder = data_folder()
    shared = processes(jobs)
    yield training_part(folder / "published" / "training_published.csv", shared)
    yield held_out_operators()
    yield unseen_operators(folder)
    yield models_part(folder.parent, shared)
    yield collectives_part(folder)


def data_folder() -> Path:
    """``validate/`` of the checkout."""
    folder = Path(__file__).resolve().parents[2] / "validate"
    if not folder.is_dir():
        raise CalibrationError(
            "validate",
            "<an installed package, without the published measurements>",
            "a checkout of the project, or --training FILE.csv, --inference FILE.csv or --ops "
            "FILE.jsonl",
            repair="run it in a checkout, or name your own measurements",
        )
    return folder


def training_part(path: Path, spread: Spread = in_turn) -> Part:
    """Training steps of a CSV file."""
    from perfmodel.study.training_rows import score_training

    report = score_training(path, spread=spread)
    measured, predicted = report.scatter()
    return Part("training", report.to_dict(), report.markdown(), measured, predicted)


def inference_part(path: Path) -> Part:
    """Answers of decoders of a CSV file."""
    from perfmodel.study.inference_report import score_inference

    report = score_inference(path)
    return Part("inference", report.to_dict(), report.markdown(), *report.scatter())


def own_operators(path: Path, on: str) -> Part:
    """Measured operators of a user: rows that describe none are refused with the reason."""
    rows: list[tuple[str, dict[str, Any]]] = []
    records: list[dict[str, Any]] = []
    load(on)  # a chip that nobody knows is no row's fault
    for where, row in measured_rows(path):
        identity = row.get("id", where) if isinstance(row, dict) else where
        reason = str(row) if isinstance(row, WorkloadError) else _fault(row, where)
        records.append({"row": identity} | ({"refused": reason} if reason else {}))
        if not reason:
            rows.append((where, row))
    if not records:
        raise WorkloadError(
            str(path), "<no operator>", "one JSON object a line", repair="write at least one line"
        )
    series: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    kept = [record for record in records if "refused" not in record]
    prices = price_or_refuse(rows, on, ignored=MEASURED_KEYS) if rows else []
    for record, (_, row), priced in zip(kept, rows, prices, strict=True):
        if isinstance(priced, PerfmodelError):
            record["refused"] = str(priced)
            continue
        record |= {
            "op": _series(row),
            "measured_us": float(row["latency_us"]),
            "predicted_us": priced["latency_us"],
        }
        record |= {name: priced[name] for name in ("lower_us", "low_us", "high_us", "bound")}
        record["calibrated"] = priced["calibrated"]
        series[record["op"]].append(record)
    table = {name: _summary(series[name]) for name in sorted(series)}
    return Part(
        "operators",
        {"on": on, "records": records, "scores": table},
        "\n".join([_table(f"measured on {on}", table), *_refusals(records)]),
        {name: _seconds(series[name], "measured") for name in table},
        {name: _seconds(series[name], "predicted") for name in table},
    )


def held_out_operators() -> Part:
    """Every calibrated chip's own measurements, each predicted by folds that did not see it."""
    from perfmodel.calibrate.store import HELD_OUT, read_records
    from perfmodel.cost.efficiency import efficiency_folder

    texts, document = ["## Operators: held-out folds"], {}
    measured: dict[str, Floats] = {}
    predicted: dict[str, Floats] = {}
    for path in sorted(efficiency_folder().glob(f"*/{HELD_OUT}")):
        series: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in read_records(path):
            series[f"{one.kernel} {one.dtype}"].append(
                {
                    "measured_us": one.measured_s * 1e6,
                    "predicted_us": one.predicted_s * 1e6,
                    "lower_us": one.lower_s * 1e6,
                    "low_us": one.low_s * 1e6,
                    "high_us": one.high_s * 1e6,
                }
            )
        chip = path.parent.name
        table = {name: _summary(series[name]) for name in sorted(series)}
        document[chip] = table
        texts.append(_table(chip, table))
        everything = [row for rows in series.values() for row in rows]
        measured[chip] = _seconds(everything, "measured")
        predicted[chip] = _seconds(everything, "predicted")
    return Part("operators", document, "\n\n".join(texts), measured, predicted)


def unseen_operators(folder: Path) -> Part:
    """Operators of draws with seeds of their own, in folders that calibration never reads.

    Rows whose operator the calibration data of any chip hold too (shapes of well-known models) are
    left out: a sibling's rows teach as well.
    """
    taken = sorted(path for path in (folder / "held_out").glob("draw-*/*") if path.is_dir())
    chips = sorted({path.name for path in taken})
    seen = {key for chip in chips for key in _taught(folder / "measurements" / chip, chip)}
    found = {path: _unseen_rows(path, path.name, seen) for path in taken}
    rows = {
        f"{path.name}, {path.parent.name}": [row for some in series.values() for row in some]
        for path, series in found.items()
    }
    texts = [
        "## Operators: other draws, that no fit reads",
        "How each was drawn: [validate/held_out](../../validate/held_out/README.md).",
        _table("chip, draw", {name: _summary(some) for name, some in rows.items()}),
    ]
    document: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for chip in chips:
        table = _by_family(found[path] for path in taken if path.name == chip)
        document["all draws"][chip] = table
        texts.append(_table(f"{chip}, all draws", table))
    for path, series in found.items():
        chip, draw = path.name, path.parent.name
        table = {"all": _summary(rows[f"{chip}, {draw}"])}
        table |= {name: _summary(series[name]) for name in sorted(series)}
        document[draw][chip] = table
        texts.append(_table(f"{chip}, {draw}", table))
    return Part(
        "unseen",
        dict(document),
        "\n\n".join(texts),
        {name: _seconds(some, "measured") for name, some in rows.items()},
        {name: _seconds(some, "predicted") for name, some in rows.items()},
    )


def _taught(folder: Path, chip: str) -> set[str]:
    """Identities of the operators that a fit read, timed or profiled."""
    from perfmodel.calibrate import load_measurements
    from perfmodel.calibrate.profiled import load_profiled

    rows = (*load_measurements(folder, chip).rows, *load_profiled(folder))
    return {row.key for row in rows}


def _unseen_rows(folder: Path, chip: str, seen: set[str]) -> dict[str, list[dict[str, Any]]]:
    from perfmodel.calibrate import load_measurements

    kept = [row for row in load_measurements(folder, chip).rows if row.key not in seen]
    prices = price_records([(row.file, row.record) for row in kept], chip)
    series: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row, priced in zip(kept, prices, strict=True):
        names = ("lower_us", "low_us", "high_us")
        series[_series(row.record)].append(
            {"measured_us": row.seconds * 1e6, "predicted_us": priced["latency_us"]}
            | {name: priced[name] for name in names}
            | {"family": _family(row.record)}
        )
    return dict(series)


def _by_family(draws: Iterable[Mapping[str, list[dict[str, Any]]]]) -> dict[str, dict[str, float]]:
    """Scores of families of operators, whatever their number format."""
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in (row for draw in draws for some in draw.values() for row in some):
        rows[row["family"]].append(row)
    return {name: _summary(rows[name]) for name in sorted(rows)}


def models_part(root: Path, spread: Spread = in_turn) -> Part:
    """Whole models of every chip that measured some; ``split`` tells which ones a fit read."""
    from perfmodel.study.programs import purpose
    from perfmodel.study.programs_report import all_records, markdown
    from perfmodel.study.scores import REPORT

    found = all_records(root, spread=spread)
    series: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in (one for rows in found.values() for one in rows):
        if one.split == REPORT and not one.refused and not one.superseded:
            series[purpose(one)].append((one.measured_s, one.predicted_s))
    return Part(
        "models",
        {chip: [one.to_dict() for one in rows] for chip, rows in found.items()},
        markdown(found),
        {name: np.array([pair[0] for pair in pairs]) for name, pairs in series.items()},
        {name: np.array([pair[1] for pair in pairs]) for name, pairs in series.items()},
    )


def collectives_part(folder: Path) -> Part:
    """What no fit read of the published collectives and of our own, with the shipped files."""
    from perfmodel.calibrate.network_score import markdown, shipped_drawn, shipped_report

    measured = folder / "measurements"
    sections = shipped_report(
        folder / "published" / "collectives.csv",
        measured / "h200-sxm-141gb-x4" / "collectives.csv",
    )
    sections += shipped_drawn(measured / "h200-sxm-141gb-x2" / "collectives-drawn.csv")
    document = {
        title: [
            {"name": one.name, "rows": one.rows, "mape": one.mape, "worst": one.worst}
            for one in scores
        ]
        for title, scores in sections
    }
    title = "## Collectives: the half that no fit saw\n\n"
    return Part("collectives", document, title + markdown(sections))


def _refusals(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every row that was left out, at most twenty."""
    lines = [
        f"- {record['row']}: {' '.join(record['refused'].split())}"
        for record in records
        if "refused" in record
    ]
    if not lines:
        return []
    more = [f"- and {len(lines) - 20} more"] if len(lines) > 20 else []
    return ["", f"{len(lines)} of {len(records)} rows were refused:", "", *lines[:20], *more]


def _fault(row: Any, where: str) -> str:
    """Why a row cannot be scored; empty if it can."""
    if not isinstance(row, dict):
        return "not a JSON object"
    latency = row.get("latency_us")
    if not isinstance(latency, int | float) or isinstance(latency, bool) or not 0 < latency < 1e12:
        return "no latency_us above zero"
    try:
        one_operator(where, row, MEASURED_KEYS)
    except WorkloadError as error:
        return str(error)
    return ""


def _series(row: Mapping[str, Any]) -> str:
    words = (_family(row), row.get("kind"), row.get("dtype"))
    return " ".join(str(word) for word in words if word)


def _family(row: Mapping[str, Any]) -> str:
    """The operator, what sets it apart, and the pass."""
    name = str(row["op"])
    if name == "attention" and row.get("q_len") == 1:
        name = "attention decode"
    if name == "gemm" and row.get("batch", 1) > 1:
        name = "gemm batched"
    if name == "conv2d" and row.get("groups", 1) > 1:
        depthwise = row["groups"] == row["c_in"]
        name = "conv2d depthwise" if depthwise else "conv2d grouped"
    return f"{name} {row['pass']}" if row.get("pass") else name


def _seconds(rows: list[dict[str, Any]], which: str) -> Floats:
    """Times ``which`` ("measured" or "predicted") of rows that hold microseconds."""
    return _column(rows, f"{which}_us") * 1e-6


def _column(rows: list[dict[str, Any]], name: str) -> Floats:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    measured = _column(rows, "measured_us")
    errors = score(_column(rows, "predicted_us"), measured)
    inside = (_column(rows, "low_us") <= measured) & (measured <= _column(rows, "high_us"))
    under = measured < _column(rows, "lower_us")
    return (errors.to_dict() if errors else {}) | {
        "covered": float(inside.mean()),
        "under_bound": int(under.sum()),
    }


def _table(title: str, table: Mapping[str, Mapping[str, float]]) -> str:
    lines = [_HEADER.format(title), "| --- |" + " ---: |" * 7]
    lines += [
        f"| {name} | {row['count']} | {row['mape']:.1%} | {row['median']:.1%} | {row['p90']:.1%} "
        f"| {row['worst']:+.1%} | {row['bias']:+.1%} | {row['covered']:.0%} |"
        for name, row in table.items()
    ]
    return "\n".join(lines)
