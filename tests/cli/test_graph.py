"""``perfmodel graph``: saved models priced, drawn, and complained about."""

import gzip
import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel import cli
from perfmodel.errors import PerfmodelError
from perfmodel.hardware import load_accelerator
from perfmodel.study.own_model import estimate_program
from perfmodel.workload.importers.load import load_graph
from perfmodel.workload.program import Node, Program, Tensor, save_program

CHIP = "h100-sxm5-80gb"
CONTRACT = {
    "latency_s", "host_s", "device_s", "launch_bound", "peak_memory_bytes", "reserved_bytes",
    "flops", "bytes", "ops", "unknown", "calibrated", "assumptions",
}  # fmt: skip


@pytest.fixture
def perfmodel(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["perfmodel", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = capsys.readouterr()
        return caught.value.code or 0, shown.out, shown.err

    return run


def small_program(batch=64, width=1024, target="aten.relu"):
    """A linear layer and something element by element."""
    tensors = (
        Tensor("x", (batch, width), "bf16", "input", 0),
        Tensor("w", (width, width), "bf16", "parameter", 1),
        Tensor("b", (width,), "bf16", "parameter", 2),
        Tensor("h", (batch, width), "bf16", "activation", 3),
        Tensor("y", (batch, width), "bf16", "activation", 4),
    )
    nodes = (
        Node("fc/addmm", "aten.addmm", ("b", "x", "w"), ("h",), {"alpha": 1, "beta": 1},
             "forward", "blocks.3.fc", "model.py:7"),
        Node("act", target, ("h",), ("y",), {}, "forward", "blocks.3.act", "", (3,)),
    )  # fmt: skip
    sizes = tuple(int(tensor.bytes) for tensor in tensors)
    return Program(
        "small", tensors, nodes, ("x",), ("y",), "json", 2, sizes, ("nothing is assumed",)
    )


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.json"
    save_program(small_program(), path)
    return path


def test_json_has_the_keys_that_scripts_rely_on(perfmodel, small):
    code, out, err = perfmodel("graph", small, "--on", CHIP, "--batch-size", 64, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document.keys() >= CONTRACT
    assert document["latency_s"] >= document["device_s"] > 0
    assert document["flops"] == 2 * 64 * 1024 * 1024  # the ReLU streams
    assert document["peak_memory_bytes"] >= 2 * 1024 * 1024
    assert document["reserved_bytes"] >= document["peak_memory_bytes"]
    assert document["assumptions"][0] == "nothing is assumed"
    assert {op["module"] for op in document["ops"]} == {"blocks.3.fc", "blocks.3.act"}
    assert document["ops"][0]["source"] == "model.py:7"
    assert document["parameters"] == 1024 * 1024 + 1024


def test_json_is_what_python_says(perfmodel, small):
    _, out, _ = perfmodel("graph", small, "--on", CHIP, "--stack", "cuda-graph", "--json")
    found = estimate_program(small_program(), CHIP, stack="cuda-graph")
    document = json.loads(out)
    assert document["latency_s"] == pytest.approx(found.seconds, rel=1e-12)
    assert document["peak_memory_bytes"] == found.peak_allocated


def test_text_explains(perfmodel, small):
    code, out, _ = perfmodel("graph", small, "--on", "dgx-h100")
    assert code == 0
    assert "small on H100" in out
    assert "device waits for the host" in out
    assert "blocks.*.fc" in out
    assert "assumed: nothing is assumed" in out


def test_a_captured_graph_has_no_host_time_to_wait_for(perfmodel, small):
    def seconds(*extra):
        return json.loads(perfmodel("graph", small, "--on", CHIP, "--json", *extra)[1])

    eager, graph = seconds(), seconds("--mode", "graph")
    assert eager["launch_bound"] > 0.5
    assert graph["launch_bound"] < 0.5
    assert graph["latency_s"] < eager["latency_s"]
    assert graph["mode"] == "graph"


def test_compressed_json_is_the_same(perfmodel, small, tmp_path):
    other = tmp_path / "small.json.gz"
    save_program(small_program(), other)
    one = perfmodel("graph", small, "--on", CHIP, "--json")
    assert perfmodel("graph", other, "--on", CHIP, "--json") == one


def test_an_unknown_operator_is_named_and_bounded(perfmodel, tmp_path):
    path = tmp_path / "odd.json"
    save_program(small_program(target="mylib.spell"), path)
    document = json.loads(perfmodel("graph", path, "--on", CHIP, "--json")[1])
    (unknown,) = document["unknown"]
    assert (unknown["name"], unknown["count"]) == ("mylib.spell", 1)
    assert 0 < unknown["low_s"] < unknown["high_s"]
    assert document["calibrated"] is False


def test_pictures(perfmodel, small, tmp_path):
    code, out, _ = perfmodel("graph", small, "--on", CHIP, "--out", tmp_path / "figures")
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert code == 0
    assert drawn == ["small-memory.svg", "small-roofline.svg", "small-timeline.svg"]
    assert out.count("drawn: ") == 3


def test_a_profile_is_drawn_below_the_timeline(perfmodel, small, tmp_path):
    event = {"ph": "X", "cat": "kernel", "name": "sm90_gemm", "ts": 5, "dur": 2, "pid": 0, "tid": 7}
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": [event]}))
    arguments = ("graph", small, "--on", CHIP, "--profile", trace)
    code, _, err = perfmodel(*arguments)
    assert code == 2
    assert "--out" in err
    code, _, _ = perfmodel(*arguments, "--out", tmp_path / "with")
    perfmodel("graph", small, "--on", CHIP, "--out", tmp_path / "without")
    both, one = (
        (tmp_path / name / "small-timeline.svg").read_bytes() for name in ("with", "without")
    )
    assert code == 0
    assert both != one


def test_what_does_not_fit_is_an_answer(perfmodel, tmp_path):
    path = tmp_path / "wide.json"
    save_program(small_program(width=2**18), path)
    code, out, _ = perfmodel("graph", path, "--on", CHIP, "--json")
    document = json.loads(out)
    assert code == 3
    assert document["fits"] is False
    assert document["peak_memory_bytes"] > 2 * 2**36


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        (["--batch-size", "8"], "trace"),
        (["--dim", "tokens=8"], "trace"),
        (["--dim", "tokens"], "name=size"),
        (["--dim", "tokens=-1"], "name=size"),
        (["--mode", "fast"], "compile-graph"),
        (["--stack", "torch-eagre"], "torch-eager"),
        (["--on", "h100-sxm5"], "h100-sxm5-80gb"),
        (["--on", "nvlink4"], "device"),
    ],
)
def test_complaints(perfmodel, small, extra, part):
    code, out, err = perfmodel("graph", small, "--on", CHIP, *extra)
    assert (code, out) == (2, "")
    assert part in err
    assert "Repair" in err
    code, out, err = perfmodel("graph", small, "--on", CHIP, *extra, "--json")
    assert (code, err) == (2, "")
    assert {"where", "got", "accepted", "nearest", "repair"} <= json.loads(out).keys()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.json", b'{"format": "perfmodel-program", "versi'),
        ("list.json", b"[]"),
        ("nan.json", b"NaN"),
        ("text.json", b"\xff\xfe\x00"),
        ("empty.json", b""),
        ("deep.json", b"[" * 100_000),
        ("cut.json.gz", gzip.compress(b"{}" * 100, mtime=0)[:-9]),
        ("plain.json.gz", b"{}"),
        ("model.onnx", b"no protocol buffer"),
        ("model.pth", b"pickle"),
        ("model", b""),
    ],
)
def test_files_that_are_no_models(perfmodel, tmp_path, name, content):
    if name.endswith(".onnx"):
        pytest.importorskip("onnx")
    path = tmp_path / name
    path.write_bytes(content)
    code, out, err = perfmodel("graph", path, "--on", CHIP)
    assert (code, out) == (2, "")
    assert "Accepted" in err
    assert "Traceback" not in err


def test_a_missing_file(perfmodel, tmp_path):
    for name in ("absent.json", "absent.onnx", "absent.txt"):
        if name.endswith(".onnx"):
            pytest.importorskip("onnx")
        code, _, err = perfmodel("graph", tmp_path / name, "--on", CHIP)
        assert code == 2
        assert "Repair" in err


def test_an_onnx_file_end_to_end(perfmodel, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="/conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["y"], name="/relu/Relu"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 16, "side", "side"])],
        [helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(np.zeros((32, 16, 3, 3), np.float32), "w")],
    )  # fmt: skip
    path = tmp_path / "conv.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    common = ("graph", path, "--on", CHIP, "--stack", "cuda-graph", "--dim", "side=56", "--json")
    document = json.loads(perfmodel(*common, "--batch-size", 8)[1])
    conv = next(op for op in document["ops"] if op["kind"] == "conv")
    assert conv["flops"] == 2 * 8 * 32 * 56 * 56 * 16 * 9
    assert conv["module"] == "conv"
    larger = json.loads(perfmodel(*common, "--batch-size", 32)[1])
    assert larger["latency_s"] > document["latency_s"]
    assert larger["peak_memory_bytes"] > document["peak_memory_bytes"]


DOCUMENT = small_program().to_dict()
ODD = [0, -1, 2**40, 2**60, 1e300, None, "", "x", [], {}, True, 3.5, [-1], float("nan"), "input"]


def places(item, path=()):
    children = item.items() if isinstance(item, dict) else enumerate(item)
    for key, value in children:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_json_ends_in_an_answer_or_a_complaint(tmp_path, data):
    document = json.loads(json.dumps(DOCUMENT))
    for _ in range(data.draw(st.integers(1, 3))):
        *outer, last = data.draw(st.sampled_from(list(places(document))))
        owner = document
        for key in outer:
            owner = owner[key]
        what = data.draw(st.sampled_from(["set", "drop", "double"]))
        if what == "set":
            owner[last] = data.draw(st.sampled_from(ODD))
        elif what == "drop":
            del owner[last]
        elif isinstance(owner, list):
            owner.append(owner[last])
    path = tmp_path / "mutated.json"
    path.write_text(json.dumps(document))
    try:
        stack = data.draw(st.sampled_from(["torch-eager", "torch-compile"]))
        found = estimate_program(load_graph(path), load_accelerator(CHIP), stack=stack)
    except PerfmodelError:
        return
    assert 0 <= found.seconds < float("inf")


def test_the_pace_of_a_host_is_a_ratio_or_its_probe(perfmodel, small):
    def asked(*extra):
        return json.loads(perfmodel("graph", small, "--on", CHIP, "--json", *extra)[1])

    unknown, twice = asked(), asked("--host-pace", "2")
    assert unknown["host_pace_assumed"] is True
    assert twice["host_pace_assumed"] is False
    assert twice["host_s"] == pytest.approx(2.0 * unknown["host_s"] / unknown["host_pace"])
    assert asked("--host-pace", "15us")["host_pace"] > asked("--host-pace", "8us")["host_pace"]
    same = asked("--host-pace", "2", "--backward-pace", "3")  # nothing runs backward here
    assert same["host_s"] == twice["host_s"]
    code, _, err = perfmodel("graph", small, "--on", CHIP, "--backward-pace", "900")
    assert code == 2
    assert "program: backward_pace" in err
    code, _, err = perfmodel("graph", small, "--on", CHIP, "--host-pace", "fast")
    assert code == 2
    assert "8.9us" in err
