import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import UnitError
from perfmodel.units import DIMENSIONS, UNITS, format_bytes, format_rate, format_seconds, parse


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("2039 GB/s", "bytes per second", 2.039e12),
        ("80 GiB", "bytes", 80 * 2**30),
        ("80 GB", "bytes", 80e9),
        ("400 Gb/s", "bytes per second", 50e9),
        ("400 Gbit/s", "bytes per second", 50e9),
        ("312 TFLOP/s", "operations per second", 312e12),
        ("1410 MHz", "hertz", 1.41e9),
        ("400 W", "watts", 400.0),
        ("2.5us", "seconds", 2.5e-6),
        ("3.6 USD/h", "dollars per second", 1e-3),
    ],
)
def test_known_quantities(text, dimension, value):
    assert parse(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB/s",
        "12",
        "-1 GB/s",
        "nan GB/s",
        "inf GB/s",
        "1e999 GB/s",
        "2039 GBps",
        "1 GB/s extra",
        None,
    ],
)
def test_what_is_refused(text):
    with pytest.raises(UnitError) as caught:
        parse(text, "bytes per second")
    assert caught.value.repair


def test_wrong_dimension_names_both():
    with pytest.raises(UnitError, match=r"bytes here|measures watts"):
        parse("400 W", "bytes")


def test_nearest_unit_is_offered():
    with pytest.raises(UnitError) as caught:
        parse("2039 GBps", "bytes per second")
    assert caught.value.nearest in UNITS


@given(st.sampled_from(sorted(UNITS)), st.floats(min_value=0, max_value=1e12, allow_nan=False))
def test_every_unit_scales_linearly(unit, number):
    dimension, factor = UNITS[unit]
    assert dimension in DIMENSIONS
    assert parse(f"{number!r} {unit}", dimension) == number * factor


@given(st.floats(min_value=1e-9, max_value=1e6))
def test_seconds_survive_formatting(seconds):
    assert math.isclose(parse(format_seconds(seconds), "seconds"), seconds, rel_tol=1e-3)


@given(st.floats(min_value=1, max_value=1e15))
def test_bytes_and_rates_survive_formatting(value):
    assert math.isclose(parse(format_bytes(value), "bytes"), value, rel_tol=1e-3)
    assert math.isclose(parse(format_rate(value), "bytes per second"), value, rel_tol=1e-3)


@pytest.mark.parametrize("text", ["700", "1980", "3.35", "1e12", "1_000", "2.5.1", "7 0"])
def test_a_number_alone_lacks_its_unit(text):
    with pytest.raises(UnitError) as caught:
        parse(text, "watts")
    assert caught.value.repair == "write the number, a space and the unit"
