"""Workers take turns: each operator once, one at a time, and a bad one costs only itself."""

import json
import sys
import textwrap
import tomllib

import pytest

from validate.bench import ops, runner, store, turns

# Answers 100 us and notes when it measured; dies on m == 13, dies of warming m == 17.
FAKE = """
import json, os, sys, time
say = lambda d: print("@@" + json.dumps(d), flush=True)
say({"ready": {"device": "NVIDIA H100 80GB HBM3", "torch": "0"}})
def note(*words):
    with open(sys.argv[1], "a") as log:
        log.write(" ".join(map(str, words)) + "\\n")
for line in sys.stdin:
    request = json.loads(line)
    if "warm" in request:
        note("warm", request["warm"]["m"])
        if request["warm"]["m"] == 17:
            os._exit(9)
        time.sleep(0.01)
        say({"ok": None})
        continue
    op = request["op"]
    note("begin", op["m"], os.getpid())
    if op["m"] == 13:
        note("end", op["m"], os.getpid())
        os._exit(9)
    time.sleep(0.01)
    note("end", op["m"], os.getpid())
    say({"ok": {"latency_us": 100.0, "p10_us": 100.0, "p90_us": 100.0, "mode": "graph",
                "calls": 10, "replays": 5, "sets": 3, "power_w": None, "clock_mhz": 1980.0,
                "temp_c": None, "note": ""}})
"""


def gemm(m):
    return {"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": "bf16"}


@pytest.fixture
def go(tmp_path):
    script, log = tmp_path / "fake.py", tmp_path / "log.txt"
    script.write_text(textwrap.dedent(FAKE))

    def run(sizes, **more):
        log.write_text("")
        plan = [{"op": gemm(m), "power": False} for m in sizes]
        arguments = {
            "seconds": 60.0,
            "processes": 3,
            "worker_command": [sys.executable, str(script), str(log)],
        }
        tally = turns.run(plan, tmp_path / "run", **(arguments | more))
        return tally, [line.split() for line in log.read_text().splitlines()]

    return run


def test_only_one_measures_at_a_time_after_all_have_warmed(go, tmp_path):
    sizes = list(range(20, 40))
    tally, notes = go(sizes)
    assert tally.measured == len(sizes)
    measuring = [n for n in notes if n[0] != "warm"]
    for begin, end in zip(measuring[::2], measuring[1::2], strict=True):
        assert (begin[0], end[0]) == ("begin", "end")
        assert begin[1:] == end[1:]
    warmed = set()
    for word, *rest in notes:
        if word == "warm":
            warmed |= set(rest)
        else:
            assert rest[0] in warmed
    assert len({pid for word, _, pid in measuring if word == "begin"}) == 3
    rows = store.read(tmp_path / "run" / "ops.csv")
    assert sorted(int(r["m"]) for r in rows) == sizes
    about = tomllib.loads((tmp_path / "run" / "ops.toml").read_text())
    assert about["processes"] == 3
    assert about["rows"] == len(sizes)


def test_a_bad_operator_costs_only_itself(go, tmp_path):
    tally, _ = go([1, 2, 13, 3, 4, 5, 6, 7])
    assert (tally.measured, tally.failed, tally.restarts) == (7, 1, 1)
    failures = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(t)["op"]["m"] for t in failures] == [13]


def test_what_kills_while_warming_is_measured_cold(go, tmp_path):
    tally, _ = go([1, 17, 2, 3])
    assert (tally.measured, tally.failed, tally.restarts) == (4, 0, 1)


def test_a_second_run_takes_up_where_the_first_stopped(go, tmp_path):
    go([1, 2, 13])
    tally, notes = go([1, 2, 13, 3, 4])
    assert (tally.skipped, tally.measured) == (3, 2)
    assert sorted(n[1] for n in notes if n[0] == "begin") == ["3", "4"]


def test_no_batch_begins_after_the_budget(go, tmp_path):
    tally, _ = go(list(range(20, 60)), seconds=0.5)
    assert tally.out_of_time
    assert tally.measured < 40


def test_one_process_takes_no_turns(go):
    with pytest.raises(ValueError, match="processes: 1"):
        go([1], processes=1)


def test_the_real_worker_warms_and_measures(tmp_path):
    pytest.importorskip("torch")
    conv = {"op": "conv2d", "n": 1, "c_in": 4, "h": 6, "w": 6, "c_out": 4, "kernel": 3, "stride": 1,
            "padding": 1, "groups": 1, "dtype": "fp32"}  # fmt: skip
    bad = conv | {"kernel": 9, "padding": 0}
    plan = [{"op": op, "power": False} for op in (conv, conv | {"pass": "wgrad"}, bad)]
    tally = turns.run(plan, tmp_path / "run", seconds=100.0, processes=2, device="cpu")
    assert (tally.measured, tally.failed, tally.restarts) == (2, 1, 0)
    keys = {ops.key(store.op_of(r)) for r in store.read(tmp_path / "run" / "ops.csv")}
    assert keys == {ops.key(conv), ops.key(conv | {"pass": "wgrad"})}
    logged = "".join(p.read_text() for p in (tmp_path / "run").glob("worker-*.log"))
    assert "warming: RuntimeError" in logged
    assert runner.worker_command("cpu", 2)[-2:] == ["--processes", "2"]
