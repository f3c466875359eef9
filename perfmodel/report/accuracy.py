"""The accuracy report on disk: Markdown, JSON and a scatter for every part."""

from __future__ import annotations

import json
from pathlib import Path

from perfmodel.calibrate.store import HELD_OUT, read_records
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.files import write_text
from perfmodel.report.figures import predicted_against_measured
from perfmodel.report.kernels import kernel_figures, measured_roofline
from perfmodel.report.style import save
from perfmodel.study.accuracy import Part, data_folder


def _illustrated(part: Part) -> str:
    """The page with its scatter below the title and the first paragraph."""
    if not part.measured or not part.markdown.startswith("# "):
        return part.markdown
    title, first, rest = part.markdown.split("\n\n", 2)
    picture = f"![Predicted against measured step times]({part.name}.svg)"
    return "\n\n".join([title, first, picture, rest])


def write_part(part: Part, folder: Path) -> list[Path]:
    """Write ``NAME.md``, ``NAME.json`` and ``NAME.svg``; returns the paths."""
    paths = [
        write_text(folder / f"{part.name}.md", _illustrated(part) + "\n"),
        write_text(folder / f"{part.name}.json", json.dumps(part.document, indent=1, default=str)),
    ]
    if part.measured:
        drawn = predicted_against_measured(
            f"{part.name}: predicted against measured", part.measured, part.predicted
        )
        paths.append(save(drawn, folder / f"{part.name}.svg"))
    if part.name == "operators" and "on" not in part.document:  # the shipped chips' own rows
        for path in sorted(efficiency_folder().glob(f"*/{HELD_OUT}")):
            chip = path.parent.name
            paths += kernel_figures(read_records(path), chip, folder)
            measurements = data_folder() / "measurements" / chip
            if measurements.is_dir():
                drawn = measured_roofline(measurements, chip)
                paths.append(save(drawn, folder / f"{chip}-roofline.svg"))
    return paths
