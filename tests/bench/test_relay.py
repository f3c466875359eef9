"""Workers plan together and have the device in turn; a bad one costs only itself."""

import itertools
import json
import shutil
import sys
import textwrap

import pytest

from validate.bench import ops, relay, store

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

# Answers 100 us and notes when it had its turn; dies in its turn on m == 13.
FAKE = """
import json, os, sys, time
from validate.bench.turn_lock import Turn
say = lambda d: print("@@" + json.dumps(d), flush=True)
turn = Turn()
say({"ready": {"device": "NVIDIA H100 80GB HBM3", "torch": "0"}})
def note(*words):
    with open(sys.argv[1], "a") as log:
        log.write(" ".join(map(str, words)) + "\\n")
for line in sys.stdin:
    op = json.loads(line)["op"]
    note("plan", op["m"], op["dtype"], os.getpid())
    time.sleep(0.01)
    turn.take()
    note("begin", op["m"], op["dtype"], os.getpid())
    if op["m"] == 13:
        os._exit(9)
    time.sleep(0.005)
    note("end", op["m"], op["dtype"], os.getpid())
    turn.release()
    say({"ok": {"latency_us": 100.0, "p10_us": 100.0, "p90_us": 100.0, "mode": "graph",
                "calls": 10, "replays": 5, "sets": 3, "power_w": None, "clock_mhz": 1980.0,
                "temp_c": None, "note": ""}, "turn": turn.seconds()})
"""


def gemm(m, dtype="bf16"):
    return {"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": dtype}


@pytest.fixture
def go(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    script, log = tmp_path / "fake.py", tmp_path / "log.txt"
    script.write_text(textwrap.dedent(FAKE))

    def run(operators, **more):
        log.write_text("")
        arguments = {
            "seconds": 60.0,
            "processes": 3,
            "worker_command": [sys.executable, str(script), str(log)],
        }
        plan = [{"op": op, "power": False} for op in operators]
        tally = relay.run(plan, tmp_path / "run", **(arguments | more))
        return tally, [line.split() for line in log.read_text().splitlines()]

    return run


def test_one_at_a_time_has_the_device_while_others_plan(go, tmp_path):
    operators = [gemm(m) for m in range(20, 50)]
    tally, notes = go(operators)
    assert tally.measured == len(operators)
    turns = [n for n in notes if n[0] != "plan"]
    for begin, end in zip(turns[::2], turns[1::2], strict=True):
        assert (begin[0], end[0]) == ("begin", "end")
        assert begin[1:] == end[1:]
    assert len({pid for *_, pid in turns}) == 3
    pairs = itertools.pairwise(notes)
    inside = [a for a, b in pairs if (a[0], b[0]) == ("begin", "plan")]
    assert inside  # somebody planned while another had the device
    rows = store.read(tmp_path / "run" / "ops.csv")
    assert {ops.key(store.op_of(r)) for r in rows} == {ops.key(op) for op in operators}
    sidecar = (tmp_path / "run" / "ops.toml").read_text()
    assert "processes = 3" in sidecar
    assert "in_turn_s = " in sidecar


def test_what_is_measured_is_not_measured_again(go):
    go([gemm(m) for m in range(20, 30)])
    tally, notes = go([gemm(m) for m in range(25, 35)])
    assert (tally.measured, tally.skipped) == (5, 5)
    assert {n[1] for n in notes} == {str(m) for m in range(30, 35)}


def test_one_that_dies_in_its_turn_leaves_the_device_to_others(go, tmp_path):
    tally, _ = go([gemm(m) for m in range(10, 20)])
    assert (tally.measured, tally.failed, tally.restarts) == (9, 1, 1)
    failures = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["op"]["m"] for line in failures] == [13]


def test_a_worker_keeps_to_the_kinds_that_it_began_with(go):
    kinds = ("bf16", "fp16", "tf32")
    _, notes = go([gemm(m, kinds[m % 3]) for m in range(20, 80)])
    taken = [(kind, pid) for word, _, kind, pid in notes if word == "plan"]
    most = sum(max(taken.count((k, p)) for p in {q for _, q in taken}) for k in kinds)
    assert most > 0.8 * len(taken)


def test_too_large_an_operator_is_refused_unsent(go):
    tally, notes = go([gemm(20), gemm(1 << 20)], limit_bytes=1e8)
    assert (tally.measured, tally.failed) == (1, 1)
    assert {n[1] for n in notes} == {"20"}


def test_one_process_takes_no_turns(go):
    with pytest.raises(ValueError, match="below 2"):
        go([gemm(20)], processes=1)


def test_a_library_that_cannot_be_built_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(relay.turn_lock, "SOURCE", tmp_path / "absent.c")
    with pytest.raises(OSError, match="does not compile"):
        relay.run([], tmp_path / "run", seconds=10.0, processes=2)
