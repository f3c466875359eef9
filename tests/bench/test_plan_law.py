"""Networks of plans: what they read, and that they learn which plan a search keeps."""

import dataclasses
import hashlib
import json
import tomllib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate.descent import Descent, Lesson, teach, tensors_of
from perfmodel.calibrate.taught import COLUMNS, EVERY, STEPS, load_taught, stored
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from validate.bench import plan_rows
from validate.plan_law import names, rows
from validate.plan_law.table import LONGEST, Operators, Plans, depthwise, product_of

WORDS = 5


def test_an_operator_is_known_again_in_every_spelling():
    table = {"op": "conv3d", "n": 2, "c_in": 8, "h": 6, "w": 7, "depth": 4, "c_out": 16,
             "kernel": 3, "stride": 1, "padding": 1, "dtype": "fp16", "pass": "wgrad",
             "layout": "nchw"}  # fmt: skip
    record = {name: value for name, value in table.items() if name != "depth"} | {"d": 4}
    assert rows.identity(table) == rows.identity(record)
    assert rows.identity(record) == (2, 8, 16, 6, 7, 4, 3, 1, 1, 1, 16 + 4 + 1)
    image = {"op": "conv2d", "n": 1, "c_in": 4, "h": 9, "w": 9, "c_out": 4, "kernel": 3,
             "stride": 2, "padding": 1, "groups": 4, "dtype": "bf16"}  # fmt: skip
    whole = image | {"pass": "fwd", "layout": "nhwc"}
    assert rows.identity(image) == rows.identity(whole) == (1, 4, 4, 9, 9, 0, 3, 2, 1, 4, 0)


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16_tilesize128x64x32_stage4_warpgroupsize1x1x1_g1",
         (128, 64, 32)),
        ("cutlass_80_tensorop_s16816fprop_optimized_f16_256x128_32x3_nhwc", (256, 128, 32)),
        ("nvjet_hsh_192x64_64x5_2x1_v_bz_NNT", (192, 64, 64)),
        ("_ZN5cudnn3cnn29dgrad2d_grouped_direct_kernelI13", None),
    ],
)  # fmt: skip
def test_names_of_kernels_tell_their_tile(name, tile):
    assert names.tile_of([name]) == tile
    assert names.tile_of(["memset", name, "splitreduce"]) == tile


def test_words_of_plans_are_their_engine_and_choices():
    first, second = "eng67_k2=4_k13=0_k18=0_k25=0_k27=8_k28=1", "eng67_k2=4_k13=1_k18=0_k25=0"
    assert len(names.words_of(first)) == len(names.words_of(second)) == 13
    assert {"eng67", "eng67 2=4"} <= set(names.words_of(first)) & set(names.words_of(second))
    assert "cluster 27=8 28=1" in names.words_of(first)
    assert set(names.words_of(first)) - set(names.words_of(second))


@pytest.mark.slow
def test_lists_of_drawn_operators_are_committed_whole():
    about = tomllib.loads(rows.DRAWN.with_suffix(".toml").read_text(encoding="utf-8"))
    assert about["sha256"] == hashlib.sha256(rows.DRAWN.read_bytes()).hexdigest()
    drawn = rows.Drawn.read()
    assert about["rows"] == len(drawn.cell) == len(drawn.sizes)
    assert drawn.plans.shape == (len(drawn.cell), LONGEST)
    assert drawn.names[0] == ""
    assert drawn.plans.max() == len(drawn.names) - 1
    assert (drawn.plans[:, 0] > 0).all()
    few = drawn.first(10)
    assert len(few.cell) == 10
    assert drawn.first(None) is drawn
    chip = load_accelerator(rows.CHIPS[0])
    known = load_taught(rows.MEASUREMENTS / rows.CHIPS[0], chip)
    assert sum(one.marks.size for one in known.values()) > len(drawn.cell) / 2


def test_a_pass_is_a_product():
    sizes = np.array([[2, 8, 16, 10, 10, 0, 3, 1, 1, 1]] * 3)
    forward, inputs, filters = product_of(sizes, np.array([0, 8, 16]))
    assert forward.tolist() == [200, 16, 8, 9, 1]
    assert inputs.tolist() == [200, 8, 16, 9, 1]
    assert filters.tolist() == [16, 72, 200, 1, 1]


def test_further_lists_are_of_new_operators_and_known_plans(tmp_path, monkeypatch, capsys):
    from validate.bench import proposals
    from validate.plan_law import listed

    drawn = dataclasses.replace(rows.Drawn.read().first(4), sha256="")
    known = drawn.names
    monkeypatch.setattr(rows, "every_drawn", lambda: drawn)
    monkeypatch.setattr(listed, "judged", lambda folder: {(8, 64, 64, 14, 14, 0, 3, 1, 1, 1, 0)})
    image = {"op": "conv2d", "n": 8, "c_in": 64, "h": 14, "w": 14, "c_out": 64, "kernel": 3,
             "stride": 1, "padding": 1, "groups": 1, "dtype": "bf16"}  # fmt: skip
    asked = {
        "new": (image | {"n": 9973}, [known[3], known[1]]),
        "twice": (image | {"n": 9973}, [known[3], known[1]]),
        "judges": (image, [known[2]]),
        "too large": (image | {"n": 2**16}, [known[2]]),
        "another plan": (image | {"n": 9967}, [known[2], "eng999_k2=1"]),
        "none": (image | {"n": 9949}, []),
    }

    class Answers:
        version = 91900

        def proposed(self, op):
            return [(name, 0) for one, names in asked.values() if one == op for name in names][:2]

    monkeypatch.setattr(proposals, "Heuristics", lambda described: Answers())
    plan = tmp_path / "plan.jsonl"
    plan.write_text("".join(json.dumps(op) + "\n" for op, _ in asked.values()), encoding="utf-8")
    answers, out = tmp_path / "answers.jsonl.gz", tmp_path / "drawn-plans-2.npz"
    assert proposals.main(["--plan", str(plan), "--out", str(answers)]) == 0
    assert listed.main([str(answers), "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith("1 operators\n")
    monkeypatch.undo()
    more = rows.Drawn.read(out)
    assert more.sizes.tolist() == [[9973, 64, 64, 14, 14, 0, 3, 1, 1, 1]]
    assert [more.names[at] for at in more.plans[0, :3]] == [known[3], known[1], ""]
    both = dataclasses.replace(drawn, names=("", *reversed(known[1:]))).joined(more)
    assert [both.names[at] for at in both.plans[-1, :2]] == [known[3], known[1]]
    assert len(both.cell) == 5


@pytest.fixture
def lessons():
    """Of two kinds of kernels, and a lesson that nobody is taught."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 6))
    y = 0.3 * np.tanh(x[:, 0]) + 0.1 * x[:, 1]
    parts = [("conv_fwd_nhwc-half", 0, 900), ("conv_dgrad_nhwc-half", 900, 1000)]
    parts.append(("conv_fwd_nhwc-half", 1000, 1500))
    names = tuple("abcdef")
    return [Lesson(kernel, names, x[i:j], y[i:j]) for kernel, i, j in parts]


SHORT = Descent(nets=1, widths=(24, 16), answers=4, epochs=20, batch=64)


@pytest.mark.torch
def test_a_device_teaches_as_the_processor_does(lessons):
    torch = pytest.importorskip("torch")
    from validate.plan_law.descend import Teaching, answer

    *told, asked = lessons
    names, kernel, x = asked.names, asked.kernel, asked.values
    here = teach(told, np.random.default_rng(1), SHORT)
    there = Teaching(SHORT, replace(SHORT, epochs=5)).pupils([told, told[:1]], seed=1)
    off = [np.abs(one.of(kernel, names)(x) - asked.target).mean() for one in (here, *there)]
    assert off[1] == pytest.approx(off[0], rel=0.7)
    assert max(off) < 0.02
    first = there[0]
    shared = replace(first, own={}).of(kernel, names)(x)
    worded = np.array([[word in kernel.replace("-", "_") for word in first.words]], np.float32)
    x32 = ((x - first.center) / first.scale).clip(-4.0, 4.0).astype(np.float32)
    again = answer(
        [torch.tensor(one[None]) for one in tensors_of(first.nets[0])],
        torch.tensor(x32[None]),
        torch.tensor(worded.repeat(len(x32), 0)[None]),
    )
    assert again[0].numpy() == pytest.approx(shared, abs=1e-5)


@pytest.mark.torch
def test_networks_side_by_side_see_the_rows_of_their_own_fold_alone(lessons):
    pytest.importorskip("torch")
    from validate.plan_law.descend import Teaching

    first, second, third = lessons
    teaching = Teaching(SHORT, replace(SHORT, epochs=5))
    moved = replace(third, target=third.target + 1.0)
    here, other = (teaching.pupils([[first, second], [one]], seed=3) for one in (third, moved))
    for one, another in zip(tensors_of(here[0].nets[0]), tensors_of(other[0].nets[0]), strict=True):
        assert one == pytest.approx(another, abs=1e-3)
    said = [each[1].of(third.kernel, third.names)(third.values).mean() for each in (here, other)]
    assert said[1] - said[0] == pytest.approx(1.0, abs=0.1)
    # The second fold was told nothing of input gradients: those ask its shared network.
    nets = here[1].own["conv_dgrad_nhwc"]
    assert all(
        np.array_equal(one, another)
        for one, another in zip(tensors_of(nets[0]), tensors_of(here[1].nets[0]), strict=True)
    )


@pytest.mark.torch
def test_a_refit_is_the_shipped_command_with_a_device_that_teaches(monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch")
    from perfmodel.calibrate import Calibration
    from validate import refit
    from validate.plan_law.descend import OWN, Teaching

    asked = {}

    def calibrate(folder, device, **given):
        asked.update(given, folder=folder, device=device)
        given["progress"]("networks of 71 kernels")
        return Calibration(device, given["out"], {}, (), (), {}, None)

    monkeypatch.setattr(refit, "calibrate", calibrate)
    words = [rows.CHIPS[0], "--support", rows.CHIPS[1], "--kernels", "conv", "--out", str(tmp_path)]
    assert refit.main([*words, "--jobs", "1", "--epochs", "9"]) == 0
    assert asked["folder"] == rows.MEASUREMENTS / rows.CHIPS[0]
    assert asked["support"] == (rows.MEASUREMENTS / rows.CHIPS[1], rows.CHIPS[1])
    assert (asked["kernels"], asked["out"]) == (["conv"], tmp_path)
    assert asked["teaching"] == Teaching(own=replace(OWN, epochs=9))
    assert "networks of 71 kernels" in capsys.readouterr().err


@pytest.mark.torch
def test_blocks_of_depthwise_kernels_are_those_of_their_grids():
    torch = pytest.importorskip("torch")
    from validate.plan_law.depthwise import blocks

    met, right = Counter(), Counter()
    path = rows.MEASUREMENTS / rows.CHIPS[1] / "search" / "plan-times.jsonl.gz"
    for row in plan_rows.read(path):
        timed = [plan for plan in row["plans"] if "us" in plan]
        if row["op"].get("groups", 1) == 1 or row["op"]["layout"] != "nhwc" or not timed:
            continue
        *sizes, cell = rows.identity(row["op"])
        known = names.natives([plan["name"] for plan in timed])
        told = blocks(
            torch.tensor([sizes]).float(), torch.tensor([cell]), torch.tensor(known[None])
        )
        for plan, kind, count in zip(timed, told[0][0].tolist(), told[1][0].tolist(), strict=True):
            beside = ("helper", "post", "reduce")
            grids = [
                g for name, g, *_ in plan["kernels"] if g and not any(b in name for b in beside)
            ]
            met[kind] += 1
            right[kind] += max(np.prod(grid) for grid in grids) == count
    del met[0]
    assert sum(met.values()) > 3000
    assert {kind for kind in met if right[kind] > 0.98 * met[kind]} == {1, 2, 3, 5, 7}
    assert min(right[kind] / met[kind] for kind in met) > 0.75


@pytest.fixture
def made():
    """Operators for whose second plan the launch is dear, and the first takes longer."""
    rng = np.random.default_rng(0)
    count = 400
    sizes = np.array([8, 64, 64, 14, 14, 0, 3, 1, 1, 1]) * np.ones((count, 1), np.int64)
    sizes[:, 0] = rng.integers(1, 64, count)
    sizes[:, 1] = 8 * rng.integers(1, 33, count)
    offset = np.log(1e-7 * product_of(sizes, np.zeros(count, int)).prod(1) ** 0.3)
    plans = np.zeros((count, LONGEST), np.int64)
    plans[:, :2] = 1, 2
    steady = np.full((count, LONGEST), np.nan)
    steady[:, 0], steady[:, 1] = 1.5 * np.exp(offset), np.exp(offset)
    launch = np.full((count, LONGEST), np.nan)
    launch[:, 0], launch[:, 1] = 5e-6, 15e-6
    kept = np.argmin((steady + launch)[:, :2], axis=1)
    seconds = steady[np.arange(count), kept]
    none = np.full((count, LONGEST), np.nan, np.float32)
    ones = Operators(
        sizes, np.zeros(count, np.int64), rng.integers(0, 2, count), np.zeros(count, np.int64),
        np.log(sizes[:, :2]).astype(np.float32), offset.astype(np.float32), plans,
        seconds.astype(np.float32), none, (steady + launch).astype(np.float32),
        launch.astype(np.float32), rng.integers(0, 5, count), np.zeros(count, bool),
    )  # fmt: skip
    words = np.zeros((3, WORDS), np.float32)
    words[1, :2], words[2, 2:4] = 1.0, 1.0
    tiles = np.zeros((3, 3, 3), np.float32)
    tiles[:, 1:] = 128, 64, 32
    known = rows.Known(
        ones, Plans(words, tiles, *(np.full((3, n), n < 3, np.float32) for n in (2, 3, 3))),
        ("", "a", "b"), ("conv_fwd_nhwc-half",), ("n", "c"),
    )  # fmt: skip
    assert 0 < kept.mean() < 1
    return known


@pytest.mark.torch
def test_networks_learn_which_plan_a_search_keeps(made, tmp_path, capsys):
    pytest.importorskip("torch")
    from validate.plan_law import __main__ as command
    from validate.plan_law.learn import Schedule

    how = Schedule(nets=2, epochs=40, batch=32)
    ones = made.operators
    own, (drawn,) = command.learned(["2"], made, [ones.only(np.arange(50))], how)["2"]
    held = ones.fold == 2
    off = np.abs(np.expm1(own - np.log(ones.kept_s)))
    assert off[held].mean() < 0.08
    assert drawn == pytest.approx(own[:50], abs=1e-3)
    text = f"2: {np.count_nonzero(~held)} rows, {np.count_nonzero(held)} others"
    assert capsys.readouterr().out.startswith(text)
    alone = command.taken_of(rows.CHIPS[1], ones)
    assert np.array_equal(alone, ones.chip == 1)
    assert command.taken_of("all", ones).all()
    assert command.columns_of(1)[-2:] == (rows.CHIPS[1], rows.CHIPS[0])

    (tmp_path / rows.CHIPS[0]).mkdir()
    said = np.repeat(own[:, None], COLUMNS, axis=1)
    count = command.write(tmp_path, 0, ones, said, {"networks": how.nets})
    chip = load_accelerator(rows.CHIPS[0])
    found = load_taught(tmp_path / rows.CHIPS[0], chip)
    assert sum(one.marks.size for one in found.values()) == count
    said_of = np.concatenate([one.says[:, EVERY] for one in found.values()])
    assert set(np.round(STEPS * said_of)) <= set(np.round(STEPS * own))


@pytest.mark.torch
def test_what_networks_of_one_chip_said_stays_unless_they_are_asked_again(made, tmp_path):
    pytest.importorskip("torch")
    from validate.plan_law import __main__ as command
    from validate.plan_law.learn import USUAL

    for chip, name in enumerate(rows.CHIPS):
        (tmp_path / name).mkdir()
        ones = made.operators.only(made.operators.chip == chip)
        before = np.log(ones.kept_s)[:, None] + 0.1 * np.arange(COLUMNS)
        command.write(
            tmp_path,
            chip,
            ones.only(np.arange(len(ones)) % 3 > 0),
            before[np.arange(len(ones)) % 3 > 0],
            {},
        )
    own = np.log(made.operators.kept_s) - 0.2
    drawn = [made.operators.only(np.zeros(0, np.int64))] * 2
    found = {which: (own, [np.zeros(0)] * 2) for which in command.SETS[: EVERY + 1]}
    command.publish(tmp_path, made, drawn, found, USUAL)
    for chip, name in enumerate(rows.CHIPS):
        ones = made.operators.only(made.operators.chip == chip)
        said = command.said_before(tmp_path / name / "plans" / "taught.npz", ones)
        assert said[:, EVERY] == pytest.approx(own[made.operators.chip == chip], abs=0.01)
        stays = said[:, EVERY + 1 :] - np.log(ones.kept_s)[:, None]
        held = np.isfinite(stays[:, 0])
        assert 0.5 < held.mean() < 1.0
        assert np.allclose(stays[held], 0.1 * np.arange(EVERY + 1, COLUMNS), atol=0.02)
    found = {which: (own - 0.2, [np.zeros(0)] * 2) for which in command.SETS[: EVERY + 1]}
    command.publish(tmp_path, made, drawn, found, USUAL, beside=True)
    for chip, name in enumerate(rows.CHIPS):
        ones = made.operators.only(made.operators.chip == chip)
        said = command.said_before(tmp_path / name / "plans" / "taught.npz", ones)
        assert said[:, EVERY] == pytest.approx(own[made.operators.chip == chip] - 0.1, abs=0.01)


def _partly_depthwise(known):
    """Every third operator with a group a channel."""
    sizes = known.operators.sizes.copy()
    sizes[::3, 2] = sizes[::3, 9] = sizes[::3, 1]
    return dataclasses.replace(known, operators=dataclasses.replace(known.operators, sizes=sizes))


def test_depthwise_operators_stand_alone_with_their_plans(made):
    known = _partly_depthwise(made)
    known.operators.plans[::3, 1] = 0
    known.operators.features[::3, 0] = np.nan
    alone, (drawn,) = rows.depthwise_alone(known, [known.operators.only(np.arange(10))])
    assert len(alone.operators) == len(range(0, len(known.operators), 3))
    assert len(drawn) == len(range(0, 10, 3))
    assert alone.names == ("", "a")
    assert np.array_equal(alone.operators.plans[:, 0], np.ones(len(alone.operators)))
    assert alone.plans.words.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert alone.plans.native.shape == (2, 3)
    assert alone.columns == ("c",)
    assert alone.operators.features.shape == (len(alone.operators), 1)


@pytest.mark.torch
def test_of_operators_that_are_not_depthwise_a_file_keeps_what_it_says(made, tmp_path):
    pytest.importorskip("torch")
    from validate.plan_law import __main__ as command

    ones = _partly_depthwise(made).operators
    (tmp_path / rows.CHIPS[0]).mkdir()
    first = np.log(ones.kept_s)[:, None] + np.zeros(COLUMNS)
    command.write(tmp_path, 0, ones, first, {"command": "a"})
    alone = depthwise(ones.sizes)
    command.write(tmp_path, 0, ones.only(alone), first[alone] + 1.0, {"command": "b"}, alone=True)
    path = tmp_path / rows.CHIPS[0] / "plans" / "taught.npz"
    sizes, cell, said = stored(path, path.read_bytes())
    now = dict(zip(map(tuple, np.column_stack([sizes, cell]).tolist()), said[:, 0], strict=True))
    given = np.column_stack([ones.sizes, ones.cell])
    _, each = np.unique(given, axis=0, return_index=True)
    assert len(now) == len(each)
    for at in each:
        wanted = first[at, 0] + alone[at]
        assert now[tuple(given[at].tolist())] == pytest.approx(wanted, abs=0.6 / STEPS)
    about = tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8"))
    assert about["command"] == "b"
    assert about["others"]["command"] == "a"


@pytest.mark.torch
def test_one_plan_of_drawn_operators_teaches(made):
    """Times of single plans of operators that nobody searched take others' errors down."""
    torch = pytest.importorskip("torch")
    from validate.plan_law.inputs import Inputs
    from validate.plan_law.learn import Schedule, Told, learn, says

    ones = made.operators
    few = ones.only(np.arange(64))
    alone = ones.only(np.arange(64, 300))
    none = np.full((len(alone), LONGEST), np.nan, np.float32)
    steady = none.copy()
    steady[:, 1] = np.exp(alone.offset)
    alone = dataclasses.replace(
        alone,
        kept_s=none[:, 0],
        trial_s=none,
        launch_s=none,
        steady_s=steady,
    )
    held, how = ones.only(np.arange(300, 400)), Schedule(nets=2, epochs=12, batch=32)
    off = []
    for taught in (few, few.joined(alone)):
        inputs = Inputs(taught, made.kernels)
        law = learn(
            Told(taught, inputs(taught), made.plans, "cpu"),
            np.arange(len(taught)),
            made.plans,
            how=how,
        )
        told = Told(held, inputs(held), made.plans, "cpu")
        with torch.no_grad():
            times, _ = told.asked(law, torch.arange(len(held)).expand(2, -1))
        off.append(float(times[..., 1].abs().mean()))
        assert np.isfinite(says(law, told)).all()
    assert off[1] < 0.7 * off[0]


def test_times_of_one_plan_are_kept_and_read_again(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from validate.plan_law import likely

    drawn = dataclasses.replace(rows.Drawn.read().first(40), sha256="of these")
    monkeypatch.setattr(rows.Drawn, "read", classmethod(lambda cls: drawn))
    run, folder = tmp_path / "run", tmp_path / "measurements"
    (folder / rows.CHIPS[1] / "search").mkdir(parents=True)
    run.mkdir()
    timed = [(0, 0, 12.5), (7, 1, 3.25), (11, 0, 80.0)]
    lines = []
    for at, place, us in timed:
        op = likely.op_of(drawn.sizes[at].tolist(), int(drawn.cell[at]))
        plan = {"name": drawn.names[drawn.plans[at, place]], "us": us, "low": us, "high": us}
        lines.append(json.dumps({"op": op, "plans": [plan]}))
    lines.append(json.dumps({"op": op, "plans": [{"name": "eng1", "error": "no"}]}))
    (run / "plan_times.jsonl.gz").write_bytes(plan_rows.packed(lines)[0])
    (run / "plan_times.toml").write_text('[library]\ndevice = "NVIDIA H200"\n', encoding="utf-8")
    assert likely.keep([run], 1, folder, f"{rows.LIKELY}-2") == len(timed)

    known = rows.Known(None, None, drawn.names, (), ())
    monkeypatch.setattr(rows, "judged", lambda _: {(*drawn.sizes[7].tolist(), drawn.cell[7])})
    monkeypatch.setattr(rows._Described, "fill", lambda *_: None)
    (found,) = rows.likely(drawn, known, folder)
    assert found.chip.tolist() == [1, 1]
    assert np.nanmax(found.steady_s, axis=1) == pytest.approx([12.5e-6, 80e-6])
    assert np.isnan(found.kept_s).all()
    assert not found.unread.any()

    with pytest.raises(CalibrationError, match=r"drawn: got 'of these'"):
        rows.likely(drawn.first(10), known, folder)

    path = folder / rows.CHIPS[1] / "search" / f"{rows.LIKELY}-2.npz"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(CalibrationError, match="sha256"):
        rows.likely(drawn, known, folder)
