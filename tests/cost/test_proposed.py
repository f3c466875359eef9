"""The plans that a search tries: trees, their tables, and what corrections see of them."""

import numpy as np
import pytest

from perfmodel.cost import proposed
from perfmodel.cost.efficiency import efficiency_of
from perfmodel.cost.features import features
from perfmodel.cost.mechanism import mechanism
from perfmodel.cost.price import task_device
from perfmodel.cost.tasks import tasks_of
from perfmodel.cost.walk import Tree
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Conv2d

SEED = 0


def _sizes(**values):
    usual = {
        "n": 8, "c_in": 128, "c_out": 256, "h": 56, "w": 56, "inputs": 3136, "outputs": 3136,
        "taps": 9, "side": 3, "step": 1, "pad": 1, "groups": 1,
    }  # fmt: skip
    return {name: np.array([value], dtype=float) for name, value in (usual | values).items()}


def _one_list(tiles):
    """A tree of one leaf, whose list has plans of these tiles."""
    plans = np.array([[*range(1, len(tiles) + 1), *[0] * (10 - len(tiles))]], np.int16)
    table = np.array([[0] * 5, *tiles], np.float32)
    return proposed.Proposals(
        Tree(np.zeros(1, np.int16), np.full(1, np.inf, np.float32), np.zeros(1, np.int32), depth=0),
        np.zeros(1, np.int32),
        plans,
        np.full((1, 1), float(len(tiles)), np.float32),
        proposed._different(plans, table),
        proposed._kept(plans, table),
    )


def _told(monkeypatch, tiles, sizes, seconds=1e-5):
    tree = {proposed.key_of("fwd", "nhwc", "bf16"): _one_list(tiles)}
    monkeypatch.setattr(proposed, "proposals", lambda: (("proposed_plans",), tree))
    found = proposed.proposed_columns(sizes, "fwd", "nhwc", "bf16", np.array([seconds]))
    return {
        name.removeprefix("proposed_"): value.item() for name, value in zip(*found, strict=True)
    }


def test_the_least_work_of_the_listed_tiles_against_the_time(monkeypatch):
    tiles = [(128, 128, 64, 1, 1), (256, 128, 64, 2, 1)]
    told = _told(monkeypatch, tiles, _sizes())
    # 196 x 2 tiles are 3 waves of 132; 98 x 2 are 2 of twice the work; each of 9 taps of 128.
    work = 3 * 128 * 128 * 128 * 9
    assert told["plans"] == 2.0
    assert told["work_1"] == pytest.approx(np.log2(work / 1e-5), rel=1e-6)
    assert told["next_1"] == pytest.approx(np.log2(4 / 3), rel=1e-5)
    assert told["fill_1"] == pytest.approx(392 / 132 / 3, rel=1e-6)
    assert (told["rows_1"], told["cols_1"]) == (7.0, 7.0)
    assert told["128x128"] == pytest.approx(0.0, abs=1e-5)
    assert told["64x64"] == 3.0


def test_a_cluster_rounds_blocks_up(monkeypatch):
    told = _told(monkeypatch, [(128, 128, 64, 1, 4)], _sizes())
    assert told["cols_filled_1"] == pytest.approx(0.5)


def test_a_list_without_tiles_is_told_by_its_words_alone(monkeypatch):
    told = _told(monkeypatch, [(0, 0, 0, 1, 1)], _sizes())
    assert told["plans"] == 1.0
    assert told["work_1"] == told["next_2"] == told["rows_filled_1"] == 0.0


def test_the_same_tile_stands_once_in_a_list():
    plans = np.array([[1, 2, 3, 0, 0, 0, 0, 0, 0, 0]], np.int16)
    tiles = np.array([[0] * 5, [128, 64, 32, 1, 1], [128, 64, 32, 1, 1], [0] * 5], np.float32)
    found = proposed._different(plans, tiles)
    assert found[:, :, 0].tolist() == [[128, 64, 32, 1, 1]]


@pytest.mark.parametrize("dtype", ["int8", "fp64", ""])
def test_what_is_not_known_is_told_nothing(dtype):
    names, values = proposed.proposed_columns(_sizes(), "fwd", "nhwc", dtype, np.array([1e-5]))
    assert len(names) == len(values)
    assert not any(value.any() for value in values)


def _many(count):
    rng = np.random.default_rng(SEED)
    side = rng.choice([1.0, 3.0, 5.0, 2.5], count)
    h, w = (np.round(2.0 ** rng.uniform(0, 8, count)) for _ in range(2))
    return {
        "n": np.round(2.0 ** rng.uniform(0, 8, count)),
        "c_in": np.round(2.0 ** rng.uniform(0, 12, count)),
        "c_out": np.round(2.0 ** rng.uniform(0, 12, count)),
        "h": h, "w": w, "inputs": h * w, "outputs": h * w, "taps": side**2, "side": side,
        "step": np.ones(count), "pad": side // 2.0, "groups": np.ones(count),
    }  # fmt: skip


@pytest.mark.parametrize("direction", proposed.PASSES)
@pytest.mark.parametrize("layout", proposed.LAYOUTS)
@pytest.mark.parametrize("dtype", proposed.DTYPES)
def test_shipped_trees_answer_alike_for_one_and_for_many(direction, layout, dtype):
    sizes, seconds = _many(100), np.full(100, 1e-5)
    names, values = proposed.proposed_columns(sizes, direction, layout, dtype, seconds)
    assert len(set(names)) == len(names) == len(values)
    values = np.stack(values)
    assert np.isfinite(values).all()
    assert (values[0] > 0).all()
    for at in range(0, 100, 9):
        one = {name: value[at : at + 1] for name, value in sizes.items()}
        _, alone = proposed.proposed_columns(one, direction, layout, dtype, seconds[:1])
        np.testing.assert_allclose(np.stack(alone)[:, 0], values[:, at], rtol=1e-12, atol=1e-12)


def test_points_and_other_convolutions_are_told_the_same_names():
    chip = load_accelerator("h100-sxm5-80gb")
    found = []
    for kernel, padding in ((1, 0), (3, 1)):
        op = Conv2d(n=8, c_in=64, h=56, w=56, c_out=64, kernel=kernel, padding=padding)
        (task,) = tasks_of(op)[1]
        device = task_device(task, chip)
        parts = mechanism(task, device, efficiency_of(chip).of(task.kernel))
        names, values, _ = features(task, device, parts)
        told = [name.startswith("proposed_") for name in names]
        found.append([name for name in names if name.startswith("proposed_")])
        assert values[:, told].any()
        assert names[-len(found[-1]) :] == tuple(found[-1])
    assert found[0] == found[1]


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / "trees.npz").write_bytes(b"no")
    with pytest.raises(CalibrationError, match="decision trees of convolutions") as caught:
        proposed.proposals(tmp_path / "trees.npz")
    assert "restore the file" in str(caught.value)
