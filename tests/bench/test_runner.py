"""The run survives crashes, hangs and stops; nothing of it needs a device."""

import json
import sys
import textwrap
import tomllib

import pytest

from validate.bench import ops, runner, store

# A worker that answers 100 us, dies on m == 13, hangs on m == 14, fails on m == 15.
FAKE = """
import json, os, sys, time
say = lambda d: print("@@" + json.dumps(d), flush=True)
print("library chatter", flush=True)
say({"ready": {"device": "NVIDIA H100 80GB HBM3", "torch": "0"}})
for line in sys.stdin:
    op = json.loads(line)["op"]
    if op["m"] == 13:
        os._exit(9)
    if op["m"] == 14:
        time.sleep(60)
    if op["m"] == 15:
        say({"error": "RuntimeError: no kernel, \\n really"})
        continue
    us = 0.001 if op["m"] == 16 else 100.0
    say({"ok": {"latency_us": us, "p10_us": us, "p90_us": us, "mode": "graph", "calls": 10,
                "replays": 5, "sets": 3, "power_w": None, "clock_mhz": 1980.0, "temp_c": None,
                "note": ""}})
"""


def gemm(m):
    return {"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": "bf16"}


@pytest.fixture
def fake(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE))
    return [sys.executable, str(script)]


def go(fake, out, sizes, **more):
    plan = [{"op": gemm(m), "power": False} for m in sizes]
    arguments = {"seconds": 60.0, "op_limit_s": 1.0, "worker_command": fake} | more
    return runner.run(plan, out, **arguments)


def test_one_bad_operator_costs_only_itself(fake, tmp_path):
    out = tmp_path / "run"
    tally = go(fake, out, [1, 13, 2, 15, 3, 14, 4, 16, 5])
    assert (tally.measured, tally.failed, tally.refused, tally.restarts) == (5, 3, 1, 2)
    rows = store.read(out / "ops.csv")
    assert [int(r["m"]) for r in rows] == [1, 2, 3, 4, 5]
    failures = [json.loads(t) for t in (out / "failures.jsonl").read_text().splitlines()]
    assert [f["op"]["m"] for f in failures] == [13, 15, 14]
    assert "code 9" in failures[0]["reason"]
    assert "no answer in 1 s" in failures[2]["reason"]
    refused = store.read(out / "refused.csv")
    assert "physical bound" in refused[0]["note"]


def test_a_second_run_takes_up_where_the_first_stopped(fake, tmp_path):
    out = tmp_path / "run"
    go(fake, out, [1, 15, 16, 2])
    with (out / "ops.csv").open("a") as handle:
        handle.write("gemm,gemm,,bf16,,,3,64")  # killed while writing
    tally = go(fake, out, [1, 15, 16, 2, 3, 4])
    assert (tally.skipped, tally.measured) == (4, 2)
    assert [int(r["m"]) for r in store.read(out / "ops.csv")] == [1, 2, 3, 4]


def test_the_budget_ends_the_run_cleanly(fake, tmp_path):
    tally = go(fake, tmp_path / "run", [1, 14, 2], seconds=3.0, op_limit_s=30.0)
    assert tally.out_of_time
    assert tally.measured == 1
    assert not (tmp_path / "run" / "failures.jsonl").exists()  # not the operator's fault


def test_a_stratum_that_only_fails_is_given_up(fake, tmp_path):
    bad = [{"op": gemm(15) | {"n": n}, "power": False} for n in range(8, 40)]
    tally = runner.run(bad, tmp_path / "run", seconds=30.0, worker_command=fake)
    assert tally.failed == runner.GIVE_UP
    assert tally.skipped == len(bad) - runner.GIVE_UP


def test_too_large_operators_are_not_sent(fake, tmp_path):
    tally = go(fake, tmp_path / "run", [1, 2], limit_bytes=8000.0)
    assert (tally.failed, tally.measured) == (2, 0)


def test_sidecar_and_unpack(fake, tmp_path):
    import hashlib

    out = tmp_path / "run"
    go(fake, out, [1, 2])
    counts = store.unpack(out, tmp_path / "measurements")
    assert counts == {"gemm": 2}
    folder = tmp_path / "measurements" / "h100-sxm5-80gb"
    about = tomllib.loads((folder / "gemm.toml").read_text())
    data = (folder / "gemm.csv").read_bytes()
    assert about["sha256"] == hashlib.sha256(data).hexdigest()
    assert about["rows"] == 2
    assert about["library"]["device"] == "NVIDIA H100 80GB HBM3"
    header = data.decode().splitlines()[0].split(",")
    assert header[:5] == ["op", "dtype", "m", "n", "k"]
    assert "q_len" not in header


def test_plan_lines_are_checked_with_their_number(tmp_path):
    path = tmp_path / "plan.jsonl"
    path.write_text(json.dumps(gemm(1)) + "\n" + json.dumps(gemm(0)) + "\n")
    with pytest.raises(ValueError, match=r"plan.jsonl:2: gemm: m=0"):
        runner.load_plan(path)


def test_row_round_trip_keeps_the_identity():
    op = {"op": "attention", "batch": 1, "q_heads": 2, "kv_heads": 1, "q_len": 1, "kv_len": 9,
          "head_dim": 64, "causal": False, "dtype": "fp16"}  # fmt: skip
    cells = dict(zip(store.COLUMNS, store.line({"family": "x", **op})[:-1].split(","), strict=True))
    assert ops.key(store.op_of(cells)) == ops.key(op)


def test_a_plan_of_something_else_is_told(tmp_path):
    path = tmp_path / "plan.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"plan.jsonl:1: \[1\] is no JSON object"):
        runner.load_plan(path)


def test_a_worker_that_cannot_start_says_why(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no device here')\n")
    tally = go([sys.executable, str(broken)], tmp_path / "run", [1])
    assert tally.measured == 0
    assert "no device here" in capsys.readouterr().err
