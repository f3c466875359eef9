"""The pictures of ``docs/accuracy/programs.md``.

``python -m perfmodel.report.programs_pictures`` reads ``programs.csv``, recorded programs and
profiler traces of a source tree, and writes ``docs/pictures/programs-*.svg``.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from perfmodel.errors import PerfmodelError, ScenarioError
from perfmodel.hardware import load_accelerator
from perfmodel.report.figures import predicted_against_measured
from perfmodel.report.programs import memory_over_time, operator_roofline, timeline
from perfmodel.report.style import save
from perfmodel.sim.kineto import KinetoTrace, read_kineto
from perfmodel.study.own_model import estimate_program
from perfmodel.study.programs import PLAIN, UNREAD
from perfmodel.study.programs_fit import folders
from perfmodel.study.scores import REPORT

CHIP: Final = "h100-sxm5-80gb"
PROGRAM: Final = "infer-gpt2_small-b8-s512-bf16-nchw"
TRAINED: Final = "train-gpt2_small-b8-s1024-bf16-nchw-amp-adamw-fused"
PROFILED: Final = "train-gpt2_small-eager-b8-s1024-bf16-nchw-amp-adamw-fused"


def held_out_scatter(rows: Iterable[dict[str, str]], chip: str) -> Figure:
    """Predicted against measured steps of the models that no fit read, by mode."""
    series: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        held = row["chip"] == chip and row["split"] in (REPORT, UNREAD) and not row["refused"]
        if held and row["superseded"] != "True":
            profiled = row["after_profiler"] == "True" and row["mode"] in PLAIN
            series[row["mode"] + (" (profiler attached)" if profiled else "")].append(row)
    columns = {
        name: {kind: np.array([float(row[name]) for row in some]) for kind, some in series.items()}
        for name in ("measured_s", "predicted_s")
    }
    return predicted_against_measured(
        f"{chip}: steps of models that no fit read",
        columns["measured_s"],
        columns["predicted_s"],
        unit="ms",
        scale=1e3,
    )


def archived_trace(archive: Path, name: str) -> KinetoTrace:
    """A profiler trace out of the archive of a measuring run.

    Raises
    ------
    ScenarioError
        If the archive holds no trace of that name.
    """
    with tarfile.open(archive) as opened:
        names = [one.name for one in opened.getmembers() if one.isfile()]
        found = next((one for one in names if one.removesuffix(".json.gz") == name), None)
        member = opened.extractfile(found) if found is not None else None
        if member is None:
            raise ScenarioError(
                str(archive), name, ", ".join(names) or "an archive with traces",
                repair="name one of the traces",
            )  # fmt: skip
        document: Any = json.loads(gzip.decompress(member.read()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return read_kineto(path)


def draw(root: Path) -> list[Path]:
    """Draw all; returns the paths."""
    measurements, programs = folders(root, CHIP)
    accelerator = load_accelerator(CHIP)
    eager = estimate_program(programs / f"{PROGRAM}.json.gz", accelerator)
    trained = estimate_program(programs / f"{TRAINED}.json.gz", accelerator)
    trace = archived_trace(measurements / "eager" / "kineto.tar", PROFILED)
    with (root / "docs/accuracy/programs.csv").open(encoding="utf-8", newline="") as handle:
        scatter = held_out_scatter(csv.DictReader(handle), CHIP)
    drawn = {
        "held-out": scatter,
        "roofline": operator_roofline(eager, accelerator, "bf16"),
        "timeline": timeline(trained, trace),
        "memory": memory_over_time(trained),
    }
    folder = root / "docs/pictures"
    return [save(figure, folder / f"programs-{name}.svg") for name, figure in drawn.items()]


def main() -> int:
    """Draw; 0 when all pictures were written."""
    try:
        for path in draw(Path(__file__).resolve().parents[2]):
            sys.stdout.write(f"{path.name}\n")
    except PerfmodelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
