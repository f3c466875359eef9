"""Pictures of collectives: every point that is given is drawn."""

import numpy as np
import pytest

from perfmodel.report.collectives import among, bandwidth_curves, ratios
from perfmodel.report.style import save

SIZE = 2.0 ** np.arange(10, 20)


def curve(held):
    return {
        "size": SIZE,
        "busbw": SIZE * 1e4,
        "predicted_busbw": SIZE * 1.1e4,
        "held": np.full(10, held),
    }


@pytest.mark.parametrize("count", [1, 4])
def test_one_pair_of_axes_a_curve(count, tmp_path):
    drawn = bandwidth_curves("all", [(f"curve {i}", curve(i % 2)) for i in range(count)])
    assert [axes.get_title(loc="left") or axes.get_title() for axes in drawn.axes] == [
        f"curve {i}" for i in range(count)
    ]
    line, unseen, fitted = drawn.axes[0].get_lines()
    assert len(line.get_xdata()) == 10
    assert (len(unseen.get_xdata()), len(fitted.get_xdata())) == (0, 10)
    assert save(drawn, tmp_path / "curves.svg").stat().st_size > 1000


def test_ratios_and_work_at_once():
    drawn = ratios("left out", {"a": (SIZE, np.full(10, 1.2)), "b": (SIZE, np.ones(10))}, "bytes")
    points = [line for line in drawn.axes[0].get_lines() if line.get_marker() == "o"]
    assert [line.get_ydata()[0] for line in points] == [1.2, 1.0]
    times = np.array([1e-5, 1e-4])
    drawn = among("beside", {"gemm": (times, 3 * times, 2 * times)})
    assert drawn.axes[0].get_lines()[1].get_ydata() == pytest.approx(3e6 * times)
