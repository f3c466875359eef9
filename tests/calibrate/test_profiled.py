"""Profiled durations teach a correction: their difference to latencies is learned first."""

import gzip
import hashlib
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from perfmodel.calibrate import learn as learner
from perfmodel.calibrate.learn import Helper, learn
from perfmodel.calibrate.measurements import load_measurements
from perfmodel.calibrate.profiled import QUICK_MODE, load_profiled, without_offset
from perfmodel.calibrate.run import helpers_of
from perfmodel.calibrate.samples import samples_of
from perfmodel.calibrate.trees import Boosting
from perfmodel.cost import load_coefficients
from perfmodel.cost.tasks import tasks_of
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict
from tests.calibrate.conftest import measured, write_rows

CHIP = load_accelerator("h100-sxm5-80gb")
HEADER = "op,kind,dtype,m,n,k,call,position,name,grid,block,registers,shared,duration_us\n"
# What no mechanism knows: half as long again where a size is no multiple of 64.
JUMP, PROFILED_LONGER, QUICK_SHORTER = 1.5, 1.25, 0.9


def _products(count, seed):
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < count:
        m, n, k = (8 * int(v) for v in np.exp(rng.uniform(np.log(2), np.log(1024), 3)))
        found[m, n, k] = {"op": "gemm", "dtype": "bf16", "m": m, "n": n, "k": k}
    return list(found.values())


def _timed(products, rng):
    rows = []
    for op in products:
        row = measured(op, rng)
        jump = JUMP if op["n"] % 64 else 1.0
        rows.append(row | {c: f"{float(row[c]) * jump:.5g}" for c in
                           ("latency_us", "p10_us", "p90_us")})  # fmt: skip
    return rows


def _table(rows):
    text = HEADER
    for row in rows:
        micros = float(row["latency_us"]) * PROFILED_LONGER
        head = f"gemm,,bf16,{row['m']},{row['n']},{row['k']},call"
        text += f"{head},0,product,1x1x1,1x1x1,1,1,{0.75 * micros:.5g}\n"
        text += f"{head},1,reduce,1x1x1,1x1x1,1,1,{0.25 * micros:.5g}\n"
    return gzip.compress(text.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("profiled")
    rng = np.random.default_rng(3)
    products = _products(400, 1)
    rows = _timed(products, rng)
    write_rows(where / "gemm.csv", rows[:110])
    data = _table(rows)
    (where / "kernels").mkdir()
    (where / "kernels" / "names.csv.gz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (where / "kernels" / "names.toml").write_text(f'sha256 = "{digest}"\n')
    return where


def _samples(rows):
    return samples_of(rows, CHIP)["gemm-half"]


def test_kernels_of_one_call_add_up_and_keys_are_those_of_timed_rows(folder):
    profiled = load_profiled(folder)
    assert len(profiled) == 400
    timed = {row.key: row.seconds for row in load_measurements(folder, CHIP.name.lower()).rows}
    ratios = [row.seconds / timed[row.key] for row in profiled if row.key in timed]
    assert len(ratios) == 110
    assert np.allclose(ratios, PROFILED_LONGER, rtol=1e-3)


def test_a_table_that_its_sidecar_does_not_describe_is_refused(folder, tmp_path):
    (tmp_path / "kernels").mkdir()
    data = (folder / "kernels" / "names.csv.gz").read_bytes()
    (tmp_path / "kernels" / "names.csv.gz").write_bytes(data)
    with pytest.raises(CalibrationError, match="sidecar"):
        load_profiled(tmp_path)


def test_no_folder_means_no_rows(tmp_path):
    assert load_profiled(tmp_path) == ()


def test_the_difference_is_learned_from_operators_that_have_both(folder):
    timed = _samples(load_measurements(folder, CHIP.name.lower()).rows)
    profiled = _samples(load_profiled(folder))
    values = np.log2([[row.record[c] for c in "mnk"] for row in profiled.rows])
    found = without_offset(timed, [True] * 110, profiled, values, np.zeros(400))
    assert np.allclose(found, -np.log(PROFILED_LONGER), atol=0.01)
    few = [place < 20 for place in range(110)]
    found = without_offset(timed, few, profiled, values, np.zeros(400))
    assert np.ptp(found) == pytest.approx(0.0)
    assert np.allclose(found, -np.log(PROFILED_LONGER), atol=0.01)
    assert np.isnan(without_offset(timed, [False] * 110, profiled, values, np.zeros(400))).all()


def test_timings_in_passing_have_a_difference_of_their_own(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    lines = ["op,dtype,m,n,k,latency_us,calls,sets\n"]
    for row in load_profiled(folder)[:150]:
        op, micros = row.record, row.seconds / PROFILED_LONGER * 1e6
        sizes = ",".join(str(op[c]) for c in "mnk")
        lines.append(f"gemm,bf16,{sizes},{QUICK_SHORTER * micros:.5g},48,48\n")
    data = gzip.compress("".join(lines).encode())
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "products.csv.gz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "quick" / "products.toml").write_text(f'sha256 = "{digest}"\n')
    timed = _samples(load_measurements(folder, CHIP.name.lower()).rows)
    both = _samples(load_profiled(tmp_path))
    quick = np.array([row.mode == QUICK_MODE for row in both.rows])
    assert np.count_nonzero(quick) == 150
    values = np.log2([[row.record[c] for c in "mnk"] for row in both.rows])
    found = without_offset(timed, [True] * 110, both, values, np.zeros(550))
    assert np.allclose(found[quick], -np.log(QUICK_SHORTER), atol=0.01)
    assert np.allclose(found[~quick], -np.log(PROFILED_LONGER), atol=0.01)


@pytest.fixture
def fewer_trees(monkeypatch):
    """An eighth of the trees, at four times the rate: enough for what few points can teach."""
    few = partial(Boosting, rounds=100, rate=0.2)
    monkeypatch.setattr(learner, "Boosting", few)
    monkeypatch.setattr(learner, "PRODUCTS", few(depth=6, relative=1.0))


@pytest.mark.usefixtures("fewer_trees")
@pytest.mark.slow
def test_profiled_rows_bring_held_out_rows_closer(folder):
    timed = _samples(load_measurements(folder, CHIP.name.lower()).rows)
    profiled = _samples(load_profiled(folder))
    _, (task,) = tasks_of(op_from_dict(timed.rows[0].record))
    start = load_coefficients("hopper").of(task.kernel)
    errors = []
    for support in ((), (Helper(profiled, None, profiled=True),)):
        found = learn(timed, "h100", start, support=support)
        errors.append(np.mean(np.abs(found.predicted / timed.seconds - 1.0)))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.usefixtures("fewer_trees")
@pytest.mark.slow
def test_a_siblings_cheap_rows_are_read_by_its_own_timings(folder, tmp_path):
    write_rows(tmp_path / "gemm.csv", _timed(_products(60, 9), np.random.default_rng(4)))
    own = _samples(load_measurements(tmp_path, CHIP.name.lower()).rows)
    timed = _samples(load_measurements(folder, CHIP.name.lower()).rows)
    profiled = _samples(load_profiled(folder))
    beside = helpers_of(own, {}, {own.kernel: timed}, {}, {}, {own.kernel: profiled})
    assert [helper.timed for helper in beside] == [None, timed]
    _, (task,) = tasks_of(op_from_dict(own.rows[0].record))
    start = load_coefficients("hopper").of(task.kernel)
    errors = []
    for support in (beside[:1], [*beside[:1], replace(beside[1], timed=None)], beside):
        found = learn(own, "h100", start, support=support)
        errors.append(np.mean(np.abs(found.predicted / own.seconds - 1.0)))
    assert errors[0] == errors[1]  # nothing of its own tells what a profiler adds
    assert errors[2] < 0.9 * errors[0]


def test_every_operator_may_be_timed_in_passing(tmp_path):
    (tmp_path / "quick").mkdir()
    data = gzip.compress(b"op,dtype,rows,cols,latency_us\nsoftmax,bf16,512,1024,3.5\n")
    (tmp_path / "quick" / "operators.csv.gz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "quick" / "operators.toml").write_text(f'sha256 = "{digest}"\n')
    (row,) = load_profiled(tmp_path)
    assert row.record == {"op": "softmax", "dtype": "bf16", "rows": 512, "cols": 1024}
    assert row.seconds == pytest.approx(3.5e-6)


@pytest.mark.parametrize(
    "data",
    [
        b"no gzip",
        gzip.compress(HEADER.encode(), mtime=0)[:-9],
        gzip.compress((HEADER + "gemm,,bf16,8,8,8,call,0,p,1,1,1,1,nan\n").encode(), mtime=0),
        gzip.compress((HEADER + "gemm,,bf16,8,8,8,call,0,p,1,1,1,1,-2\n").encode(), mtime=0),
        gzip.compress((HEADER + "gemm,,bf16,x,8,8,call,0,p,1,1,1,1,2\n").encode(), mtime=0),
        gzip.compress((HEADER + "gemm,,bf16,8,8\n").encode(), mtime=0),
        gzip.compress(b"op,kind\ngemm,\n", mtime=0),
    ],
)
def test_a_damaged_table_is_told(tmp_path, data):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "names.csv.gz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "kernels" / "names.toml").write_text(f'sha256 = "{digest}"\n')
    with pytest.raises(CalibrationError, match=r"names\.csv\.gz"):
        load_profiled(tmp_path)


def test_a_table_of_another_chip_is_refused(folder, tmp_path):
    shutil.copytree(folder / "kernels", tmp_path / "kernels")
    about = tmp_path / "kernels" / "names.toml"
    about.write_text(about.read_text() + '[library]\ndevice = "NVIDIA H200"\n')
    assert load_profiled(tmp_path, "h200-sxm-141gb")
    with pytest.raises(CalibrationError, match=r"library\.device"):
        load_profiled(tmp_path, "h100-sxm5-80gb")
