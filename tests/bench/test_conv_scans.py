"""Scans along one dimension at a time."""

from collections import Counter

import pytest

from validate.bench import conv_scans, ops, plan
from validate.bench.__main__ import main


@pytest.mark.parametrize("base", conv_scans.BASES)
def test_a_scan_changes_one_size_at_a_time(base):
    _, _, _, _, n, side, c_in, c_out, *_, groups = base
    for op in conv_scans.points(base):
        ops.check(op)
        assert op["c_in"] % op["groups"] == op["c_out"] % op["groups"] == 0
        assert op["h"] == op["w"] == op.get("depth", op["h"])
        channels = (op["c_in"], op["c_out"], op["groups"]) != (c_in, c_out, groups)
        assert (op["n"] != n) + (op["h"] != side) + channels <= 1


def test_the_plan_of_scans_holds_no_operator_twice(tmp_path):
    path = tmp_path / "scans.jsonl"
    assert main(["plan", "--scans", "--out", str(path)]) == 0
    entries = conv_scans.build()
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(entries)
    assert len({ops.key(e) for e in entries}) == len(entries) > 3000
    assert all(plan.valid(e) for e in entries)
    kinds = Counter((ops.family(e), e["pass"]) for e in entries[: len(entries) // 4])
    assert len(kinds) >= 10
