"""Networks of a kernel's own beside its trees: taught without held-out rows, kept in its file."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate import learn as learning
from perfmodel.calibrate.coefficients import log_mechanism
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import FOLDS, samples_of
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.fitted import read_fitted, write_arrays
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator

KERNEL = "gemm-half"


@pytest.fixture(scope="module")
def products():
    """Products that take longer by a smooth rule of their rows."""
    rng = np.random.default_rng(2)
    rows = []
    for number in range(400):
        m, n, k = (8 * int(v) for v in np.exp2(rng.uniform(3, 9, 3)))
        record = {"op": "gemm", "m": m, "n": n, "k": k, "dtype": "bf16"}
        rows.append(Row(record, 1.0, 1.0, 1.0, "graph", f"{number}", "gemm.csv"))
    samples = samples_of(rows, load_accelerator("h100-sxm5-80gb"))[KERNEL]
    plain = np.exp(log_mechanism(samples.blocks, load_coefficients("hopper").of(KERNEL)))
    rows_of = np.array([row.record["m"] for row in samples.rows])
    return replace(samples, seconds=plain * np.exp(0.3 * np.sin(np.log2(rows_of))))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(learning, "_ENOUGH_FOR_NETWORKS", 100)
    monkeypatch.setattr(learning, "_ENOUGH_FOR_DEEP", 100)
    monkeypatch.setattr(learning, "_FEWEST_FOR_SHARES", 1)
    monkeypatch.setattr(learning, "PRODUCTS", replace(learning.PRODUCTS, rounds=30, depth=3))
    told = replace(learning.NETWORKS, nets=2, widths=(32, 32), epochs=150)
    monkeypatch.setattr(learning, "NETWORKS", told)
    start = load_coefficients("hopper").of(KERNEL)
    monkeypatch.setattr(learning, "fit_coefficients", lambda *_, **__: dict(start))
    return start


@pytest.fixture
def found(products, quick):
    return learning.learn(products, "h100", quick)


def test_they_take_a_share_where_held_out_rows_gain_by_it(products, found):
    fitted = found.fitted
    assert fitted.pooled is None
    assert len(fitted.network.nets) == 2
    assert fitted.pooled_share > 0.0
    without = np.log(found.plain) + replace(fitted, pooled_share=0.0).log_factor(
        learning.tables(products, fitted.coefficients)[1]
    )
    # Trees saw all rows here, networks none of those that they are judged by.
    assert np.abs(np.log(found.predicted / products.seconds)).mean() < 0.1
    assert not np.allclose(without, np.log(found.predicted))


def test_none_sees_a_row_of_its_fold(products, quick, found):
    held = np.array([row.fold(FOLDS) for row in products.rows]) == 2
    spoiled = replace(products, seconds=np.where(held, 3.0, 1.0) * products.seconds)
    values = learning.tables(products, quick)[1]
    models = [learning._train(one, held, quick, (), 2, 7) for one in (products, spoiled)]
    assert np.array_equal(*(model.network(values) for model in models))


def test_trainings_elsewhere_give_the_same_fit(products, quick, found, tmp_path):
    folds = learning.folds_of(products)
    calls = [pickle.loads(pickle.dumps((products, quick, (), fold, 0))) for fold in folds]
    parts = [pickle.loads(pickle.dumps(learning.train(*call))) for call in calls[::-1]][::-1]
    again = learning.assemble(products, "h100", parts)
    assert np.array_equal(again.predicted, found.predicted)
    assert np.array_equal(again.plain, found.plain)
    paths = [tmp_path / f"{name}.npz" for name in "ab"]
    for path, one in zip(paths, (found, again), strict=True):
        write_arrays(path, one.fitted)
    one, other = (np.load(path) for path in paths)
    assert set(one) == set(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="all rows"):
        learning.assemble(products, "h100", parts[:-1])


def test_a_file_holds_them_and_prices_alike(products, found, tmp_path):
    path = tmp_path / f"{KERNEL}.npz"
    write_arrays(path, found.fitted)
    read = read_fitted(path)
    values = learning.tables(products, found.fitted.coefficients)[1]
    assert read.log_factor(values) == pytest.approx(found.fitted.log_factor(values), abs=2e-3)
    with np.load(path) as held:
        arrays = dict(held)
    np.savez(path, **arrays | {"network_center": arrays["network_center"][1:]})
    with pytest.raises(CalibrationError, match="do not fit"):
        read_fitted(path)


def test_few_rows_make_none(products, quick, monkeypatch):
    monkeypatch.setattr(learning, "_ENOUGH_FOR_NETWORKS", 1000)
    fitted = learning.learn(products, "h100", quick).fitted
    assert fitted.network is None
    assert fitted.pooled_share == 0.0
