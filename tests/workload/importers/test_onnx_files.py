"""ONNX files as a whole: dynamic dimensions, folding, control flow, lifetimes, complaints."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.workload.importers.load import load_graph

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT = TensorProto.FLOAT


def weight(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def info(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def write(path, nodes, inputs, outputs, weights=(), *, opset=17, domains=(), **keys):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights), **keys)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports), path)
    return path


@pytest.fixture
def mlp(tmp_path):
    """Two layers, a residual; shapes worked out in the graph as exporters do."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="/fc1/MatMul"),
        helper.make_node("Add", ["h", "b1"], ["hb"], name="/fc1/Add"),
        helper.make_node("Relu", ["hb"], ["r"], name="/act/Relu"),
        helper.make_node("MatMul", ["r", "w2"], ["o"], name="/fc2/MatMul"),
        helper.make_node("Add", ["o", "x"], ["y"], name="/Add"),
        helper.make_node("Shape", ["y"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "zeros"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["y", "target"], ["z"], name="/Reshape"),
    ]
    weights = [
        weight("w1", 8, 32), weight("b1", 32), weight("w2", 32, 8), ints("rest", -1),
        ints("zeros", 0), numpy_helper.from_array(np.int64(0), "zero"),
    ]  # fmt: skip
    return write(
        tmp_path / "mlp.onnx", nodes, [info("x", ["batch", "tokens", 8])],
        [info("z", None)], weights,
    )  # fmt: skip


def targets(program):
    return [node.target.removeprefix("aten.") for node in program.nodes]


def test_batch_and_named_dimensions(mlp):
    program = load_graph(mlp, batch_size=4, dims={"tokens": 5})
    assert program.tensor("x").shape == (4, 5, 8)
    assert program.tensor("z").shape == (4, 40)
    assert program.inputs == ("x",)
    assert program.outputs == ("z",)
    assert program.origin == "onnx opset 17"


def test_shape_arithmetic_costs_nothing_and_a_bias_joins_its_product(mlp):
    program = load_graph(mlp, batch_size=4, dims={"tokens": 5})
    assert targets(program) == "view addmm view relu view mm view add view".split()
    addmm = program.nodes[1]
    assert addmm.inputs[0] == "b1"
    assert addmm.module == "fc1"
    assert program.module_calls == len({"", "fc1", "act", "fc2"})
    assert program.parameters == 8 * 32 + 32 + 32 * 8


def test_an_input_may_be_named_by_its_place(mlp):
    program = load_graph(mlp, dims={"x.0": 2, "x.1": 3})
    assert program.tensor("x").shape == (2, 3, 8)


def test_storages_die_after_their_last_reader(mlp):
    program = load_graph(mlp, batch_size=4, dims={"tokens": 5})
    freed = [(node.target, number) for node in program.nodes for number in node.frees]
    hidden = program.tensor(program.nodes[1].outputs[0]).storage
    assert ("aten.relu", hidden) in freed
    assert len({number for _, number in freed}) == len(freed)
    kept = {program.tensor(name).storage for name in ("x", "z", "w1", "b1", "w2")}
    assert not kept & {number for _, number in freed}
    size = 4 * 4 * 5
    held = size * 8 + 4 * (8 * 32 + 32 + 32 * 8)
    # the widest moment: the relu with its input and output
    assert max(program.live_bytes()) == held + 2 * size * 32


def test_missing_dimensions_are_asked_for_by_name(mlp):
    with pytest.raises(WorkloadError) as caught:
        load_graph(mlp, batch_size=4)
    assert "tokens" in str(caught.value)
    assert "--dim tokens=" in caught.value.repair
    with pytest.raises(WorkloadError) as caught:
        load_graph(mlp, dims={"tokens": 5})
    assert "--batch-size" in caught.value.repair


def test_a_name_that_does_not_occur_has_a_nearest(mlp):
    with pytest.raises(WorkloadError) as caught:
        load_graph(mlp, batch_size=4, dims={"token": 5})
    assert caught.value.nearest == "tokens"


@pytest.mark.parametrize("size", [0, -1, True, 2.0, 2**40])
def test_sizes_must_be_positive_integers(mlp, size):
    with pytest.raises(WorkloadError):
        load_graph(mlp, batch_size=size, dims={"tokens": 5})
    with pytest.raises(WorkloadError):
        load_graph(mlp, batch_size=1, dims={"tokens": size})


@pytest.mark.parametrize("name", ["N", "batch_size", "bs", "unk__7", "", "s0", "x_dynamic_axes_1"])
def test_names_of_the_batch(tmp_path, name):
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [info("x", [name, 3])],
        [info("y", None)],
    )  # fmt: skip
    assert load_graph(path, batch_size=6).tensor("y").shape == (6, 3)


def test_sums_of_dimensions(tmp_path):
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])],
        [info("x", ["batch", "past + 2*new"])], [info("y", None)],
    )  # fmt: skip
    program = load_graph(path, batch_size=1, dims={"past": 10, "new": 3})
    assert program.tensor("y").shape == (1, 16)


def test_a_batch_in_the_file_is_only_confirmed(tmp_path):
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [info("x", [2, 3])],
        [info("y", None)],
    )  # fmt: skip
    assert load_graph(path, batch_size=2).tensor("y").shape == (2, 3)
    assert load_graph(path).tensor("y").shape == (2, 3)
    with pytest.raises(WorkloadError, match="fixed in the file") as caught:
        load_graph(path, batch_size=8)
    assert "export it again" in caught.value.repair


def test_a_size_fixed_inside_the_graph_is_found(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "t"], ["y"], name="fixed")]
    path = write(
        tmp_path / "m.onnx", nodes, [info("x", ["batch", 3])], [info("y", None)],
        [ints("t", 2, 3)],
    )  # fmt: skip
    load_graph(path, batch_size=2)
    with pytest.raises(WorkloadError) as caught:
        load_graph(path, batch_size=4)
    assert "fixed" in caught.value.where
    assert "export it again" in caught.value.repair


def test_weights_need_not_be_there(tmp_path):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4096, 4096])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    path = write(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", ["batch", 4096])], [info("y", None)], [tensor],
    )  # fmt: skip
    program = load_graph(path, batch_size=3)
    assert program.parameters == 4096**2
    assert program.tensor("y").shape == (3, 4096)


def test_weights_do_not_become_work(tmp_path):
    """What depends on weights alone is ready before the first call."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["c"], to=FLOAT),
        helper.make_node("MatMul", ["x", "c"], ["y"]),
    ]
    path = write(
        tmp_path / "m.onnx", nodes, [info("x", ["batch", 512])], [info("y", None)],
        [weight("w", 256, 512, dtype=np.float16)],
    )  # fmt: skip
    program = load_graph(path, batch_size=3)
    assert targets(program) == ["mm"]
    assert program.parameters == 256 * 512


def test_shared_weights_count_once(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    path = write(
        tmp_path / "m.onnx", nodes, [info("x", ["batch", 8])], [info("y", None)],
        [weight("w", 8, 8)],
    )  # fmt: skip
    assert load_graph(path, batch_size=1).parameters == 64


def test_statistics_are_buffers(tmp_path):
    nodes = [helper.make_node("BatchNormalization", ["x", "a", "b", "m", "v"], ["y"])]
    path = write(
        tmp_path / "m.onnx", nodes, [info("x", ["N", 4, 8, 8])], [info("y", None)],
        [weight(name, 4) for name in "abmv"],
    )  # fmt: skip
    program = load_graph(path, batch_size=1)
    assert program.parameters == 8
    assert program.tensor("m").role == "buffer"


def chain(tmp_path, steps, numbers, *, opset=13, weights=(), outputs=("y",)):
    """``steps`` are lines such as ``"Div x two a"``: operator, operands, result."""
    nodes = []
    for step in steps:
        op, *operands, result = step.split()
        extra = {"axes": [-1]} if op == "ReduceMean" else {}
        extra |= {"alpha": 1 / 6} if op == "HardSigmoid" else {}
        nodes.append(helper.make_node(op, operands, [result], **extra))
    stored = [numpy_helper.from_array(np.float32(v), n) for n, v in numbers.items()]
    path = write(
        tmp_path / "chain.onnx", nodes, [info("x", ["N", 5, 16])],
        [info(name, None) for name in outputs],
        [*stored, *(weight(name, 16) for name in weights)], opset=opset,
    )  # fmt: skip
    return targets(load_graph(path, batch_size=2))


NORM = [
    "ReduceMean x m", "Sub x m d", "Pow d two p", "ReduceMean p v", "Add v eps e", "Sqrt e r",
    "Div d r n", "Mul n w s", "Add s b y",
]  # fmt: skip
HALVES = {"root": 2**0.5, "inverse": 0.5**0.5, "one": 1, "half": 0.5, "two": 2, "eps": 1e-5}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["Div x root a", "Erf a e", "Add e one p", "Mul x p t", "Mul t half y"], "gelu"),
        (["Mul x inverse a", "Erf a e", "Add e one p", "Mul half p t", "Mul x t y"], "gelu"),
        (["Mul x half h", "Div x root a", "Erf a e", "Add one e p", "Mul h p y"], "gelu"),
        (NORM, "native_layer_norm"),
        ([*NORM[:2], "Mul d d p", *NORM[3:]], "native_layer_norm"),
        (["Sigmoid x s", "Mul s x y"], "silu"),
        (["HardSigmoid x s", "Mul x s y"], "hardswish"),
        (["Sqrt x r", "Reciprocal r y"], "rsqrt"),
        (["Sqrt x r", "Div one r y"], "rsqrt"),
        # not what they look like
        (["Div x two a", "Erf a e", "Add e one p", "Mul x p t", "Mul t half y"],
         "div erf add mul mul"),
        (["Div x root a", "Erf a e", "Add e one p", "Mul x p t", "Mul t two y"],
         "div erf add mul mul"),
        ([*NORM[:-1], "Add s x y"], "mean sub pow mean add sqrt div mul add"),
        (["Sigmoid x s", "Mul s s y"], "sigmoid mul"),
        (["Sqrt x r", "Div two r y"], "sqrt reciprocal mul"),
        (["Sqrt x r", "Div r one y"], "sqrt div"),
    ],
)  # fmt: skip
def test_chains_that_stand_for_one_kernel(tmp_path, steps, expected):
    assert chain(tmp_path, steps, HALVES, weights=("w", "b")) == expected.split()


def test_a_chain_that_is_read_inside_stays(tmp_path):
    steps = ["Sigmoid x s", "Mul s x y", "Neg s z"]
    assert chain(tmp_path, steps, {}, outputs=("y", "z")) == ["sigmoid", "mul", "neg"]
    steps = ["Sqrt x r", "Reciprocal r y"]
    assert chain(tmp_path, steps, {}, outputs=("y", "r")) == ["sqrt", "reciprocal"]


def branch(name, op):
    return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [info(name, None)])


def conditional(tmp_path, condition, inputs=()):
    nodes = [
        *condition,
        helper.make_node(
            "If", ["c"], ["y"], name="choose", then_branch=branch("t", "Relu"),
            else_branch=branch("e", "Tanh"),
        ),
    ]  # fmt: skip
    return write(
        tmp_path / "m.onnx", nodes, [info("x", ["N", 4]), *inputs], [info("y", None)],
        [ints("three", 3), ints("axis", 1)],
    )  # fmt: skip


def test_a_branch_that_shapes_decide_is_taken(tmp_path):
    decide = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "axis"], ["width"]),
        helper.make_node("Greater", ["width", "three"], ["wide"]),
        helper.make_node("Squeeze", ["wide"], ["c"]),
    ]
    assert targets(load_graph(conditional(tmp_path, decide), batch_size=1)) == ["relu"]


def test_a_branch_that_data_decide_is_refused(tmp_path):
    path = conditional(tmp_path, [], [info("c", [], TensorProto.BOOL)])
    with pytest.raises(WorkloadError, match="choose"):
        load_graph(path, batch_size=1)


def loop(tmp_path, trips, inputs=(), weights=()):
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["g"], name="cell"),
            helper.make_node("Tanh", ["g"], ["h2"]),
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Identity", ["h2"], ["step"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("h", None)],
        [info("still", [], TensorProto.BOOL), info("h2", None), info("step", None)],
    )
    nodes = [helper.make_node("Loop", [trips, "", "x"], ["last", "all"], name="steps", body=body)]
    return write(
        tmp_path / "m.onnx", nodes, [info("x", ["N", 4]), *inputs],
        [info("last", None), info("all", None)], [weight("w", 4, 4), *weights],
    )  # fmt: skip


def test_a_loop_of_known_length_is_unrolled(tmp_path):
    path = loop(tmp_path, "n", weights=[numpy_helper.from_array(np.int64(5), "n")])
    program = load_graph(path, batch_size=2)
    assert targets(program) == ["mm", "tanh"] * 5 + ["stack"]
    assert program.tensor("all").shape == (5, 2, 4)
    assert len({node.name for node in program.nodes}) == len(program.nodes)


def test_a_loop_of_unknown_length_is_refused(tmp_path):
    path = loop(tmp_path, "n", inputs=[info("n", [], TensorProto.INT64)])
    with pytest.raises(WorkloadError, match="trip count") as caught:
        load_graph(path, batch_size=2)
    assert "body" in caught.value.repair


def test_a_scan_runs_its_body_for_each_entry(tmp_path):
    body = helper.make_graph(
        [
            helper.make_node("Add", ["h", "e"], ["h2"]),
            helper.make_node("Identity", ["h2"], ["out"]),
        ],
        "body",
        [info("h", [4]), info("e", [4])],
        [info("h2", [4]), info("out", [4])],
    )
    nodes = [helper.make_node("Scan", ["x", "s"], ["last", "all"], body=body, num_scan_inputs=1)]
    path = write(
        tmp_path / "m.onnx", nodes, [info("x", [4]), info("s", [3, 4])],
        [info("last", None), info("all", None)],
    )  # fmt: skip
    program = load_graph(path)
    assert targets(program) == ["select", "add"] * 3 + ["stack"]
    assert program.tensor("all").shape == (3, 4)


def test_lists_of_tensors(tmp_path):
    nodes = [
        helper.make_node("SplitToSequence", ["x", "two"], ["parts"], axis=1),
        helper.make_node("SequenceAt", ["parts", "one"], ["a"]),
        helper.make_node("SequenceAt", ["parts", "zero"], ["b"]),
        helper.make_node("SequenceConstruct", ["a", "b"], ["turned"]),
        helper.make_node("ConcatFromSequence", ["turned"], ["y"], axis=1),
    ]
    numbers = [numpy_helper.from_array(np.int64(k), n) for k, n in enumerate(("zero", "one"))]
    path = write(
        tmp_path / "m.onnx", nodes, [info("x", ["N", 4])], [info("y", None)],
        [*numbers, numpy_helper.from_array(np.int64(2), "two")],
    )  # fmt: skip
    program = load_graph(path, batch_size=3)
    assert targets(program) == ["slice", "slice", "cat"]
    assert program.tensor("y").shape == (3, 4)


def test_a_foreign_operator_keeps_its_name_and_shape(tmp_path):
    nodes = [
        helper.make_node("Spell", ["x"], ["m"], domain="my.lib", power=3),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    inputs, outputs = [info("x", ["N", 4])], [info("y", None)]
    stated = write(
        tmp_path / "a.onnx", nodes, inputs, outputs, domains=["my.lib"],
        value_info=[info("m", [2, 7])],
    )  # fmt: skip
    program = load_graph(stated, batch_size=2)
    assert program.nodes[0].target == "onnx.my.lib.Spell"
    assert program.nodes[0].attributes == {"power": 3}
    assert program.tensor("y").shape == (2, 7)
    silent = write(tmp_path / "b.onnx", nodes, inputs, outputs, domains=["my.lib"])
    with pytest.raises(WorkloadError, match=r"my\.lib\.Spell") as caught:
        load_graph(silent, batch_size=2)
    assert "value_info" in caught.value.repair


def test_shapes_that_a_file_states_by_name_are_known_by_name(tmp_path):
    nodes = [
        helper.make_node("Spell", ["x"], ["m"], domain="my.lib"),
        helper.make_node("Spell", ["m"], ["y"], domain="my.lib"),
    ]
    x = info("x", ["N", "S", 4])
    path = write(
        tmp_path / "a.onnx", nodes, [x], [info("y", ["N", 9])], domains=["my.lib"],
        value_info=[info("m", ["N", "S + 1", 7])],
    )  # fmt: skip
    program = load_graph(path, batch_size=2, dims={"S": np.int64(5)})
    assert [program.tensor(name).shape for name in ("m", "y")] == [(2, 6, 7), (2, 9)]
    other = write(
        tmp_path / "b.onnx", nodes[:1], [x], [info("m", ["M", "S", 4])], domains=["my.lib"]
    )
    with pytest.raises(WorkloadError, match="not known before it runs"):
        load_graph(other, batch_size=2, dims={"S": 5})


@pytest.mark.parametrize("op", ["NonZero", "NonMaxSuppression"])
def test_results_whose_size_the_data_tell_are_refused(tmp_path, op):
    count = {"NonZero": 1, "NonMaxSuppression": 2}[op]
    names = [f"x{k}" for k in range(count)]
    path = write(
        tmp_path / "m.onnx", [helper.make_node(op, names, ["y"])],
        [info(name, ["N", 6, 4]) for name in names], [info("y", None, TensorProto.INT64)],
    )  # fmt: skip
    with pytest.raises(WorkloadError, match=op) as caught:
        load_graph(path, batch_size=1)
    assert "cut the graph" in caught.value.repair


def broken(tmp_path, kind):
    x, y = [info("x", ["N", 4])], [info("y", None)]
    relu = helper.make_node
    return {
        "cycle": lambda path: write(
            path, [relu("Add", ["x", "b"], ["a"]), relu("Relu", ["a"], ["b"]),
                   relu("Relu", ["b"], ["y"])], x, y),
        "itself": lambda path: write(path, [relu("Add", ["x", "y"], ["y"])], x, y),
        "twice": lambda path: write(
            path, [relu("Relu", ["x"], ["y"]), relu("Tanh", ["x"], ["y"])], x, y),
        "input made": lambda path: write(path, [relu("Relu", ["x"], ["x"])], x, x),
        "dangling": lambda path: write(path, [relu("Relu", ["nothing"], ["y"])], x, y),
        "no output": lambda path: write(path, [relu("Relu", ["x"], ["z"])], x, y),
        "old": lambda path: write(path, [relu("Relu", ["x"], ["y"])], x, y, opset=9),
        "new": lambda path: write(path, [relu("Relu", ["x"], ["y"])], x, y, opset=999),
        "text": lambda path: write(
            path, [relu("Identity", ["x"], ["y"])], [info("x", ["N"], TensorProto.STRING)], y),
        "rankless": lambda path: write(
            path, [relu("Relu", ["x"], ["y"])], [info("x", None)], y),
        "shapes": lambda path: write(
            path, [relu("MatMul", ["x", "w"], ["y"])], x, y, [weight("w", 5, 5)]),
        "broadcast": lambda path: write(
            path, [relu("Add", ["x", "w"], ["y"])], x, y, [weight("w", 5)]),
        "huge": lambda path: write(
            path, [relu("Expand", ["x", "t"], ["y"])], [info("x", ["N", 1])], y,
            [ints("t", 2**40, 2**40)]),
        "negative": lambda path: write(
            path, [relu("Add", ["x", "w"], ["y"])], x, y,
            [TensorProto(name="w", data_type=FLOAT, dims=[-4])]),
        "wrong inputs": lambda path: write(path, [relu("Conv", ["x"], ["y"])], x, y),
        "wrong axis": lambda path: write(
            path, [relu("Softmax", ["x"], ["y"], axis=7)], x, y),
        "weight twice": lambda path: write(
            path, [relu("Add", ["x", "w"], ["y"])], x, y, [weight("w", 4), weight("w", 4)]),
        "no domain": lambda path: write(
            path, [relu("Relu", ["x"], ["y"], domain="other")], x, y),
    }[kind](tmp_path / "broken.onnx")  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    "cycle|itself|twice|input made|dangling|no output|old|new|text|rankless|shapes|broadcast|"
    "huge|negative|wrong inputs|wrong axis|weight twice|no domain".split("|"),
)
def test_broken_files_are_complained_about_in_five_parts(tmp_path, kind):
    with pytest.raises(WorkloadError) as caught:
        load_graph(broken(tmp_path, kind), batch_size=2)
    error = caught.value
    assert all((error.where, error.got, error.accepted, error.repair))


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "m.onnx"
    for content in (b"", b"hello", b"\x00" * 64, bytes(range(256)), b'{"format": "x"}'):
        path.write_bytes(content)
        with pytest.raises(WorkloadError, match="ONNX model"):
            load_graph(path)
    with pytest.raises(WorkloadError):
        load_graph(tmp_path / "absent.onnx")


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_never_end_in_a_traceback(mlp, data):
    """Cut, overwrite or insert bytes: a program or a complaint, nothing else."""
    content = bytearray(mlp.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        what = data.draw(st.sampled_from(["cut", "set", "insert", "drop"]))
        if what == "cut":
            content = content[: max(place, 1)]
        elif what == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif what == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del content[place : place + 1]
        content = content or bytearray(b"\x00")
    damaged = mlp.with_name("damaged.onnx")
    damaged.write_bytes(content)
    with contextlib.suppress(PerfmodelError):
        assert load_graph(damaged, batch_size=2, dims={"tokens": 3}).tensors
