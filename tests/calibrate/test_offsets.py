"""What cheap times are off by is learned of all products of a chip, without a fold's timed rows."""

from dataclasses import replace

import numpy as np

from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.offsets import offsets_of
from perfmodel.calibrate.profiled import QUICK_MODE
from perfmodel.calibrate.samples import FOLDS, samples_of
from perfmodel.cost import load_coefficients
from perfmodel.hardware import load_accelerator

CHIP = load_accelerator("h100-sxm5-80gb")
SHORT, LONG = 0.97, 0.85  # a burst against the latency, below and above an edge of work
EDGE = 2.0**26


def _rows(count, seed, dtypes, mode, batch=1):
    rng = np.random.default_rng(seed)
    for number in range(count):
        m, n, k = (8 * int(v) for v in np.exp(rng.uniform(np.log(8), np.log(256), 3)))
        dtype = dtypes[number % len(dtypes)]
        record = {"op": "gemm", "dtype": dtype, "m": m, "n": n, "k": k, "batch": batch}
        work = float(m) * n * k * batch
        seconds = 3e-6 + work / 1e13
        if mode == QUICK_MODE:
            seconds *= LONG if work > EDGE else SHORT
        key = f"{dtype} {m} {n} {k} {batch}"
        yield Row(record, seconds, seconds, seconds, mode, key, "x")


def _both(few):
    """Products with many operators that have both times, and a batch with a few."""
    timed, cheap = [], []
    for rows, mode in ((timed, "graph"), (cheap, QUICK_MODE)):
        single = {row.key: row for row in _rows(300, 1, ("bf16", "fp32", "tf32"), mode)}
        batched = {row.key: row for row in _rows(200, 2, ("tf32",), mode, batch=2)}
        rows += [*single.values(), *batched.values()]
    kept = [row for row in timed if row.record["batch"] == 1]
    kept += [row for row in timed if row.record["batch"] > 1][:few]
    return samples_of(cheap, CHIP), samples_of(kept, CHIP)


START = load_coefficients("hopper").of


def _true(samples):
    work = np.array([row.record["m"] * row.record["n"] * row.record["k"] * row.record["batch"]
                     for row in samples.rows])  # fmt: skip
    return np.log(np.where(work > EDGE, LONG, SHORT))


def test_a_kernel_with_few_operators_that_have_both_times_learns_from_all_products():
    cheap, timed = _both(few=4)
    found = offsets_of(cheap, timed, START)
    kernel = "gemm_batched-tf32"
    assert found[kernel].shape == (FOLDS + 1, len(cheap[kernel].rows))
    error = np.abs(found[kernel] - _true(cheap[kernel]))
    assert error.mean() < 0.02  # it runs from 0.03 to 0.16
    assert {*found} == {*cheap}


def test_what_a_fold_is_told_knows_none_of_its_timed_rows():
    cheap, timed = _both(few=40)
    first = offsets_of(cheap, timed, START)
    changed = {
        kernel: replace(one, rows=tuple(
            replace(row, seconds=row.seconds * (5.0 if row.fold(FOLDS) == 2 else 1.0))
            for row in one.rows
        ))
        for kernel, one in timed.items()
    }  # fmt: skip
    second = offsets_of(cheap, changed, START)
    for kernel, said in first.items():
        assert np.array_equal(said[2], second[kernel][2])
        assert not np.array_equal(said[-1], second[kernel][-1])


def test_other_kernels_and_programs_are_left_alone():
    cheap, timed = _both(few=40)
    other = _softmax()
    found = offsets_of(cheap | other, timed | other | {"fused": timed["gemm-tf32"]}, START)
    assert {*found} == {*cheap}


def _softmax():
    record = {"op": "softmax", "rows": 64, "cols": 64, "dtype": "bf16"}
    return samples_of([Row(record, 3e-6, 3e-6, 3e-6, QUICK_MODE, "s", "x")], CHIP)


def test_without_operators_that_have_both_nothing_is_said():
    cheap, timed = _both(few=0)
    kernel = "gemm_batched-tf32"
    assert offsets_of({kernel: cheap[kernel]}, timed, START) == {}
    other = {kernel: replace(timed["gemm-tf32"], kernel=kernel)}
    assert np.isnan(offsets_of({kernel: cheap[kernel]}, other, START)[kernel]).all()
