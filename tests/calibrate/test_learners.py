"""The two learners on functions that are known, and the floor of a host."""

import numpy as np
import pytest

from perfmodel.calibrate.coefficients import LIMITS, limits_of
from perfmodel.calibrate.gaussian import fit_smooth
from perfmodel.calibrate.learn import spread_of
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import samples_of
from perfmodel.calibrate.transfer import host_floor, leave_one_chip_out, read_published
from perfmodel.calibrate.trees import Boosting, fit_trees
from perfmodel.cost import load_coefficients, price
from perfmodel.cost.correction import Smooth
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Gemm, op_from_dict


def test_trees_learn_a_step():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 3))
    y = np.where(x[:, 1] > 0.4, 1.0, -1.0)
    trees = fit_trees(x, y, Boosting(rounds=80, depth=3, rate=0.1, columns=1.0), rng)
    fresh = rng.uniform(size=(200, 3))
    right = np.where(fresh[:, 1] > 0.4, 1.0, -1.0)
    assert np.mean(np.abs(trees(fresh) - right)) < 0.1


def test_points_of_little_trust_pull_less():
    rng = np.random.default_rng(2)
    x = rng.uniform(0.0, 1.0, (600, 2))
    wrong = np.arange(600) >= 300
    y = (x[:, 0] > 0.5) * 1.0 + wrong * 0.6
    settings = Boosting(rounds=80, depth=3, rate=0.1, columns=1.0)
    means = []
    for trust in (None, np.where(wrong, 0.1, 1.0)):
        trees = fit_trees(x, y, settings, np.random.default_rng(0), trust)
        means.append(float(np.mean(trees(x) - (x[:, 0] > 0.5))))
    assert 0.2 < means[0] < 0.4
    assert means[1] < 0.6 * means[0]


def test_trees_that_follow_the_relative_error_lean_to_the_shorter_of_two_times():
    rng = np.random.default_rng(0)
    x = np.zeros((400, 1))
    y = np.where(rng.uniform(size=400) < 0.5, 0.0, np.log(3.0))
    plain, relative = (
        fit_trees(x, y, Boosting(rounds=100, rate=0.1, relative=share), rng)(x[:1])[0]
        for share in (0.0, 1.0)
    )
    missed = [np.mean(np.abs(np.expm1(guess - y))) for guess in (plain, relative)]
    assert relative < plain
    assert missed[1] < 0.8 * missed[0]


def test_the_smooth_learner_interpolates_and_ignores_noise_columns():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(250, 4))
    y = np.sin(2 * x[:, 0]) + 0.01 * rng.normal(size=250)
    smooth = fit_smooth(x, y, np.arange(4, dtype=np.int32), rng)
    fresh = rng.uniform(-1.8, 1.8, size=(100, 4))
    assert np.mean(np.abs(smooth(fresh) - np.sin(2 * fresh[:, 0]))) < 0.05
    assert 0 in smooth.columns


def test_the_smooth_learner_is_not_misled_by_a_column_far_from_zero():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 3))
    y = np.sin(x[:, 0])
    x[:, 1] = 20.0 + 0.05 * x[:, 1]  # 400 of its deviations from zero
    x[:, 2] = -7.0 + 1e-7 * x[:, 2]  # nothing but rounding
    smooth = fit_smooth(x, y, np.arange(3, dtype=np.int32), rng)
    assert 2 not in smooth.columns
    assert np.max(np.abs(smooth(x) - y)) < 0.1
    # One that a file holds, whatever fitted it.
    far = Smooth(
        np.array([0], dtype=np.int32),
        np.array([[4e5]], dtype=np.float32),
        np.ones(1, dtype=np.float32),
        np.ones(1, dtype=np.float32),
        np.zeros(1, dtype=np.float32),
    )
    assert far(np.array([[4e5], [4e5 + 1.0]])) == pytest.approx(
        [1.0, 2.7320508 * np.exp(-(3**0.5))]
    )


def test_a_conformal_interval_holds_its_share():
    rng = np.random.default_rng(0)
    error = np.abs(rng.normal(size=2000))
    width = spread_of(error[:1000], np.full(1000, 50e-6))[1]
    assert 0.87 < np.mean(error[1000:] <= width) < 0.93


def test_the_floor_of_a_host_is_found_and_not_charged_to_the_chip():
    chip = load_accelerator("a100-sxm4-80gb")
    start = {"gemm-half": load_coefficients("default").of("gemm-half")}
    rows = []
    for size in (64, 64, 128, 128, 128, 256, 2048, 4096):
        op = {"op": "gemm", "m": size + 8 * len(rows), "n": size, "k": size, "dtype": "bf16"}
        kernel = price(
            Gemm(op["m"], size, size), chip, efficiency=load_coefficients("default")
        ).seconds
        rows.append(Row(op, float(kernel) + 30e-6, 0, 1, "", str(len(rows)), "x"))
    assert host_floor(samples_of(rows, chip), start) == pytest.approx(30e-6, rel=0.05)


def test_a_chip_is_predicted_by_the_others(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["dataset,chip,timing,dtype,batch,m,n,k,time_us"]
    values = load_coefficients("ampere")
    for name in ("a100-sxm4-80gb", "a100-pcie-80gb", "a40-48gb"):
        chip = load_accelerator(name)
        for m, n, k in 64 * rng.integers(1, 80, (30, 3)):
            op = Gemm(int(m), int(n), int(k))
            time = float(price(op, chip, efficiency=values).seconds) * 1e6
            lines.append(f"made,{name},kernel,bf16,1,{m},{n},{k},{time:.4f}")
    path = tmp_path / "gemm.csv"
    path.write_text("\n".join(lines) + "\n")
    start = {"gemm-half": load_coefficients("default").of("gemm-half")}
    tables = read_published(
        path, lambda row: {"op": "gemm"} | {k: int(row[k]) for k in ("m", "n", "k")}, start
    )
    records = leave_one_chip_out(tables, start)
    assert len(records) == 90
    assert np.mean([abs(record.error) for record in records]) < 0.1


def test_a_slow_stream_is_not_called_a_slow_memory():
    """What a kernel waits for beside its memory belongs to other coefficients."""

    def limits(op):
        return limits_of(tasks_of(op_from_dict(op | {"dtype": "bf16"}))[1][0])

    low, high = limits({"op": "softmax", "rows": 4096, "cols": 8192})["bandwidth_efficiency"]
    assert 0.8 < low < high < 0.95
    product = limits({"op": "gemm", "m": 64, "n": 64, "k": 64})
    assert product["bandwidth_efficiency"] == LIMITS["bandwidth_efficiency"]
    assert "extra_passes" not in limits({"op": "rope", "tokens": 8, "heads": 8, "head_dim": 64})
