"""Kernels are told apart by the mark under which they were launched; a crash costs one operator."""

import json
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from validate.bench import names, ops

# Answers one kernel an operator (two of a batch), dies on m == 13.
FAKE = """
import json, os, sys
say = lambda d: print("@@" + json.dumps(d), flush=True)
say({"ready": {"device": "NVIDIA H100 80GB HBM3"}})
for line in sys.stdin:
    chosen = json.loads(line)["ops"]
    if any(op["m"] == 13 for op in chosen):
        os._exit(9)
    one = lambda op: {"call": "call", "name": f"tile_{op['m']}<a, b>", "grid": "4x1x1"}
    say({"kernels": ["no kernel" if op["m"] == 15 else [one(op)] * (1 + (op["m"] == 2))
                     for op in chosen], "plans": []})
"""


def gemm(m, **more):
    return {"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": "bf16", **more}


@pytest.fixture
def fake(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE))
    return [sys.executable, str(script)]


def test_a_crash_costs_one_operator_and_a_second_run_only_the_rest(fake, tmp_path):
    out = tmp_path / "names"
    chosen = [gemm(m) for m in (1, 2, 13, 3, 15)]
    tally = names.name_kernels(chosen, out, seconds=60.0, worker_command=fake)
    assert (tally["named"], tally["failed"], tally["left"]) == (3, 2, 0)
    found = list(names.read(out / "kernels.csv.gz"))
    assert Counter(op["m"] for op, _ in found) == {1: 1, 2: 2, 3: 1}
    assert {kernel["name"] for op, kernel in found if op["m"] == 2} == {"tile_2<a, b>"}
    again = names.name_kernels([*chosen, gemm(4)], out, seconds=60.0, worker_command=fake)
    assert (again["named"], again["failed"]) == (1, 0)
    assert len(list(names.read(out / "kernels.csv.gz"))) == 5


def test_choice_is_distinct_filtered_and_ordered(tmp_path):
    softmax = {"op": "softmax", "rows": 4, "cols": 64, "dtype": "bf16"}
    planned = [softmax, gemm(1), gemm(1, trans="tn"), gemm(1, trans="nt"), gemm(2)]
    chosen = names.choose(planned, None, ["gemm", "softmax"])
    assert len(chosen) == 4
    assert chosen[-1] == softmax
    assert names.choose(planned, None, ["gemm"]) == chosen[:3]


def test_layouts_are_identities_of_their_own_and_defaults_are_not():
    assert ops.key(gemm(1)) == ops.key(gemm(1, trans="tn"))
    assert ops.key(gemm(1, batch=4)) == ops.key(gemm(1, batch=4, trans="nn"))
    assert len({ops.key(gemm(1, trans=t)) for t in ops.TRANS}) == 4
    with pytest.raises(ValueError, match="trans"):
        ops.check(gemm(1, trans="tm"))


@pytest.mark.torch
def test_kernels_belong_to_the_mark_of_their_launch():
    pytest.importorskip("torch")
    from validate.bench import names_worker

    def event(cat, name, ts, dur=1.0, **args):
        return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": args}

    events = [
        event("user_annotation", "operator 0 call", 10.0, 5.0),
        event("user_annotation", "operator 1 call", 20.0, 5.0),
        event("cuda_runtime", "cudaLaunchKernel", 5.0, correlation=1),
        event("cuda_runtime", "cudaLaunchKernel", 11.0, correlation=2),
        event("cuda_runtime", "cudaLaunchKernel", 12.0, correlation=3),
        event("cuda_driver", "cuLaunchKernelEx", 21.0, correlation=4),
        # run late and close together, the first before any mark
        event("kernel", "before", 22.0, correlation=1),
        event("kernel", "a", 24.0, correlation=2, grid=[8, 1, 1], block=[384, 1, 1]),
        event("gpu_memset", "Memset", 25.0, correlation=3),
        event("kernel", "b", 26.0, correlation=4, **{"registers per thread": 168}),
    ]
    found = names_worker.launched(events, "cuda")
    assert [k["name"] for k in found["operator 0 call"]] == ["a", "Memset"]
    assert found["operator 0 call"][0]["grid"] == "8x1x1"
    assert [(k["name"], k["registers"]) for k in found["operator 1 call"]] == [("b", 168)]


@pytest.mark.torch
def test_every_family_is_named_on_a_processor(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    sys.path.insert(0, str(Path(__file__).parent))
    from tiny import TINY

    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    chosen = [op for op in TINY if op["op"] not in ("host", "memcpy")]
    chosen += [gemm(8, trans=t) for t in ("nn", "nt", "tt")]
    chosen += [gemm(8, batch=3, trans=t) for t in ("tn", "nt", "tt")]
    tally = names.name_kernels(chosen, tmp_path, seconds=120.0, device="cpu")
    failures = tmp_path / "failures.jsonl"
    assert tally["failed"] == 0, failures.read_text() if failures.exists() else ""
    found = {
        ops.key(op) for op, kernel in names.read(tmp_path / "kernels.csv.gz") if kernel["name"]
    }
    assert found == {ops.key(op) for op in chosen}
    searched = {op["op"] for op, k in names.read(tmp_path / "kernels.csv.gz")
                if k["call"] == "search"}  # fmt: skip
    assert searched == {"conv2d", "conv3d"}
    assert json.loads(json.dumps(tally))["named"] == len(chosen)
