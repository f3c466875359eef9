"""The grouped-convolution scheduler against brute force, published examples and its own bounds."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import CalibrationError, WorkloadError
from perfmodel.hardware.load import load_accelerator
from perfmodel.optimize.grouped.files import read_times
from perfmodel.optimize.grouped.heuristics import LADDER, makespan, round_robin
from perfmodel.optimize.grouped.knapsack import choose, choose_placed, merge
from perfmodel.optimize.grouped.placement import place, simple_bound
from perfmodel.optimize.grouped.tables import tables, tables_in_order
from perfmodel.optimize.grouped.tiles import VARIANTS, usable
from perfmodel.optimize.grouped.waves import rectangles, wave_plan
from perfmodel.optimize.grouped_conv import (
    Group,
    GroupedConv,
    TileTimes,
    contiguous_groups,
    equal_groups,
    groups_from_json,
    schedule,
    tile_times,
)

H100 = load_accelerator("h100-sxm5-80gb")


def lognormal(groups, batch, side, seed=0):
    rng = np.random.default_rng(seed)
    widths = np.maximum(4, np.exp(rng.normal(np.log(32), 0.7, groups))).astype(int)
    made = np.maximum(4, np.exp(rng.normal(np.log(32), 0.7, groups))).astype(int)
    return GroupedConv(
        batch, side, side, int(widths.sum()), contiguous_groups(widths.tolist(), made.tolist())
    )


def every_placement(seconds, number, slots):
    """Least makespan by trying every tile on every slot."""
    items = np.repeat(seconds, number)[::-1]
    best = np.inf

    def put(place_, load):
        nonlocal best
        if max(load) >= best:
            return
        if place_ == len(items):
            best = max(load)
            return
        for slot in {value: index for index, value in enumerate(load)}.values():
            load[slot] += items[place_]
            put(place_ + 1, load)
            load[slot] -= items[place_]

    put(0, [0.0] * slots)
    return best


@pytest.mark.parametrize("seed", range(25))
def test_placement_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    seconds = np.unique(rng.integers(2, 30, rng.integers(2, 5))).astype(float)
    number = rng.integers(1, 4, len(seconds))
    slots = int(rng.integers(2, 5))
    found = place(seconds, number, slots, gap=1e-9, time_limit_s=5)
    best = every_placement(seconds, number, slots)
    assert found.makespan == pytest.approx(best, abs=1e-9)
    assert found.bound <= best + 1e-9
    assert (found.counts.sum(axis=0) == number).all()


def test_cutlass_example():
    """Four products of 54 tiles on 108 SMs, K 1024 and 128 in turn (CUTLASS grouped GEMM)."""
    seconds, number = np.array([1024.0, 128.0]), np.array([108, 108])
    kind = np.tile(np.repeat([0, 1], 54), 2)
    load = np.bincount(np.arange(216) % 108, weights=seconds[kind], minlength=108)
    assert load.max() == 2048  # round-robin in the order of the problems
    found = place(seconds, number, 108)
    assert found.makespan == 1152
    assert found.bound == 1152
    assert found.gap == 0


@pytest.mark.parametrize(
    ("groups", "batch", "side", "gap"),
    [(32, 8, 14, 0.01), (32, 1, 56, 0.01), (32, 32, 14, 0.01), (128, 1, 14, 0.02),
     (128, 1, 56, 0.02), (128, 32, 14, 0.02)],
)  # fmt: skip
def test_certified_gap(groups, batch, side, gap):
    found = schedule(
        lognormal(groups, batch, side), H100, waves=False, time_limit_s=20, gap=0.9 * gap
    )
    assert found.placement_gap <= gap
    assert found.placement.seconds <= 20.5


kinds = st.lists(
    st.tuples(st.floats(0.1, 50.0), st.integers(1, 30)), min_size=1, max_size=6,
    unique_by=lambda pair: pair[0],
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(kinds, st.integers(1, 12))
def test_every_rung_places_every_tile_above_the_bound(given_kinds, slots):
    seconds = np.array([pair[0] for pair in given_kinds])
    number = np.array([pair[1] for pair in given_kinds])
    bound = simple_bound(seconds, number, slots)
    for name, rung in LADDER.items():
        counts = rung(seconds, number, slots)
        assert (counts >= 0).all()
        assert (counts.sum(axis=0) == number).all(), name
        assert makespan(counts, seconds) >= bound * (1 - 1e-9), name
    lpt = makespan(LADDER["lpt"](seconds, number, slots), seconds)
    # the last tile started on the slot that was free first (Graham 1969)
    mean, longest = float(seconds @ number) / slots, float(seconds.max())
    assert lpt <= (mean + (1 - 1 / slots) * longest) * (1 + 1e-9)
    assert makespan(LADDER["multifit"](seconds, number, slots), seconds) <= lpt * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_knapsack_equals_enumeration(seed):
    rng = np.random.default_rng(seed)
    number, tau = rng.integers(1, 9, (5, 3)), rng.uniform(1, 9, (5, 3))
    slots = int(rng.integers(1, 9))
    rows = np.arange(5)
    values = [
        max(number[rows, pick] @ tau[rows, pick] / slots, tau[rows, pick].max())
        for pick in map(list, itertools.product(range(3), repeat=5))
    ]
    assert choose(number, tau, slots).value == pytest.approx(min(values))
    placed = choose_placed(number, tau, slots)
    assert placed.value >= placed.bound * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_waves_equal_enumeration(seed):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(1, 11, 5), rng.uniform(1, 5, 5)
    best = np.inf
    for wave in itertools.product(range(5), repeat=5):
        names = set(wave)
        member = {w: [i for i in range(5) if wave[i] == w] for w in names}
        if all(width[m].sum() <= 10 for m in member.values()):
            best = min(best, sum(height[m].max() + 0.3 for m in member.values()))
    found = wave_plan(width, height, 10, 0.3)
    assert found.seconds == pytest.approx(best)
    assert found.bound <= best * (1 + 1e-9)
    assert sorted(itertools.chain(*found.waves)) == list(range(5))


def test_wide_groups_fold():
    width, height = rectangles(np.array([5, 25]), np.array([1.0, 2.0]), 10)
    assert width.tolist() == [5, 9]
    assert height.tolist() == [1.0, 6.0]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_tables_cover_every_tile_once(variant):
    conv = GroupedConv(2, 9, 7, 96, contiguous_groups([8, 40, 48], [24, 16, 100]))
    pick = np.array([0, 2, 1])
    number = variant.counts(conv)
    kinds_ = merge(number, number + 1.0, pick)
    counts = LADDER["lpt"](kinds_.seconds, kinds_.number, 11)
    for made in (
        tables(conv, variant, pick, kinds_, counts),
        tables_in_order(conv, variant, pick, 11),
    ):
        expected = set()
        for group, shape in enumerate(pick):
            tile = variant.tiles[shape]
            for mb in range(-(-conv.rows // tile.bm)):
                for nb in range(-(-conv.groups[group].outputs // tile.bn)):
                    expected.add((group, mb, nb, int(shape)))
        assert {tuple(row) for row in made.tiles.tolist()} == expected
        assert len(made.tiles) == len(expected)
        assert made.first[0] == 0
        assert made.first[-1] == len(made.tiles)
    held = np.zeros_like(counts)
    made = tables(conv, variant, pick, kinds_, counts)
    slot = np.repeat(np.arange(11), np.diff(made.first))
    np.add.at(held, (slot, kinds_.of[made.tiles[:, 0]]), 1)
    assert (held == counts).all()


def test_round_robin_is_by_position():
    counts = round_robin(np.array([1.0, 2.0]), np.array([3, 2]), 2)
    assert counts.tolist() == [[2, 1], [1, 1]]


def test_schedule_is_consistent():
    conv = lognormal(24, 4, 14)
    found = schedule(conv, H100, time_limit_s=3)
    assert found.seconds >= max(found.bounds["compute"], found.bounds["memory"])
    # the other two are of slots that are all busy
    assert found.chosen.makespan >= max(found.bounds["knapsack"], found.bounds["placement"])
    assert found.chosen.makespan == pytest.approx(found.chosen.slot_seconds.max())
    spans = found.spans()
    ends = np.zeros(found.chosen.slots)
    np.maximum.at(ends, spans.row, spans.start + spans.duration)
    assert ends.max() == pytest.approx(found.chosen.makespan)
    assert found.calibrated
    document = json.loads(json.dumps(found.to_dict()))
    assert document["tiles"] == len(spans.row)
    assert "gap at most" in found.explain()
    assert found.waves is not None
    assert found.waves.seconds >= found.waves.bound


def test_counts_of_work():
    conv = GroupedConv(2, 8, 8, 32, equal_groups(32, 64, 4))
    assert conv.flops == 2 * 2 * 64 * 9 * 4 * 8 * 16
    assert conv.compulsory_bytes == 2 * (2 * 64 * 32 + 9 * 4 * 8 * 16 + 2 * 64 * 64)
    assert conv.equal
    shared = GroupedConv(1, 4, 4, 8, (Group((0, 1, 2), 4), Group((2, 5), 3)))
    assert shared.overlapping
    assert shared.input_run == 0
    assert {v.mode for v in usable(shared)} == {"table"}
    # four distinct channels are read: 0, 1, 2, 5
    assert shared.compulsory_bytes == 2 * (16 * 4 + 9 * (12 + 6) + 16 * 7)


@pytest.mark.parametrize(
    ("start", "widths", "run"), [(0, (8, 16), 8), (0, (4, 8), 4), (0, (3, 5), 1)]
)
def test_aligned_runs(start, widths, run):
    assert GroupedConv(1, 4, 4, sum(widths), contiguous_groups(widths, (8, 8))).input_run == run


def test_json_round_trip(tmp_path):
    conv = GroupedConv(1, 7, 7, 9, (Group((0, 4, 2), 5), Group((4, 8), 7)), 1, 1, 0, name="x")
    path = tmp_path / "groups.json"
    path.write_text(json.dumps(conv.to_dict()))
    assert groups_from_json(path) == conv
    path.write_text(
        '{"batch": 1, "height": 7, "width": 7, "in_channels": 16, "out_channels": 32, "groups": 4}'
    )
    assert groups_from_json(path).groups == equal_groups(16, 32, 4)


GOOD = {"batch": 1, "height": 7, "width": 7, "in_channels": 8}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ("[1]", "groups.json"),
        ("{", "groups.json"),
        (json.dumps(GOOD), "groups"),
        (json.dumps(GOOD | {"groups": 3, "out_channels": 8}), "groups"),
        (json.dumps(GOOD | {"groups": 2}), "out_channels"),
        (json.dumps(GOOD | {"groups": []}), "groups"),
        (json.dumps(GOOD | {"groups": [{"channels": [9], "outputs": 1}]}), "channels"),
        (json.dumps(GOOD | {"groups": [{"channels": [1, 1], "outputs": 1}]}), "channels"),
        (json.dumps(GOOD | {"groups": [{"channels": [1.5], "outputs": 1}]}), "channels"),
        (json.dumps(GOOD | {"groups": [{"channels": [1], "outputs": 0}]}), "groups[0]"),
        (json.dumps(GOOD | {"groups": 1, "out_channels": 8, "strides": 1}), "strides"),
        (json.dumps(GOOD | {"groups": 1, "out_channels": 8, "kernel": 0}), "kernel"),
        (json.dumps(GOOD | {"groups": 1, "out_channels": 8, "dtype": "fp8"}), "dtype"),
        (json.dumps(GOOD | {"groups": 1, "out_channels": 8, "batch": True}), "batch"),
        (json.dumps(GOOD | {"groups": [{"channels": {"start": 6, "count": 3}, "outputs": 1}]}),
         "channels"),
    ],
)  # fmt: skip
def test_bad_files_are_explained(tmp_path, data, where):
    path = tmp_path / "groups.json"
    path.write_text(data)
    with pytest.raises(WorkloadError) as caught:
        groups_from_json(path)
    assert where in caught.value.where
    assert caught.value.repair


def test_missing_file():
    with pytest.raises(WorkloadError):
        groups_from_json("no-such-file.json")


def test_fitted_coefficients_are_read(tmp_path):
    file = tmp_path / "grouped_conv" / "h100-sxm5-80gb.toml"
    file.parent.mkdir()
    file.write_text(
        '[[times]]\nvariant = "small-flat-8"\nresidency = 2\nbegin_s = 1e-6\nlaunch_s = 2e-6\n'
        "alpha_s = [1e-6, 1e-6, 2e-6]\nbeta_s = [1e-7, 2e-7, 3e-7]\n"
    )
    (one,) = tile_times(H100, folder=tmp_path)
    assert one.calibrated
    found = schedule(GroupedConv(1, 8, 8, 64, equal_groups(64, 64, 4)), H100, coefficients=[one])
    # 9 x 16 channels are 3 steps; a tile of 64 pixels x 16 outputs a group, one a slot
    assert found.seconds == pytest.approx(1e-6 + 1e-6 + 3 * 1e-7 + 2e-6)
    file.write_text("[[times]]\nresidency = 2\n")
    with pytest.raises(CalibrationError):
        read_times(file)


def test_unmeasured_devices_take_the_datasheet(tmp_path):
    conv = GroupedConv(1, 8, 8, 64, equal_groups(64, 64, 4))
    times = tile_times(H100, folder=tmp_path)
    assert len(times) > len(VARIANTS)
    assert not schedule(conv, H100, coefficients=times, waves=False).calibrated


def test_filled_lanes_cost_time():
    """A step of one tap costs more where more of its lanes hold a channel."""
    taps = next(v for v in VARIANTS if v.name == "small-taps-8")
    times = TileTimes(
        taps, np.ones(3), np.full(3, 0.5), 1, 0.0, calibrated=True, gamma=np.full(3, 0.25)
    )
    conv = GroupedConv(1, 8, 8, 48, contiguous_groups([16, 32], [16, 16]))
    # nine steps each; 16 and 32 of 64 lanes are filled
    expected = [1 + 9 * (0.5 + 0.25 / 4), 1 + 9 * (0.5 + 0.25 / 2)]
    assert times.seconds(conv)[:, 0].tolist() == pytest.approx(expected)
