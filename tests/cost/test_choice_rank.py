"""Which tile is taken in half precision: scores by waves and a small network."""

import numpy as np
import pytest

from perfmodel.cost import choice, choice_rank
from perfmodel.errors import CalibrationError

SIZES = tuple(np.array([size] * 2, dtype=float) for size in (256, 512, 1024, 1))


def _held(**changed):
    """Two tiles and a kernel without one, whose scores are nothing but what is changed."""
    seen = choice_rank.shown(*SIZES, np.zeros(2), 0.0, 0.0).shape[1]
    held = {
        "mean": np.zeros(seen), "scale": np.ones(seen), "first": np.zeros((4, seen)),
        "first_bias": np.zeros((4, 1)), "second": np.zeros((4, 4)), "second_bias": np.zeros((4, 1)),
        "last": np.zeros((3, 4)), "last_bias": np.zeros((3, 1)), "shared": np.zeros((3, 4)),
        "shared_bias": np.zeros((3, 1)), "own": np.zeros((3, 2, 1)), "cut": np.array([0, 1, 0]),
        "kernels": np.array([[0, 128, 64, *[0] * 7], [0, 16, 16, *[0] * 7], [5, *[0] * 9]]),
        # One question, whether k is above 1000: above, it is cut in four.
        "asked": np.array([8, 0, 0]), "limits": np.array([1000.0, np.inf, np.inf]),
        "below": np.array([1, 1, 2]), "logs": np.array([0.0, 0.0, 2.0]),
        # One question, whether the result has more than 4.5 tiles along n.
        "blocks_asked": np.array([20, 0, 0]), "blocks_limits": np.array([4.5, np.inf, np.inf]),
        "blocks_below": np.array([1, 1, 2]), "blocks_sides": np.array([[1, 2], [1, 2], [2, 1]]),
    }  # fmt: skip
    return {name: np.float32(value) for name, value in (held | changed).items()}


def _best(**changed):
    columns = choice_rank.shown(*SIZES, np.zeros(2), 0.0, 0.0)
    return choice_rank.ranks_of(_held(**changed))(columns, *SIZES[:2], SIZES[3])


def test_the_best_score_wins():
    assert _best(last_bias=np.array([[0.0], [1.0], [0.5]])).tolist() == [1, 1]


def test_parts_are_told_of_kernels_that_are_ever_cut():
    held = choice_rank.ranks_of(_held())
    k = np.array([512.0, 1024.0, 1024.0])
    sizes = (np.full(3, 256.0), np.full(3, 512.0), k, np.ones(3))
    parts = held.parts(np.array([1, 1, 0]), sizes, np.zeros(3), 0.0, 0.0)
    assert parts.tolist() == [1.0, 4.0, 1.0]


def test_blocks_that_work_together_are_told_by_how_many_tiles_the_sides_have():
    held = choice_rank.ranks_of(_held())
    sizes = tuple(np.array([size, size], dtype=float) for size in (256, 640, 1024, 1))
    kernels = np.array([[0, 128, 64, *[0] * 7], [0, 256, 64, *[0] * 7]], dtype=float)
    sides = held.together(kernels, np.ones(2), sizes, np.zeros(2), 0.0, 0.0)
    assert sides.tolist() == [[2.0, 1.0], [1.0, 2.0]]


def test_waves_count_against_a_tile():
    # 4 x 4 tiles of 128 x 64 are one wave of 132 units, 32 x 16 of 16 x 16 are four.
    bias = np.array([[0.0], [1.0], [0.5]])
    least = 1.0 / np.log(4.0)
    assert _best(last_bias=bias, shared_bias=np.array([[-1.1 * least], [0], [0]]))[0] == 2
    assert _best(last_bias=bias, shared_bias=np.array([[0], [0], [2.0]]))[0] == 0


def test_shipped_ranks_name_a_kernel_for_every_even_product():
    kernels, parts = choice.chosen(*SIZES, "tn", "bf16", 3.35e12)
    assert kernels.shape == (2, 10)
    assert np.all(kernels[:, 1:3] > 0.0)
    assert np.all((kernels[:, 5:7] >= 1.0) & (kernels[:, 5:7] <= 4.0))
    assert np.all(parts >= 1.0)


def test_a_deep_product_of_few_tiles_is_cut():
    deep = tuple(np.array([size], dtype=float) for size in (64, 512, 16384, 1))
    assert choice.chosen(*deep, "tn", "bf16", 3.35e12)[1].item() > 2.0
    assert choice.chosen(*deep[:2], deep[3] * 64, deep[3], "tn", "bf16", 3.35e12)[1].item() == 1.0


def test_a_damaged_file_of_ranks_says_so(tmp_path):
    path = tmp_path / "ranks.npz"
    path.write_bytes(b"no")
    with pytest.raises(CalibrationError):
        choice_rank.ranks(path)
