"""Operators timed in passing: one line each, and a crash costs its chunk alone."""

import csv
import gzip
import io
import sys
import textwrap
import threading

import pytest

pytest.importorskip("torch")

from validate.bench import ops, quick, store

# Answers one row an operator, and dies on a chunk with m == 13.
FAKE = """
import json, os, sys
say = lambda d: print("@@" + json.dumps(d), flush=True)
say({"ready": {"device": "NVIDIA H100 80GB HBM3"}})
for line in sys.stdin:
    chosen = json.loads(line)["ops"]
    if any(op["m"] == 13 for op in chosen):
        os._exit(9)
    say({"rows": ["no kernel" if op["m"] == 15 else [2.5 * op["m"], 48, 48] for op in chosen]})
"""


def _gemm(m):
    return {"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": "bf16"}


def _rows(out):
    text = gzip.decompress((out / "quick.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_a_crash_costs_its_chunk_and_a_failure_its_operator(tmp_path, monkeypatch):
    monkeypatch.setattr(quick, "CHUNK", 2)
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE))
    plan = [_gemm(m) for m in (1, 2, 13, 3, 15, 4)]
    tally = quick.measure(plan, tmp_path / "run", 60.0, "cpu", [sys.executable, str(script)])
    assert tally == {"timed": 3, "failed": 3, "restarts": 1}
    rows = _rows(tmp_path / "run")
    assert [float(row["latency_us"]) for row in rows] == [2.5, 5.0, 10.0]
    assert store.op_of(rows[0]) == _gemm(1)
    assert "sha256" in (tmp_path / "run" / "quick.toml").read_text()
    assert len((tmp_path / "run" / "failures.jsonl").read_text().splitlines()) == 3


@pytest.mark.torch
def test_a_processor_times_what_a_plan_holds(tmp_path):
    plan = [_gemm(8), _gemm(16) | {"trans": "nt"}, {"op": "gemm", "m": 8, "n": 8, "k": 8}]
    with pytest.raises(ValueError, match="dtype"):
        ops.check(plan[2])
    tally = quick.measure(plan, tmp_path, 60.0, "cpu")
    assert (tally["timed"], tally["failed"]) == (2, 1)
    assert all(float(row["latency_us"]) > 0.0 for row in _rows(tmp_path))


def test_several_processes_share_a_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(quick, "CHUNK", 2)
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE))
    plan = [_gemm(m) for m in (1, 2, 13, 3, 15, 4, 5, 6)]
    command = [sys.executable, str(script)]
    tally = quick.measure(plan, tmp_path / "run", 60.0, "cpu", command, processes=3)
    assert tally == {"timed": 5, "failed": 3, "restarts": 1}
    assert sorted(int(row["m"]) for row in _rows(tmp_path / "run")) == [1, 2, 4, 5, 6]


def test_a_turn_keeps_others_waiting(tmp_path):
    first, second = (quick.Turns(str(tmp_path / "turn")) for _ in range(2))
    order = []

    def other():
        with second.turn():
            order.append("other")

    with first.turn():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


@pytest.mark.torch
def test_processes_on_a_processor_take_turns(tmp_path):
    tally = quick.measure([_gemm(8 * m) for m in range(1, 5)], tmp_path, 60.0, "cpu", processes=2)
    assert (tally["timed"], tally["failed"]) == (4, 0)
