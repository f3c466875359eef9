"""The shipped coefficients on rows that no fit saw, and that they follow from the other half."""

from pathlib import Path

import numpy as np
import pytest

from perfmodel.calibrate.network_beside import beside_rows, predict_beside
from perfmodel.calibrate.network_fit import fit_domain
from perfmodel.calibrate.network_measured import KEY, measured_rows, predict_measured
from perfmodel.calibrate.network_published import (
    CARDS,
    GENERATIONS,
    TARGETS,
    fit_published,
    rows_of,
    situation,
)
from perfmodel.calibrate.network_rows import UNSEEN, published_rows
from perfmodel.calibrate.network_score import (
    SINGLE_NODE,
    curves,
    left_out,
    markdown,
    predict_published,
    score,
    shipped_report,
)
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load
from perfmodel.network import collective_seconds, interference, price_collective
from perfmodel.network.coefficients import fitted, from_dict, to_dict

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "validate/published/collectives.csv"
MEASURED = ROOT / "validate/measurements/h200-sxm-141gb-x4/collectives.csv"
DRAWN = ROOT / "validate/measurements/h200-sxm-141gb-x2/collectives-drawn.csv"


@pytest.fixture(scope="module")
def held():
    rows, _ = published_rows(TABLE)
    rows = rows.where(rows.held)
    predicted = predict_published(rows, {target.key: fitted(target.key) for target in TARGETS})
    return rows, predicted


def test_single_node_points_that_no_fit_saw(held):
    rows, predicted = held
    mask = (rows.groups == 1) & np.isin(rows.hardware, SINGLE_NODE)
    assert not np.isin(rows.hardware[mask], UNSEEN).any()
    found = score("single node", predicted[mask], rows.seconds[mask])
    assert found.rows > 300
    assert found.mape <= 0.06
    assert found.p90 <= 0.15


def test_multi_node_points_that_no_fit_saw(held):
    rows, predicted = held
    mask = (rows.groups > 1) & (rows.hardware != "MI250X (GCD)") & ~np.isin(rows.hardware, UNSEEN)
    found = score("between nodes", predicted[mask], rows.seconds[mask])
    assert found.rows > 60
    assert found.mape <= 0.09
    assert found.p90 <= 0.16


def test_whole_clusters_that_no_fit_saw(held):
    """Other sites over InfiniBand, and chips and operations never measured on that fabric."""
    rows, predicted = held
    mask = (rows.groups > 1) & np.isin(rows.hardware, UNSEEN)
    found = score("other clusters", predicted[mask], rows.seconds[mask])
    assert found.rows > 150
    assert found.mape <= 0.12
    there = (rows.hardware == "B200-SXM (second site)") & (rows.groups == 1)
    found = score("another B200", predicted[there], rows.seconds[there])
    assert found.rows == 100
    assert found.mape <= 0.07


def test_sizes_drawn_later():
    """Two H200s, sizes at random, after all fits: alone and among kernels."""
    rows = measured_rows(DRAWN)
    there = predict_measured(rows, fitted(KEY))
    rings = rows.op != "p2p"  # single sends below 256 KiB depend on how many stand in a graph
    assert len(rows) == 126
    assert score("drawn", there[rings], rows.seconds[rings]).mape <= 0.045
    beside, _ = beside_rows([DRAWN])
    among = predict_beside(beside, interference("nccl-nvlink4"))
    plain = beside.op != "p2p"
    for kind, bar in (("gemm", 0.10), ("copy", 0.07)):
        mask = plain & (beside.kind == kind)
        assert score(kind, among[mask], beside.both[mask]).mape <= bar


@pytest.mark.slow
def test_a_generation_left_out():
    rows, _ = published_rows(TABLE)
    scores = {each.name: each for each in left_out(rows, {key: fitted(key) for key in CARDS})}
    for generation in GENERATIONS:
        assert scores[f"{generation}, from the others"].mape <= 0.25


def test_own_measurement_that_no_fit_saw():
    rows = measured_rows(MEASURED)
    rows = rows.where(rows.held)
    found = score("own", predict_measured(rows, fitted(KEY)), rows.seconds)
    assert found.mape <= 0.05
    assert found.p90 <= 0.12


def test_a_user_gets_what_was_scored(held):
    """The public function on a loaded cluster prices a row as the report did."""
    rows, predicted = held
    mask = (rows.hardware == "A100-SXM4-80GB") & (rows.op == "all_reduce")
    part = rows.where(mask)
    got = collective_seconds(
        "all_reduce", part.size, part.ranks, load("dgx-a100"), ranks_per_node=part.ranks
    )
    assert got == pytest.approx(predicted[mask])


def test_the_file_follows_from_the_half_that_may_be_fitted():
    rows, _ = published_rows(TABLE)
    target = next(each for each in TARGETS if each.key == "nccl-nvlink3")
    mine = rows_of(target, rows)
    mine = mine.where(~mine.held)
    again = fit_domain(target.key, mine, situation(mine), target.shape, target.sources)
    shipped = fitted(target.key)
    for name, way in shipped.ways.items():
        assert again.ways[name].share == pytest.approx(way.share, rel=0.02)
        assert again.ways[name].base == pytest.approx(way.base, rel=0.02)


def test_files_read_back_as_written():
    link = fitted("nccl-nvlink4")
    assert to_dict(from_dict(to_dict(link))) == to_dict(link)


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p"])
@pytest.mark.parametrize("node", ["hgx-h200", "dgx-a100", "dgx-b200"])
def test_larger_is_never_faster_where_measured(op, node):
    size = 2.0 ** np.arange(10.0, 33.0, 0.5)
    for ranks in (2,) if op == "p2p" else (2, 4, 8):
        seconds = collective_seconds(op, size, ranks, load(node), ranks_per_node=ranks)
        assert (np.diff(seconds) >= -0.01 * seconds[1:]).all()


def test_halves_are_fixed_and_about_equal():
    rows, refused = published_rows(TABLE)
    assert 0.45 < rows.held[~np.isin(rows.hardware, UNSEEN)].mean() < 0.55
    whole = np.isin(rows.hardware, UNSEEN) & ~((rows.op == "all_to_all") & (rows.groups > 1))
    assert rows.held[whole].all()
    assert len(rows) + len(refused) == len(TABLE.read_text().splitlines()) - 1


def test_too_few_rows_are_refused():
    rows, _ = published_rows(TABLE)
    with pytest.raises(CalibrationError):
        fit_published(rows.where(rows.hardware == "MI300X"))


def test_curves_for_pictures(held):
    rows, predicted = held
    found = dict(curves(rows, predicted))
    curve = found["H100-SXM5-80GB", "all_reduce", 4]
    assert (np.diff(curve["size"]) > 0).all()
    assert curve["held"].all()
    assert curve["predicted_busbw"].max() < 450e9
    assert set(curve) == {"size", "measured", "predicted", "busbw", "predicted_busbw", "held"}


def test_the_report_of_what_is_shipped_judges_by_every_class():
    sections = dict(shipped_report(TABLE, MEASURED))
    assert {"By chip, single node", "By operation", "By ranks", "By size"} <= set(sections)
    text = markdown(list(sections.items()))
    assert text.count("### ") == len(sections)


def test_nine_of_ten_unseen_points_lie_in_the_interval():
    rows, _ = published_rows(TABLE)
    single = (rows.groups == 1) & np.isin(rows.hardware, SINGLE_NODE) & (rows.forced == "")
    rows = rows.where(rows.held & single)
    inside = []
    for node in np.unique(rows.node):
        for op in np.unique(rows.op):
            part = rows.where((rows.node == node) & (rows.op == op))
            priced = price_collective(
                op, part.size, part.ranks, load(str(node)), ranks_per_node=part.ranks
            )
            inside += list((part.seconds >= priced.low) & (part.seconds <= priced.high))
    assert 0.88 <= np.mean(inside) <= 0.97


def test_coefficients_state_their_doubt():
    link = fitted("nccl-nvlink4")
    assert link.doubt["simple_share"] < 0.1
    assert link.doubt["ll_base"] < 0.1
    assert all(value > 0 for value in link.doubt.values())
