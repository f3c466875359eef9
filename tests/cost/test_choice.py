"""The kernel that a library takes: trees, what they ask, and what corrections see of it."""

import numpy as np
import pytest

from perfmodel.cost import choice
from perfmodel.cost.walk import Tree
from perfmodel.errors import CalibrationError

SIZES = tuple(np.array([size], dtype=float) for size in (256, 512, 1024, 1))


def _rule():
    """Up to 100 rows kernel 0, above kernel 1 in four parts."""
    return choice.Rule(
        Tree(
            np.array([0, 0, 0], np.int16),
            np.array([100.0, np.inf, np.inf], np.float32),
            np.array([1, 1, 2], np.int32),
            2,
        ),
        np.array([0, 0, 1], np.int16),
        np.array([0.0, 0.0, 2.0], np.float32),
        np.array([[5.0, *[0.0] * 9], [0.0, 128, 64, 64, 4, 2, 1, 1, 1, 0]]),
    )


def test_a_leaf_names_a_kernel_and_its_parts():
    kernels, parts = _rule()(np.array([[50.0], [100.0], [101.0]], np.float32))
    assert kernels[:, 0].tolist() == [5.0, 5.0, 0.0]
    assert parts.tolist() == [1.0, 1.0, 4.0]


def test_waves_and_work_of_the_kernel_that_is_named(monkeypatch):
    monkeypatch.setattr(choice, "rules", lambda: {"half_odd": _rule()})
    seconds = np.array([2e-6])
    names, values = choice.chosen_columns(SIZES, "tn", "bf16", 3e12, seconds, odd=True)
    found = {
        name.removeprefix("chosen_"): value.item()
        for name, value in zip(names, values, strict=False)
    }
    # 4 x 4 tiles in four parts of 256 are 64 blocks of 132 units.
    assert found["k_parts"] == 4.0
    assert found["part_fill"] == pytest.approx(64 / 132)
    assert found["tile_turns"] == 1.0
    assert found["part_depth"] == 8.0
    assert found["turn_work"] == pytest.approx(np.log(256 * 128 * 64 / 2e-6))
    assert found["turn_operands"] == pytest.approx(np.log(256 * (128 + 64 / 2) / 2e-6))


def test_a_kernel_without_tiles_tells_its_maker_alone(monkeypatch):
    monkeypatch.setattr(choice, "rules", lambda: {"fp32": _rule()})
    few = (np.array([2.0]), *SIZES[1:])
    names, values = choice.chosen_columns(few, "tn", "fp32", 3e12, np.array([1e-6]))
    told = {name: value.item() for name, value in zip(names, values, strict=False)}
    assert told["chosen_maker"] == 5.0
    assert told["chosen_turn_work"] == 0.0


def test_a_class_without_a_rule_is_told_nothing():
    names, values = choice.chosen_columns(SIZES, "tn", "int8", 3e12, np.array([1e-6]))
    assert names == choice.NAMES
    assert all(not value.any() for value in values)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "tf32", "fp32"])
def test_shipped_trees_answer_for_any_size(dtype):
    rng = np.random.default_rng(0)
    m, n, k, batch = (np.round(2.0 ** rng.uniform(0, top, 300)) for top in (17, 17, 17, 10))
    trans = np.array(choice.LAYOUTS)[rng.integers(0, 4, 300)]
    for odd in (False, True):
        names, values = choice.chosen_columns(
            (m, n, k, batch), trans, dtype, 3.35e12, np.full(300, 1e-5), odd
        )
        assert len(names) == len(values)
        assert np.isfinite(np.stack(values)).all()


def test_a_large_product_has_large_tiles():
    big = tuple(np.array([size], dtype=float) for size in (8192, 8192, 8192, 1))
    kernel, parts = choice.chosen(*big, "tn", "bf16", 3.35e12)
    assert kernel[0, 1] * kernel[0, 2] >= 128 * 128
    assert parts.item() == 1.0


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / "trees.npz").write_bytes(b"no")
    with pytest.raises(CalibrationError, match="decision trees"):
        choice.rules(tmp_path / "trees.npz")


def test_both_dtypes_of_half_precision_are_told_apart():
    places = (np.zeros(1), 3e12)
    for odd in (False, True):
        one, other = (
            choice.asked_columns(*SIZES, *places, dtype, odd) for dtype in ("bf16", "fp16")
        )
        assert np.flatnonzero(one != other).tolist() == [one.shape[1] - 1]


def test_odd_products_are_asked_for_their_rows_and_not_for_the_chip():
    sizes = tuple(np.full(4, size) for size in (6.0, 20.0, 33.0, 1.0))
    layouts = np.arange(4.0)  # tn nn nt tt
    one, other = (
        choice.asked_columns(*sizes, layouts, chip, "tf32", True) for chip in (3.35e12, 4.8e12)
    )
    assert np.array_equal(one, other)
    # The least power of two in a row of either factor: k and k, n and k, n and m, k and m.
    assert one[:, 14].tolist() == [1.0, 1.0, 2.0, 1.0]


def test_odd_products_follow_a_rule_of_their_own(monkeypatch):
    monkeypatch.setattr(choice, "rules", lambda: {"fp32_odd": _rule()})
    kernel, parts = choice.chosen(*SIZES, "tn", "fp32", 3e12, odd=True)
    assert (kernel[0, 0], parts.item()) == (0.0, 4.0)
    with pytest.raises(KeyError):
        choice.chosen(*SIZES, "tn", "fp32", 3e12)
