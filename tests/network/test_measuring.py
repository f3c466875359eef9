"""The plan of the collectives harness; it needs no torch to be read."""

import pytest

from perfmodel.calibrate.network_beside import fit_beside
from perfmodel.calibrate.network_measured import measured_rows
from perfmodel.errors import CalibrationError
from validate.bench.collectives_cases import (
    GIB,
    KIB,
    MAIN_OPS,
    PAIR_OPS,
    ROOTED_OPS,
    UNEVEN,
    cases,
)
from validate.bench.collectives_timing import quantiles, uneven_parts


@pytest.mark.parametrize("devices", [2, 3, 4, 8])
def test_every_case_fits_the_devices(devices):
    seen = set()
    for case in cases(devices):
        seen.add(case.op)
        ranks = [rank for group in case.groups for rank in group]
        assert len(set(ranks)) == len(ranks)
        assert max(ranks) < devices
        assert len({len(group) for group in case.groups}) == 1
        assert case.size % (case.world * 2) == 0  # bf16, one part a rank
        assert KIB <= case.size <= 2 * GIB + 64
        assert case.op not in PAIR_OPS or case.world == 2
    assert seen == {*MAIN_OPS, *PAIR_OPS, *ROOTED_OPS}


def test_the_most_useful_cases_come_first():
    plan = list(cases(4))
    first = plan[:88]
    assert {case.op for case in first} == set(MAIN_OPS)
    assert {case.world for case in first} == {4}
    assert any(case.beside for case in plan)
    assert any(len(case.groups) == 2 for case in plan)
    assert any(case.mode == "eager" for case in plan)


def test_a_draw_has_sizes_of_its_own_and_judges_every_operation():
    drawn = [case for case in cases(2, seed=7) if case.drawn]
    assert drawn == [case for case in cases(2, seed=7) if case.drawn]
    assert drawn != [case for case in cases(2, seed=8) if case.drawn]
    alone = [case for case in drawn if not case.beside]
    assert {case.op for case in alone} == {*MAIN_OPS, *PAIR_OPS, *ROOTED_OPS, UNEVEN}
    seen = {case.size for case in cases(2)}
    assert sum(case.size in seen for case in drawn) < 0.05 * len(drawn)
    assert min(case.size for case in drawn) < 4 * KIB < GIB < max(case.size for case in drawn)
    beside = [case for case in cases(2, seed=7) if case.beside and not case.drawn]
    assert all(case.size in seen for case in beside)
    assert {case.mode for case in beside} == {"graph", "urgent"}
    assert any(case.beside.startswith("all_gather ") for case in beside)


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_uneven_parts_fill_the_larger_buffer_of_the_last_rank(world):
    elements = world**2 * 16
    parts = uneven_parts(elements, world)
    assert parts[-1] * world == elements
    assert parts == sorted(parts)
    assert parts[0] * world == parts[-1]


def test_quantiles_are_linear_between_order_statistics():
    assert quantiles([3.0, 1.0, 2.0, 5.0, 4.0]) == pytest.approx((1.4, 3.0, 4.6))
    assert quantiles([7.0]) == (7.0, 7.0, 7.0)


def test_a_table_that_is_not_one_is_refused(tmp_path):
    table = tmp_path / "collectives.csv"
    table.write_text("op,bytes\nall_reduce,1024\n")
    with pytest.raises(CalibrationError, match="no column"):
        measured_rows(table)
    table.write_text("op,bytes,world,mode,beside,group,latency_us,alone_us,note\n")
    with pytest.raises(CalibrationError):
        measured_rows(table)
    with pytest.raises(CalibrationError):
        fit_beside([table], ("nowhere",))
