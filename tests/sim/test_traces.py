"""Traces out and in: Chrome, Kineto, Chakra."""

import gzip
import json

import numpy as np
import pytest

from perfmodel.errors import ScenarioError
from perfmodel.sim import protowire
from perfmodel.sim.chakra import (
    graph_of,
    nodes_of,
    read_chakra,
    whole_buffer,
    write_chakra,
)
from perfmodel.sim.chakra_node import ChakraNode
from perfmodel.sim.chakra_ranks import write_ranks
from perfmodel.sim.chrome import flow_trace, jobs_trace, layer_trace, step_trace, write_trace
from perfmodel.sim.flows import route_flow, solve_flows
from perfmodel.sim.graph import TaskGraph, solve
from perfmodel.sim.jobs import generate_jobs
from perfmodel.sim.kineto import beside, read_kineto, union_length
from perfmodel.sim.layers import LayerCosts, layer_step
from perfmodel.sim.perturb import Perturbation
from perfmodel.sim.placement import Pool
from perfmodel.sim.scheduler import schedule_jobs
from perfmodel.sim.schedules import build_schedule
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step import replay
from perfmodel.sim.trace_file import write_json


def a_step(seed=0):
    costs = StageCosts(
        1e-3, 1e-3, 1e-3, send_forward=1e-4, send_backward=1e-4, activation_bytes=2**30,
        gradient_buckets=[[1e-3, 1e-3]] * 4, optimizer=1e-3,
    )  # fmt: skip
    return replay(
        build_schedule("zb-h1", 4, 8),
        costs,
        replicas=2,
        perturbation=Perturbation(jitter=0.05, seed=seed),
    )


def by_phase(document, phase):
    return [event for event in document["traceEvents"] if event["ph"] == phase]


def test_a_step_as_a_chrome_trace(tmp_path):
    step = a_step()
    document = step_trace(step)
    spans = by_phase(document, "X")
    assert len(spans) == len(step.timeline.graph)
    names = {e["args"]["name"] for e in by_phase(document, "M") if e["name"] == "process_name"}
    assert names == {f"device {d}" for d in range(4)}
    threads = {e["args"]["name"] for e in by_phase(document, "M") if e["name"] == "thread_name"}
    assert {"compute", "send activations", "collectives"} <= threads
    assert max(e["ts"] + e["dur"] for e in spans) / 1e6 <= step.seconds * (1 + 1e-9)
    # Every arrow leaves inside one slice and arrives at another, not before.
    leave = {e["id"]: e for e in by_phase(document, "s")}
    arrive = {e["id"]: e for e in by_phase(document, "f")}
    assert set(leave) == set(arrive)
    assert len(leave) > 50
    assert all(leave[k]["ts"] <= arrive[k]["ts"] for k in leave)
    memory = [e for e in by_phase(document, "C") if e["pid"] == 1]
    assert max(e["args"]["GiB"] for e in memory) == pytest.approx(step.peak_memory[0] / 2**30)
    path = write_trace(tmp_path / "step.json", document)
    assert json.loads(path.read_text()) == document
    zipped = write_trace(tmp_path / "step.json.gz", document)
    assert json.loads(gzip.decompress(zipped.read_bytes())) == document


def test_spans_on_a_thread_never_overlap():
    for document in (step_trace(a_step()), layer_trace(layer_step(LayerCosts(1, 2, reduce=1), 9))):
        ends = {}
        for event in sorted(by_phase(document, "X"), key=lambda e: e["ts"]):
            place = (event["pid"], event["tid"])
            # In whole nanoseconds, as viewers read them: they drop slices that overlap by one.
            begin, length = round(event["ts"] * 1000), round(event["dur"] * 1000)
            assert begin >= ends.get(place, 0)
            ends[place] = begin + length


def test_same_seed_same_bytes(tmp_path):
    paths = [write_trace(tmp_path / f"{k}.json", step_trace(a_step(7))) for k in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert (
        write_trace(tmp_path / "c.json", step_trace(a_step(8))).read_bytes()
        != paths[0].read_bytes()
    )


def test_flow_and_job_traces():
    graph = TaskGraph("g")
    for name in "ab":
        graph.add(name, graph.add_stream(name), 0.0)
    run = solve_flows(graph, {0: route_flow(1e9, [0]), 1: route_flow(3e9, [0])}, [1e9])
    counters = by_phase(flow_trace(run, ["nic"]), "C")
    assert [c["name"] for c in counters] == ["nic"] * 3
    assert counters[0]["args"]["GB/s"] == pytest.approx(1.0)
    trace = generate_jobs(20, arrival_rate=1, mean_seconds=3)
    document = jobs_trace(schedule_jobs(trace, Pool(1, 4)))
    assert len(by_phase(document, "b")) == len(by_phase(document, "e")) == 20


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    def broken(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", broken)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "trace.json", ["x" * 1000])
    assert list(tmp_path.iterdir()) == []


# --- Kineto -------------------------------------------------------------------------------------


def kernel(name, start, length, stream=7, category="kernel"):
    args = {"device": 0, "stream": stream}
    return {"ph": "X", "cat": category, "name": name, "pid": 0, "tid": stream, "ts": start,
            "dur": length, "args": args}  # fmt: skip


KINETO = {
    "traceEvents": [
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 90, "dur": 5},
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#3", "pid": 1, "tid": 1,
         "ts": 80, "dur": 200},
        kernel("gemm", 100, 50),
        kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 130, 60, stream=20),
        kernel("gemm", "160", "10"),
        kernel("Memcpy HtoD", 195, 5, stream=9, category="gpu_memcpy"),
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "python"}},
    ]
}  # fmt: skip


def test_kineto_says_what_is_exposed(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(KINETO))
    trace = read_kineto(path)
    assert trace.names[0] == "gemm"
    row = trace.to_dict()["devices"][0]
    assert row["compute_s"] == pytest.approx(60e-6)
    assert row["communication_s"] == pytest.approx(60e-6)
    # 130..190 minus the gemms at 130..150 and 160..170.
    assert row["exposed_communication_s"] == pytest.approx(30e-6)
    assert trace.span == pytest.approx(100e-6)
    assert row["idle_s"] == pytest.approx(5e-6)
    assert trace.steps[0][0] == "ProfilerStep#3"
    both = beside(trace, step_trace(a_step()))
    names = {e["args"]["name"] for e in both["traceEvents"] if e.get("name") == "process_name"}
    assert "measured: device 0" in names
    assert "simulated: device 0" in names
    assert not {e["pid"] for e in both["traceEvents"][:2]} & {
        e["pid"] for e in both["traceEvents"] if e.get("cat") == "F"
    }


def test_union_length():
    assert union_length(np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 1.0])) == 5.0
    assert union_length(np.array([0.0, 1.0]), np.array([10.0, 1.0])) == 10.0
    assert union_length(np.zeros(0), np.zeros(0)) == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ('{"traceEvents": 3}', "list of events"),
        ('{"traceEvents": []}', "none on a device"),
        (json.dumps({"traceEvents": [kernel("k", "soon", 1)]}), r"traceEvents\[0\]"),
        (json.dumps({"traceEvents": [kernel("k", 1, -1)]}), r"traceEvents\[0\]"),
    ],
)
def test_malformed_profiles(tmp_path, text, words):
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=words):
        read_kineto(path)


def test_absent_and_broken_files(tmp_path):
    with pytest.raises(ScenarioError, match="readable"):
        read_kineto(tmp_path / "absent.json")
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(gzip.compress(b"{}" * 1000)[:20])
    with pytest.raises(ScenarioError, match="readable"):
        read_kineto(cut)


# --- Chakra -------------------------------------------------------------------------------------


NODES = [
    ChakraNode(0, "matmul", "COMP_NODE", duration_micros=10, attributes={"is_cpu_op": False}),
    ChakraNode(
        1, "gather", "COMM_COLL_NODE", data_deps=(0,), duration_micros=5,
        attributes={"comm_type": 2, "comm_size": 1000, "pg_name": "tp", "weight": 0.5, "shift": -3},
    ),
    ChakraNode(2, "load", "MEM_LOAD_NODE", duration_micros=7),
    ChakraNode(300, "next", "COMP_NODE", ctrl_deps=(0, 2), data_deps=(1,), duration_micros=4),
]  # fmt: skip


@pytest.mark.parametrize("name", ["trace.0.et", "trace.json"])
def test_chakra_round_trip(tmp_path, name):
    path = write_chakra(tmp_path / name, NODES)
    assert read_chakra(path) == NODES


def test_protobuf_bytes_are_the_standard_encoding(tmp_path):
    # Checked by hand against the wire format: id=1 (08 01), name="a" (12 01 61), type=4 (18 04),
    # packed data_deps [0] (2a 01 00), start 0 and duration 150 (38 96 01).
    path = write_chakra(
        tmp_path / "x.et",
        [
            ChakraNode(0, "b", "COMP_NODE"),
            ChakraNode(1, "a", "COMP_NODE", data_deps=(0,), duration_micros=150),
        ],
    )
    data = path.read_bytes()
    assert data[:8] == bytes([7, 0x0A, 5]) + b"0.0.4"
    assert data.endswith(bytes.fromhex("08011201611804 2a0100 3000 389601"))


def test_foreign_fields_are_skipped_and_unpacked_lists_read():
    node = protowire.field(1, 3) + protowire.field(2, "n") + protowire.field(3, 4)
    node += protowire.field(4, 1) + protowire.field(4, 2)  # unpacked repeated
    node += protowire.field(8, b"\x0a\x01x") + protowire.field(99, 1.5)
    found = list(protowire.fields(node, "test"))
    assert [number for number, _, _ in found] == [1, 2, 3, 4, 4, 8, 99]
    assert protowire.signed(protowire.read_varint(protowire.varint(-3), 0, "t")[0]) == -3


def test_chakra_runs_with_recorded_or_priced_collectives():
    graph = graph_of(NODES)
    line = solve(graph)
    # matmul 0..10, gather 10..15, load 0..7, next 15..19 microseconds.
    assert line.seconds == pytest.approx(19e-6)
    seen = []

    def price(op, size, world):
        seen.append((op, size, world))
        return 1e-3

    priced = solve(graph_of(NODES, world=8, price=price))
    assert priced.seconds == pytest.approx(10e-6 + 1e-3 + 4e-6)
    # The trace holds what one rank puts in; prices are for the whole buffer.
    assert seen == [("all_gather", 8000.0, 8)]
    assert whole_buffer("all_reduce", 1000.0, 8) == 1000.0


def test_a_simulated_step_becomes_nodes_and_runs_the_same(tmp_path):
    result = layer_step(LayerCosts(1e-3, 2e-3, reduce=5e-4), 5)
    graph = result.timeline.graph
    sizes = {
        task: ("reduce_scatter", 1e6, 4) for task, kind in enumerate(graph.kind) if kind == "reduce"
    }
    path = write_chakra(tmp_path / "step.et", nodes_of(result.timeline, sizes))
    nodes = read_chakra(path)
    assert sum(node.type == "COMM_COLL_NODE" for node in nodes) == 5
    assert solve(graph_of(nodes)).seconds == pytest.approx(result.seconds, rel=1e-9)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([NODES[0], NODES[0]], "appears twice"),
        ([NODES[1]], "waits for node 0"),
        (
            [
                ChakraNode(0, "x", "COMP_NODE", data_deps=(1,)),
                ChakraNode(1, "y", "COMP_NODE", ctrl_deps=(0,)),
            ],
            "circle",
        ),
    ],
)
def test_bad_chakra_graphs(nodes, words):
    with pytest.raises(ScenarioError, match=words):
        graph_of(nodes)


def test_collectives_without_a_size_are_not_free():
    bare = [ChakraNode(0, "ar", "COMM_COLL_NODE", attributes={"comm_type": 0})]
    with pytest.raises(ScenarioError, match="comm_size"):
        graph_of(bare, world=4, price=lambda *_: 0.0)


@pytest.mark.parametrize("cut", [1, 9, 15, 30])
def test_cut_off_chakra_files(tmp_path, cut):
    path = write_chakra(tmp_path / "x.et", NODES)
    broken = tmp_path / "cut.et"
    broken.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ScenarioError, match="byte"):
        read_chakra(broken)


@pytest.mark.parametrize("text", ["[]", '{"nodes": [{"id": "x", "type": 4}]}', '{"nodes": [3]}'])
def test_malformed_chakra_json(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ScenarioError, match="nodes"):
        read_chakra(path)


@pytest.mark.parametrize("name", ["1f1b", "zbv"])
def test_a_trace_for_every_rank_with_matching_ends(tmp_path, name):
    step = replay(build_schedule(name, 4, 8), StageCosts(1e-3, 1e-3, 1e-3))
    paths = write_ranks(tmp_path / "step", step, 1e6)
    assert [path.name for path in paths] == [f"step.{rank}.et" for rank in range(4)]
    ends = {"COMM_SEND_NODE": set(), "COMM_RECV_NODE": set()}
    work = 0.0
    for rank, path in enumerate(paths):
        nodes = read_chakra(path)
        graph_of(nodes)
        for node in nodes:
            if node.type in ends:
                given = node.attributes
                assert given["comm_src" if "SEND" in node.type else "comm_dst"] == rank
                ends[node.type].add((given["comm_src"], given["comm_dst"], given["comm_tag"]))
            else:
                work += node.attributes["seconds"]
    assert ends["COMM_SEND_NODE"] == ends["COMM_RECV_NODE"]
    # Three links, both ways, every micro-batch; a V goes over each link twice.
    assert len(ends["COMM_SEND_NODE"]) == 3 * 2 * 8 * (2 if name == "zbv" else 1)
    assert work == pytest.approx(4 * 8 * 3e-3 * (2 if name == "zbv" else 1))
    with pytest.raises(ScenarioError, match="send_bytes"):
        write_ranks(tmp_path / "bad", step, 0.0)
    assert len(list(tmp_path.iterdir())) == 4
