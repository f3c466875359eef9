"""Order and blocks of compiled graphs: by hand, and against peaks that an H100's allocator saw."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from perfmodel.cost.program.memory import replay
from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.compile.locality import late
from perfmodel.workload.lowering.compile.order import Step, memory_at_steps, peak_order
from perfmodel.workload.lowering.compile.partition import kept, needed
from perfmodel.workload.lowering.compile.reuse import Demand, Need, share_blocks
from perfmodel.workload.lowering.device import H100
from perfmodel.workload.program import load_program
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
program = recipes.program
ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "validate/programs"
MEASURED = ROOT / "validate/measurements/h100-sxm5-80gb/models/compiled/cases.csv"
EAGER, COMPILED = load_stack("torch-eager"), load_stack("torch-compile")
FORM = ("bf16", 50)


def step(makes, reads=(), after=()):
    return Step(makes, frozenset(reads), frozenset(after))


def test_memory_counts_a_buffer_until_its_last_reader_and_what_lasts_for_ever():
    steps = [step({1: 10}), step({2: 5}, [1], [0]), step({3: 1}, [2], [1])]
    assert memory_at_steps(steps, [0, 1, 2], {}, [3]) == [10, 15, 6]
    assert memory_at_steps(steps, [0, 1, 2], {9: 4}, [1, 3]) == [14, 19, 20]


def test_branches_that_shrink_run_before_the_next_one_begins():
    # two large buffers, each summed to a small one: side by side they would both be alive
    steps = [
        step({1: 100}),
        step({2: 100}),
        step({3: 1}, [1], [0]),
        step({4: 1}, [2], [1]),
        step({5: 1}, [3, 4], [2, 3]),
    ]
    order = peak_order(steps, {}, [5])
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order.index(2) < order.index(1) or order.index(3) < order.index(0)
    assert max(memory_at_steps(steps, [0, 1, 2, 3, 4], {}, [5])) == 201
    assert max(memory_at_steps(steps, order, {}, [5])) == 102
    for place, number in enumerate(order):
        assert steps[number].after <= set(order[:place])


def test_the_order_that_fusion_left_stays_where_none_is_better():
    steps = [step({1: 10}), step({2: 10}, [1], [0]), step({3: 10}, [2], [1])]
    assert peak_order(steps, {}, [3]) == [0, 1, 2]
    assert peak_order([], {}, []) == []


def test_inference_computes_each_value_where_it_is_first_asked_for():
    graph = Graph()
    x = graph.add("source", (), (64,), "fp32", "x", storage=0)
    early = graph.map("value", (x,), (64,), "fp32", 1)
    query = graph.map("query", (x,), (64,), "fp32", 1)
    scores = graph.map("scores", (query, x), (64,), "fp32", 1)
    out = graph.map("product", (scores, early), (64,), "fp32", 1)
    assert late(graph, [x, early, query, scores, out]) == [x, query, scores, early, out]
    assert late(graph, []) == []
    wrote = graph.map("scatter", (x, out), (64,), "fp32", 1, scatter=True)
    kept = [x, early, query, scores, out, wrote]
    assert late(graph, kept) == kept


def need(buffer, **changes):
    return Need(buffer, 100, FORM, **changes)


def test_a_dead_block_is_handed_on_where_the_peak_allows_it():
    # buffer 1 dies with step 0; step 2 asks for the same form
    turns = [
        Demand((need(1),), (1,)),
        Demand((Need(7, 300, ("fp32", 75)),), (7,)),
        Demand((need(2),), ()),
    ]
    held = share_blocks(turns, [100, 300, 400], [])
    assert held.block[2] == held.block[1] == 1
    assert held.taken == [[(1, 100)], [(7, 300)], []]
    assert held.returned == [[], [7], []]
    freed = share_blocks(turns, [100, 350, 400], [])
    assert freed.block[2] == 2
    assert freed.returned == [[1], [7], []]


def test_a_block_is_handed_to_the_next_step_whatever_the_peak():
    turns = [Demand((need(1),), (1,)), Demand((need(2),), ())]
    assert share_blocks(turns, [100, 100], []).block[2] == 1


def test_a_library_call_takes_its_own_block_and_passes_it_on():
    turns = [Demand((need(1),), (1,)), Demand((need(2, own=True),), (2,)), Demand((need(3),), ())]
    plan = share_blocks(turns, [100, 100, 100], [])
    assert plan.block[2] == 2
    assert plan.block[3] == 2  # the block that was left last


def test_another_form_is_another_block_and_given_ones_go_back():
    other = Need(2, 100, ("fp32", 25))
    plan = share_blocks([Demand((need(1),), (1, 8)), Demand((other,), ())], [100, 100], [8])
    assert plan.block[2] == 2
    assert plan.returned[0] == [1, 8]
    over = share_blocks([Demand((need(1, over=8),), (8,))], [100], [8])
    assert over.block[1] == 8
    assert over.returned == [[]]


def test_norms_of_images_that_lie_channels_last_sum_along_memory():
    # a norm over the channels of a channels-last convolution, seen as rows
    shape, seen = (8, 64, 7, 7), (8, 7, 7, 64)
    tensors = {
        "x": ((8, 64, 7, 7), "bf16", "input", "channels_last"),
        "w": ((64, 64, 3, 3), "bf16", "parameter", "channels_last"),
        "g": ((64,), "bf16", "parameter"),
        "c": (shape, "bf16", "activation", "channels_last"),
        "p": (seen, "bf16", "view of c", "strided"),
        "y": (seen, "bf16"),
        "m": ((8, 7, 7, 1), "fp32"),
        "r": ((8, 7, 7, 1), "fp32"),
    }
    nodes = [
        ("convolution", "xw", "c", {"stride": [1, 1], "padding": [1, 1], "groups": 1}),
        ("permute", "c", "p", {"dims": [0, 2, 3, 1]}),
        ("native_layer_norm", "pg", "ymr", {"normalized_shape": [64]}),
    ]
    lowered = lower(program(tensors, nodes, ["y"]), COMPILED)
    assert [kernel.kind for kernel in lowered.kernels] == ["conv", "norm"]
    sizes = [event.bytes for event in lowered.events if event.allocate]
    assert sizes == [8 * 64 * 49 * 2]  # written over the convolution's result


def test_batch_norms_of_few_blocks_wait_less_on_a_faster_clock():
    tensors = {
        "x": ((8, 64, 16, 16), "bf16", "input", "channels_last"),
        **dict.fromkeys("wbmv", ((64,), "fp32", "parameter")),
        "y": ((8, 64, 16, 16), "bf16", "activation", "channels_last"),
        "s": ((0,), "fp32"),
        "t": ((0,), "fp32"),
    }
    made = program(tensors, [("native_batch_norm", "xwbmv", "yst", {"training": False})], ["y"])

    def moved(device):
        return lower(made, EAGER, device).kernels[-1].ops[0].bytes_read

    slow, usual, fast = (replace(H100, clock=clock) for clock in (1e9, H100.clock, 2.5e9))
    assert moved(H100) == moved(usual)
    assert moved(slow) / slow.clock > moved(usual) / usual.clock > moved(fast) / fast.clock


def measured():
    with MEASURED.open(encoding="utf-8", newline="") as handle:
        rows = {row["case"]: row for row in csv.DictReader(handle)}
    return rows


@pytest.mark.parametrize(
    ("case", "ending", "within"),
    [
        ("infer/resnet18/compiled/b64/s0/bf16/nhwc", "", 0.001),
        ("infer/vit_b_16/compiled/b64/s0/bf16/nchw", "-compiled", 0.001),
        ("infer/bert_base/compiled/b64/s128/bf16/nchw", "-captured", 0.001),
        ("prefill/llama_1b/compiled/b1/s2048/bf16/nchw", "", 0.001),
        ("infer/convnext_tiny/compiled/b64/s0/bf16/nhwc", "", 0.001),
        ("infer/segformer_b0/compiled/b8/s0/bf16/nhwc", "", 0.02),
        ("infer/deit_small_patch16_224/compiled/b8/s0/bf16/nchw", "", 0.025),
    ],
)
def test_blocks_of_a_compiled_step_as_an_h100_saw_them(case, ending, within):
    path = PROGRAMS / f"{case.replace('/compiled', '').replace('/', '-')}{ending}.json.gz"
    if not MEASURED.is_file() or not path.is_file():
        pytest.skip("measurements are not in this checkout")
    row = measured()[case]
    step_bytes = int(row["peak_allocated"]) - int(row["before_allocated"])
    memory = replay(lower(load_program(path), COMPILED), workspace=32 * 2**20)
    found = memory.peak_allocated - memory.resident - memory.at_peak.get("workspace", 0)
    assert found == pytest.approx(step_bytes, rel=within)


def test_the_image_of_a_pool_and_small_places_are_kept_for_its_gradient():
    def saved(beside):
        graph = Graph()
        x = graph.add("source", (), (8, 64, 64), "bf16", "x", storage=0)
        image = graph.map("exp", (x,), (8, 64, 64), "bf16", 8)
        graph.map("max_pool2d", (image,), (8, 32, 32), "bf16", 8, window=True)
        places = graph.map("max_pool2d_i", (image,), (8, 32, 32), "int8", 8, window=True)
        graph.backward = True
        grad = graph.add("source", (), (8, 32, 32), "bf16", "grad", storage=1)
        back = graph.map(
            "max_pool2d_backward", (grad, places), (8, 64, 64), "bf16", 8, window=True,
            beside=(image,) if beside else (),
        )  # fmt: skip
        out = graph.map("mul", (back, image), (8, 64, 64), "bf16", 1)
        late = {grad, back, out}
        return kept(graph, needed(graph, [out]) - late, late), image, places

    for beside in (True, False):
        found, image, places = saved(beside)
        assert places in found
        assert (image in found) == beside


def test_a_part_of_a_gradient_is_copied_in_the_call_that_reads_it():
    tensors = {
        "g": ((4, 32, 16, 16), "bf16", "input", "channels_last"),
        "part": ((4, 16, 16, 16), "bf16", "view of g", "strided"),
        "x": ((4, 8, 16, 16), "bf16", "input", "channels_last"),
        "w": ((16, 8, 3, 3), "bf16", "parameter", "channels_last"),
        "dx": ((4, 8, 16, 16), "bf16", "activation", "channels_last"),
        "dw": ((16, 8, 3, 3), "bf16", "gradient", "channels_last"),
    }
    given = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1,
             "transposed": False, "output_mask": [True, True, False]}  # fmt: skip
    nodes = [
        ("slice", ["g"], ["part"], {"dim": 1, "start": 0, "end": 16}, "backward"),
        ("convolution_backward", ["part", "x", "w"], ["dx", "dw"], given, "backward"),
    ]
    lowered = lower(recipes.program(tensors, nodes, ["dx", "dw"]), load_stack("torch-eager"))
    copies = [kernel for kernel in lowered.kernels if kernel.name == "convolution: reorder"]
    assert [kernel.bytes_written for kernel in copies] == [2 * 4 * 16 * 16 * 16]
    scratch = [e.bytes for e in lowered.events if e.kind == "temporary" and e.allocate]
    assert scratch == [2 * 4 * 16 * 16 * 16]


def test_a_step_with_gradients_holds_one_mask():
    """Equal operators are one in a graph of both passes; an inference graph keeps each layer's."""
    shape, rows = (2, 4, 64, 32), (2, 4, 64, 1)
    tensors = {"q": (shape, "bf16", "input"), "m": ((2, 1, 64, 64), "bool", "input"),
               "g": (shape, "bf16", "input"), "z": ((), "bf16"), "w": ((), "bf16"),
               "a": ((2, 1, 64, 64), "bf16"), "b": ((2, 1, 64, 64), "bf16"),
               "o": (shape,), "l": (rows, "fp32"), "p": (shape,), "k": (rows, "fp32"),
               "x": (shape,), "y": (shape,), "v": (shape,)}  # fmt: skip
    name = "_scaled_dot_product_cudnn_attention"
    forward = [
        ("scalar_tensor", "", "z", {"s": 0.0}), ("where", "mzz", "a"),
        (name, "qqqa", "ol", {}),
        ("scalar_tensor", "", "w", {"s": 0.0}), ("where", "mww", "b"),
        (name, "oqqb", "pk", {}),
    ]  # fmt: skip
    backward = [(f"{name}_backward", "goqqpkb", "xyv", {}, "backward")]

    def masks(nodes, outputs):
        found = lower(program(tensors, nodes, outputs), load_stack("torch-compile")).kernels
        written = sum(kernel.bytes_written for kernel in found if "where" in kernel.name)
        return written / (2 * 2 * 64 * 64)

    assert masks(forward, "p") == 2
    assert masks(forward + backward, "pxyv") == 1
