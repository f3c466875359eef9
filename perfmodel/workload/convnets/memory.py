"""Memory of a network: what inference holds at its fullest moment, what training keeps."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.workload.convnets.backward import OPTIMIZER_BYTES
from perfmodel.workload.convnets.build import Convnet
from perfmodel.workload.convnets.lower import Setting
from perfmodel.workload.convnets.program import network_program


@dataclass(frozen=True, slots=True)
class Memory:
    """Parts of the device memory of a step [B]."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All parts together [B]."""
        return self.weights + self.gradients + self.optimizer + self.activations


def inference_memory(net: Convnet, setting: Setting) -> Memory:
    """Weights, and the largest set of maps that are alive at once beside them.

    Maps live as in the network's program: from the operator that makes them to the last that reads
    them. Running statistics and the image count as maps.
    """
    program = network_program(net, setting)
    weights = net.parameters * (setting.element + (4 if setting.amp else 0))
    return Memory(weights, 0, 0, max(max(program.live_bytes()) - weights, 0))


def training_memory(net: Convnet, setting: Setting, optimizer: str = "sgd") -> Memory:
    """Everything that is held at the end of the forward pass.

    A convolution keeps its input, a norm its input, a smooth activation its input and ReLU its
    output, a gate both factors, a maximum pooling its indices; a map kept by several is kept once.
    """
    kept: set[int] = set()
    indices = 0
    for place, node in enumerate(net.nodes):
        if node.kind in ("conv", "linear", "norm", "mul", "scale"):
            kept.update(node.inputs)
        elif node.kind == "act":
            kept.add(place if node.word in ("relu", "sigmoid", "tanh") else node.inputs[0])
        elif node.kind == "max_pool":
            kept.update(node.inputs)
            indices += 8 * setting.batch * node.elements
    # a view keeps the map that it shows
    kept = {net.nodes[p].inputs[0] if net.nodes[p].kind == "slice" else p for p in kept}
    maps = sum(setting.batch * net.nodes[place].elements for place in kept)
    numel = net.parameters
    copies = setting.element if setting.amp else 0
    return Memory(
        weights=numel * (4 + copies),
        gradients=4 * numel,
        optimizer=OPTIMIZER_BYTES[optimizer] * numel,
        activations=maps * setting.element + indices,
    )
