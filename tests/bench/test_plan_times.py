"""Every plan of a convolution is timed by graphs; one that fails costs only itself."""

import ctypes
import json
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

torch = pytest.importorskip("torch")

from validate.bench import ops, plan_rows, plan_runs, plan_times, relay, store  # noqa: E402

# A driver whose graphs hold two nodes a captured call: a kernel and a fill.
DRIVER = """
#include <stddef.h>
typedef struct {
    void *func; unsigned grid[3], block[3], shared; void **p, **e; void *kern, *ctx;
} Node;
int captured;
int cuStreamBeginCapture_v2(void *s, int mode) { captured = 0; return mode == 2 ? 0 : 1; }
int cuStreamEndCapture(void *s, void **g) { *g = (void *)(size_t)7; return 0; }
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) { *e = g; return f; }
int cuGraphLaunch(void *e, void *s) { return e != (void *)(size_t)7; }
int cuGraphExecDestroy(void *e) { return 0; }
int cuGraphDestroy(void *g) { return 0; }
int cuGraphGetNodes(void *g, void **n, size_t *count)
{
    *count = 2 * captured;
    for (int i = 0; n && i < 2 * captured; i++)
        n[i] = (void *)(size_t)(i + 1);
    return 0;
}
int cuGraphNodeGetType(void *n, int *type) { *type = (size_t)n % 2 ? 0 : 2; return 0; }
int cuGraphKernelNodeGetParams_v2(void *n, Node *p)
{
    Node made = {0, {4, 5, 6}, {128, 1, 1}, 1024, 0, 0, n, 0};
    *p = made;
    return 0;
}
int cuFuncGetName(const char **name, void *f) { return 1; }
int cuKernelGetName(const char **name, void *k) { *name = "kernel_128x64"; return 0; }
"""

OP = {"op": "conv2d", "n": 2, "c_in": 8, "h": 8, "w": 8, "c_out": 8, "kernel": 3, "stride": 1,
      "padding": 1, "groups": 1, "pass": "dgrad", "layout": "nhwc", "dtype": "fp32"}  # fmt: skip


class Made:
    """A descriptor that says its workspace."""

    def get(self, *_):
        return [64]


class FakeRuns:
    """Three plans: one is fast, one is slow, one cannot be executed."""

    def __init__(self, counter):
        self.counter = counter

    def built(self, _op, only=None):
        names = ("fast", "slow", "bad") if only is None else (only,)
        return [plan_runs.Plan(n, Made()) for n in names], [("none", "no")] * (only is None)

    def operands(self, *addresses):
        assert all(addresses)
        return addresses

    def execute(self, plan, _operands):
        if plan.name == "bad":
            raise OSError("execute: NOT_SUPPORTED")
        self.counter.value += 1
        time.sleep(0.004 if plan.name == "slow" else 0.0001)


class FakeEvent:
    """A time of the host."""

    def __init__(self, **_):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


@pytest.fixture
def session(tmp_path, monkeypatch):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "driver.c", tmp_path / "libcuda.so.1"
    source.write_text(DRIVER)
    command = ["cc", "-shared", "-fPIC", "-w", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    load = ctypes.CDLL
    monkeypatch.setattr(plan_runs.c, "CDLL", lambda _: load(str(library)))
    monkeypatch.setattr(plan_times, "Runs", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    made = plan_times.PlanSession("cpu", 2, named=True)
    made.driver = plan_runs.Driver()
    made.runs = FakeRuns(ctypes.c_int.in_dll(made.driver.library, "captured"))
    monkeypatch.setattr(made, "backend", lambda *_: "Cudnn")
    return made


def test_plans_are_timed_and_their_kernels_named(session):
    found = session.plans(OP)
    fast, slow, bad, none = found["plans"]
    assert fast["us"] > 0
    assert fast["low"] <= fast["us"] <= fast["high"]
    assert fast["ws"] == 64
    assert fast["kernels"] == [
        ["kernel_128x64", [4, 5, 6], [128, 1, 1], 1024],
        ["memset", [], [], 0],
    ]
    assert slow["calls"] == 2
    assert bad["error"] == "execute: NOT_SUPPORTED"
    assert none == {"name": "none", "error": "no"}
    json.dumps(found)


def test_one_plan_alone_is_timed_once(session):
    session.only = {ops.key(OP): "slow"}
    (slow,) = session.plans(OP)["plans"]
    assert slow["name"] == "slow"
    assert slow["low"] == slow["us"] == slow["high"]


def test_of_operators_that_cudnn_is_not_given_only_that_is_said(session, monkeypatch):
    monkeypatch.setattr(session, "backend", lambda *_: "CudaDepthwise2d")
    session.only = {ops.key(OP): "slow"}
    assert plan_times.answer_of(session, None, OP)["plan_times"]["plans"] == []


@pytest.mark.parametrize(
    ("seconds", "sets", "slow", "calls"),
    [(2e-6, 48, False, 200), (50e-6, 12, False, 16), (50e-6, 48, False, 40),
     (5e-3, 48, False, 2), (1e-3, 1, True, 2), (100e-6, 1, False, 10)],
)  # fmt: skip
def test_calls_of_a_replay(seconds, sets, slow, calls):
    assert plan_times.calls_of(seconds, sets, slow) == calls
    assert plan_times.calls_of(seconds, sets, slow, only=True) <= calls


FAKE = """
import json, sys
say = lambda d: print("@@" + json.dumps(d), flush=True)
say({"ready": {"device": "NVIDIA H100 80GB HBM3", "torch": "0"}})
timing = {"latency_us": 100.0, "p10_us": 100.0, "p90_us": 100.0, "mode": "graph", "calls": 10,
          "replays": 5, "sets": 3, "note": ""}
for line in sys.stdin:
    op = json.loads(line)["op"]
    answer = {"plan_times": {"op": op, "sets": 3, "plans": []}, "turn": [0, 0]}
    say(answer | ({"ok": timing} if op["n"] % 4 == 0 else {}))
"""


def test_a_run_keeps_times_of_plans_beside_those_of_operators(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE))
    plan = [{"op": OP | {"n": n}, "power": False} for n in range(1, 9)]
    tally = relay.run(plan, tmp_path / "run", seconds=60.0, processes=2,
                      worker_command=[sys.executable, str(script)])  # fmt: skip
    assert tally.measured == 8
    assert len(store.read(tmp_path / "run" / "ops.csv")) == 2
    plan_times.pack(tmp_path / "run")
    assert "rows = 8" in (tmp_path / "run" / "plan_times.toml").read_text()
    rows = (tmp_path / "run" / plan_times.NAME).read_text().splitlines()
    assert {ops.key(json.loads(row)["op"]) for row in rows} == {ops.key(e["op"]) for e in plan}
    assert [
        ops.key(row["op"]) for row in plan_rows.read(tmp_path / "run" / f"{plan_times.NAME}.gz")
    ]


def test_names_of_kernels_stand_once(tmp_path):
    kernels = [["long name", [1, 1, 1], [128, 1, 1], 0], ["memset", [], [], 0]]
    row = {"op": OP, "sets": 1, "plans": [{"name": "eng0", "us": 1.0, "kernels": kernels}]}
    data, count = plan_rows.packed([json.dumps(row), json.dumps(row), "{cut"])
    path = tmp_path / "plan_times.jsonl.gz"
    path.write_bytes(data)
    assert count == 2
    assert plan_rows.read(path) == [row, row]
