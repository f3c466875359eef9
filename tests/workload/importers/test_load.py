"""Loading a saved graph by its suffix; nothing here needs torch."""

import sys

import pytest

import perfmodel as pm
from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.load import load_graph
from perfmodel.workload.program import Node, Program, Tensor, save_program


@pytest.fixture
def saved(tmp_path):
    program = Program(
        name="relu",
        tensors=(
            Tensor("x", (8, 4), "fp32", "input", 0),
            Tensor("relu", (8, 4), "fp32", "activation", 1),
        ),
        nodes=(Node("relu", "aten.relu", ("x",), ("relu",), {}, "forward"),),
        inputs=("x",),
        outputs=("relu",),
        origin="test",
        module_calls=1,
        storages=(128, 128),
    )
    path = tmp_path / "relu.json.gz"
    save_program(program, path)
    return program, path


def test_graph_json_and_its_batch(saved):
    program, path = saved
    assert load_graph(path) == program == pm.load_graph(path, batch_size=8)
    with pytest.raises(WorkloadError, match="recorded with: 8"):
        load_graph(path, batch_size=16)


@pytest.mark.parametrize("batch_size", [0, -3, 2.0, True, "8"])
@pytest.mark.parametrize("name", ["net.json", "net.pt2", "net.onnx"])
def test_a_batch_of_nothing_is_refused(tmp_path, name, batch_size):
    with pytest.raises(WorkloadError, match="above zero"):
        load_graph(tmp_path / name, batch_size=batch_size)


def test_an_unknown_suffix_has_a_nearest():
    with pytest.raises(WorkloadError) as caught:
        load_graph("model.onx")
    assert caught.value.nearest == ".onnx"
    with pytest.raises(WorkloadError, match="no suffix"):
        load_graph("model")


def test_without_torch_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WorkloadError, match=r"perfmodel\[torch\]"):
        pm.trace(object(), ())
    path = tmp_path / "model.pt2"
    with pytest.raises(WorkloadError, match="no such file"):  # whether torch is there or not
        load_graph(path)
    path.write_bytes(b"")
    with pytest.raises(WorkloadError, match="torch is not installed"):
        load_graph(path)


def test_the_top_level_offers_it():
    assert pm.Program is Program
    assert pm.load_graph is load_graph
    assert {"trace", "Training", "load_graph", "Program"} <= set(dir(pm))
