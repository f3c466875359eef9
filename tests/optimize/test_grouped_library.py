"""What one call of a library takes on a grouped layer, and the advice that follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perfmodel.cost.price import price
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from perfmodel.optimize.grouped.files import read_library
from perfmodel.optimize.grouped.library import Library, library_calls, library_seconds, regular
from perfmodel.optimize.grouped_conv import (
    Group,
    GroupedConv,
    equal_groups,
    library_factors,
    schedule,
)

H100 = load_accelerator("h100-sxm5-80gb")
EQUAL = GroupedConv(8, 14, 14, 512, equal_groups(512, 512, 32))
SHARED = GroupedConv(
    2, 7, 7, 64, tuple(Group(tuple(range(g, 64, 2)), 16) for g in range(2)) * 2, kernel=1, padding=0
)


def test_calls_compute_the_layer_on_its_channels() -> None:
    calls = library_calls(EQUAL)
    assert list(calls) == ["grouped", "dense"]
    assert calls["grouped"].flops == EQUAL.flops
    assert calls["dense"].flops == 32 * EQUAL.flops
    # channels that are shared or gathered leave the dense call alone
    assert list(library_calls(SHARED)) == ["dense"]


def test_a_library_has_kernels_for_powers_of_two_and_for_multiples_of_eight() -> None:
    def grouped(c_in: int, c_out: int, groups: int) -> bool:
        conv = GroupedConv(1, 8, 8, c_in, equal_groups(c_in, c_out, groups))
        return regular(library_calls(conv)["grouped"])

    assert grouped(128, 128, 32)
    assert not grouped(96, 96, 2)  # 48 channels a group
    assert not grouped(256, 64, 4)  # 64 in, 16 out
    assert regular(library_calls(EQUAL)["dense"])
    assert not regular(library_calls(GroupedConv(1, 8, 8, 60, equal_groups(60, 64, 4)))["dense"])


def test_times_are_prices_times_factors_fastest_first() -> None:
    slow = Library((("grouped", True, 1e4), ("dense", False, 7.0)))
    found = library_seconds(EQUAL, H100, slow)
    assert [name for name, _ in found] == ["dense", "grouped"]
    calls = library_calls(EQUAL)
    assert dict(found)["grouped"] == pytest.approx(
        1e4 * float(price(calls["grouped"], H100).seconds)
    )
    assert dict(found)["dense"] == pytest.approx(float(price(calls["dense"], H100).seconds))


def test_a_schedule_that_is_expected_to_lose_is_not_advised() -> None:
    for factor, word in ((1e-3, "dense"), (1e3, "schedule")):
        library = Library((("dense", True, factor),))
        found = schedule(SHARED, H100, time_limit_s=1, waves=False, library=library)
        assert found.advice == word
        assert found.advised_seconds == min(found.seconds, found.library[0][1])
        assert ("run the library's dense" in found.explain()) == (word == "dense")
        told = json.loads(json.dumps(found.to_dict()))
        assert told["advice"] == word
        assert told["library_s"] == dict(found.library)
        assert told["advised_s"] == found.advised_seconds


def test_shipped_factors_are_measured_ones_elsewhere_prices_stand_alone(tmp_path: Path) -> None:
    measured = library_factors(H100)
    assert {name for name, _, _ in measured.factors} == {"grouped", "dense"}
    # kernels of one's own are what prices were calibrated on, emulated groups take longer
    assert measured.factor("grouped", True) == pytest.approx(1.0, abs=0.15)
    assert measured.factor("grouped", False) > 0.5
    assert library_factors(load_accelerator("a100-sxm4-80gb")).factors == ()
    path = tmp_path / "x.toml"
    path.write_text("[library]\ndense = [1.0]\n")
    with pytest.raises(CalibrationError, match="two factors"):
        read_library(path)
    path.write_text("[packing]\n")
    assert read_library(path) == Library()
