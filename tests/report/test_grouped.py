"""The picture of a grouped-convolution schedule."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfmodel.hardware import load_accelerator
from perfmodel.optimize.grouped_conv import GroupedConv, contiguous_groups, schedule
from perfmodel.report.grouped import schedule_picture
from perfmodel.report.style import save


def test_the_picture_shows_whole_sms_and_every_tile_on_them(tmp_path: Path) -> None:
    groups = contiguous_groups([16, 64, 32, 8], [32, 64, 16, 8])
    layer = GroupedConv(4, 14, 14, 120, groups, name="four")
    found = schedule(layer, load_accelerator("h100-sxm5-80gb"), waves=False)
    units = found.chosen.slots // found.chosen.times.residency
    drawn = schedule_picture(found, rows=10**6)
    (axes,) = drawn.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(labels)) == found.chosen.slots
    assert labels[0].startswith("SM 0,")
    assert labels[-1].startswith(f"SM {units - 1},")
    assert len(axes.patches) == int(found.chosen.counts.sum())
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]
    assert max(ends) == pytest.approx(found.chosen.makespan * 1e6)
    few = schedule_picture(found)
    assert len(few.axes[0].get_yticks()) <= 24
    assert save(few, tmp_path / "four.svg").stat().st_size > 2000
