"""Programs that share an SM, merged and packed forms, and the choice between them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.hardware.load import load_accelerator
from perfmodel.optimize.grouped.candidates import candidate
from perfmodel.optimize.grouped.form_choice import formed, quick
from perfmodel.optimize.grouped.forms import Packing, as_given, forms
from perfmodel.optimize.grouped.problem import (
    Group,
    GroupedConv,
    contiguous_groups,
    equal_groups,
)
from perfmodel.optimize.grouped.sharing import PLAIN, Dealing, finish, lateness
from perfmodel.optimize.grouped.tiles import TileTimes, linked, variant_named
from perfmodel.optimize.grouped_conv import packing_times, schedule, tile_times
from validate.grouped_conv.dataset import Run
from validate.grouped_conv.dealing import dealing_of

H100 = load_accelerator("h100-sxm5-80gb")


def one_unit(paces, busy):
    """Every slot of one SM, second by second: a slow, obvious replay."""
    left = dict.fromkeys(busy, 1.0)
    done, clock, tick = dict.fromkeys(range(len(paces)), 0.0), 0.0, 1e-4
    while left:
        company = len(left) - 1
        for slot in list(left):
            left[slot] -= tick / paces[slot][company]
            if left[slot] <= 1e-12:
                done[slot] = clock + tick
                del left[slot]
        clock += tick
    return [done[slot] for slot in range(len(paces))]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.2, 2.0), min_size=3, max_size=3), st.integers(0, 7))
def test_sharing_equals_a_replay(alone, busy):
    chosen = [slot for slot in range(3) if busy >> slot & 1]
    slowdown = np.array([1.0, 1.4, 2.1])
    work = np.array([[t * f for f in slowdown] if i in chosen else [0.0] * 3
                     for i, t in enumerate(alone)])  # fmt: skip
    seconds, shares = finish(work, PLAIN, 1)
    paces = [[t * f for f in slowdown] for t in alone]
    assert seconds.tolist() == pytest.approx(one_unit(paces, chosen), abs=5e-4)
    assert (shares * work).sum(axis=1) == pytest.approx(seconds)
    assert shares.sum(axis=1) == pytest.approx([1.0 * (i in chosen) for i in range(3)])


def test_nobody_is_slower_than_with_all_slots_busy():
    rng = np.random.default_rng(0)
    full = rng.uniform(1, 3, (40, 1)) * np.array([1.0, 1.2, 1.9, 2.4])
    full[rng.random(40) < 0.3] = 0.0
    seconds, _ = finish(full, Dealing(2, (0, 7, 15, 22)), 10)
    assert (seconds <= full[:, -1] * (1 + 1e-9)).all()
    assert (seconds >= full[:, 0] * (1 - 1e-9)).all()


def test_programs_are_dealt_once_each():
    for dealing in (PLAIN, Dealing(2, (0, 5, 12)), Dealing(8, (0, 84, 188, 288))):
        for residency in (1, 2, 3, 5):
            units = 132 if dealing.early == 8 else 8
            place = dealing.places(units, residency)
            assert sorted(place.tolist()) == list(range(units * residency))
    place = Dealing(8, (0, 84)).places(132, 2)
    # slot 84 is the second program of the SM of slot 0
    assert place[0] == 0
    assert place[84] == 132
    assert place[83] == 83
    assert place[92] == 84


def test_early_units_delay_a_launch_that_would_fit_one_program_an_sm():
    pace = np.array([1.0, 1.5])
    work = np.zeros((16, 2))
    work[:6] = pace
    assert finish(work, PLAIN, 8)[0].max() == pytest.approx(1.0)
    assert finish(work, Dealing(2, (0, 4)), 8)[0].max() == pytest.approx(1.5)


def test_the_last_of_many_slots_is_late():
    assert lateness(np.array([1.0])) == pytest.approx(math.sqrt(2 * math.log(2)))
    assert lateness(np.full(100, 2.0)) == pytest.approx(2 * math.sqrt(2 * math.log(101)))
    assert lateness(np.array([1.0, 0.5])) == lateness(np.array([1.0]))


def test_coefficients_between_measured_numbers_of_programs():
    variant = variant_named("tiny-flat-8")
    each = [
        TileTimes(variant, np.full(3, a), np.zeros(3), n, 0.0, calibrated=True)
        for n, a in ((1, 1.0), (2, 1.2), (5, 3.0))
    ]
    five = linked(each, PLAIN)[2]
    assert [one.residency for one in five.fewer] == [1, 2]
    assert [(one.residency, weight) for one, weight in five.mix(2)] == [(2, 1.0)]
    mixed = sum(weight * one.alpha[0] for one, weight in five.mix(4))
    assert mixed == pytest.approx(1.2 + 2 / 3 * 1.8)
    alone = TileTimes(variant, np.ones(3), np.zeros(3), 5, 0.0, calibrated=True)
    assert alone.mix(2) == [(alone, 1.0)]


LAYERS = {
    "equal": GroupedConv(1, 7, 7, 64, equal_groups(64, 64, 16)),
    "any": GroupedConv(1, 5, 4, 40, contiguous_groups([3, 6, 7, 24], [5, 17, 2, 8])),
    "learned": GroupedConv(
        2, 5, 4, 32, (Group((5, 2, 9, 11), 7), Group((0, 1, 2, 5, 15), 19), Group((30, 31), 4))
    ),
}


@pytest.mark.parametrize("conv", LAYERS.values(), ids=LAYERS)
def test_forms_compute_the_same_products(conv):
    """Every group of the layer finds its channels in the part that holds it, in order."""
    ways = forms(conv)
    assert ways[0].name == "as given"
    assert len(ways) == len({(one.parts, one.gather is None, one.conv.groups) for one in ways})
    for form in ways:
        assert [g for part in form.parts for g in part] == list(range(len(conv.groups)))
        assert form.conv.out_channels == conv.out_channels
        assert form.conv.rows == conv.rows
        for part in range(len(form.parts)):
            held = np.array(form.conv.groups[part].channels)
            if form.gather is not None:
                held = form.gather[held]
            for group, places in form.places(conv, part):
                assert held[places].tolist() == list(conv.groups[group].channels)
        if form.gather is not None:
            assert form.conv.input_run == 8
            assert len(form.gather) == form.conv.in_channels


def test_aligned_channels_are_not_packed():
    aligned = GroupedConv(1, 7, 7, 64, equal_groups(64, 64, 8))
    assert all(one.gather is None for one in forms(aligned))
    assert any(one.name == "merged all" or len(one.parts) == 1 for one in forms(aligned))


def test_the_choice_is_the_least_planned_time_and_packing_counts():
    conv = LAYERS["any"]
    times = tile_times(H100)
    cheap = formed(conv, times, 132, Packing(0.0, 1e15))
    dear = formed(conv, times, 132, Packing(1.0, 1e12))
    assert [one.seconds for one in cheap] == sorted(one.seconds for one in cheap)
    assert dear[0].packing == 0.0
    assert any(one.form.name == "as given" for one in dear)
    assert cheap[0].seconds <= dear[0].seconds
    packed = next(form for form in forms(conv) if form.gather is not None)
    read = int((packed.gather >= 0).sum())
    expected = 2e-6 + 2 * 20 * (read + len(packed.gather)) / 1e12
    assert Packing(2e-6, 1e12).seconds(packed) == pytest.approx(expected)
    assert Packing(2e-6, 1e12).seconds(as_given(conv)) == 0.0


def test_no_placement_beats_the_knapsack():
    conv = LAYERS["equal"]
    for times in tile_times(H100):
        if times.variant.name == "tiny-flat-4":
            found = candidate(conv, times, 132)
            floor = quick(conv, times, 132) - times.launch
            assert found.makespan >= floor * (1 - 1e-12)


def test_learned_channels_are_merged_on_an_h100():
    """CondenseNet's 1 x 1: looking channels up one by one loses to one dense group."""
    rng = np.random.default_rng(0)
    groups = tuple(Group(tuple(sorted(rng.permutation(64)[:16].tolist())), 32) for _ in range(4))
    conv = GroupedConv(8, 56, 56, 64, groups, 1, 1, 0, name="learned")
    best = schedule(conv, H100, time_limit_s=2, waves=False)
    plain = schedule(conv, H100, time_limit_s=2, waves=False, forms=False)
    assert best.form.name.startswith("merged")
    assert plain.form.name == "as given"
    assert best.seconds < 0.5 * plain.seconds
    document = best.to_dict()
    assert document["groups"] == 4
    assert document["form"] == best.form.name
    assert sorted(itertools.chain(*document["groups_of_form"])) == [0, 1, 2, 3]
    assert best.form.name in best.explain()


def test_packing_is_planned_where_it_was_not_measured(tmp_path):
    found = packing_times(H100, folder=tmp_path)
    assert not found.calibrated
    assert packing_times(H100).calibrated
    scattered = LAYERS["learned"]
    result = schedule(scattered, H100, packing=Packing(0.0, 1e18), time_limit_s=1, waves=True)
    assert result.waves is not None
    assert result.seconds == pytest.approx(result.chosen.seconds + result.packing)


def launches(number, starts, programs):
    """SM of every slot of a launch on 20 units of which four come early."""
    early = [16, 17, 18, 19] if number % 2 else [18, 19, 16, 17]
    turn = [early[i % 4] for i in range(4)]
    free = iter(np.random.default_rng(number).permutation(16).tolist() * programs)
    at = {start + i: turn[i] for start in starts for i in range(4)}
    return [at[slot] if slot in at else next(free) for slot in range(20 * programs)]


def test_dealing_is_read_off_the_units(monkeypatch):
    import validate.grouped_conv.dealing as module

    monkeypatch.setattr(module, "UNITS", 20)
    monkeypatch.setattr(module, "_TURN", 15.0)
    rows = []
    for number in range(24):
        for programs, starts in ((1, (0,)), (2, (0, 14))):
            for slot, sm in enumerate(launches(number, starts, programs)):
                if slot % 2 == 0 or slot < 4:
                    rows.append((f"layer-{number}", f"tiny-flat-8 x{programs}", "lpt", slot, sm))
    slots = pd.DataFrame(rows, columns=["layer", "variant", "placement", "slot", "sm"])
    run = Run(pd.DataFrame(), slots, pd.DataFrame(), {}, [])
    assert dealing_of(run) == Dealing(4, (0, 14))
    # a chip that deals every launch alike shows no group of its own
    same = slots.assign(sm=slots.slot % 20)
    assert dealing_of(Run(pd.DataFrame(), same, pd.DataFrame(), {}, [])) == PLAIN


def test_shipped_coefficients_say_how_programs_are_dealt():
    times = tile_times(H100)
    assert {one.dealing for one in times} == {Dealing(8, (0, 84, 188, 288))}
    assert all(one.spread >= 0 for one in times)


@pytest.mark.slow
def test_the_committed_runs_give_the_shipped_coefficients_and_hold_the_bars(tmp_path):
    """Everything behind the accuracy page, made again from the measured rows."""
    from perfmodel.cost.efficiency import efficiency_folder
    from validate.grouped_conv.baseline_times import fit_library
    from validate.grouped_conv.baseline_times import shipped as shipped_library
    from validate.grouped_conv.dataset import load_fresh, load_run, together
    from validate.grouped_conv.refit import fit_all
    from validate.grouped_conv.scores import kendall, schedule_table, slot_table
    from validate.grouped_conv.sidecar import write_coefficients
    from validate.grouped_conv.speed import geomean, layer_table

    first = load_run()
    run = together(first, load_fresh())
    fitted = fit_all(run, dealing_of(first))
    written = tmp_path / "times.toml"
    library = shipped_library(fit_library(run.layers, run.convs, H100))
    write_coefficients(written, list(fitted.times.values()), fitted.packing, library)
    shipped = efficiency_folder() / "grouped_conv" / "h100-sxm5-80gb.toml"
    assert written.read_text() == shipped.read_text()
    schedules, slots = schedule_table(run, fitted), slot_table(run, fitted)
    unseen, unseen_slots = schedules[~schedules.tune], slots[~slots.tune]
    ran = unseen[unseen.placement == "knapsack+lpt"]
    assert kendall(unseen, "predicted") >= 0.8
    assert (unseen_slots.predicted / unseen_slots.measured - 1).abs().mean() <= 0.10
    assert (ran.predicted / ran.measured - 1).abs().mean() <= 0.15
    layers = layer_table(run, schedules, fitted, H100)
    odd = layers[~layers.tune]
    unequal = odd[~odd.equal & (odd.batch <= 8) & (odd.groups > 4)]
    assert geomean(unequal.streams / unequal.ours) >= 2.0
