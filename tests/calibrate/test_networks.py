"""Networks that kernels share: what they learn, how they are kept, and who may see what."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate import together
from perfmodel.calibrate.coefficients import log_mechanism
from perfmodel.calibrate.crossed import crossed
from perfmodel.calibrate.descent import Descent, Lesson, _slopes, teach, teach_further
from perfmodel.calibrate.learn import NETWORK_SHARES, learn, network_share
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.run import learn_shared
from perfmodel.calibrate.samples import FOLDS, samples_of
from perfmodel.calibrate.together import is_shared, learn_together
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.layers import FARTHEST, SHARPNESS, bent, least, read_pooled, write_pooled
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator

QUICK = Descent(widths=(32, 32), answers=4, epochs=200, batch=256)
CHIP = load_accelerator("h100-sxm5-80gb")


def _wave(x):
    return 0.3 * np.sin(2.0 * x[:, 0]) + 0.2 * np.abs(x[:, 1])


@pytest.fixture(scope="module")
def lessons():
    rng = np.random.default_rng(0)
    much, few = rng.uniform(-2, 2, (600, 2)), rng.uniform(-2, 2, (20, 3))
    return (
        Lesson("conv_fwd-half", ("a", "b"), much, _wave(much)),
        # The same but for a constant, with a feature of its own and its columns in another order.
        Lesson("conv_dgrad-half", ("c", "b", "a"), few[:, [2, 1, 0]], _wave(few) + 0.5),
    )


@pytest.fixture(scope="module")
def pooled(lessons):
    return teach(lessons, np.random.default_rng(1), QUICK)


def test_the_bend_is_smooth_and_like_a_rectifier():
    x = np.linspace(-40, 40, 4001)
    y = bent(x.astype(np.float32))
    assert y[0] == pytest.approx(-0.5, abs=0.02)
    assert y[-1] == pytest.approx(39.5, abs=0.02)
    assert np.abs(np.diff(y, 2)).max() < 5e-4


def test_the_soft_minimum_is_near_the_least_and_one_answer_is_itself():
    x = np.array([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]], dtype=np.float32)
    said, shares = least(x)
    assert said == pytest.approx([0.0, -1.0], abs=1e-3)
    assert np.all(said <= x.min(axis=1))
    assert shares.sum(axis=1) == pytest.approx(1.0)
    alike, _ = least(np.zeros((1, 4), np.float32))
    assert alike == pytest.approx(-SHARPNESS * np.log(4.0))
    one, whole = least(x[:, :1])
    assert np.array_equal(one, x[:, 0])
    assert np.all(whole == 1.0)


def test_descent_follows_the_slope_of_the_loss():
    rng = np.random.default_rng(7)
    rows, target = rng.normal(size=(40, 5)), rng.normal(size=40) * 0.3
    said = (rng.random((40, 3)) > 0.5).astype(float)
    shapes = ((8, 6), (6,), (9, 4), (4,), (7, 3), (3,))
    tensors = [0.2 * rng.normal(size=shape) for shape in shapes]
    slopes = [np.zeros(shape) for shape in shapes]

    def loss():
        x = rows
        for weight, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
            x = np.concatenate([x, said], axis=1) @ weight + bias
            x = x / 2 * (1 + x / (1 + np.abs(x)))
        answers = np.concatenate([x, said], axis=1) @ tensors[-2] + tensors[-1]
        over = -SHARPNESS * np.log(np.sum(np.exp(-answers / SHARPNESS), axis=1)) - target
        error = np.abs(np.expm1(over))
        return np.mean(np.where(error < 0.1, error**2 / 0.2, error - 0.05))

    _slopes(rows, said, target, tensors, slopes, 0.1)
    for tensor, slope in zip(tensors, slopes, strict=True):
        at = tuple(int(rng.integers(0, size)) for size in tensor.shape)
        value, around = tensor[at], []
        for step in (1e-6, -1e-6):
            tensor[at] = value + step
            around.append(loss())
        tensor[at] = value
        assert slope[at] == pytest.approx((around[0] - around[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_few_rows_learn_from_those_of_another_kernel(lessons, pooled):
    new = np.random.default_rng(2).uniform(-2, 2, (300, 3))
    said = pooled.of("conv_dgrad-half", ("c", "b", "a"))(new[:, [2, 1, 0]])
    alone = teach(lessons[1:], np.random.default_rng(1), QUICK)
    by_itself = alone.of("conv_dgrad-half", ("c", "b", "a"))(new[:, [2, 1, 0]])
    truth = _wave(new) + 0.5
    together = np.mean(np.abs(said - truth))
    assert together < 0.1
    assert together < 0.7 * np.mean(np.abs(by_itself - truth))
    other = pooled.of("conv_fwd-half", ("a", "b"))(new[:, :2])
    assert np.mean(other) == pytest.approx(np.mean(truth) - 0.5, abs=0.05)


def test_the_same_draws_give_the_same_networks(lessons, pooled):
    again = teach(lessons, np.random.default_rng(1), QUICK)
    for one, other in zip(pooled.nets, again.nets, strict=True):
        for first, second in zip(one.weights, other.weights, strict=True):
            assert np.array_equal(first, second)
    assert not np.array_equal(pooled.nets[0].weights[0], pooled.nets[1].weights[0])


def test_far_from_every_row_the_answer_stands_still(pooled):
    layers = pooled.of("conv_fwd-half", ("a", "b"))
    edge = pooled.center[:2] + 1.001 * FARTHEST * pooled.scale[:2]
    at, beyond = layers(np.array([edge, 1e6 * np.ones(2)], dtype=float))
    assert at == pytest.approx(beyond)


def test_any_number_of_rows_is_answered_alike(pooled):
    layers = pooled.of("conv_fwd-half", ("a", "b"))
    rows = np.random.default_rng(3).uniform(-2, 2, (5000, 2))
    whole = layers(rows)
    parts = np.concatenate([layers(rows[:1]), layers(rows[1:2100]), layers(rows[2100:])])
    assert whole == pytest.approx(parts, abs=1e-5)
    assert layers(rows[:0]).shape == (0,)


def test_features_that_all_rows_share_change_no_answer(pooled):
    layers = pooled.of("conv_fwd-half", ("a", "b"))
    rows = np.random.default_rng(3).normal(size=(3000, 2))
    rows[:, 1] = 0.7
    few = [layers(some) for some in np.array_split(rows, 6)]
    assert layers(rows) == pytest.approx(np.concatenate(few), abs=1e-5)
    alike = np.tile(rows[:1], (3000, 1))
    assert layers(alike) == pytest.approx(layers(rows[:1])[0], abs=1e-5)


def test_kernels_of_one_kind_are_followed_more_closely_by_networks_of_their_own():
    rng = np.random.default_rng(8)
    narrow = Descent(nets=1, widths=(6, 6), answers=2, epochs=120, batch=64)
    rows = rng.uniform(-2, 2, (1600, 2))
    other = 0.4 * np.cos(3.0 * rows[:, 1]) * rows[:, 0]
    lessons = [
        Lesson("conv_fwd-half", ("a", "b"), rows[:700], _wave(rows[:700])),
        Lesson("conv_wgrad-half", ("a", "b"), rows[:700], other[:700]),
    ]
    shared = teach(lessons, np.random.default_rng(1), narrow)
    nets = teach_further(shared, lessons[1:], np.random.default_rng(2), narrow)
    turned = replace(shared, own={"conv_wgrad": nets})

    def off(pooled):
        said = pooled.of("conv_wgrad-half", ("a", "b"))(rows[700:])
        return np.mean(np.abs(said - other[700:]))

    assert off(turned) < 0.8 * off(shared)
    # Kernels of another kind are asked as before, another arithmetic of this kind is not.
    asked = [one.of("conv_fwd-half", ("a", "b"))(rows) for one in (shared, turned)]
    assert np.array_equal(*asked)
    asked = [one.of("conv_wgrad-tf32", ("a", "b"))(rows) for one in (shared, turned)]
    assert not np.array_equal(*asked)


def test_a_file_holds_them_and_a_damaged_one_is_told(lessons, pooled, tmp_path):
    path = tmp_path / "networks.npz"
    own = teach_further(pooled, lessons[:1], np.random.default_rng(9), replace(QUICK, epochs=2))
    pooled = replace(pooled, own={"conv_fwd": own})
    write_pooled(path, pooled)
    back = read_pooled(path)
    assert set(back.own) == {"conv_fwd"}
    rows = np.random.default_rng(4).uniform(-2, 2, (50, 2))
    names = ("a", "b")
    before, after = (one.of("conv_fwd-half", names)(rows) for one in (pooled, back))
    assert np.array_equal(before, after)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CalibrationError, match=r"networks\.npz"):
        read_pooled(path)
    with pytest.raises(CalibrationError, match="unheard"):
        pooled.of("conv_fwd-half", ("a", "unheard"))


def test_the_share_is_what_comes_closest():
    rng = np.random.default_rng(5)
    truth = rng.normal(0, 0.2, 200)
    off = truth + rng.normal(0, 0.3, 200)
    assert network_share(off, truth, truth) == 1.0
    assert network_share(truth, off, truth) == 0.0
    assert network_share(truth[:9], off[:9], truth[:9]) == NETWORK_SHARES[0]


@pytest.fixture(scope="module")
def kernels():
    """Convolutions of two passes that take longer by the same rule of their channels."""
    rng = np.random.default_rng(6)
    rows = []
    for direction, count in (("fwd", 160), ("dgrad", 40)):
        for number in range(count):
            c, o = (16 * int(v) for v in rng.integers(1, 33, 2))
            side = int(rng.integers(7, 60))
            record = {
                "op": "conv2d", "dtype": "bf16", "n": int(rng.integers(1, 33)), "c_in": c,
                "h": side, "w": side, "c_out": o, "kernel": 3, "stride": 1, "padding": 1,
                "groups": 1, "layout": "nhwc", "pass": direction,
            }  # fmt: skip
            rows.append(Row(record, 1.0, 1.0, 1.0, "graph", f"{direction}{number}", "conv.csv"))
    start = load_coefficients("hopper")
    found = {}
    for kernel, samples in samples_of(rows, CHIP).items():
        plain = np.exp(log_mechanism(samples.blocks, start.of(kernel)))
        channels = np.array([row.record["c_in"] for row in samples.rows])
        seconds = plain * np.exp(0.3 * np.sin(channels / 60.0))
        found[kernel] = replace(samples, seconds=seconds)
    return found


def test_no_network_of_a_fold_sees_its_rows(kernels):
    start = load_coefficients("hopper")
    assert all(is_shared(kernel) for kernel in kernels)
    known = {kernel: [start.of(kernel)] * (FOLDS + 1) for kernel in kernels}
    first = learn_together(kernels, known, ())
    name = next(kernel for kernel in kernels if "fwd" in kernel)
    held = np.array([row.fold(FOLDS) for row in kernels[name].rows]) == 2
    spoiled = replace(kernels[name], seconds=np.where(held, 7.0, 1.0) * kernels[name].seconds)
    second = learn_together(kernels | {name: spoiled}, known, ())
    for kernel, samples in kernels.items():
        mine = np.array([row.fold(FOLDS) for row in samples.rows]) == 2
        same = first[kernel].held_out == second[kernel].held_out
        assert same[mine].all()
        assert not same[~mine].all()


def test_a_kernel_takes_part_of_its_answer_from_them(kernels):
    start = load_coefficients("hopper")
    known = {kernel: [start.of(kernel)] * (FOLDS + 1) for kernel in kernels}
    name = next(kernel for kernel in kernels if "dgrad" in kernel)
    samples = kernels[name]
    plain = log_mechanism(samples.blocks, start.of(name))
    knowing = replace(
        learn_together(kernels, known, ())[name], held_out=np.log(samples.seconds) - plain
    )
    found = learn(samples, "h100", start.of(name), together=knowing)
    fitted = found.fitted
    assert fitted.coefficients == start.of(name)
    assert fitted.pooled_share == NETWORK_SHARES[0]  # too few rows to choose one
    assert fitted.trees is not None
    assert fitted.smooth is None  # the networks are smooth already
    values = np.zeros((3, len(fitted.features)))
    parts = [replace(fitted, pooled_share=share).log_factor(values) for share in (0.0, 1.0)]
    expected = parts[0] + fitted.pooled_share * (parts[1] - parts[0])
    assert fitted.log_factor(values) == pytest.approx(expected)
    mine = learn(samples, "h100", start.of(name), together=replace(knowing, apart=True)).fitted
    assert fitted.network is mine.pooled is None
    assert mine.network is not None
    assert np.array_equal(mine.log_factor(values), fitted.log_factor(values))
    alone = learn(samples, "h100", start.of(name), together=replace(knowing, held_out=0.0 * plain))
    apart = [np.abs(np.log(one.predicted / samples.seconds)) for one in (found, alone)]
    assert apart[0].mean() < 0.5 * apart[1].mean()


def test_crossed_operators_keep_filters_and_fold_of_one_row_and_take_images_of_another(kernels):
    found = crossed(kernels.values(), CHIP, np.random.default_rng(3), each=3)
    assert set(found) == set(kernels)
    fields = ("c_in", "c_out", "kernel", "stride", "padding", "groups", "pass", "dtype", "layout")
    for kernel, samples in kernels.items():
        parents = {row.key: row for row in samples.rows}
        images = {
            fold: {r.record["h"] for r in samples.rows if r.fold(FOLDS) == fold}
            for fold in range(FOLDS)
        }
        assert len(found[kernel].rows) > 2 * len(samples.rows)
        for row in found[kernel].rows:
            parent = parents[row.key]
            assert row.fold(FOLDS) == parent.fold(FOLDS)
            assert all(row.record[name] == parent.record[name] for name in fields)
            assert row.record["h"] in images[row.fold(FOLDS)]
        fresh = [row for row in found[kernel].rows if row.record != parents[row.key].record]
        assert len(fresh) > len(samples.rows)


def test_crossed_operators_are_described_as_rows_are(kernels):
    for kernel, samples in crossed(kernels.values(), CHIP, np.random.default_rng(3)).items():
        start = load_coefficients("hopper").of(kernel)
        alone = samples_of(samples.rows, CHIP)[kernel]
        assert alone.rows == samples.rows
        assert log_mechanism(samples.blocks, start) == pytest.approx(
            log_mechanism(alone.blocks, start), rel=1e-12
        )


def test_crossed_volumes_take_depth_and_sides_of_one_image():
    rng = np.random.default_rng(7)
    rows = []
    for number in range(60):
        side = int(rng.integers(7, 60))
        record = {
            "op": "conv3d", "dtype": "bf16", "n": 2, "c_in": 16,
            "d": 2 * side, "h": side, "w": side,
            "c_out": int(16 * rng.integers(1, 9)), "kernel": 3, "stride": 1, "padding": 1,
            "groups": 1, "layout": "nhwc", "pass": "fwd",
        }  # fmt: skip
        rows.append(Row(record, 1.0, 1.0, 1.0, "graph", f"volume{number}", "conv3d.csv"))
    ((_, found),) = crossed(samples_of(rows, CHIP).values(), CHIP, rng).items()
    assert all(row.record["d"] == 2 * row.record["h"] for row in found.rows)
    filters = {row.record["h"]: row.record["c_out"] for row in rows}
    assert sum(row.record["c_out"] != filters[row.record["h"]] for row in found.rows) > 50


def test_a_filter_larger_than_its_image_is_left_out(kernels):
    one = next(iter(kernels.values()))
    wide = one.rows[0].record | {"kernel": 65, "padding": 0, "h": 128, "w": 128}
    rows = [replace(row, key="") for row in one.rows]
    mixed = replace(one, rows=(*rows, *[replace(rows[0], record=wide)] * len(rows)))
    found = [
        row.record
        for samples in crossed([mixed], CHIP, np.random.default_rng(3)).values()
        for row in samples.rows
    ]
    assert {record["kernel"] for record in found} == {3, 65}
    assert all(record["h"] + 2 * record["padding"] >= record["kernel"] for record in found)


def test_networks_of_crossed_operators_see_no_row_of_their_fold_either(kernels, monkeypatch):
    quick = Descent(nets=1, widths=(8,), answers=2, epochs=2)
    monkeypatch.setattr(together, "TEACHERS", quick)
    monkeypatch.setattr(together, "PUPILS", quick)
    start = load_coefficients("hopper")
    known = {kernel: [start.of(kernel)] * (FOLDS + 1) for kernel in kernels}
    unknown = crossed(kernels.values(), CHIP, np.random.default_rng(3))
    first = learn_together(kernels, known, (), unknown)
    name = next(iter(kernels))
    held = np.array([row.fold(FOLDS) for row in kernels[name].rows]) == 2
    spoiled = replace(kernels[name], seconds=np.where(held, 7.0, 1.0) * kernels[name].seconds)
    second = learn_together(kernels | {name: spoiled}, known, (), unknown)
    assert np.array_equal(first[name].held_out[held], second[name].held_out[held])
    assert not np.array_equal(first[name].held_out[~held], second[name].held_out[~held])
    assert not np.array_equal(
        first[name].held_out, learn_together(kernels, known, ())[name].held_out
    )


def test_few_rows_in_all_make_no_networks(kernels):
    start = {kernel: load_coefficients("hopper").of(kernel) for kernel in kernels}
    assert learn_shared(kernels, {}, start, 0) == {}
