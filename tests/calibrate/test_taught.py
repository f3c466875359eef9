"""Operators whose times others estimated: read, refused, and learned from, held-out rows apart."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perfmodel.calibrate import together
from perfmodel.calibrate.coefficients import log_mechanism
from perfmodel.calibrate.descent import Descent
from perfmodel.calibrate.measurements import Row, fold_of, load_measurements, mark_of
from perfmodel.calibrate.profiled import load_planned
from perfmodel.calibrate.run import learn_shared
from perfmodel.calibrate.samples import FOLDS, samples_of
from perfmodel.calibrate.taught import (
    ALONE,
    APART,
    COLUMNS,
    EVERY,
    SIBLING,
    SIZES,
    STEPS,
    kept_of,
    load_taught,
    logarithms_of,
    marks_of,
    marks_of_sizes,
    stored,
)
from perfmodel.calibrate.together import by_estimates, learn_together
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.features import features
from perfmodel.cost.mechanism import mechanism
from perfmodel.cost.proposed import DTYPES, LAYOUTS, PASSES
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from validate import drawn_lists
from validate.convolutions import identity

CHIP = load_accelerator("h100-sxm5-80gb")
START = load_coefficients("hopper")
QUICK = Descent(nets=1, widths=(24,), answers=2, epochs=30, batch=64)
MEASUREMENTS = Path("validate/measurements")


def _records(count, rng):
    found = []
    for number in range(count):
        c = 8 * int(rng.integers(1, 40))
        record = {
            "op": "conv3d" if number % 5 == 4 else "conv2d", "n": int(rng.integers(1, 33)),
            "c_in": c, "c_out": c if number % 5 == 3 else 8 * int(rng.integers(1, 40)),
            "h": int(rng.integers(7, 40)), "w": int(rng.integers(7, 40)), "kernel": 3, "stride": 1,
            "padding": 1, "dtype": DTYPES[number % 4], "layout": LAYOUTS[number % 2],
            "pass": PASSES[number % 3],
        }  # fmt: skip
        extra = {"d": int(rng.integers(3, 9))} if number % 5 == 4 else {"groups": 1}
        if number % 5 == 3:
            extra["groups"] = c
        found.append(record | extra)
    return found


def _rows(records, seconds=1.0):
    return [
        Row(one, seconds, seconds, seconds, "graph", json.dumps(one, sort_keys=True), "conv.csv")
        for one in records
    ]


def _sizes(records):
    sizes = [[one.get(name, 1 if name == "groups" else 0) for name in SIZES] for one in records]
    cell = [
        8 * PASSES.index(one["pass"])
        + 4 * LAYOUTS.index(one["layout"])
        + DTYPES.index(one["dtype"])
        for one in records
    ]
    return np.array(sizes), np.array(cell)


def _write(folder, records, times, device="NVIDIA H100 80GB HBM3", **arrays):
    plans = folder / "plans"
    plans.mkdir(parents=True, exist_ok=True)
    sizes, cell = _sizes(records)
    held = {
        "sizes": sizes.astype(np.int32),
        "cell": cell.astype(np.uint8),
        "says": kept_of(times),
    }
    np.savez_compressed(plans / "taught.npz", **(held | arrays))
    _describe(plans, device)


def _describe(plans, device="NVIDIA H100 80GB HBM3"):
    digest = hashlib.sha256((plans / "taught.npz").read_bytes()).hexdigest()
    about = f'sha256 = "{digest}"\n[library]\n"device" = "{device}"\n'
    (plans / "taught.toml").write_text(about, encoding="utf-8")


@pytest.fixture(scope="module")
def records():
    return _records(240, np.random.default_rng(0))


@pytest.fixture
def says(records):
    return np.log(np.random.default_rng(1).uniform(5e-6, 5e-3, (len(records), COLUMNS)))


def test_operators_are_those_that_rows_describe(tmp_path, records, says):
    _write(tmp_path, records, says)
    found = load_taught(tmp_path, CHIP)
    rows = _rows(records)
    timed = samples_of(rows, CHIP)
    assert sorted(found) == sorted(timed)
    assert any("depthwise" in kernel for kernel in found)
    said = {mark_of(row.key): says[at] for at, row in enumerate(rows)}
    for kernel, one in found.items():
        assert sorted(one.marks) == sorted(marks_of(timed[kernel].rows))
        assert one.says == pytest.approx(
            np.array([said[int(m)] for m in one.marks]), abs=(APART / 2 + 0.1) / STEPS
        )
        tables = []
        for which, marks in ((one, one.marks), (timed[kernel], marks_of(timed[kernel].rows))):
            parts = [
                features(task, device, mechanism(task, device, START.of(kernel)))[1]
                for task, device in which.blocks
            ]
            tables.append(np.concatenate(parts)[np.argsort(marks)])
        assert tables[0] == pytest.approx(tables[1])


def test_keys_are_those_of_the_measured_convolutions():
    folder = MEASUREMENTS / "h200-sxm-141gb"
    wanted = set(SIZES) | {"op", "pass", "layout", "dtype"}
    for row in load_planned(folder, folder.name)[::9]:
        without = {"groups"} if row.record["op"] == "conv3d" else {"d"}
        assert set(row.record) == wanted - without


def test_marks_and_folds_by_sizes_are_those_of_rows(records):
    rows = _rows(records)
    marks = marks_of_sizes(*_sizes(records))
    assert np.array_equal(marks, marks_of(rows))
    assert fold_of(marks, FOLDS).tolist() == [row.fold(FOLDS) for row in rows]


def test_of_a_sibling_only_what_was_measured_is_read(tmp_path, records, says):
    _write(tmp_path, records, says)
    rows = _rows(records[10:30])
    found = load_taught(tmp_path, CHIP, among=rows)
    marks = np.concatenate([one.marks for one in found.values()])
    assert sorted(marks) == sorted(marks_of(rows))
    assert load_taught(tmp_path, CHIP, among=()) == {}


def test_without_a_file_there_is_nothing(tmp_path):
    assert load_taught(tmp_path, CHIP) == {}


def test_what_nobody_said_teaches_nothing(tmp_path, records, says):
    said = says.copy()
    said[::2, 1] = np.nan
    _write(tmp_path, records, said)
    found = load_taught(tmp_path, CHIP)
    held = np.concatenate([one.says[:, 1] for one in found.values()])
    assert np.count_nonzero(np.isnan(held)) == len(records) // 2
    pairs = [(one, [START.of(kernel)] * (FOLDS + 1)) for kernel, one in found.items()]
    assert sum(one.target.size for one in together.lessons_of((), pairs, 1, 1)) == len(records) // 2


@pytest.mark.parametrize(
    "arrays",
    [
        {"sizes": np.ones((240, 9), np.int32)},
        {"sizes": np.ones((239, 10), np.int32)},
        {"sizes": np.ones((240, 10))},
        {"says": np.zeros((240, 7), np.int16)},
        {"says": np.full((240, 8), np.nan)},
        {"says": np.full((240, 8), 9000, np.int16)},
        {"says": np.full((240, 8), -32767, np.int16)},
        {"cell": np.full(240, 24, np.uint8)},
        {"cell": np.zeros((240, 1), np.uint8)},
        {"sizes": np.zeros((240, 10), np.int32)},
        {"sizes": -np.ones((240, 10), np.int32)},
        {"sizes": np.zeros((0, 10), np.int32), "cell": np.zeros(0, np.uint8),
         "says": np.zeros((0, 8), np.int16)},
    ],
)  # fmt: skip
def test_what_is_no_operator_or_no_time_is_refused(tmp_path, records, says, arrays):
    _write(tmp_path, records, says, **arrays)
    with pytest.raises(CalibrationError, match=r"taught\.npz"):
        load_taught(tmp_path, CHIP)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_damaged_file_is_told(tmp_path, records, says, keep):
    _write(tmp_path, records, says)
    path = tmp_path / "plans" / "taught.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CalibrationError, match="sha256"):
        load_taught(tmp_path, CHIP)
    _describe(path.parent)
    with pytest.raises(CalibrationError, match=r"taught\.npz"):
        load_taught(tmp_path, CHIP)


def test_a_pickle_is_refused(tmp_path, records, says):
    _write(tmp_path, records, says, says=np.array([{"a": 1}] * 240, dtype=object))
    with pytest.raises(CalibrationError, match=r"taught\.npz"):
        load_taught(tmp_path, CHIP)


def test_a_file_of_another_chip_or_without_a_sidecar_is_refused(tmp_path, records, says):
    _write(tmp_path, records, says, device="NVIDIA H200")
    with pytest.raises(CalibrationError, match=r"library\.device"):
        load_taught(tmp_path, CHIP)
    about = tmp_path / "plans" / "taught.toml"
    about.write_text(about.read_text(encoding="utf-8").partition("[")[0], encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"library\.device"):
        load_taught(tmp_path, CHIP)
    about.write_text("sha256 = ", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"taught\.toml"):
        load_taught(tmp_path, CHIP)
    about.unlink()
    with pytest.raises(CalibrationError, match=r"taught\.toml beside it"):
        load_taught(tmp_path, CHIP)


@pytest.fixture
def ruled(tmp_path, records, monkeypatch):
    """Measured rows, the half of the estimated operators, and a rule that both follow."""
    monkeypatch.setattr(together, "BY_ESTIMATES", QUICK)
    monkeypatch.setattr(together, "OWN_BY_ESTIMATES", replace(QUICK, epochs=10))
    rows = _rows(records)
    kernels, seconds = {}, {}
    for kernel, samples in samples_of(rows, CHIP).items():
        plain = log_mechanism(samples.blocks, START.of(kernel))
        channels = np.array([row.record["c_in"] for row in samples.rows])
        times = np.exp(plain + 0.5 * np.sin(channels / 60.0))
        seconds |= dict(zip((row.key for row in samples.rows), times, strict=True))
        few = [row for row in samples.rows if int(row.record["w"]) % 2]
        if few:
            kept = samples_of(few, CHIP)[kernel]
            found = np.array([seconds[row.key] for row in kept.rows])
            kernels[kernel] = replace(kept, seconds=found)
    says = np.log([[seconds[row.key]] * (COLUMNS) for row in rows])
    return kernels, says


def _known(kernels):
    return {kernel: [START.of(kernel)] * (FOLDS + 1) for kernel in kernels}


def _as_begun(samples, start, seed):
    return [start] * (FOLDS + 1)


def _loaded(folder, records, says):
    _write(folder, records, says)
    return load_taught(folder, CHIP)


def test_networks_of_a_fold_hear_its_column_alone_and_not_of_its_rows(tmp_path, records, ruled):
    kernels, says = ruled
    first = learn_together(
        kernels, _known(kernels), estimates=[_loaded(tmp_path / "a", records, says)]
    )
    # Another column tells the networks of that fold alone.
    other = says.copy()
    other[:, 2] += 0.3
    second = learn_together(
        kernels, _known(kernels), estimates=[_loaded(tmp_path / "b", records, other)]
    )
    # Measured rows of the fold may say in its column what they like.
    measured = {int(m) for samples in kernels.values() for m in marks_of(samples.rows)}
    rows = _rows(records)
    mine = np.array([mark_of(row.key) in measured and row.fold(FOLDS) == 2 for row in rows])
    spoiled = says.copy()
    spoiled[mine, 2] += 1.0
    third = learn_together(
        kernels, _known(kernels), estimates=[_loaded(tmp_path / "c", records, spoiled)]
    )
    assert mine.any()
    changed = 0
    for kernel, samples in kernels.items():
        held = np.array([row.fold(FOLDS) for row in samples.rows]) == 2
        same = first[kernel].held_out == second[kernel].held_out
        assert same[~held].all()
        changed += np.count_nonzero(~same)
        assert np.array_equal(first[kernel].held_out, third[kernel].held_out)
    assert changed
    shipped = [next(iter(each.values())).pooled for each in (first, second)]
    assert np.array_equal(shipped[0].nets[0].weights[0], shipped[1].nets[0].weights[0])


def test_measured_rows_are_known_by_estimates_or_by_themselves(tmp_path, records, ruled):
    kernels, says = ruled
    known = [(samples, _known(kernels)[kernel]) for kernel, samples in kernels.items()]
    every = _loaded(tmp_path / "a", records, says)
    pairs = [(every[kernel], _known(kernels)[kernel]) for kernel in kernels]
    whole = together.lessons_of(known, pairs, -1, EVERY)
    assert sum(one.target.size for one in whole) == sum(one.marks.size for one, _ in pairs)
    part = _loaded(tmp_path / "b", records[::2], says[::2])
    pairs = [(part[kernel], _known(kernels)[kernel]) for kernel in kernels if kernel in part]
    marks = np.concatenate([one.marks for one, _ in pairs])
    rows = np.concatenate([marks_of(samples.rows) for samples in kernels.values()])
    some = together.lessons_of(known, pairs, -1, EVERY)
    assert sum(one.target.size for one in some) == np.union1d(marks, rows).size


def test_estimates_of_operators_that_nobody_measured_bring_held_out_rows_closer(
    tmp_path, records, ruled, monkeypatch
):
    kernels, says = ruled
    monkeypatch.setattr(together, "BY_ESTIMATES", replace(QUICK, epochs=90))
    estimated = _loaded(tmp_path, records, says)
    found = learn_together(kernels, _known(kernels), estimates=[estimated])
    apart, plain = [], []
    for kernel, samples in kernels.items():
        wanted = np.log(samples.seconds) - log_mechanism(samples.blocks, START.of(kernel))
        apart.append(np.abs(found[kernel].held_out - wanted))
        plain.append(np.abs(wanted))
    assert np.concatenate(apart).mean() < 0.9 * np.concatenate(plain).mean()


def test_calibration_hands_them_on_and_crosses_nothing(tmp_path, records, ruled, monkeypatch):
    kernels, says = ruled
    monkeypatch.setattr("perfmodel.calibrate.run._FEWEST_SHARED", 1)
    monkeypatch.setattr("perfmodel.calibrate.run.FEWEST_ROWS", 1)
    monkeypatch.setattr("perfmodel.calibrate.run.crossed", None)
    monkeypatch.setattr("perfmodel.calibrate.run.coefficients_of", _as_begun)
    start = {kernel: START.of(kernel) for kernel in kernels}
    estimates = [_loaded(tmp_path, records, says), {}]
    found = learn_shared(kernels, {}, start, 0, accelerator=CHIP, estimates=estimates)
    assert sorted(found) == sorted(kernels)
    assert next(iter(found.values())).pooled.own


def test_another_may_teach_and_other_processes_make_the_calls(tmp_path, records, ruled):
    kernels, says = ruled
    estimates = [_loaded(tmp_path, records, says)]
    called, asked = [], []

    def apart(work, calls):
        every = list(calls)
        called.append(len(every))
        return [work(*call) for call in every]

    def teaches(measured, estimates, pairs, seed, spread):
        asked.append((pairs, spread))
        return by_estimates(measured, estimates, pairs, seed, spread)

    found = learn_together(
        kernels, _known(kernels), estimates=estimates, spread=apart, teaching=teaches
    )
    kinds = len(next(iter(found.values())).pooled.own)
    assert called == [FOLDS + 1, (FOLDS + 1) * kinds]
    assert asked == [([*((fold, fold) for fold in range(FOLDS)), (-1, EVERY)], apart)]


def test_a_chip_alone_learns_from_its_own_column(tmp_path, records, ruled):
    _, says = ruled
    other = says.copy()
    other[:, :ALONE] += 0.4
    told = [_loaded(tmp_path / name, records, s) for name, s in (("a", says), ("b", other))]
    first = {}
    for column in (ALONE, EVERY):
        for which, one in enumerate(told):
            pairs = [(each.by(column), [START.of(kernel)]) for kernel, each in one.items()]
            net = by_estimates((), pairs, [(-1, 0)], 0)[0].nets[0]
            first[column, which] = net.weights[0]
    assert np.array_equal(first[ALONE, 0], first[ALONE, 1])
    assert not np.array_equal(first[EVERY, 0], first[EVERY, 1])


def test_operators_of_the_chip_that_is_judged_can_be_left_out(tmp_path, records, says):
    for one in _loaded(tmp_path, records, says).values():
        left = one.by(SIBLING, without=one.marks[:1])
        assert np.isnan(left.says[0])
        assert left.says[1:] == pytest.approx(one.says[1:, [SIBLING]])


@pytest.fixture(scope="module")
def judges():
    """All convolutions that are measured to judge, as rows of sizes and cells."""
    draws = sorted({path.parent for path in Path("validate/held_out").glob("*/*/conv*.csv")})
    rows = [row.record for draw in draws for row in load_measurements(draw, draw.name).rows]
    return np.array([identity(one) for one in rows if str(one["op"]).startswith("conv")])


@pytest.mark.parametrize("path", sorted(MEASUREMENTS.glob("*/plans/taught.npz")), ids=str)
def test_no_operator_that_judges_is_taught(path, judges):
    sizes, cell, _ = stored(path, path.read_bytes())
    taught = drawn_lists.marks(np.column_stack([sizes, cell]))
    assert np.unique(taught).size == taught.size
    assert len(judges) > 1000
    assert not np.isin(drawn_lists.marks(judges), taught).any()


def test_what_is_kept_is_what_was_said_to_half_a_step_and_of_others_to_one(says):
    said = says.copy()
    said[3, 1] = np.nan
    found = logarithms_of(kept_of(said))
    assert np.array_equal(np.isnan(found), np.isnan(said))
    off = np.nanmax(np.abs(found - said), axis=0) * STEPS
    assert off[EVERY] <= 0.5 + 1e-6
    assert off.max() <= APART / 2 + 1e-6
