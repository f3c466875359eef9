"""The efficiency files of one chip: arrays for the program, TOML and CSV for people."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from perfmodel.calibrate.learn import COVERAGE, Learned
from perfmodel.calibrate.measurements import Measurements
from perfmodel.calibrate.power import PowerFit, write_power
from perfmodel.calibrate.samples import FOLDS, FUSED
from perfmodel.calibrate.score import Record, summary
from perfmodel.cost.efficiency import ABOUT_FILE
from perfmodel.cost.fitted import Fitted, write_arrays
from perfmodel.cost.layers import POOLED_FILE, Pooled, write_pooled
from perfmodel.cost.power import POWER_FILE
from perfmodel.errors import CalibrationError
from perfmodel.hardware import Accelerator

# Tens of thousands of rows, packed to a fifth; pandas and spreadsheets unpack it
HELD_OUT: Final = "held_out.csv.gz"


@dataclass(frozen=True, slots=True)
class Others:
    """Fits that stay as they are: a chip's folder, and the kernels whose files are taken over."""

    folder: Path
    kernels: tuple[str, ...]

    @classmethod
    def of(
        cls, folder: Path, kernels: Iterable[str], measured: Measurements, sibling: str | None
    ) -> Others:
        """Those of ``kernels`` that a folder holds.

        Raises
        ------
        CalibrationError
            If they were fitted to other measurements, or with another sibling's.
        """
        about = folder / ABOUT_FILE
        if not about.is_file():
            return cls(folder, ())
        said = tomllib.loads(about.read_text(encoding="utf-8"))
        for name, here in (("measurements_sha256", measured.sha256), ("sibling", sibling)):
            if said.get(name) != here:
                raise CalibrationError(
                    f"{folder.name}/{ABOUT_FILE}: {name}",
                    said.get(name),
                    f"{here}, what is fitted to now",
                    repair="fit all kernels: the others' fits would be of other measurements",
                )
        return cls(folder, tuple(k for k in kernels if (folder / f"{k}.npz").is_file()))


def _joined(others: Others, new: Sequence[Record]) -> list[Record]:
    """Stored predictions of the kernels that stay, and the new ones, as a fit of all orders them.

    Those that no kernel of their own predicts stay too, unless they are new.
    """
    fresh, stay = {record.kernel for record in new}, {*others.kernels, FUSED}
    stored = read_records(others.folder / HELD_OUT) if others.kernels else []
    kept = [r for r in stored if r.kernel in stay and r.kernel not in fresh]
    return sorted((*kept, *new), key=lambda record: (record.kernel == FUSED, record.kernel))


def write_folder(
    folder: Path,
    accelerator: Accelerator,
    measured: Measurements,
    learned: Mapping[str, Learned],
    records: Iterable[Record],
    *,
    power: PowerFit | None,
    sibling: str | None,
    pooled: Pooled | None = None,
    others: Others | None = None,
) -> None:
    """Write ``device.toml``, ``held_out.csv.gz``, ``power.toml``, an npz and a TOML a kernel.

    Networks that kernels share (``pooled``) have an npz of their own. What ``others`` names is
    taken over from there.
    """
    kept = list(records)
    if others is not None:
        kept = _joined(others, kept)
        for kernel in others.kernels:
            for path in others.folder.glob(f"{kernel}.*"):
                shutil.copy2(path, folder)
        if pooled is None and (others.folder / POOLED_FILE).is_file():
            shutil.copy2(others.folder / POOLED_FILE, folder)
    lines = [
        "# Written by `perfmodel calibrate`; do not edit.",
        f'device = "{accelerator.name.lower()}"',
        f'architecture = "{accelerator.family}"',
        f"rows = {len(measured.rows)}",
        f'measurements_sha256 = "{measured.sha256}"',
    ]
    if sibling is not None:
        lines.append(f'sibling = "{sibling}"  # its rows taught the corrections too')
    lines += ["", "# Errors of held-out rows: kernel = [rows, mean absolute percentage error]"]
    lines += ["[held_out]"]
    for kernel in sorted({*learned, *(others.kernels if others is not None else ())}):
        mine = [record for record in kept if record.kernel == kernel]
        lines.append(f'"{kernel}" = [{len(mine)}, {summary(mine)["mape"]:.2f}]')
    (folder / ABOUT_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for kernel, one in learned.items():
        write_arrays(folder / f"{kernel}.npz", one.fitted)
        text = _describe(one, measured, [r for r in kept if r.kernel == kernel])
        (folder / f"{kernel}.toml").write_text(text, encoding="utf-8")
    write_records(folder / HELD_OUT, kept)
    if pooled is not None:
        write_pooled(folder / POOLED_FILE, pooled)
    if power is not None:
        write_power(folder / POWER_FILE, accelerator.name.lower(), power)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Records as CSV, times in seconds with six digits; packed if the name ends in ``.gz``.

    Equal records give equal bytes.
    """
    names = [field.name for field in fields(Record)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        values = asdict(record)
        writer.writerow(
            f"{value:.6g}" if isinstance(value, float) else value for value in values.values()
        )
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_records(path: Path) -> list[Record]:
    """The inverse of :func:`write_records`."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    numbers = {field.name for field in fields(Record) if field.type == "float"}
    return [
        Record(
            **{  # type: ignore[arg-type]
                name: float(text)
                if name in numbers
                else (text == "True" if name == "calibrated" else text)
                for name, text in row.items()
            }
        )
        for row in rows
    ]


def _describe(one: Learned, measured: Measurements, records: list[Record]) -> str:
    fitted = one.fitted
    scores = summary(records)
    trees = 0 if fitted.trees is None else len(fitted.trees.asked)
    points = 0 if fitted.smooth is None else len(fitted.smooth.points)
    lines = [
        "# Written by `perfmodel calibrate`; do not edit. Meanings: docs/models/kernels.md",
        f'kernel = "{fitted.kernel}"',
        f'device = "{fitted.device}"',
        f'measurements_sha256 = "{measured.sha256}"',
        "",
        f"[held_out]  # {FOLDS} folds by a hash of the operator; nothing here was seen by its fit",
        *(f"{name} = {value:.6g}" for name, value in scores.items()),
        f"mechanism_mape = {summary(records, predicted='mechanism_s')['mape']:.6g}",
        "",
        "[coefficients]",
        *(
            f"{name} = {value:.6g}"
            for name, value in fitted.coefficients.items()
            if not name.startswith("interval_")
        ),
        "",
        "[correction]  # the mean of the learners",
        f"trees = {trees}",
        f"points = {points}",
        f"networks_share = {fitted.pooled_share:g}  # {_whose(fitted)}",
        "",
        f"[interval]  # half-width of {COVERAGE:.0%}, in the logarithm of time",
        f"size_edges_s = [{', '.join(f'{edge:.6g}' for edge in fitted.size_edges)}]",
        f"half_width = [{', '.join(f'{width:.4g}' for width in fitted.spread)}]",
        f"outside = {fitted.spread_outside:.4g}",
        "",
        "[range]  # of base-2 logarithms; beyond it the correction fades",
        *(f"{name} = [{low:.4g}, {high:.4g}]" for name, (low, high) in fitted.extent.items()),
    ]
    return "\n".join(lines) + "\n"


def _whose(fitted: Fitted) -> str:
    return "networks of its own" if fitted.network else "what it shares with other kernels"
