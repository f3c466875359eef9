"""What a generated kernel loads once, how far it reaches, and what the backward pass finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.compile.graph import Graph, sliced
from perfmodel.workload.lowering.compile.limits import HEADS, LAST
from perfmodel.workload.lowering.compile.partition import kept
from perfmodel.workload.lowering.compile.realize import Realizer
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
COMPILED = load_stack("torch-compile")


def generated(tensors, nodes, outputs):
    found = lower(recipes.program(tensors, nodes, outputs), COMPILED).kernels
    return [kernel for kernel in found if kernel.host == "triton"]


def test_a_buffer_that_is_read_in_two_orders_is_loaded_once():
    """Statistics of a batch norm go through its operand channel by channel, its map in order."""
    shape, few = (2, 512, 16, 16), ((512,), "bf16", "parameter")
    tensors = {"x": (shape, "bf16", "input"), "w": few, "b": few, "y": (shape,),
               "s": ((512,), "fp32"), "r": ((512,), "fp32")}  # fmt: skip
    nodes = [("native_batch_norm", "xwb", "ysr", {"training": True, "momentum": 0.1, "eps": 1e-5})]
    (kernel,) = generated(tensors, nodes, ["y"])
    assert kernel.name.startswith("moments")
    image = 2 * 2 * 512 * 256
    assert image <= kernel.bytes_read < 1.1 * image


@pytest.mark.parametrize(("layers", "kernels"), [(16, 1), (40, 2), (80, 3)])
def test_neighbours_are_fused_no_farther_than_64_steps(layers, kernels):
    """Each layer's product is scaled by one table; what lies far apart keeps kernels of its own."""
    tensors = {"t": ((64, 64), "bf16", "input")}
    nodes = []
    for layer in range(layers):
        x, w, h, y = (f"{name}{layer}" for name in "xwhy")
        tensors |= {x: ((64, 64), "bf16", "input"), w: ((64, 64), "bf16", "parameter"),
                    h: ((64, 64),), y: ((64, 64),)}  # fmt: skip
        nodes += [("mm", [x, w], [h]), ("mul", [h, "t"], [y])]
    found = generated(tensors, nodes, [f"y{layer}" for layer in range(layers)])
    assert len(found) == kernels
    assert max(len(kernel.nodes) for kernel in found) <= 33


def modulated():
    """A product's parts: one plus 1 scales now, one is asked for by the backward pass."""
    graph = Graph()
    x = graph.add("source", (), (64, 4096), "fp32", "x", storage=0)
    wide = graph.add("extern", (x,), (64, 4096), "fp32", "mm", heavy=True)
    scale, gate = (
        graph.view(wide, (64, 512), sliced((64, 4096), 1, start, 1, 512)) for start in (0, 512)
    )
    up = graph.map("add", (scale,), (64, 512), "fp32", 1)
    other = graph.add("extern", (x,), (64, 512), "fp32", "mm", heavy=True)
    out = graph.map("mul", (other, up), (64, 512), "fp32", 1)
    last = graph.add("extern", (out,), (64, 512), "fp32", "mm", heavy=True)
    late = graph.map("mul", (last, gate), (64, 512), "fp32", 1)
    forward = {x, wide, scale, gate, up, other, out, last, late}
    graph.backward = True
    grads = {graph.map("sub", (last, part), (64, 512), "fp32", 1) for part in (up, gate)}
    return graph, forward, grads, (wide, up)


def test_a_step_on_a_part_of_what_is_kept_is_computed_again():
    """It is no strong reduction of the whole, and its siblings' uses are not its own."""
    graph, forward, grads, (wide, up) = modulated()
    found = kept(graph, forward, grads)
    assert wide in found
    assert up not in found


def test_the_gradient_of_a_group_norm_is_two_kernels_behind_an_activation():
    """Its terms of groups and channels are stored in fp32; what reads them goes by the image."""
    shape, few = (2, 64, 32, 32), (2, 8)
    phase = dict.fromkeys(("n", "s", "ds", "dn", "dx", "z"), (shape,))
    tensors = {
        "x": (shape, "bf16", "input"), "w": ((64,), "bf16", "parameter"),
        "b": ((64,), "bf16", "parameter"), "g": (shape, "bf16", "input"),
        "m": (few, "bf16"), "r": (few, "bf16"), **phase,
        "dw": ((64,), "bf16", "gradient"), "db": ((64,), "bf16", "gradient"),
    }  # fmt: skip
    norm = {"N": 2, "C": 64, "HxW": 1024, "group": 8, "eps": 1e-5}
    nodes = [
        ("native_group_norm", "xwb", "nmr", norm),
        ("silu", "n", "s"),
        ("silu_backward", "gn", ["dn"], {}, "backward"),
        ("native_group_norm_backward", ["dn", *"xmrw"], ["dx", "dw", "db"], norm, "backward"),
        ("relu", ["dx"], ["z"], {}, "backward"),
    ]
    found = generated(tensors, nodes, ["s", "z", "dw", "db"])
    names = [kernel.name.split("+") for kernel in found if kernel.phase == "backward"]
    terms = [name for name in names if "group_norm_backward" in name]
    assert terms
    assert all("relu" not in name for name in terms)
    assert any("relu" in name for name in names)


def test_means_and_variances_are_two_buffers():
    """A norm of a sum of three is read twice; with its mean and variance it reads five buffers."""
    graph = Graph()
    shape, sources = (4096, 1024), []
    for place in range(3):
        sources.append(graph.add("source", (), shape, "bf16", f"x{place}", storage=place))
    total = graph.map("add", sources, shape, "fp32", 2)
    moments = graph.reduce("moments", total, (1,), "fp32", keepdim=True, operations=4)
    rstd = graph.map("rstd", (moments,), (4096, 1), "fp32", 4)
    hat = graph.map("normalized", (total, moments, rstd), shape, "fp32", 2)
    outs = [graph.map(name, (hat,), shape, "bf16", 1) for name in ("mul", "exp")]
    realizer = Realizer(graph, range(len(graph.values)), outs)
    assert hat in {buffer.value.number for buffer in realizer.buffers()}


def attended(heads):
    """A convolution, attention of its places, a convolution; and the gradient of the attention."""
    batch, places, width = 2, 64, 32
    wide = heads * width
    image, rows = (batch, wide, 8, 8), (batch * places, wide)
    split, turned = (batch, places, heads, width), (batch, heads, places, width)
    kernel = ((wide, wide, 3, 3), "bf16", "parameter")
    tensors = {
        "x": (image, "bf16", "input"), "k": kernel, "k2": kernel, "c": (image,),
        "f": ((batch, wide, places), "bf16", "view of c"),
        "t": ((batch, places, wide), "bf16", "view of c", "strided"),
        "r": (rows, "bf16"),
        "a": (turned,), "l": ((batch, heads, places, 1), "fp32"),
        "at": (split, "bf16", "view of a", "strided"), "ar": ((batch, places, wide),),
        "i": ((batch, wide, places), "bf16", "view of ar", "strided"),
        "j": (image, "bf16", "view of ar", "strided"), "y": (image,),
        "g": (turned, "bf16", "input"),
    }  # fmt: skip
    convolution = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "transposed": False,
                   "output_padding": [0, 0], "groups": 1}  # fmt: skip
    nodes = [
        ("convolution", "xk", "c", convolution),
        ("view", "c", "f", {"size": [batch, wide, places]}),
        ("transpose", "f", "t", {"dim0": 1, "dim1": 2}),
        ("clone", "t", "r", {}),
    ]
    for name in "qmv":
        tensors |= {
            f"w{name}": ((wide, wide), "bf16", "parameter"), f"p{name}": (rows,),
            f"s{name}": (split, "bf16", f"view of p{name}"),
            name: (turned, "bf16", f"view of p{name}", "strided"), f"d{name}": (turned,),
        }  # fmt: skip
        nodes += [
            ("mm", ["r", f"w{name}"], [f"p{name}"]),
            ("view", [f"p{name}"], [f"s{name}"], {"size": list(split)}),
            ("transpose", [f"s{name}"], [name], {"dim0": 1, "dim1": 2}),
        ]
    nodes += [
        ("_scaled_dot_product_flash_attention", "qmv", "al", {"dropout_p": 0.0}),
        ("transpose", "a", ["at"], {"dim0": 1, "dim1": 2}),
        ("clone", ["at"], ["ar"], {}),
        ("transpose", ["ar"], "i", {"dim0": 1, "dim1": 2}),
        ("view", "i", "j", {"size": list(image)}),
        ("convolution", ["j", "k2"], "y", convolution),
        ("_scaled_dot_product_flash_attention_backward", "gqmval", ["dq", "dm", "dv"], {},
         "backward"),
    ]  # fmt: skip
    return generated(tensors, nodes, ["y", "dq", "dm", "dv"])


@pytest.mark.parametrize(("heads", "forward", "backward"), [(1, 0, 0), (8, 5, 5)])
def test_a_channels_last_network_keeps_heads_innermost(heads, forward, backward):
    """Three operands, two results: a kernel each before and behind; none for a single head."""
    found = [(kernel.phase, kernel.name.split("+")) for kernel in attended(heads)]
    assert sum(phase == "forward" and LAST in names for phase, names in found) == forward
    assert sum(phase == "backward" and HEADS in names for phase, names in found) == backward


def test_where_the_maxima_stand_is_stored_beside_them():
    image, pooled = (2, 64, 32, 32), (2, 64, 16, 16)
    tensors = {
        "x": (image, "bf16", "input"), "a": (image, "bf16", "input"), "s": (image,),
        "y": (pooled,), "i": (pooled, "int64"), "g": (pooled, "bf16", "input"), "d": (image,),
    }  # fmt: skip
    window = {"kernel_size": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1],
              "ceil_mode": False}  # fmt: skip
    nodes = [
        ("add", "xa", "s"), ("max_pool2d_with_indices", "s", "yi", window),
        ("max_pool2d_with_indices_backward", "gsi", "d", window, "backward"),
    ]  # fmt: skip
    found = generated(tensors, nodes, ["y", "d"])
    assert [kernel.phase for kernel in found if "indices" in kernel.name] == ["forward", "backward"]
    first = found[0]
    assert first.bytes_written >= 3 * 2 * 64 * 16 * 16  # in a byte each
