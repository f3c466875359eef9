"""The program IR and its graph JSON."""

import gzip
import json
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import WorkloadError
from perfmodel.workload.program import (
    ELEMENT_BYTES,
    PHASES,
    Node,
    Program,
    Tensor,
    load_program,
    save_program,
)
from perfmodel.workload.program_file import SCHEMA, schema_text


def linear() -> Program:
    """x @ w.T, then an in-place relu, as a recorder would write it."""
    return Program(
        name="linear",
        tensors=(
            Tensor("weight", (8, 4), "fp32", "parameter", 0),
            Tensor("tied", (8, 4), "fp32", "parameter", 0),
            Tensor("x", (2, 4), "fp32", "input", 1),
            Tensor("t", (4, 8), "fp32", "activation", 0, "strided"),
            Tensor("mm", (2, 8), "fp32", "activation", 2),
            Tensor("relu_", (2, 8), "fp32", "activation", 2),
            Tensor("sum", (), "fp32", "activation", 3),
            Tensor("step", (), "fp32", "state", 4, host=True),
        ),
        nodes=(
            Node("t", "aten.t", ("weight",), ("t",), {}, "forward", "fc", "net.py:3"),
            Node("mm", "aten.mm", ("x", "t"), ("mm",), {}, "forward", "fc", "net.py:3"),
            Node("relu_", "aten.relu_", ("mm",), ("relu_",), {}, "forward"),
            Node(
                "sum",
                "aten.sum",
                ("relu_",),
                ("sum",),
                {"dim": [0, 1], "p": "inf"},
                "backward",
                frees=(2,),
            ),
        ),
        inputs=("x",),
        outputs=("sum",),
        origin="test",
        module_calls=1,
        storages=(128, 32, 64, 4, 4),
        assumptions=("none",),
    )


def test_helpers():
    program = linear()
    assert program.tensor("mm").shape == (2, 8)
    assert program.tensor("mm").numel == 16
    assert program.tensor("mm").bytes == 64
    assert program.parameters == 32
    assert program.resident == (0, 1)
    assert program.live_bytes() == (160, 224, 224, 228)
    assert [node.name for node in program.phase_nodes("backward")] == ["sum"]
    assert program.phase_nodes(PHASES[2]) == ()


@pytest.mark.parametrize("name", ["p.json", "p.json.gz"])
def test_round_trip(tmp_path, name):
    program = linear()
    save_program(program, tmp_path / name)
    assert load_program(tmp_path / name) == program
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_schema_is_committed_and_accepts_what_is_written():
    assert SCHEMA.read_text() == schema_text()
    schema = json.loads(schema_text())
    jsonschema.validate(json.loads(json.dumps(linear().to_dict())), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**linear().to_dict(), "nodess": []}, schema)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), max_size=4),
            st.sampled_from(sorted(ELEMENT_BYTES)),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_any_tensors_survive_the_file(entries):
    program = Program(
        name="p",
        tensors=tuple(
            Tensor(f"t{i}", tuple(shape), dtype, "activation", storage, "strided", host)
            for i, (shape, dtype, storage, host) in enumerate(entries)
        ),
        nodes=(),
        inputs=(),
        outputs=(),
        origin="test",
        module_calls=0,
        storages=(1, 2, 3, 4),
    )
    text = json.dumps(program.to_dict())
    assert Program.from_dict(json.loads(text)) == program


BROKEN = {
    "missing": (lambda d: d.pop("storages"), "storages", None),
    "misspelt": (lambda d: d["nodes"][0].update(modul="x"), "nodes.0.modul", "module"),
    "version": (lambda d: d.update(version=2), "version", None),
    "dtype": (lambda d: d["tensors"][0].update(dtype="fp3"), "tensors.0.dtype", "fp32"),
    "fraction": (lambda d: d["storages"].__setitem__(0, 1.5), "storages.0", None),
    "negative": (lambda d: d["tensors"][0].update(shape=[-1]), "tensors.0.shape.0", None),
    "storage": (lambda d: d["tensors"][0].update(storage=9), "storage", None),
    "frees": (lambda d: d["nodes"][0].update(frees=[9]), "frees", None),
    "unknown": (lambda d: d["nodes"][2].update(inputs=["relux"]), "node 2", "relu_"),
    "repeated": (lambda d: d["tensors"][1].update(name="weight"), "tensors", None),
    "phase": (lambda d: d["nodes"][0].update(phase="sideways"), "phase", None),
    "output": (lambda d: d.update(outputs=["summ"]), "outputs", "sum"),
    "small": (lambda d: d["storages"].__setitem__(0, 127), "tensor weight: storage 0", None),
    "factors": (lambda d: d["tensors"][2].update(shape=[2, 3]), "(mm): aten.mm", None),
    "result": (lambda d: d["tensors"][4].update(shape=[8, 2]), "(mm): aten.mm", None),
    "bias": (lambda d: d["nodes"][1].update(target="aten.addmm"), "(mm): aten.addmm", None),
    "ranks": (lambda d: d["nodes"][1].update(inputs=["x", "step"]), "(mm): aten.mm", None),
    "empty": (lambda d: d["nodes"][1].update(inputs=[]), "(mm): aten.mm", None),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_where(case):
    damage, where, nearest = BROKEN[case]
    data = json.loads(json.dumps(linear().to_dict()))
    damage(data)
    with pytest.raises(WorkloadError) as caught:
        Program.from_dict(data, where="net.json")
    assert where in caught.value.where
    assert caught.value.nearest == nearest
    assert all(caught.value.to_dict()[key] for key in ("where", "got", "accepted", "repair"))


def test_unreadable_files(tmp_path):
    with pytest.raises(WorkloadError, match="No such file"):
        load_program(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(WorkloadError, match=r"bad\.json"):
        load_program(tmp_path / "bad.json")
    whole = gzip.compress(json.dumps(linear().to_dict()).encode())
    (tmp_path / "cut.json.gz").write_bytes(whole[:-20])
    with pytest.raises(WorkloadError, match="cut"):
        load_program(tmp_path / "cut.json.gz")
    (tmp_path / "plain.json.gz").write_bytes(b"{}")
    with pytest.raises(WorkloadError, match=r"plain\.json\.gz"):
        load_program(tmp_path / "plain.json.gz")


def test_a_program_prints_as_a_line():
    shown = repr(linear())
    assert "\n" not in shown
    assert len(shown) < 120
    assert shown.startswith("<Program linear: 32 parameters")


def test_unknown_tensor_has_a_nearest_name():
    with pytest.raises(WorkloadError, match=r"Nearest: weight"):
        linear().tensor("weigth")


def test_value_semantics():
    assert linear() == linear()
    assert replace(linear(), name="other") != linear()
