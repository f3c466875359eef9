"""A mechanism of few rows is fitted to those of the sibling chip as well."""

import numpy as np
import pytest

from perfmodel.calibrate.coefficients import log_mechanism
from perfmodel.calibrate.learn import Helper, learn
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import samples_of
from perfmodel.cost import load_coefficients
from perfmodel.hardware import load_accelerator

HERE, THERE = (load_accelerator(name) for name in ("h200-sxm-141gb", "h100-sxm5-80gb"))
KERNEL = "sgd"
START = load_coefficients("hopper").of(KERNEL)
TRUE = START | {"row_cycles": 4e4, "row_bytes_per_clock": 9.0, "floor_seconds": 6e-6}


def _samples(chip, count, seed):
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(np.log(1e3), np.log(3e7), count)).astype(int)
    records = [{"op": "sgd", "numel": int(size)} for size in sizes]

    def read(seconds):
        rows = [Row(record, *(s,) * 3, "graph", str(record), "x.csv:1")
                for record, s in zip(records, seconds, strict=True)]  # fmt: skip
        return samples_of(rows, chip)[KERNEL]

    exact = np.exp(log_mechanism(read(np.ones(count)).blocks, TRUE))
    return read(exact * np.exp(rng.normal(0.0, 0.08, count)))


def test_the_siblings_rows_bring_the_mechanism_closer():
    few, many = _samples(HERE, 7, 1), _samples(THERE, 40, 2)
    alone = learn(few, HERE.name, START)
    beside = learn(few, HERE.name, START, support=[Helper(many, None)])
    other = learn(few, HERE.name, START, support=[Helper(many, START)])
    apart, together, of_another = (
        float(np.mean(np.abs(one.plain / few.seconds - 1.0))) for one in (alone, beside, other)
    )
    assert together < 0.9 * apart
    assert of_another == pytest.approx(apart)


def test_a_kernel_of_many_rows_has_its_own():
    own, many = _samples(HERE, 60, 1), _samples(THERE, 20, 2)
    alone = learn(own, HERE.name, START)
    beside = learn(own, HERE.name, START, support=[Helper(many, None)])
    assert np.array_equal(alone.plain, beside.plain)


def test_a_sibling_with_more_rows_does_not_lead():
    own, many = _samples(HERE, 16, 1), _samples(THERE, 30, 2)
    alone = learn(own, HERE.name, START)
    beside = learn(own, HERE.name, START, support=[Helper(many, None)])
    assert np.array_equal(alone.plain, beside.plain)
