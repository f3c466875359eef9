"""The whole command on a processor with PyTorch: every family builds, runs and lands."""

import json
import sys
from pathlib import Path

import pytest

from validate.bench import ops, runner, store

sys.path.insert(0, str(Path(__file__).parent))
from tiny import TINY

pytestmark = pytest.mark.torch


def test_every_family_runs(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    plan = tmp_path / "plan.jsonl"
    plan.write_text("".join(json.dumps(o) + "\n" for o in TINY))
    out = tmp_path / "run"
    tally = runner.run(runner.load_plan(plan), out, seconds=120.0, device="cpu")
    failures = out / "failures.jsonl"
    assert tally.failed == 0, failures.read_text() if failures.exists() else ""
    rows = store.read(out / "ops.csv")
    assert {ops.key(store.op_of(r)) for r in rows} == {ops.key(o) for o in TINY}
    assert all(0 < float(r["p10_us"]) <= float(r["latency_us"]) <= float(r["p90_us"]) for r in rows)
    again = runner.run(runner.load_plan(plan), out, seconds=120.0, device="cpu")
    assert (again.skipped, again.measured) == (len(TINY), 0)


def test_a_chain_that_is_compiled_has_code_of_its_own():
    torch = pytest.importorskip("torch")
    from validate.bench.families import flat

    x = torch.ones(2, 64)
    one, other = (flat._own("add_layernorm", f"rows_{rows}") for rows in (4, 8))
    assert one.__code__ is not other.__code__
    assert torch.equal(one(x, x), flat._add_layernorm(x, x))
