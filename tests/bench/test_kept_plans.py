"""Which plan a search keeps: the least of steady time and launch, not the least steady one."""

import gzip
import json

import numpy as np
import pytest

from perfmodel.calibrate.profiled import load_planned
from validate import kept_plans
from validate.bench import ops, plan_rows, search_log, store

# Launches [us] of two engines; a second kernel costs 3 more.
LAUNCH = {"eng0": 8.0, "eng62": 12.0}


def row(n, plans):
    op = {"op": "conv2d", "n": n, "c_in": 8, "h": 8, "w": 8, "c_out": 8, "kernel": 3,
          "stride": 1, "padding": 1, "groups": 1, "pass": "fwd", "layout": "nhwc",
          "dtype": "bf16"}  # fmt: skip
    kernel = ["name", [1, 1, 1], [128, 1, 1], 0]
    return {"op": op, "sets": 1, "plans": [
        {"name": name, "us": us, "ws": 0, "kernels": [kernel] * count} for name, us, count in plans
    ]}  # fmt: skip


def trial(us, name, count):
    return us + LAUNCH[name.split("_")[0]] + 3.0 * (count - 1)


@pytest.fixture
def folder(tmp_path):
    """Measurements of a device: 60 searches with plan times, 20 plan times alone."""
    rng = np.random.default_rng(0)
    search = tmp_path / "h100-sxm5-80gb" / "search"
    search.mkdir(parents=True)
    lines, kept = [], []
    for n in range(1, 81):
        plans = [
            (name, float(rng.uniform(3, 9)), count)
            for name in ("eng0_k2=1", "eng62_k2=2", "eng62_k2=3")
            for count in [int(rng.integers(1, 3))]
        ]
        one = row(n, plans)
        lines.append(json.dumps(one))
        tried = [(f"ConvFwd_{name}", trial(us, name, count) / 1e3) for name, us, count in plans]
        least = min(plans, key=lambda plan: trial(plan[1], plan[0], plan[2]))
        kept.append((one["op"], least[1]))
        if n <= 60:
            search_log.append(search, one["op"], tried)
    (search / search_log.NAME).rename(search / "plans.jsonl")

    data = (search / "plans.jsonl").read_bytes()
    (search / "plans.jsonl.gz").write_bytes(gzip.compress(data))
    packed, count = plan_rows.packed(lines)
    (search / "plan-times.jsonl.gz").write_bytes(packed)
    about = {"library": {"device": "NVIDIA H100 80GB HBM3"}}
    store.sidecar(search / "plan-times.jsonl.gz", about, count)
    for op, us in kept[:60]:
        store.append(search.parent / "conv2d_fwd.csv", {**op, "latency_us": us})
    return search.parent, kept


def test_the_choice_follows_launches(folder, capsys):
    place, kept = folder
    assert kept_plans.main(["--measurements", str(place.parent)]) == 0
    said = capsys.readouterr().out
    assert "60 searches" in said
    chosen = next(line for line in said.splitlines() if line.startswith("plan thought kept"))
    least = next(line for line in said.splitlines() if line.startswith("least steady"))
    assert float(chosen.split()[3]) < 0.5 * float(least.split()[3])
    rows = load_planned(place, "h100-sxm5-80gb")
    assert len(rows) == 20  # those of the tables are left out
    truth = {op["n"]: us for op, us in kept}
    right = [abs(r.seconds * 1e6 / truth[r.record["n"]] - 1) < 1e-3 for r in rows]
    assert np.mean(right) > 0.8
    assert {r.mode for r in rows} == {"plan"}


def test_a_plan_that_is_listed_twice_has_two_trials():
    one = row(1, [("eng0", 4.0, 1), ("eng62_k2=2", 5.0, 1), ("eng0", 6.0, 1)])
    tried = [("ConvFwd_eng0", 0.012), ("ConvFwd_eng62_k2=2", 0.017), ("ConvFwd_eng0", 0.014)]
    found = kept_plans.trials(one, tried)
    assert [t.plan.steady_us for t in found] == [4.0, 5.0, 6.0]
    assert [t.trial_us for t in found] == pytest.approx([12.0, 17.0, 14.0])
    assert ops.key(one["op"]) == found[0].plan.op
