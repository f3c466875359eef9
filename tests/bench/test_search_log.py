"""The log of cuDNN's search: what is read of it, and how a run keeps it."""

import gzip
import json
import sys
import textwrap

from validate import search_report
from validate.bench import conv_draws, ops, proposals, runner, search_log

LOG = """\
[cudnn_frontend] Called engine config generator and produced 36 configs.
[cudnn_frontend] Filtered and Added ConvFwd_eng62_k2=3_k13=1
[cudnn_frontend] Plan ConvFwd_eng62_k2=3_k13=1 took    0.11408
[cudnn_frontend] Plan ConvFwd_eng1 took   4.1e-02
[cudnn_frontend] Plan ConvFwd_eng0 to"""


def test_a_log_gives_each_plan_and_its_time():
    assert search_log.tried(LOG) == [("ConvFwd_eng62_k2=3_k13=1", 0.11408), ("ConvFwd_eng1", 0.041)]


def test_a_piece_is_read_once_and_a_missing_log_is_empty(tmp_path):
    path = tmp_path / "search.log"
    log = search_log.SearchLog(path)
    assert log.take() == []
    path.write_text(LOG)
    assert [name for name, _ in log.take()] == ["ConvFwd_eng62_k2=3_k13=1", "ConvFwd_eng1"]
    assert log.take() == []
    with path.open("a") as handle:
        handle.write("ok\n[cudnn_frontend] Plan ConvBwdData_eng5 took 0.5\n")
    assert log.take() == [("ConvBwdData_eng5", 0.5)]


def test_without_the_variables_nothing_is_logged(monkeypatch, tmp_path):
    monkeypatch.delenv(search_log.SWITCH, raising=False)
    assert search_log.SearchLog.from_environment().path is None
    for name, value in search_log.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert search_log.SearchLog.from_environment().path == tmp_path / "search.log"


WORKER = """
import json, sys
from validate.bench.search_log import SearchLog
say = lambda d: print("@@" + json.dumps(d), flush=True)
log = SearchLog.from_environment()
say({"ready": {"device": "NVIDIA H100 80GB HBM3", "torch": "0"}})
for line in sys.stdin:
    n = json.loads(line)["op"]["n"]
    if log.path is not None:
        with log.path.open("a") as handle:
            handle.write(f"Plan ConvFwd_eng{n} took 0.1\\n")
    us = 100.0
    say({"ok": {"latency_us": us, "p10_us": us, "p90_us": us, "mode": "graph", "calls": 10,
                "replays": 5, "sets": 3}, "plans": log.take()})
"""


def test_a_run_keeps_the_plans_beside_the_times(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    convs = [
        {"op": "conv2d", "n": n, "c_in": 64, "h": 56, "w": 56, "c_out": 64, "kernel": 3,
         "stride": 1, "padding": 1, "groups": 1, "dtype": "bf16"}
        for n in (8, 16)
    ]  # fmt: skip
    plan = [{"op": op, "power": False} for op in convs]
    out = tmp_path / "run"
    command = [sys.executable, str(script)]
    assert runner.run(plan, out, seconds=60.0, worker_command=command).measured == 2
    kept = search_log.read(out / search_log.NAME)
    assert [op for op, _ in kept] == convs
    assert [plans for _, plans in kept] == [[("ConvFwd_eng8", 0.1)], [("ConvFwd_eng16", 0.1)]]
    host = [{"op": {"op": "host", "kind": "eager_add", "n": 4}, "power": False}]
    runner.run(host, tmp_path / "host", seconds=60.0, worker_command=command)
    assert not (tmp_path / "host" / search_log.NAME).exists()


def test_a_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / search_log.NAME
    path.write_text(json.dumps({"op": {"op": "conv2d"}, "plans": [["a", 1.0]]}) + '\n{"op": {"o')
    assert search_log.read(path) == [({"op": "conv2d"}, [("a", 1.0)])]


def test_convolution_plan_is_distinct_and_balanced():
    entries = conv_draws.build(400, seed=3)
    bare = [{k: v for k, v in e.items() if k != "power"} for e in entries]
    keys = {ops.key(op) for op in bare}
    assert len(keys) == len(entries) > 380
    for op in bare:
        ops.check(op)
    half = bare[: len(bare) // 2]
    for name in ("conv2d_fwd", "conv2d_dgrad", "conv2d_wgrad", "conv2d_depthwise", "conv3d"):
        whole = sum(ops.family(op) == name for op in bare)
        assert abs(2 * sum(ops.family(op) == name for op in half) - whole) <= 6 + 0.1 * whole


def test_plan_of_what_is_little_known():
    entries = conv_draws.build(500, seed=5, strata=conv_draws.WEAK)
    for op in entries:
        ops.check(op)
    dense = [op for op in entries if ops.family(op).split("_")[-1] in ("fwd", "dgrad", "wgrad")]
    full = [op for op in dense if op["dtype"] in ("tf32", "fp32")]
    assert len(full) > 0.5 * len(dense)
    assert sum(op["c_in"] % 8 > 0 or op["c_out"] % 8 > 0 for op in dense) > 0.15 * len(dense)
    volumes = [op for op in entries if op["op"] == "conv3d"]
    assert {op["pass"] for op in volumes} == {"fwd", "dgrad", "wgrad"}
    assert min(op["c_in"] for op in volumes) < 4 < 256 <= max(op["c_in"] for op in volumes)


def test_repeats_of_every_kind_alike(tmp_path):
    columns = "op,dtype,pass,layout,n,c_in,h,w,c_out,kernel,stride,padding,groups,latency_us\n"
    rows = [f"conv2d,bf16,fwd,nhwc,{n},64,8,8,64,3,1,1,1,9.0\n" for n in range(1, 31)]
    rows += [f"conv2d,tf32,dgrad,nchw,{n},64,8,8,64,3,1,1,64,9.0\n" for n in (1, 2)]
    (tmp_path / "conv2d_fwd.csv").write_text(columns + "".join(rows))
    drawn = conv_draws.repeats(tmp_path, 8, seed=1)
    assert len({ops.key(op) for op in drawn}) == len(drawn) == 8
    assert sum(op["dtype"] == "tf32" for op in drawn) == 2


def test_packed_plans_and_what_a_search_keeps(tmp_path):
    path = tmp_path / "plans.jsonl.gz"
    op = {"op": "conv2d", "pass": "fwd", "layout": "nhwc"}
    plans = [["ConvFwd_eng58_k25=0", 0.05], ["ConvFwd_eng62_k2=1", 0.02]]
    path.write_bytes(gzip.compress(json.dumps({"op": op, "plans": plans}).encode()))
    found = search_log.read(path)
    assert search_report.chosen(found[0][1]) == "ConvFwd_eng62_k2=1"
    assert search_report.products(found) == ["| fwd nhwc | 1 | 0 |"]
    table = search_report.by_time(found, {ops.key(op): 15.0})
    assert table[2:] == ["| 10 to 20 | 1 | 5.0 | 2.500 |"]


def test_the_report_counts_newest_kernels_by_taps_and_engines_by_groups():
    op = {"op": "conv2d", "pass": "fwd", "layout": "nhwc", "dtype": "bf16", "groups": 1,
          "kernel": 7, "c_in": 64, "c_out": 64}  # fmt: skip
    old, new = ("ConvFwd_eng22_k2=1", 0.02), ("ConvFwd_eng62_k2=1", 0.01)
    found = [(op, [old]), (op | {"kernel": 3}, [old, new]), (op | {"dtype": "fp32"}, [old])]
    assert search_report.by_taps(found) == [
        "| fwd | 33 to 49 | 1 | 0 |",
        "| fwd | 2 to 9 | 1 | 1 |",
    ]
    found = [(op | {"groups": 4}, [old, new]), (op | {"groups": 64}, [old]),
             (op | {"groups": 4, "c_out": 32}, [old]), (op | {"groups": 4}, [])]  # fmt: skip
    assert search_report.forms(found) == [
        "| fwd | even | 1 | eng62 1 |",
        "| fwd | uneven | 1 | eng22 1 |",
    ]


def test_transforms_of_full_precision_are_told_from_other_plans():
    op = {"op": "conv2d", "pass": "fwd", "layout": "nchw", "dtype": "fp32", "kernel": 3,
          "stride": 1, "groups": 1}  # fmt: skip
    plans = [("ConvFwd_eng3_k11=2", 0.3), ("ConvFwd_eng35_k2=1", 0.4)]
    slower = [("ConvFwd_eng3_k11=2", 0.5), ("ConvFwd_eng70_k2=4", 0.4)]
    without = [("ConvFwd_eng35_k2=1", 0.4)]
    found = [(op, plans), (op, slower), (op, without), (op | {"kernel": 1}, plans)]
    assert search_report.spectra(found) == ["| fwd | 3 | 2 | 1 |"]


def test_logged_searches_tried_what_the_heuristics_propose():
    found = [
        one
        for path in sorted((search_report.FOLDER / "search").glob("plans-[34].jsonl.gz"))
        for one in search_log.read(path)
    ]
    same, known = search_report.as_proposed(found, proposals.read(search_report.PROPOSED))
    assert known > 1000
    assert same / known > 0.99
