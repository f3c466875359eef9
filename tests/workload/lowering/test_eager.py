"""Eager kernels: FLOPs and bytes against closed forms."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import WorkloadError
from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.eager.inside import recomputed
from perfmodel.workload.lowering.eager.names import group_of, groups
from perfmodel.workload.lowering.eager.optimizer import launches
from perfmodel.workload.lowering.eager.strides import follow
from perfmodel.workload.lowering.eager.table import RULES
from perfmodel.workload.lowering.kernel import HOST_CLASSES
from perfmodel.workload.lowering.stream import OFFSETS, TURNED, map_op, stream
from perfmodel.workload.op import (
    AdamW,
    Conv2d,
    Elementwise,
    Embedding,
    Fft,
    Gemm,
    ScatterAdd,
    Softmax,
)
from perfmodel.workload.program import Node, Tensor
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
program = recipes.program
EAGER = load_stack("torch-eager")


def kernels(tensors, *nodes):
    return lower(program(tensors, nodes), EAGER).kernels


def test_every_group_has_a_rule_and_no_operator_two_groups():
    listed = groups()
    assert {name.rstrip("_0123456789") for name in listed.values()} == set(RULES)
    assert group_of("relu_") == group_of("relu") == "pointwise_1"
    assert group_of("nothing_like_it") == ""


def test_a_linear_layer_adds_its_bias_in_the_product():
    (kernel,) = kernels(
        {"b": ((64,), "bf16", "parameter"), "x": ((32, 16),), "w": ((16, 64),), "y": ((32, 64),)},
        ("addmm", "bxw", "y"),
    )
    assert kernel.ops == (Gemm(32, 64, 16, dtype="bf16", trans="nn"),)
    assert kernel.flops == 2 * 32 * 64 * 16
    assert kernel.bytes_read == 2 * (64 + 32 * 16 + 16 * 64)
    assert kernel.bytes_written == 2 * 32 * 64


def test_a_matrix_addend_is_copied_first():
    found = kernels(
        {"c": ((32, 64),), "x": ((32, 16),), "w": ((16, 64),), "y": ((32, 64),)},
        ("addmm", "cxw", "y"),
    )
    assert [kernel.kind for kernel in found] == ["copy", "gemm"]
    assert found[0].bytes_read == found[0].bytes_written == 2 * 32 * 64


def test_a_part_of_a_weight_is_one_matrix_for_a_whole_batch():
    tensors = {
        "packed": ((96, 32), "bf16", "parameter"),
        "x": ((50, 4, 32),),
        "w": ((50, 32, 64), "bf16", "view of packed", "strided"),
        "y": ((50, 4, 64),),
    }
    (kernel,) = kernels(tensors, ("bmm", "xw", "y"))
    assert kernel.ops == (Gemm(50 * 64, 64, 32, dtype="bf16"),)


@pytest.mark.parametrize(
    ("layout", "dtype", "expected"),
    [("channels_last", "bf16", "nhwc"), ("contiguous", "bf16", "nchw")],
)
def test_convolution_forward_and_backward_are_the_same_layer(layout, dtype, expected):
    attributes = {"stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    tensors = {
        "x": ((4, 16, 15, 15), dtype, "input", layout),
        "w": ((32, 16, 3, 3), dtype, "parameter", layout),
        "b": ((32,), dtype, "parameter"),
        "y": ((4, 32, 8, 8), dtype, "activation", layout),
        "g": ((4, 32, 8, 8), dtype, "activation", layout),
        "dx": ((4, 16, 15, 15), dtype, "activation", layout),
        "dw": ((32, 16, 3, 3), dtype, "gradient", layout),
        "db": ((32,), dtype, "gradient"),
    }
    found = kernels(
        tensors,
        ("convolution", "xwb", "y", attributes),
        ("convolution_backward", "gxw", ("dx", "dw", "db"),
         attributes | {"output_mask": [True, True, True]}, "backward"),
    )  # fmt: skip
    plain = Conv2d(4, 16, 15, 15, 32, 3, 2, 1, layout=expected, dtype=dtype)
    conv = [kernel for kernel in found if kernel.kind == "conv"]
    assert [kernel.ops[0].direction for kernel in conv] == ["fwd", "dgrad", "wgrad"]
    assert {kernel.flops for kernel in conv} == {float(plain.flops)}
    assert conv[0].bytes_read == plain.bytes_read
    assert conv[0].bytes_written == plain.bytes_written
    assert {kernel.ops[0].layout for kernel in conv} == {expected}
    assert [kernel.kind for kernel in found] == ["conv", "pointwise", "conv", "conv", "reduction"]


@pytest.mark.parametrize(
    ("channels", "groups", "taps", "expected"),
    [(768, 16, 128, "fp32"), (512, 1, 128, "fp32"), (1024, 16, 128, "bf16"), (768, 16, 64, "bf16")],
)
def test_filters_too_wide_for_tensor_cores_multiply_in_fp32(channels, groups, taps, expected):
    tensors = {
        "x": ((1, channels, 200), "bf16", "input"),
        "w": ((channels, channels // groups, taps), "bf16", "parameter"),
        "y": ((1, channels, 201 - taps), "bf16"),
    }
    (kernel,) = kernels(tensors, ("convolution", "xw", "y", {"stride": [1], "groups": groups}))
    assert kernel.ops[0].dtype == expected


def test_fp32_convolutions_use_tensor_cores_and_products_do_not():
    tensors = {
        "x": ((1, 8, 8, 8), "fp32", "input"), "w": ((8, 8, 1, 1), "fp32", "parameter"),
        "y": ((1, 8, 8, 8), "fp32"), "a": ((8, 8), "fp32"), "c": ((8, 8), "fp32"),
    }  # fmt: skip
    nodes = (("convolution", "xw", "y", {"stride": [1, 1]}), ("mm", "aa", "c"))
    conv, product = lower(program(tensors, nodes), EAGER).kernels
    assert (conv.ops[0].dtype, product.ops[0].dtype) == ("tf32", "fp32")
    fast = EAGER.model_copy(update={"matmul_fp32": "tf32", "convolution_fp32": "fp32"})
    conv, product = lower(program(tensors, nodes), fast).kernels
    assert (conv.ops[0].dtype, product.ops[0].dtype) == ("fp32", "tf32")


def test_one_dimension_and_transposed_convolutions():
    one, up = kernels(
        {
            "x": ((2, 8, 100),), "w": ((16, 8, 3),), "y": ((2, 16, 100),),
            "u": ((2, 8, 10, 10),), "v": ((8, 4, 2, 2),), "z": ((2, 4, 20, 20),),
        },
        ("convolution", "xw", "y", {"stride": [1], "padding": [1], "groups": 1}),
        ("convolution", "uv", "z",
         {"stride": [2, 2], "padding": [0, 0], "transposed": True, "groups": 1}),
    )  # fmt: skip
    assert one.flops == 2 * 2 * 16 * 100 * 8 * 3
    assert up.flops == 2 * 2 * 8 * 10 * 10 * 4 * 2 * 2
    assert up.ops[0].direction == "dgrad"


def test_views_cost_the_host_only():
    lowered = lower(
        program(
            {"x": ((4, 8),), "v": ((32,), "bf16", "view of x"), "e": ((4, 4, 8),)},
            [("view", "x", "v"), ("empty", "", "e")],
        ),
        EAGER,
    )
    assert lowered.kernels == ()
    assert [call.kind for call in lowered.calls] == ["view", "allocate"]


def test_a_broadcast_operand_is_read_once():
    (kernel,) = kernels({"x": ((64, 128),), "s": ((64, 1),), "y": ((64, 128),)}, ("mul", "xs", "y"))
    assert kernel.bytes_read == 2 * (64 * 128 + 64)
    (kernel,) = kernels(
        {"s": ((64, 1),), "e": ((64, 128), "bf16", "view of s", "strided"), "y": ((64, 128),)},
        ("neg", "e", "y"),
    )
    assert kernel.bytes_read == 2 * 64
    assert kernel.note == "strided reads"


def test_a_measured_kind_is_priced_as_that_kind():
    (kernel,) = kernels({"x": ((4096,),), "y": ((4096,),)}, ("silu", "x", "y"))
    assert kernel.ops == (Elementwise("silu", 4096, "bf16"),)


@given(
    st.integers(1, 10**7), st.integers(0, 40), st.integers(0, 40), st.integers(0, 10**6),
)  # fmt: skip
def test_a_stream_moves_what_it_was_told(elements, each_in, each_out, more):
    read, written = elements * each_in + min(more, elements), elements * each_out
    op = stream("x", elements, read, written)
    moved = max(1, read + written)
    assert abs(op.bytes_moved - moved) <= 0.02 * moved


def test_map_op_falls_back_where_traffic_differs():
    assert isinstance(map_op("add", 100, 400, 200, 100.0, "bf16", 2), Elementwise)
    assert not isinstance(map_op("add", 100, 202, 200, 100.0, "bf16", 2), Elementwise)


def test_softmax_rows_and_other_axes():
    last, first = kernels(
        {"x": ((8, 16, 32), "fp32"), "y": ((8, 16, 32), "fp32"), "z": ((8, 16, 32), "fp32")},
        ("_softmax", "x", "y", {"dim": -1, "half_to_float": False}),
        ("_softmax", "x", "z", {"dim": 1, "half_to_float": False}),
    )
    assert last.ops == (Softmax(128, 32, "fp32"),)
    assert first.ops[0].bytes_moved == 2 * 4 * 8 * 16 * 32


def test_small_maps_wait_for_blocks():
    def read(images, side):
        tensors = {"x": ((images, 512, side, side),), "y": ((images, 512, side, side),),
                   **dict.fromkeys("wbmv", ((512,), "fp32", "buffer")), "s": ((512,), "fp32"),
                   "r": ((512,), "fp32")}  # fmt: skip
        done = kernels(tensors, ("native_batch_norm", "xwbmv", "ysr", {"training": False}))
        return done[-1].ops[0].bytes_read

    # one block for each map of 7 x 7 or of 6 x 6: as long, whatever the bytes
    assert read(64, 6) == pytest.approx(read(64, 7), rel=0.05)
    assert read(64, 6) > 5 * 64 * 512 * 36 * 2


def test_a_shuffle_of_channels_last_maps_runs_across():
    from perfmodel.workload.lowering.eager.strides import _viewed

    last = (6272, 1, 448, 32)
    assert _viewed((8, 32, 14, 14), last, (8, 4, 8, 14, 14)) == (6272, 8, 1, 448, 32)
    assert _viewed((8, 32, 14, 14), last, (8, 32, 196)) == (6272, 1, 32)
    assert _viewed((8, 32, 14, 14), last, (8, 32 * 196)) is None
    shuffled = (6272, 1, 4, 448, 32)  # four of eight, turned: only a copy makes them one axis
    assert _viewed((8, 4, 8, 14, 14), shuffled, (8, 32, 14, 14)) is None
    assert _viewed((8, 4, 8, 14), (448, 112, 14, 1), (8, 32, 14)) == (448, 14, 1)


@pytest.mark.parametrize("seed", range(40))
def test_views_have_the_strides_of_their_library(seed):
    torch = pytest.importorskip("torch")
    from perfmodel.workload.lowering.eager.strides import _viewed

    rng = random.Random(seed)
    shape = [rng.choice((1, 2, 3, 4, 6)) for _ in range(rng.randint(1, 4))]
    order = rng.sample(range(len(shape)), len(shape))
    x = torch.empty(shape).permute(order)
    if rng.random() < 0.3 and x.shape[0] > 1:
        x = x[::2]
    left, viewed = x.numel(), []
    while left > 1:
        part = rng.choice([k for k in range(1, left + 1) if left % k == 0])
        viewed.append(part)
        left //= part
    viewed = viewed or [1]
    try:
        expected = x.view(viewed).stride()
    except RuntimeError:
        expected = None
    assert _viewed(tuple(x.shape), x.stride(), tuple(viewed)) == expected


def test_batch_norm_needs_statistics_only_in_training():
    tensors = {"x": ((4, 8, 6, 6),), **dict.fromkeys("wbmv", ((8,), "fp32", "buffer")),
               "y": ((4, 8, 6, 6),), "s": ((8,), "fp32"), "r": ((8,), "fp32")}  # fmt: skip
    size = 2 * 4 * 8 * 6 * 6
    training = kernels(tensors, ("native_batch_norm", "xwbmv", "ysr", {"training": True}))
    # the scaling kernel has a block for each map, and waits for blocks rather than for bytes
    assert training[0].ops[0].bytes_read == pytest.approx(size, rel=0.02)
    assert training[1].ops[0].bytes_written == pytest.approx(size, rel=0.02)
    evaluated = kernels(tensors, ("native_batch_norm", "xwbmv", "ysr", {"training": False}))
    assert evaluated[-1].ops[0].bytes_written == pytest.approx(size, rel=0.02)
    assert evaluated[-1].ops[0].bytes_read >= 0.98 * size
    (fused,) = kernels(tensors, ("cudnn_batch_norm", "xwbmv", "ysr", {"training": True}))
    assert fused.launches == 1


def test_embedding_and_its_gradient():
    tensors = {"t": ((1000, 64), "fp32", "parameter"), "i": ((32, 4), "int64", "input"),
               "y": ((32, 4, 64), "fp32"), "g": ((32, 4, 64), "fp32"),
               "d": ((1000, 64), "fp32", "gradient")}  # fmt: skip
    forward, zero, add = kernels(
        tensors,
        ("embedding", "ti", "y"),
        ("embedding_dense_backward", "gi", "d", {"num_weights": 1000}, "backward"),
    )
    assert forward.ops == (Embedding(128, 1000, 64, "fp32"),)
    assert zero.bytes_written == 4 * 1000 * 64
    assert add.bytes_read == 4 * 128 * 64 + 8 * 128


def test_many_indices_are_sorted_first():
    tensors = {"i": ((8192,), "int64", "input"), "g": ((8192, 64), "fp32"),
               "d": ((1000, 64), "fp32", "gradient")}  # fmt: skip
    found = kernels(tensors, ("embedding_dense_backward", "gi", "d", {}, "backward"))
    assert [kernel.kind for kernel in found] == ["fill", "sort", "scatter"]


def test_a_fused_optimizer_moves_every_state_once():
    names = [f"{kind}{place}" for kind in "pgmvs" for place in range(3)]
    tensors = {
        name: ((() if name[0] == "s" else (100, 7)), "fp32", "state") for name in names
    }  # fmt: skip
    (kernel,) = kernels(
        tensors,
        ("_fused_adamw_", names, names[:3],
         {"lists": {"self": 3, "grads": 3, "exp_avgs": 3, "exp_avg_sqs": 3, "state_steps": 3}},
         "optimizer"),
    )  # fmt: skip
    assert kernel.ops == (AdamW(2100, "fp32", "fp32", "fp32"),)
    assert kernel.ops[0].bytes_read == 4 * 4 * 2100


def test_lists_take_the_launches_of_multi_tensor_apply():
    def tensor(count):
        return Tensor("t", (count,), "fp32", "state", 0)

    assert launches([tensor(1)] * 110, 1) == 1
    assert launches([tensor(1)] * 111, 1) == 2
    assert launches([tensor(1)] * 37, 4) == 2
    assert launches([tensor(65536 * 320)], 1) == 1
    assert launches([tensor(65536 * 320 + 1)], 1) == 2


def test_host_tensors_launch_nothing():
    made = program({"s": ((), "fp32", "state")}, [("_foreach_add_", "s", "s", {}, "optimizer")])
    tensor = made.tensors[0]
    host = Tensor(tensor.name, (), "fp32", "state", 0, "contiguous", True)
    lowered = lower(type(made)("h", (host,), made.nodes, (), (), "test", 0, (4,)), EAGER)
    assert lowered.kernels == ()
    assert lowered.calls[0].kind == "host_tensor"


def test_an_unknown_operator_is_counted_and_bounded():
    lowered = lower(
        program({"x": ((1000,), "fp32"), "y": ((1000,), "fp32")}, [("mystery", "x", "y")] * 2),
        EAGER,
    )
    assert lowered.unknown == {"aten.mystery": 2}
    kernel = lowered.kernels[0]
    assert not kernel.known
    assert kernel.ops[0].bytes_moved == 8000
    assert kernel.upper[0].bytes_moved > 8 * kernel.ops[0].bytes_moved


def test_a_real_transform_is_half_a_complex_one():
    (kernel,) = kernels(
        {"x": ((8, 64, 128), "fp32"), "y": ((8, 64, 65), "complex64")},
        ("_fft_r2c", "x", "y", {"dim": [1, 2], "onesided": True}),
    )
    assert kernel.ops == (Fft(8, 128, "fp32", "rfft", rows=64),)


def test_a_transform_back_is_copied_and_scaled():
    (kernel,) = kernels(
        {"x": ((8, 64, 65), "complex64"), "y": ((8, 64, 128), "fp32")},
        ("_fft_c2r", "x", "y", {"dim": [2], "normalization": 2, "last_dim_size": 128}),
    )
    assert kernel.ops == (Fft(512, 128, "fp32", "irfft", scaled=True),)
    assert kernel.launches == 3


def test_three_axes_are_two_and_one():
    (kernel,) = kernels(
        {"x": ((16, 32, 64), "fp32"), "y": ((16, 32, 33), "complex64")},
        ("_fft_r2c", "x", "y", {"dim": [0, 1, 2], "normalization": 0}),
    )
    assert kernel.ops == (Fft(16, 64, "fp32", "rfft", rows=32), Fft(32 * 33, 16, "fp32"))


@pytest.mark.parametrize(
    ("name", "dim", "index", "op"),
    [
        ("index_add_", 0, (500,), ScatterAdd(500, 16, 40, "fp32", "index_add")),
        ("scatter_add_", 0, (500, 16), ScatterAdd(500, 16, 40, "fp32", "scatter_add")),
        ("scatter_add_", 1, (500, 16), ScatterAdd(8000, 1, 640, "fp32", "scatter_add")),
    ],
)
def test_messages_are_summed_into_nodes(name, dim, index, op):
    tensors = {
        "nodes": ((40, 16), "fp32"), "index": (index, "int64"), "edges": ((500, 16), "fp32"),
        "sums": ((40, 16), "fp32"),
    }  # fmt: skip
    (kernel,) = kernels(tensors, (name, ["nodes", "index", "edges"], ["sums"], {"dim": dim}))
    assert kernel.kind == "scatter"
    assert kernel.ops == (op,)


def test_reading_a_number_waits_for_the_device():
    lowered = lower(program({"x": ((), "fp32")}, [("_local_scalar_dense", "x", "")]), EAGER)
    assert [call.kind for call in lowered.calls] == ["sync"]


def test_memory_events_take_outputs_and_give_back_what_dies():
    made = program(
        {"x": ((1024,), "fp32", "input"), "y": ((1024,), "fp32"), "z": ((1024,), "fp32")},
        [("relu", "x", "y"), ("relu", "y", "z")],
        "z",
    )
    freed = made.nodes[1].__class__("n1", "aten.relu", ("y",), ("z",), {}, "forward", frees=(1,))
    made = type(made)("m", made.tensors, (made.nodes[0], freed), (), ("z",), "test", 0,
                      made.storages)  # fmt: skip
    lowered = lower(made, EAGER)
    assert [(e.call, e.storage, e.bytes, e.allocate) for e in lowered.events] == [
        (0, 1, 4096, True), (1, 2, 4096, True), (1, 1, 4096, False),
    ]  # fmt: skip
    assert [(r.storage, r.role) for r in lowered.resident] == [(0, "input")]


def test_a_captured_step_is_one_replay():
    made = program({"x": ((64,),), "y": ((64,),)}, [("relu", "x", "y")] * 3)
    lowered = lower(made, load_stack("cuda-graph"))
    assert len(lowered.calls) == 1
    assert lowered.calls[0].kind == "graph_replay"
    assert lowered.calls[0].kernels == (0, 1, 2)
    assert lowered.module_calls == 0


def test_host_classes_are_listed():
    sizes = {"x": ((4, 4), "fp32")}
    plain = [n for n, group in groups().items() if group.rstrip("_0123456789") == "pointwise"]
    lowered = lower(program(sizes, [(name, "x", "x") for name in plain]), EAGER)
    assert sum(kernel.kind == "pointwise" for kernel in lowered.kernels) == len(plain)
    assert {call.kind for call in lowered.calls} == {"pointwise"} < set(HOST_CLASSES)


def test_a_node_against_its_schema_is_named():
    with pytest.raises(WorkloadError, match="node n0"):
        kernels({"x": ((4, 4), "fp32")}, ("convolution", "x", "x"))


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("transpose", {"dim0": None, "dim1": 1}),
        ("slice", {"dim": "x"}),
        ("slice", {"dim": 0, "step": "nan"}),
        ("permute", {"dims": 3}),
    ],
)
def test_a_view_whose_attributes_are_of_another_kind_is_named(name, attributes):
    strided = ((8, 8), "fp32", "activation", "strided")
    with pytest.raises(WorkloadError, match=rf"node n0 \(aten.{name}\)"):
        kernels({"x": ((8, 8), "fp32"), "y": strided}, (name, "x", "y", attributes))


def test_a_gradient_that_nothing_takes_is_named():
    sizes = {"g": ((1, 4, 6, 6), "fp32"), "x": ((1, 3, 8, 8), "fp32"), "w": ((4, 3, 3, 3), "fp32")}
    sizes |= {"dx": ((1, 3, 8, 8), "fp32"), "dw": ((4, 3, 3, 3), "fp32")}
    mask = {"output_mask": [True, True, True]}
    with pytest.raises(WorkloadError, match="StopIteration"):
        kernels(sizes, ("convolution_backward", "gxw", ("dx", "dw"), mask))


@pytest.mark.parametrize("wrong", [{"padding": [2**40, 2**40]}, {"stride": [2, 2]}])
def test_a_convolution_that_makes_another_image_is_named(wrong):
    sizes = {"x": ((1, 3, 9, 9), "fp32"), "w": ((4, 3, 3, 3), "fp32"), "y": ((1, 4, 7, 7), "fp32")}
    (found,) = kernels(sizes, ("convolution", "xw", "y"))
    assert found.flops == 2 * 4 * 7 * 7 * 3 * 9
    with pytest.raises(WorkloadError, match="ValueError: its attr"):
        kernels(sizes, ("convolution", "xw", "y", wrong))


@pytest.mark.torch
def test_listed_operators_exist():
    torch = pytest.importorskip("torch")
    missing = [name for name in groups() if not hasattr(torch.ops.aten, name)]
    # names of private or other builds
    assert len(missing) < 0.1 * len(groups()), missing


def test_views_that_a_linear_layer_takes_are_cheaper_than_those_in_python():
    sizes = {
        "x": ((2, 8, 16), "bf16"), "w": ((32, 16), "bf16"), "v": ((16, 32), "bf16"),
        "f": ((16, 16), "bf16"), "p": ((16, 32), "bf16"), "y": ((2, 8, 32), "bf16"),
        "z": ((4, 4, 32), "bf16"),
    }  # fmt: skip
    made = program(
        sizes,
        [("t", "w", "v"), ("view", "x", "f"), ("mm", ("f", "v"), "p"),
         ("_unsafe_view", "p", "y"), ("view", "y", "z"), ("mul", ("z", "z"), "z")],
    )  # fmt: skip
    placed = [
        replace(node, module="layer" if k < 4 else "", source="model.py:7")
        for k, node in enumerate(made.nodes)
    ]
    lowered = lower(replace(made, nodes=tuple(placed)), EAGER)
    kinds = [call.kind for call in lowered.calls]
    assert kinds == ["inner", "inner", "gemm", "inner", "view", "pointwise"]
    loose = [replace(node, module="", source="") for node in made.nodes]
    kinds = [call.kind for call in lower(replace(made, nodes=tuple(loose)), EAGER).calls]
    assert kinds.count("view") == 4


def test_casts_of_autocast_leave_those_views_as_they_are():
    made = program(
        {"m": ((32, 16), "fp32", "parameter"), "w": ((32, 16), "bf16"), "v": ((16, 32), "bf16"),
         "x": ((8, 16), "bf16"), "y": ((8, 32), "bf16")},
        [("_to_copy", "m", "w", {"dtype": "bf16"}), ("t", "w", "v"), ("mm", ("x", "v"), "y")],
    )  # fmt: skip
    nodes = tuple(replace(node, module="layer", source="model.py:7") for node in made.nodes)
    calls = lower(replace(made, nodes=nodes), EAGER).calls
    assert [call.kind for call in calls] == ["cast", "inner", "gemm"]


def test_what_checkpointing_runs_again_is_called_from_python_again():
    def layer(k, phase):
        steps = ["t", "mm", "add", "relu", "mul", "neg", "exp"]
        return [
            (Node(f"{phase}{k}{n}", f"aten.{name}", ("x",), ("x",), {}, phase, f"layer{k}",
                  f"model.py:{10 + n}"))
            for n, name in enumerate(steps)
        ]  # fmt: skip

    def derivative(k):
        return [
            Node(f"d{k}{n}", f"aten.{name}", ("x",), ("x",), {}, "backward", f"layer{k}",
                 f"model.py:{16 - n}")
            for n, name in enumerate(["mul", "neg", "mul", "mul", "mm", "t", "mm"])
        ]  # fmt: skip

    nodes = [*layer(0, "forward"), *layer(1, "forward")]
    plain = [*nodes, *derivative(1), *derivative(0)]
    saved = [*nodes, *layer(1, "backward"), *derivative(1), *layer(0, "backward"), *derivative(0)]
    made = program({"x": ((4, 4),)}, [("relu", "x", "x")])
    assert recomputed(replace(made, nodes=tuple(plain))) == frozenset()
    assert recomputed(replace(made, nodes=tuple(saved))) == {*range(14, 21), *range(28, 35)}


def test_operands_along_different_axes_take_longer():
    made = program(
        {"x": ((8, 64, 32), "bf16"), "t": ((8, 32, 64), "bf16", "view of x", "strided"),
         "w": ((8, 32, 64), "bf16"), "y": ((8, 32, 64), "bf16", "activation", "strided"),
         "z": ((8, 32, 64), "bf16", "activation", "strided")},
        [("transpose", "x", "t", {"dim0": 1, "dim1": 2}), ("add", ("t", "w"), "y"),
         ("mul", ("y", "t"), "z")],
    )  # fmt: skip
    across, strides = follow(made)
    assert strides["t"] == strides["y"] == (2048, 1, 32)
    assert list(across) == [1]  # the product's operands both run along the same axis
    add, mul = lower(made, EAGER).kernels
    elements = 8 * 32 * 64
    each = across[1]  # neighbours of the result are 64 bytes apart in one, far apart in the other
    assert each == pytest.approx(TURNED * (1.0 - 0.45 * (1.0 - 32 / 400)))
    assert add.flops == pytest.approx((1 + each) * elements, rel=0.02)
    assert mul.flops == pytest.approx((1 + OFFSETS) * elements, rel=0.02)


def test_neighbours_on_one_line_are_read_at_once():
    def each(channels, side, image="channels_last"):
        shape = (2, channels, side, side)
        made = program({"x": (shape, "bf16", "input", image), "y": (shape, "bf16")},
                       [("clone", "x", "y")])  # fmt: skip
        return follow(made)[0].get(0, 0.0)

    assert each(512, 56) == TURNED  # each neighbour on a line of its own
    assert each(32, 56) == pytest.approx(TURNED / 2)  # two on a line of 128 bytes
    assert each(512, 7) == pytest.approx(TURNED * (1 - 0.45 * (1 - 49 / 400)))  # lines met again
    assert each(32, 56, "contiguous") == 0.0


def test_products_know_how_their_factors_lie():
    made = program(
        {"x": ((64, 32), "bf16"), "w": ((16, 32), "bf16"),
         "v": ((32, 16), "bf16", "view of w", "strided"), "y": ((64, 16), "bf16"),
         "g": ((64, 16), "bf16"), "h": ((16, 64), "bf16", "view of g", "strided"),
         "dx": ((64, 32), "bf16"), "dw": ((16, 32), "bf16")},
        [("t", "w", "v"), ("mm", "xv", "y"), ("mm", "gw", ("dx",)), ("t", "g", "h"),
         ("mm", "hx", ("dw",))],
    )  # fmt: skip
    words = [kernel.ops[0].trans for kernel in lower(made, EAGER).kernels]
    assert words == ["tn", "nn", "nt"]


def test_means_down_the_columns_know_that_a_block_goes_through_the_rows():
    made = program(
        {"x": ((8, 512, 14, 14), "bf16", "input", "channels_last"), "y": ((8, 512, 1, 1), "bf16"),
         "r": ((64, 512), "fp32"), "s": ((64, 1), "fp32")},
        [("mean", "x", "y", {"dim": [-1, -2], "keepdim": True}),
         ("mean", "r", "s", {"dim": [-1], "keepdim": True})],
    )  # fmt: skip
    down, along = lower(made, EAGER).kernels
    assert down.note
    assert not along.note
    assert down.flops == pytest.approx(3.2e7 + 1e5 * 14 * 14, rel=0.02)
    assert along.flops < down.flops / 3


@pytest.mark.parametrize(("rows", "counted"), [(4, 64), (64, 64), (100, 128)])
def test_products_that_share_a_matrix_fill_tiles_of_their_own(rows, counted):
    tensors = {
        "x": ((50, rows, 768), "bf16"), "w": ((768, 2304), "bf16"),
        "e": ((50, 768, 2304), "bf16", "view of w", "strided"), "y": ((50, rows, 2304), "bf16"),
    }  # fmt: skip
    (kernel,) = kernels(tensors, ("bmm", "xe", "y"))
    assert kernel.ops == (Gemm(50 * counted, 2304, 768, 1, "bf16"),)


@pytest.mark.parametrize(
    ("tensors", "node", "turns", "casts"),
    [
        ({"x": ((4, 2048),), "y": ((4, 2048),)}, ("relu", "x", "y"), 0, 0),
        ({"x": ((4, 2048),), "r": ((2048,),), "y": ((4, 2048),)}, ("mul", "xr", "y"), 3, 0),
        (
            {"x": ((4, 2048), "fp32"), "r": ((2048,), "fp32"), "y": ((4, 2048), "fp32")},
            ("mul", "xr", "y"),
            1,
            0,
        ),
        ({"x": ((4, 2048),), "y": ((4, 2048), "fp32")}, ("_to_copy", "x", "y"), 0, 3),
        ({"x": ((4, 2048), "fp32"), "y": ((4, 2048),)}, ("_to_copy", "x", "y"), 0, 0),
        (
            {"x": ((4, 2048),), "r": ((2048,), "fp32"), "y": ((4, 2048), "fp32")},
            ("mul", "xr", "y"),
            3,
            4.5,
        ),
    ],
)
def test_threads_wait_where_places_are_worked_out_or_formats_asked_for(tensors, node, turns, casts):
    (kernel,) = kernels(tensors, node)
    assert (kernel.turns, kernel.casts) == (turns, casts)


def test_a_sum_of_a_mask_copies_it_in_the_format_of_its_result():
    cast, total = kernels(
        {"m": ((64, 512), "bool"), "y": ((64,), "int64")}, ("sum", "m", "y", {"dim": [1]})
    )
    assert cast.bytes_read == 64 * 512
    assert cast.bytes_written == total.bytes_read == 8 * 64 * 512
