"""Bundled networks as programs: every one lowers, lifetimes hold, orders of memory follow."""

from __future__ import annotations

import math

import pytest

from perfmodel.workload.convnet import (
    CONVNETS,
    Setting,
    convnet,
    forward,
    inference_memory,
    network_program,
)
from perfmodel.workload.convnets.build import Builder
from perfmodel.workload.lowering.lower import lower
from perfmodel.workload.program import Program
from perfmodel.workload.stack import load_stack

GRAPH = load_stack("cuda-graph")
MATRIX = ("conv", "gemm")


def flops(program: Program) -> float:
    return sum(k.flops for k in lower(program, GRAPH).kernels if k.kind in MATRIX)


@pytest.mark.parametrize("name", CONVNETS)
def test_every_network_is_a_program_of_the_same_arithmetic(name: str) -> None:
    net, setting = convnet(name), Setting(2)
    program = network_program(net, setting)
    calls = forward(net, setting)
    wanted = sum(call.op.flops for call in calls if call.module in ("conv", "linear"))
    assert flops(program) == pytest.approx(wanted)
    assert program.parameters == net.parameters
    assert all(kernel.known for kernel in lower(program, GRAPH).kernels)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "shufflenet-v2-x1_0", "nnunet-2d"])
def test_memory_dies_once_and_never_before_its_last_use(name: str) -> None:
    program = network_program(convnet(name), Setting(4))
    dead: set[int] = set()
    for node in program.nodes:
        used = {program.tensor(one).storage for one in (*node.inputs, *node.outputs)}
        assert not used & dead
        assert not dead & set(node.frees)
        dead.update(node.frees)
    kept = {t.storage for t in program.tensors if t.role != "activation"}
    assert not kept & dead
    assert program.tensor(program.outputs[0]).storage not in dead


def test_memory_is_what_is_alive_at_the_fullest_moment() -> None:
    net = convnet("resnet18")
    memory = inference_memory(net, Setting(8))
    stem = 8 * 64 * 112 * 112
    # the pooling: its input, a quarter of it, and the places of the maxima [int64]
    assert memory.activations == pytest.approx(2 * stem + (2 + 8) * stem // 4, rel=0.1)
    assert memory.weights == 2 * net.parameters
    assert inference_memory(net, Setting(8, amp=True)).weights == 6 * net.parameters


def test_orders_of_memory_follow_the_operators() -> None:
    program = network_program(convnet("shufflenet-v2-x1_0"), Setting(1))
    made = {node.target: program.tensor(node.outputs[0]) for node in program.nodes}
    assert made["aten.convolution"].layout == "channels_last"
    assert made["aten.clone"].layout == "contiguous"
    copies = [k for k in lower(program, GRAPH).kernels if k.name.endswith("reorder")]
    # the first convolution of each unit behind a shuffle
    assert len(copies) == 18
    plain = network_program(convnet("shufflenet-v2-x1_0"), Setting(1, layout="nchw"))
    assert {t.layout for t in plain.tensors} == {"contiguous", "strided"}


def test_settings_show() -> None:
    net = convnet("resnet18", 64)

    def targets(setting: Setting) -> list[str]:
        return [node.target for node in network_program(net, setting).nodes]

    assert targets(Setting(1)).count("aten._to_copy") == 0
    # 20 convolutions, and a linear layer of two tensors
    assert targets(Setting(1, amp=True)).count("aten._to_copy") == 22
    norms = [
        node.attributes["training"]
        for node in network_program(net, Setting(1, training=True)).nodes
        if node.target == "aten.native_batch_norm"
    ]
    assert norms == [True] * 20
    tf32 = network_program(net, Setting(1, "tf32"))
    assert {t.dtype for t in tf32.tensors} == {"fp32", "int64"}
    assert math.isclose(flops(tf32), flops(network_program(net, Setting(1))))


def test_statistics_are_converted_four_to_a_thread_one_after_another() -> None:
    def moved(channels: int) -> float:
        b = Builder()
        b.conv_norm(b.start(3, (8, 8)), channels, 1)
        kernels = lower(network_program(b.done("x"), Setting(1)), GRAPH).kernels
        cast = next(kernel for kernel in kernels if kernel.name.endswith("cast"))
        return float(cast.ops[0].bytes_moved) - 6 * channels

    one, two, three, four = (moved(n) for n in (128, 256, 384, 512))
    assert moved(16) == one == 0
    assert two == pytest.approx(three / 2, rel=1e-3)
    assert two == pytest.approx(four / 3, rel=1e-3)
    for channels, step in ((129, two), (300, three), (2048, four)):
        assert moved(channels) == pytest.approx(step, rel=1e-3)
