"""Oracle: the graphs run in PyTorch on the meta device; shapes and FLOPs are PyTorch's own."""

from __future__ import annotations

from typing import Any

import pytest

from perfmodel.workload.convnet import CONVNETS, Convnet, Node, convnet

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

torch = pytest.importorskip("torch")


def run(net: Convnet) -> tuple[list[Any], int]:
    """Every node's output for one image, and the learned parameters."""
    made: list[Any] = []
    weights = 0
    functions = torch.nn.functional
    for node in net.nodes:
        x = [made[place] for place in node.inputs]
        layer = module(net, node)
        if layer is not None:
            weights += sum(p.numel() for p in layer.parameters())
            got = layer(x[0].flatten(1) if node.kind == "linear" else x[0])
        elif node.kind == "input":
            got = torch.empty(2, node.channels, *node.sides, requires_grad=False)
        elif node.kind == "act":
            got = getattr(functions, node.word)(x[0])
        elif node.kind == "add":
            got = x[0] + x[1]
        elif node.kind == "mul":
            got = x[0] * x[1]
        elif node.kind == "concat":
            got = torch.cat(x, 1)
        elif node.kind in ("slice", "gather"):
            got = x[0][:, : node.channels] if node.channels <= x[0].shape[1] else torch.cat(
                [x[0]] * 4, 1
            )[:, : node.channels]  # fmt: skip
        elif node.kind == "shuffle":
            got = x[0].clone()
        elif node.kind == "pixel_shuffle":
            got = functions.pixel_shuffle(x[0], node.sides[0] // x[0].shape[2])
        elif node.kind == "global_pool":
            axes = tuple(range(2, x[0].ndim))
            got = x[0].mean(axes, keepdim=bool(node.sides))
        else:
            kind = "max" if node.kind == "max_pool" else "avg"
            pool = getattr(functions, f"{kind}_pool{len(node.sides)}d")
            got = pool(x[0], node.kernel, node.stride, node.padding)
            if tuple(got.shape[2:]) != node.sides:
                got = pool(x[0], node.kernel, node.stride, node.padding, ceil_mode=True)
        made.append(got)
    return made, weights


def module(net: Convnet, node: Node) -> Any:
    if node.kind == "conv":
        dims = len(node.sides)
        name = f"ConvTranspose{dims}d" if node.transposed else f"Conv{dims}d"
        return getattr(torch.nn, name)(
            net.nodes[node.inputs[0]].channels, node.channels, node.kernel, node.stride,
            node.padding, groups=node.groups, bias=node.bias,
        )  # fmt: skip
    if node.kind == "linear":
        width = net.nodes[node.inputs[0]].elements
        return torch.nn.Linear(width, node.channels, bias=node.bias)
    if node.kind in ("norm", "scale"):
        # group norm over any number of sides has the two parameters of every norm
        if node.kind == "scale":
            return Scale(node.channels)
        return torch.nn.GroupNorm(1, node.channels)
    return None


class Scale(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(channels))

    def forward(self, x: Any) -> Any:
        return x * self.weight.view(1, -1, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("name", CONVNETS)
def test_shapes_parameters_and_flops(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = convnet(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        made, weights = run(net)
    for node, got in zip(net.nodes, made, strict=True):
        assert tuple(got.shape) == (2, node.channels, *node.sides), node
    assert weights == net.parameters
    assert counter.get_total_flops() == 4 * net.multiply_adds


@pytest.mark.parametrize(
    ("name", "config", "model"),
    [
        ("resnet50", "ResNetConfig", "ResNetForImageClassification"),
        ("convnext-tiny", "ConvNextConfig", "ConvNextForImageClassification"),
    ],
)
def test_parameters_of_transformers(name: str, config: str, model: str) -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        made = getattr(transformers, model)(getattr(transformers, config)(num_labels=1000))
    assert sum(p.numel() for p in made.parameters()) == convnet(name).parameters
