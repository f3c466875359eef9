"""Predicted against published times of whole convolutional networks.

What is unknown about a source (:mod:`perfmodel.study.convnets_library`) is fitted on one half of
its rows, by a hash of the row, and used on the other half. Rows that contradict others of their own
table are shown but neither fitted nor scored: one device cannot be slower than each of eight.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final
from zlib import crc32

from perfmodel.errors import PerfmodelError, WorkloadError, nearest_name
from perfmodel.hardware import load_accelerator, load_cluster
from perfmodel.study.convnets import ConvnetStep, infer_convnet, train_convnet
from perfmodel.study.convnets_library import Row, fit_unknowns

_COLUMNS: Final = (
    "source", "network", "task", "chip", "devices", "batch", "image_size", "dtype", "amp",
    "layout", "time_s", "label",
)  # fmt: skip
_TASKS: Final = ("train", "infer", "forward")
_NODES: Final = {
    "a100-sxm4-80gb": "dgx-a100",
    "v100-sxm2-16gb": "dgx-1-v100",
    "v100-sxm2-32gb": "dgx-1-v100-32gb",
    "t4-16gb": "t4-x4",
    "rtx-4090-24gb": "rtx-4090-x8",
}
SLOWER: Final = 1.1
"""Beyond what rounding and luck explain."""
# a compiled inference is replayed; everything else is launched one by one
_REPLAYED: Final = ("timm-compile",)


@dataclass(frozen=True, slots=True)
class Scored:
    """A published row and its prediction.

    Parameters
    ----------
    row : dict
        As published.
    measured, predicted : float
        One step [s].
    fitted : bool
        Whether the host's launch time was fitted on this row.
    step : ConvnetStep
        The prediction with its parts; its host time belongs to one second a launch.
    host_launch : float
        What was fitted for its group [s].
    kernel_seconds : float
        Kernel time with the library's factors [s].
    contradicted : bool
        Whether other rows of the same table make this one impossible.
    """

    row: dict[str, str]
    measured: float
    predicted: float
    fitted: bool
    step: ConvnetStep
    host_launch: float
    kernel_seconds: float
    contradicted: bool = False

    @property
    def error(self) -> float:
        """Absolute error relative to the measurement."""
        return abs(self.predicted / self.measured - 1.0)

    @property
    def host_bound(self) -> bool:
        """Whether the launches take longer than the kernels."""
        return self.host_launch * self.step.host_seconds > self.kernel_seconds


def score_published(path: Path, *, sources: Iterable[str] | None = None) -> tuple[Scored, ...]:
    """Every row of a table of published times with its prediction.

    Parameters
    ----------
    path : Path
        A CSV file like ``validate/published/convnets.csv``.
    sources : iterable of str, optional
        Only these.

    Raises
    ------
    PerfmodelError
        If the file cannot be read, lacks a column, has nothing of a source, or a row says what
        cannot be; then with its line.
    """
    placed = _of_sources(_read(path), sources, path.name)
    rows = [row for _, row in placed]
    impossible = contradicted(rows)
    known = []
    for place, row in placed:
        try:
            known.append(_as_row(row, predict(row)))
        except PerfmodelError as error:
            raise error.inside(place) from None
    found = fit_unknowns(
        [one for one, bad in zip(known, impossible, strict=True) if not bad] or known
    )
    scored = []
    for row, one, bad in zip(rows, known, impossible, strict=True):
        if one.host not in found.launches:
            continue
        launch, kernels = found.launches[one.host], found.kernels(one)
        scored.append(
            Scored(
                row, one.measured, found.seconds(one), one.fits and not bad, one.step, launch,
                kernels, bad,
            )
        )  # fmt: skip
    return tuple(scored)


def contradicted(rows: list[dict[str, str]]) -> list[bool]:
    """Rows of one device that is slower than each of several, all else equal."""
    several: dict[tuple[str, ...], float] = {}
    for row in rows:
        if row["devices"] != "1":
            key = _alike(row)
            several[key] = min(several.get(key, math.inf), float(row["time_s"]))
    return [
        row["devices"] == "1" and float(row["time_s"]) > SLOWER * several.get(_alike(row), math.inf)
        for row in rows
    ]


def _alike(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in _COLUMNS if name not in ("devices", "time_s", "label"))


def _as_row(row: dict[str, str], step: ConvnetStep) -> Row:
    return Row(
        row["source"], row["chip"], row["task"], _segments(row), int(row["devices"] or 1),
        float(row["time_s"]), step, fits_host(row),
    )  # fmt: skip


def fits_host(row: dict[str, str]) -> bool:
    """Whether a row belongs to the half that is fitted on, by its name in the source."""
    published = row | {"network": row["label"]}
    key = "|".join(published[name] for name in _COLUMNS if name not in ("time_s", "label"))
    return crc32(key.encode()) % 2 == 0


def predict(row: dict[str, str]) -> ConvnetStep:
    """The step of a row with one second for each launch of the host."""
    size = int(row["image_size"]) if row["image_size"] else None
    mode = "compile" if row["source"] in _REPLAYED else "eager"
    options: dict[str, Any] = {
        "image_size": size,
        "dtype": row["dtype"],
        "layout": row["layout"],
        "amp": row["amp"] == "1",
        "mode": mode,
        "host_launch": 1.0,
    }
    if row["task"] != "train":
        accelerator = load_accelerator(row["chip"])
        training = row["task"] == "forward"
        return infer_convnet(
            row["network"], accelerator, int(row["batch"]), training_norms=training, **options
        )
    optimizer = "rmsprop" if "efficientnet" in row["network"] else "sgd"
    if _segments(row):
        optimizer = "adamw"
    else:
        # before PyTorch 2; the segmentation scripts use a multi-tensor optimizer
        options["loop_optimizer"] = True
    if row["chip"] in _NODES:
        devices = int(row["devices"] or 1)
        cluster = load_cluster(
            _NODES[row["chip"]], nodes=max(1, devices // 8), gpus_per_node=min(devices, 8)
        )
        return train_convnet(
            row["network"], cluster, int(row["batch"]), optimizer=optimizer, **options
        )
    return train_convnet(
        row["network"],
        load_accelerator(row["chip"]),
        int(row["batch"]),
        optimizer=optimizer,
        **options,
    )


def summary(scored: Iterable[Scored]) -> list[dict[str, Any]]:
    """Errors on the half of the rows that nothing was fitted on, by source, task and chip."""
    groups: dict[tuple[str, ...], list[Scored]] = defaultdict(list)
    for one in scored:
        if not one.fitted and not one.contradicted:
            groups[_group(one.row)].append(one)
    records = []
    for (source, chip, task, segments), members in sorted(groups.items()):
        errors = [one.error for one in members]
        logs = [math.log(one.predicted / one.measured) for one in members]
        records.append(
            {
                "source": source,
                "task": f"{task}, segmentation" if segments == "True" else task,
                "chip": chip,
                "rows": len(members),
                "mape": sum(errors) / len(errors),
                "median_error": median(errors),
                "bias": math.exp(sum(logs) / len(logs)) - 1.0,
                "within_15_percent": sum(error <= 0.15 for error in errors) / len(errors),
                "host_bound": sum(one.host_bound for one in members) / len(members),
                "host_launch_us": members[0].host_launch * 1e6,
            }
        )
    return records


def _group(row: dict[str, str]) -> tuple[str, ...]:
    # classification and segmentation are two programs with hosts of their own
    return (row["source"], row["chip"], row["task"], str(_segments(row)))


def _segments(row: dict[str, str]) -> bool:
    return row["network"].startswith("nnunet")


def _read(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Rows with their places, once their numbers are numbers."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
        header = list(reader.fieldnames or ())
        rows = [(f"{path.name}:{reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise WorkloadError(
            path.name, f"<{error}>", "a CSV in UTF-8 with a header", repair="export it again"
        ) from None
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise WorkloadError(
            path.name, header, ", ".join(_COLUMNS), repair=f"add the column {missing[0]}"
        )
    for place, row in rows:
        if None in row or None in row.values():
            raise WorkloadError(
                place,
                "<more or fewer cells than the header>",
                f"{len(header)} cells",
                repair="restore the row",
            )
        for name, blank in (("devices", True), ("batch", False), ("image_size", True)):
            if not (blank and row[name] == "") and not _is_count(row[name]):
                raise WorkloadError(
                    f"{place}: {name}",
                    row[name],
                    "a whole number above zero",
                    repair="correct the cell",
                )
        if not _is_time(row["time_s"]):
            raise WorkloadError(
                f"{place}: time_s",
                row["time_s"],
                "a number of seconds above zero",
                repair="correct the cell, or remove the row",
            )
        if row["task"] not in _TASKS:
            raise WorkloadError(
                f"{place}: task",
                row["task"],
                ", ".join(_TASKS),
                nearest=nearest_name(row["task"], _TASKS),
                repair="use one of the accepted words",
            )
    return rows


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _is_time(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) > 0.0
    except ValueError:
        return False


def _of_sources(
    rows: list[tuple[str, dict[str, str]]], sources: Iterable[str] | None, name: str
) -> list[tuple[str, dict[str, str]]]:
    if sources is None:
        return rows
    known = sorted({row["source"] for _, row in rows})
    wanted = set(sources)
    for source in sorted(wanted - set(known)):
        raise WorkloadError(
            f"{name}: source",
            source,
            ", ".join(known),
            nearest=nearest_name(source, known),
            repair="name one that the file has",
        )
    return [(place, row) for place, row in rows if row["source"] in wanted]
