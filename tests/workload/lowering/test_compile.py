"""Fusion: small graphs by hand, and the kernels that PyTorch generated on a real device."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from perfmodel.cost.program.coefficients import program_coefficients
from perfmodel.cost.program.step import prepare, replayed, step
from perfmodel.hardware import load_accelerator
from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.compile.fusion import fuse
from perfmodel.workload.lowering.compile.graph import Graph, expanded, permuted, sliced
from perfmodel.workload.lowering.compile.partition import kept
from perfmodel.workload.lowering.compile.places import follow, samples
from perfmodel.workload.lowering.compile.precedence import Above
from perfmodel.workload.lowering.compile.realize import Realizer
from perfmodel.workload.lowering.compile.split import mixed_rows, stages
from perfmodel.workload.lowering.device import H100
from perfmodel.workload.program import load_program
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
program = recipes.program
HERE = Path(__file__).parent
MEASURED = HERE.parents[2] / "validate/measurements/h100-sxm5-80gb/models/compiled/kernels.csv.gz"
EAGER, COMPILED = load_stack("torch-eager"), load_stack("torch-compile")


def chain(*ops, shape=(64, 256), dtype="fp32", extra=None):
    """``x`` through maps one after the other; the last result is the output."""
    names = ["x", *(f"y{place}" for place in range(len(ops)))]
    tensors = dict.fromkeys(names, (shape, dtype)) | (extra or {})
    tensors["x"] = (shape, dtype, "input")
    nodes = [(op, [names[i]], [names[i + 1]]) for i, op in enumerate(ops)]
    return program(tensors, nodes, [names[-1]])


def compiled(made, **changes):
    return lower(made, COMPILED.model_copy(update=changes))


def test_a_chain_of_maps_is_one_kernel_that_touches_its_ends():
    lowered = compiled(chain("relu", "neg", "exp"))
    (kernel,) = lowered.kernels
    assert kernel.bytes_read == kernel.bytes_written == 4 * 64 * 256
    assert [call.kind for call in lowered.calls] == ["compiled_call", "triton"]
    assert kernel.nodes == (0, 1, 2)


@pytest.mark.parametrize("stack", [EAGER, COMPILED], ids=["eager", "compiled"])
def test_a_replay_has_the_kernels_and_prices_of_what_was_captured(stack):
    made = chain("relu", "neg", "exp")
    chip = load_accelerator("h100-sxm5-80gb")
    found = replayed(prepare(lower(made, stack), chip))
    alone = prepare(lower(made, stack.model_copy(update={"graph": True})), chip)
    assert found.lowered == alone.lowered
    assert [call.kind for call in found.lowered.calls] == ["graph_replay"]
    coefficients = program_coefficients(chip)
    assert step(found, coefficients).seconds == step(alone, coefficients).seconds


def test_softmax_with_its_neighbours_is_one_kernel():
    tensors = dict.fromkeys(("s", "y", "z"), ((64, 256), "fp32")) | {
        "x": ((64, 256), "fp32", "input")
    }
    made = program(
        tensors,
        [("mul", "x", "s", {"other": 0.5}), ("_softmax", "s", "y", {"dim": -1}), ("neg", "y", "z")],
        "z",
    )
    (kernel,) = compiled(made).kernels
    assert kernel.kind == "norm"
    assert kernel.bytes_read == kernel.bytes_written == 4 * 64 * 256


def test_what_is_not_asked_for_is_not_computed():
    made = program({"x": ((8,), "fp32", "input"), "y": ((8,), "fp32"), "z": ((8,), "fp32")},
                   [("exp", "x", "y"), ("neg", "x", "z")], "z")  # fmt: skip
    (kernel,) = compiled(made).kernels
    assert "exp" not in kernel.name


def test_the_same_step_is_computed_once():
    made = program(
        dict.fromkeys("abcd", ((512, 64), "fp32")) | {"x": ((512, 64), "fp32", "input")},
        [("exp", "x", "a"), ("exp", "x", "b"), ("add", "ab", "c"), ("add", "ab", "d")],
        "cd",
    )
    (kernel,) = compiled(made).kernels
    assert kernel.bytes_written == 4 * 512 * 64


def test_library_calls_end_a_kernel():
    made = program(
        {"x": ((64, 64), "fp32", "input"), "w": ((64, 64), "fp32", "parameter"),
         **dict.fromkeys("abc", ((64, 64), "fp32"))},
        [("relu", "x", "a"), ("mm", "aw", "b"), ("relu", "b", "c")],
        "c",
    )  # fmt: skip
    assert [k.host for k in compiled(made).kernels] == ["triton", "extern", "triton"]


@pytest.mark.parametrize(("dtype", "folded"), [("bf16", True), ("fp32", False)])
def test_a_bias_stays_in_half_precision_products(dtype, folded):
    made = program(
        {"x": ((64, 64), dtype, "input"), "w": ((64, 64), dtype, "parameter"),
         "b": ((64,), dtype, "parameter"), "y": ((64, 64), dtype), "z": ((64, 64), dtype)},
        [("addmm", "bxw", "y"), ("gelu", "y", "z")],
        "z",
    )  # fmt: skip
    _, activation = compiled(made).kernels
    assert ("bias" not in activation.name) == folded


def test_in_place_steps_change_every_view():
    made = program(
        {"x": ((8, 16), "fp32", "input"), "y": ((8, 16), "fp32"),
         "v": ((128,), "fp32", "view of y"), "z": ((128,), "fp32")},
        [("exp", "x", "y"), ("view", "y", "v", {"size": [128]}), ("mul_", "y", "y", {"other": 2}),
         ("neg", "v", "z")],
        "z",
    )  # fmt: skip
    (kernel,) = compiled(made).kernels
    assert {"exp", "mul", "neg"} <= set(kernel.name.split("+"))


def test_running_statistics_are_written_back():
    tensors = {"x": ((4, 8, 6, 6), "fp32", "input"), "y": ((4, 8, 6, 6), "fp32"),
               **dict.fromkeys("wb", ((8,), "fp32", "parameter")),
               **dict.fromkeys("mv", ((8,), "fp32", "buffer")), "s": ((8,), "fp32"),
               "r": ((8,), "fp32")}  # fmt: skip
    made = program(tensors, [("native_batch_norm", "xwbmv", "ysr", {"training": True})], "y")
    written = {storage for kernel in compiled(made).kernels for storage, _ in kernel.writes}
    assert {made.tensor("m").storage, made.tensor("v").storage} <= written


def training():
    """y = relu(x @ w) ** 2, and the gradient of w."""
    shape, phase = (4096, 512), "backward"
    tensors = {
        "x": ((4096, 512), "fp32", "input"), "w": ((512, 512), "fp32", "parameter"),
        **dict.fromkeys("hrygab", (shape, "fp32")), "dw": ((512, 512), "fp32", "gradient"),
        "xt": ((512, 4096), "fp32", "view of x", "strided"),
    }  # fmt: skip
    nodes = [
        ("mm", "xw", "h"), ("relu", "h", "r"), ("mul", "rr", "y"),
        ("ones_like", "y", "g", {}, phase), ("mul", "gr", "a", {}, phase),
        ("threshold_backward", "ar", "b", {}, phase), ("t", "x", ["xt"], {}, phase),
        ("mm", ["xt", "b"], ["dw"], {}, phase),
    ]  # fmt: skip
    return program(tensors, nodes, ["y", "dw"])


def test_the_backward_pass_computes_maps_again_and_keeps_products():
    lowered = compiled(training())
    backward = [kernel for kernel in lowered.kernels if kernel.phase == "backward"]
    assert [kernel.host for kernel in backward] == ["triton", "extern"]
    # only the product's result (or the map behind it) is read, not both
    assert backward[0].bytes_read == 4 * 4096 * 512


def test_the_cut_keeps_the_smaller_of_two_values():
    graph = Graph()
    x = graph.add("source", (), (1024, 64), "fp32", "x", storage=0)
    wide = graph.add("extern", (x,), (1024, 64), "fp32", "mm", heavy=True)
    up = graph.map("cast", (wide,), (1024, 64), "fp64", 0)
    out = graph.map("exp", (up,), (1024, 64), "fp64", 8)
    graph.backward = True
    grad = graph.map("mul", (up, up), (1024, 64), "fp64", 1)
    assert kept(graph, {x, wide, up, out}, {grad}) == {wide}


def test_memory_is_taken_and_given_back_in_full():
    made = training()
    lowered = compiled(made)
    resident = {entry.storage for entry in lowered.resident}
    alive: dict[int, int] = {}
    for event in lowered.events:
        if event.allocate:
            assert event.storage not in alive
            alive[event.storage] = event.bytes
        else:
            assert alive.pop(event.storage) == event.bytes
    assert set(alive) == {made.tensor("y").storage, made.tensor("dw").storage}
    for kernel in lowered.kernels:
        for storage, _ in (*kernel.reads, *kernel.writes):
            assert storage >= 0
            assert storage in resident or any(e.storage == storage for e in lowered.events)


def test_index_maps_follow_numpy():
    numpy = pytest.importorskip("numpy")
    parent = numpy.arange(2 * 3 * 5).reshape(2, 3, 5)
    places = numpy.arange(30)
    turned = follow(permuted((2, 3, 5), (2, 0, 1)), places)
    assert (turned == parent.transpose(2, 0, 1).ravel()).all()
    cut = follow(sliced((2, 3, 5), 2, 1, 2, 2), numpy.arange(12))
    assert (cut == parent[:, :, 1:5:2].ravel()).all()
    spread = follow(expanded((3, 1), (2, 3, 4)), numpy.arange(24))
    assert (spread == numpy.broadcast_to(numpy.arange(3).reshape(3, 1), (2, 3, 4)).ravel()).all()
    assert samples(1).tolist() == [0] * 7


@pytest.mark.parametrize(
    ("numel", "reduced", "inner", "expected"),
    [
        (4096, 768, True, 1),  # a row norm
        (1, 8192, True, 1),
        (1, 2**20, True, 128),
        (768, 8192, False, 64),  # a bias gradient
        (10000, 10**6, False, 1),
        (64, 16, False, 1),
    ],
)
def test_stages_of_sums(numel, reduced, inner, expected):
    assert stages(numel, reduced, H100, inner=inner) == expected


def test_a_chip_of_fewer_units_splits_a_sum_into_fewer_parts():
    few = replace(H100, units=32)
    assert stages(64, 2**18, few, inner=False) < stages(64, 2**18, H100, inner=False)


def test_no_group_waits_for_itself():
    # a -> library -> c, and a -> c: fusing a with c would run around through the library call
    graph = Graph()
    x = graph.add("source", (), (256, 256), "fp32", "x", storage=0)
    a = graph.map("exp", (x,), (256, 256), "fp32", 8, heavy=True)
    b = graph.add("extern", (a,), (256, 256), "fp32", "mm", heavy=True)
    c = graph.map("add", (a, b), (256, 256), "fp32", 1, heavy=True)
    buffers = Realizer(graph, range(4), [c]).buffers()
    assert [len(group) for group in fuse(buffers)] == [1, 1, 1]


@pytest.mark.parametrize("path", sorted((HERE / "programs").glob("*.gz")), ids=lambda p: p.name)
def test_fusion_moves_less_and_keeps_the_arithmetic(path):
    made = load_program(path)
    eager, fused = lower(made, EAGER), compiled(made)

    def moved(lowered):
        return sum(k.bytes_read + k.bytes_written for k in lowered.kernels)

    def products(lowered):
        return sum(k.flops for k in lowered.kernels if k.kind in ("gemm", "conv", "attention"))

    assert moved(fused) < moved(eager)
    # rows may be padded to 16 bytes
    assert products(eager) <= products(fused) <= 1.001 * products(eager)
    assert not fused.unknown
    assert not eager.unknown
    assert len(fused.calls) < len(eager.calls)


@pytest.mark.parametrize("path", sorted((HERE / "programs").glob("*.gz")), ids=lambda p: p.name)
def test_as_many_generated_kernels_as_on_an_h100(path):
    """Kernels named ``triton_*`` in the profile of the same model under ``torch.compile``."""
    kind, model, *rest = path.name.removesuffix(".json.gz").split("-")
    case = "/".join([kind, model, "compiled", *rest])
    seen = Counter()
    with gzip.open(MEASURED, "rt") as lines:
        for row in csv.DictReader(lines):
            if row["case"] == case:
                seen[row["kernel"].startswith("triton")] += int(row["count"])
    ours = sum(k.launches for k in compiled(load_program(path)).kernels if k.host == "triton")
    assert seen[True] > 0
    assert abs(ours - seen[True]) <= 0.03 * seen[True]


def test_a_loss_of_the_caller_is_not_compiled():
    name = "train-gpt2_small-b8-s1024-bf16-nchw-pure-adamw-fused.json.gz"
    made = load_program(HERE / "programs" / name)
    outside, inside = compiled(made), compiled(made, compile_loss=True)

    def hosts(lowered):
        return {made.nodes[k.nodes[0]].target: k.host for k in lowered.kernels if k.nodes}

    assert hosts(outside)["aten._log_softmax"] == "norm"
    assert "norm" not in {kernel.host for kernel in inside.kernels}
    phases = [call.phase for call in outside.calls if call.kind == "compiled_call"]
    assert phases == ["forward", "backward"]


def test_a_captured_compiled_step_is_one_replay():
    lowered = lower(chain("relu", "exp"), load_stack("torch-compile-graph"))
    assert [call.kind for call in lowered.calls] == ["graph_replay"]
    assert {event.call for event in lowered.events} == {0}


def test_a_cycle_through_a_wide_group_is_seen():
    # l1 reads a; a wide group holds a late map of l1's result and an early one that l2 waits for
    graph = Graph()
    x = graph.add("source", (), (256, 256), "fp32", "x", storage=0)
    early = graph.map("exp", (x,), (256, 256), "fp32", 8, heavy=True)
    first = graph.add("extern", (x,), (256, 256), "fp32", "mm", heavy=True)
    late = graph.map("add", (x, first), (256, 256), "fp32", 1, heavy=True)
    second = graph.add("extern", (early,), (256, 256), "fp32", "mm", heavy=True)
    end = graph.map("mul", (x, second), (256, 256), "fp32", 1, heavy=True)
    third = graph.add("extern", (late,), (256, 256), "fp32", "mm", heavy=True)
    outputs = [end, third]
    buffers = Realizer(graph, range(third + 1), outputs).buffers()
    order = [place for group in fuse(buffers) for place in group]
    made = {buffers[place].value.number: turn for turn, place in enumerate(order)}
    home = {place: turn for turn, group in enumerate(fuse(buffers)) for place in group}
    for place, buffer in enumerate(buffers):
        for read in buffer.reads:
            if read.buffer in made:
                source = order[made[read.buffer]]
                assert home[source] <= home[place]


def test_merged_groups_keep_everything_before_them():
    above = Above([set(), {0}, {1}, {0}, {3}])  # 0 -> 1 -> 2 and 0 -> 3 -> 4
    assert above.is_between(0, 2)
    assert not above.is_between(0, 1)
    above.merge(2, 3)  # now 1 is before 2, and 2 before 4
    assert above.is_between(1, 4)
    assert above.is_between(0, 4)
    assert above.ordered({0: 0, 1: 1, 2: 2, 4: 4}) == [0, 1, 2, 4]


def test_a_scatter_counts_what_it_writes():
    tensors = {
        "cache": ((8, 2048, 64), "bf16", "state"),
        "new": ((8, 1, 64), "bf16", "input"),
        "at": ((1,), "int64", "input"),
        "out": ((8, 2048, 64), "bf16", "view of cache"),
    }
    made = program(tensors, [("index_copy_", ["cache", "at", "new"], ["out"], {"dim": 1})])
    (kernel,) = compiled(made).kernels
    assert kernel.bytes_written == 2 * 8 * 64
    assert kernel.flops <= 8 * 8 * 64


@pytest.mark.parametrize(("rows", "each"), [(4096, 16), (8192, 16), (50000, 32), (10**7, 128)])
def test_rows_of_a_block_where_sums_of_both_kinds_share_a_kernel(rows, each):
    assert mixed_rows(rows, 132) == each


def test_views_of_other_rank_are_stored_before_they_become_images():
    shape, split = (64, 16, 8, 8), (64, 8, 2, 8, 8)
    tensors = {
        "x": (shape, "bf16", "input", "channels_last"),
        "w": ((16, 8, 3, 3), "bf16", "parameter", "channels_last"),
        "a": (shape, "bf16", "activation", "channels_last"),
        "v": ((64, 2, 8, 8, 8), "bf16", "view of a", "strided"),
        "t": (split, "bf16", "view of a", "strided"),
        "c": (split,),
        "m": (shape, "bf16", "view of c"),
        "s0": ((64, 8, 8, 8), "bf16", "view of c", "strided"),
        "s1": ((64, 8, 8, 8), "bf16", "view of c", "strided"),
        "y": (shape, "bf16", "activation", "channels_last"),
    }
    conv = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1,
            "transposed": False, "output_padding": [0, 0]}  # fmt: skip
    nodes = [
        ("relu", ["x"], ["a"]),
        ("view", ["a"], ["v"], {"size": [64, 2, 8, 8, 8]}),
        ("transpose", ["v"], ["t"], {"dim0": 1, "dim1": 2}),
        ("clone", ["t"], ["c"], {"memory_format": "contiguous"}),
        ("view", ["c"], ["m"], {"size": list(shape)}),
        ("split", ["m"], ["s0", "s1"], {"split_size": 8, "dim": 1}),
        ("convolution", ["s1", "w"], ["y"], conv),
    ]
    loops = [k for k in compiled(program(tensors, nodes, "y")).kernels if k.host == "triton"]
    assert [k.bytes_written for k in loops] == [2 * 64 * 16 * 64, 2 * 64 * 8 * 64]


def test_what_attention_saves_is_made_in_full_and_copied_for_it():
    """The packed projection stays for the backward pass; heads are copied out of it."""
    shape, part = (3, 16, 2, 64), (2, 4, 16, 16)
    tensors = {
        "a": (shape, "bf16", "input"), "b": ((64,), "bf16", "parameter"), "p": (shape,),
        "s": ((1, 16, 2, 64), "bf16", "view of p"), "q": (part, "bf16", "view of p", "strided"),
        "o": (part,), "l": ((2, 4, 16), "fp32"), "g": (part, "bf16", "input"),
        "x": (part,), "y": (part,), "z": (part,),
    }  # fmt: skip
    name = "_scaled_dot_product_flash_attention"
    forward = [
        ("add", "ab", "p"), ("slice", "p", "s", {"dim": 0, "start": 0, "end": 1}),
        ("view", "s", "q", {"size": list(part)}), (name, "qqq", "ol"),
    ]  # fmt: skip
    backward = [(f"{name}_backward", "gqqqol", "xyz", {}, "backward")]
    inference = lower(program(tensors, forward, "o"), COMPILED).kernels
    training = lower(program(tensors, forward + backward, "oxyz"), COMPILED).kernels
    made, copied = [k.name.split("+") for k in training if k.phase == "forward"][:2]
    assert next(k.name.split("+") for k in inference) == ["copy", "add"]
    assert made == ["add"]
    assert copied == ["copy"]


def test_a_weight_norm_is_generated_code():
    tensors = {"v": ((768, 48, 128),), "g": ((1, 1, 128),), "w": ((768, 48, 128),),
               "n": ((1, 1, 128), "fp32")}  # fmt: skip
    nodes = [("_weight_norm_interface", "vg", "wn", {"dim": 2})]
    found = lower(program(tensors, nodes, "w"), COMPILED).kernels
    assert {kernel.host for kernel in found} == {"triton"}
    assert found[-1].bytes_written == 2 * 768 * 48 * 128


def test_angles_are_computed_for_every_element_of_a_loop():
    def work(op):
        tensors = {"a": ((1, 512, 64), "fp32", "input"), "s": ((1, 512, 64), "fp32"),
                   "x": ((8, 512, 64), "fp32", "input"), "y": ((8, 512, 64), "fp32")}  # fmt: skip
        (kernel,) = lower(
            program(tensors, [(op, "a", "s"), ("mul", "xs", "y")], "y"), COMPILED
        ).kernels
        return kernel.flops

    assert work("sin") > 8 * work("exp")


def test_heads_that_attention_repeats_are_copied_out():
    half = ((2, 1, 64, 32), "bf16")
    tensors = {
        "k": (*half, "input"), "v": (*half, "input"), "q": ((2, 4, 64, 32), "bf16", "input"),
        "r": half, "w": ((2, 4, 64, 32), "bf16", "view of r", "strided"),
        "u": ((2, 4, 64, 32), "bf16", "view of v", "strided"), "o": ((2, 4, 64, 32), "bf16"),
    }  # fmt: skip
    nodes = [
        ("exp", "k", "r"),
        ("expand", "r", "w", {"size": [2, 4, 64, 32]}),
        ("expand", "v", "u", {"size": [2, 4, 64, 32]}),
        ("_scaled_dot_product_cudnn_attention", "qwu", "o", {}),
    ]
    found = compiled(program(tensors, nodes, "o")).kernels
    # keys are made, then copied four times over; values lie in memory and are repeated in place
    assert [kernel.kind for kernel in found] == ["pointwise", "pointwise", "attention"]
    assert found[1].bytes_written == 4 * found[0].bytes_written == 2 * 2 * 4 * 64 * 32


def test_a_lone_warp_waits_for_its_sines():
    def seconds(rows, angle):
        tensors = {"x": ((rows, 256), "fp32", "input"), "a": ((rows, 256), "fp32"),
                   "s": ((rows, 1), "fp32"), "y": ((rows, 256), "fp32")}  # fmt: skip
        nodes = [(angle, "x", "a"), ("mean", "x", "s", {"dim": [-1], "keepdim": True}),
                 ("mul", "as", "y")]  # fmt: skip
        (kernel,) = compiled(program(tensors, nodes, "y")).kernels
        return kernel.flops

    # four rows of 256 to a warp: 32 sines in a thread, whether there are warps beside it or not
    assert seconds(1024, "sin") == pytest.approx(seconds(4096, "sin"), rel=0.02)
    assert seconds(1024, "sin") > 20 * seconds(1024, "exp")
    assert seconds(512, "sin") < seconds(1024, "sin") / 20  # a row to more warps


@pytest.mark.parametrize(
    ("shape", "over", "rows"),
    [((2048, 512), -1, 2048), ((8, 512), -1, None), ((64, 4096), 0, None)],
)
def test_rows_that_take_turns_are_told(shape, over, rows):
    tensors = {"x": (shape, "fp32", "input"), "y": (shape, "fp32"), "z": (shape, "fp32")}
    nodes = [("_softmax", "x", "y", {"dim": over}), ("neg", "y", "z")]
    (kernel,) = compiled(program(tensors, nodes, "z")).kernels
    assert kernel.ops[0].rows == rows
    assert kernel.bytes_read == kernel.bytes_written == 4 * shape[0] * shape[1]


def test_a_graph_ends_where_python_learns_a_number():
    """As a layer that may be dropped asks for a random number."""
    tensors = {
        "x": ((64, 64), "bf16", "input"), "w": ((64, 64), "bf16", "parameter"),
        "r": ((), "fp32"), "b": ((), "fp32"), "y": ((64, 64),), "z": ((64, 64),),
    }  # fmt: skip
    asked = [("rand", "", "r", {"size": []}), ("_local_scalar_dense", "r", "")]
    for nodes, graphs in ((asked, 2), ([], 1)):
        made = program(tensors, [("mm", "xw", "y"), *nodes, ("mm", "yw", "z")], "z")
        calls = [call.kind for call in compiled(made).calls]
        assert calls.count("compiled_call") == graphs
        assert calls.count("extern") == 2
