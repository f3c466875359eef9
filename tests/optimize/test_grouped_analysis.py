"""Analysis of a run of grouped convolutions: the refit finds known coefficients, scores count."""

import numpy as np
import pandas as pd
import pytest

from perfmodel.hardware.load import load_accelerator
from perfmodel.optimize.grouped.candidates import candidate, layer_seconds
from perfmodel.optimize.grouped.heuristics import in_order, longest_first
from perfmodel.optimize.grouped.problem import GroupedConv, contiguous_groups
from perfmodel.optimize.grouped.sharing import PLAIN
from perfmodel.optimize.grouped.tiles import TileTimes, variant_named
from perfmodel.optimize.grouped_conv import tile_times
from validate.grouped_conv.__main__ import main
from validate.grouped_conv.dataset import Run, Scheduled, in_tune_half
from validate.grouped_conv.plans import busy_seconds, held, ladder, planned_seconds
from validate.grouped_conv.refit import refit, slot_seconds
from validate.grouped_conv.scores import kendall, pairs

TRUE = TileTimes(
    variant_named("small-taps-8"),
    np.array([1.0e-6, 1.3e-6, 1.9e-6]),
    np.array([2.0e-7, 3.0e-7, 5.0e-7]),
    2,
    1.2e-6,
    calibrated=True,
    begin=4e-7,
    gamma=np.array([1e-7, 2e-7, 3e-7]),
)


def synthetic_run():
    rng = np.random.default_rng(0)
    schedules, slots = [], []
    for index in range(24):
        widths = (8 * rng.integers(1, 13, 12)).tolist()
        made = (16 * rng.integers(1, 6, 12)).tolist()
        conv = GroupedConv(
            int(rng.integers(1, 9)), 14, 14, sum(widths), contiguous_groups(widths, made),
            name=f"layer-{index}",
        )  # fmt: skip
        for label, pick in (("knapsack+lpt", None), ("mixed", rng.integers(0, 3, 12))):
            one = candidate(conv, TRUE, 132, pick=pick, place=longest_first)
            load = held(one, one.tables())
            seconds = planned_seconds(one.times, load)
            measured = float(seconds.max()) + TRUE.launch
            schedules.append(Scheduled(conv, label, TRUE.name, measured, measured, load, ""))
            slots += [
                {"layer": conv.name, "variant": TRUE.name, "placement": label, "slot": slot,
                 "measured_s": seconds[slot], "form": ""}
                for slot in range(0, len(seconds), 20) if seconds[slot] > 0
            ]  # fmt: skip
    solo = pd.DataFrame(
        columns=["variant", "residency", "layer", "shape", "tiles", "steps", "slot_s"]
    )
    convs = {one.conv.name: one.conv for one in schedules}
    return Run(pd.DataFrame(), pd.DataFrame(slots), solo, convs, schedules)


def test_refit_finds_what_made_the_times():
    run = synthetic_run()
    (found,) = refit(run, PLAIN)
    assert found.launch == pytest.approx(TRUE.launch, rel=0.02)
    unseen = [one for one in run.schedules if not in_tune_half(one.conv.name)]
    assert unseen
    for one in unseen:
        predicted = layer_seconds(found, slot_seconds(found, one.load))
        assert predicted == pytest.approx(one.measured_s, rel=0.01)


def test_the_halves_are_fixed():
    names = [f"layer-{index}" for index in range(200)]
    assert 70 < sum(map(in_tune_half, names)) < 130
    assert [in_tune_half(name) for name in names[:4]] == [False, True, False, True]


def test_ranking_counts_pairs():
    table = pd.DataFrame(
        {
            "layer": ["a"] * 4,
            "measured": [1.0, 2.0, 3.0, 3.01],
            "predicted": [1.0, 3.0, 2.0, 2.0],
        }
    )
    apart, close = pairs(table, "predicted")
    assert (apart.count, apart.tied, apart.wrong) == (5, 0, 2)
    assert (close.count, close.tied, close.wrong) == (1, 1, 0)
    assert apart.tau == pytest.approx(0.2)
    # tau-b: three pairs right, two wrong, one tied on one side of six
    assert kendall(table, "predicted") == pytest.approx((3 - 2) / np.sqrt(6 * 5))


def test_what_slots_hold_adds_up():
    """Slot times from what is held equal the schedule's own."""
    widths, made = [8, 24, 40, 64], [16, 48, 32, 80]
    conv = GroupedConv(2, 14, 14, sum(widths), contiguous_groups(widths, made))
    chip = load_accelerator("h100-sxm5-80gb")
    found = [candidate(conv, t, 132) for t in tile_times(chip) if t.variant.name == "small-flat-8"]
    assert found
    for label, one, table in ladder(conv, found, 132):
        load = held(one, table)
        assert load.tiles.sum() == len(table.tiles)
        if label != "round-robin":
            # one slot's tiles are the same set, in another order
            expected = np.sort(one.slot_seconds)
            assert np.sort(busy_seconds(one.times, load)) == pytest.approx(expected)
            assert np.sort(planned_seconds(one.times, load)) == pytest.approx(np.sort(one.planned))
    assert in_order(np.array([1.0]), np.array([3]), 2).sum() == 3


@pytest.mark.parametrize("command", ["fit", "report"])
def test_a_folder_is_no_file_to_write(tmp_path, capsys, command):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert main([command, "--out", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{command} --out: got '{folder}'.")
    for part in ("Accepted: ", "Nearest: ", "Repair: "):
        assert part in said
    assert list(tmp_path.rglob("*")) == [folder]
