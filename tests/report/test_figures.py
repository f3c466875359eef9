import numpy as np
import pytest

from perfmodel.errors import FileError
from perfmodel.files import write_text
from perfmodel.report import figures
from perfmodel.report.style import save
from perfmodel.report.tables import markdown


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_roofline_draws_the_ridge_and_every_series(rng):
    x = rng.uniform(1, 1000, 20)
    drawn = figures.roofline("r", 989e12, 3.35e12, {"gemm": x}, {"gemm": x * 1e12})
    axes = drawn.axes[0]
    assert any("ridge 295" in text.get_text() for text in axes.texts)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["gemm"]


def test_scatter_legend_states_the_error():
    drawn = figures.predicted_against_measured("p", {"a": [1.0, 2.0]}, {"a": [1.1, 1.8]})
    assert "MAPE 10.0%" in drawn.axes[0].get_legend().get_texts()[0].get_text()


def test_a_long_legend_stands_beside_the_points_and_no_two_series_look_alike():
    series = {f"family {i}": [1.0 + i] for i in range(20)}
    axes = figures.predicted_against_measured("p", series, series).axes[0]
    looks = [
        (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.shape)
        for dots in axes.collections[:20]
    ]
    assert len(set(looks)) == 20
    assert axes.get_legend().get_bbox_to_anchor().x0 >= axes.bbox.x1 - 1


def test_files_are_whole_or_absent(tmp_path, rng):
    drawn = figures.stacked_bars("s", ["x", "y"], {"a": [1, 2], "b": [3, 4]}, xlabel="ms", limit=5)
    path = save(drawn, tmp_path / "deep" / "bars.svg")
    assert path.read_text().rstrip().endswith("</svg>")
    assert [item.name for item in path.parent.iterdir()] == ["bars.svg"]
    with pytest.raises(FileError, match="Accepted"):
        save(drawn, tmp_path / "bars.nonsense")
    assert not list(tmp_path.glob("*nonsense"))


def test_same_input_same_svg(tmp_path):
    texts = [
        save(
            figures.curves("c", {"a": [1, 2]}, {"a": [3, 4]}, xlabel="x", ylabel="y"),
            tmp_path / f"{i}.svg",
        ).read_bytes()
        for i in range(2)
    ]
    assert texts[0] == texts[1]


def test_pareto_and_timeline_accept_arrays(rng):
    time, memory = rng.uniform(1, 2, 50), rng.uniform(2**30, 2**37, 50)
    figures.pareto("p", time, memory, [int(np.argmin(time))], 80 * 2**30)
    drawn = figures.timeline("t", ["s0", "s1"], [0, 1], [0, 1], [1, 1], ["F", "B"])
    assert len(drawn.axes[0].patches) == 2


def test_markdown_table():
    text = markdown(["a", "b"], [[1.23456, None], ["x|y", True]])
    assert text.splitlines()[2] == "| 1.23 | - |"
    assert text.splitlines()[3] == "| x\\|y | yes |"


def test_text_files_are_replaced_whole(tmp_path):
    target = write_text(tmp_path / "a.md", "one")
    write_text(target, "two")
    assert target.read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 1


def test_small_series_are_drawn_above_large_ones():
    many, few = np.ones(100), np.ones(3)
    series = {"few": few, "many": many}
    error = {"few": few - 0.5, "many": many - 1.0}
    for drawn in (
        figures.predicted_against_measured("p", series, series),
        figures.error_against_size("e", series, error, xlabel="x"),
        figures.roofline("r", 1e15, 1e12, series, {name: x * 1e12 for name, x in series.items()}),
    ):
        heights = {one.get_label().split(":")[0]: one.zorder for one in drawn.axes[0].collections}
        assert heights["few"] > heights["many"]


def test_half_and_double_stand_equally_far_from_right():
    drawn = figures.error_against_size("e", {"a": [1.0, 2.0]}, {"a": [-0.5, 1.0]}, xlabel="x")
    axes = drawn.axes[0]
    half, right, double = axes.transData.transform([(1.0, y) for y in (0.5, 1.0, 2.0)])[:, 1]
    assert right - half == pytest.approx(double - right)
