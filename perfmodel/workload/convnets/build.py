"""The graph of a convolutional network: nodes in order, each one feature map of one image.

A network is written down once as a function that adds nodes to a :class:`Builder`; parameters,
arithmetic, memory and the operators of a step all follow from the same graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from perfmodel.errors import WorkloadError

KINDS: Final = (
    "input",
    "conv",
    "linear",
    "norm",
    "act",
    "add",
    "mul",
    "scale",
    "concat",
    "slice",
    "max_pool",
    "avg_pool",
    "global_pool",
    "shuffle",
    "gather",
    "pixel_shuffle",
)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the graph and the feature map that it makes.

    Parameters
    ----------
    name : str
        Unique in its network.
    kind : str
        One of :data:`KINDS`.
    inputs : tuple of int
        Places of the nodes that it reads.
    channels, sides : int, tuple of int
        Of its output, for one image; ``sides`` is ``()`` after the last pooling.
    kernel, stride, padding, groups : int
        Of a convolution or pooling. A transposed convolution has the numbers of the convolution
        whose input gradient it is.
    word : str
        Which activation, norm or pooling.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    channels: int
    sides: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    transposed: bool = False
    word: str = ""

    @property
    def elements(self) -> int:
        """Elements of the output for one image."""
        return self.channels * math.prod(self.sides)


@dataclass(frozen=True, slots=True)
class Convnet:
    """A network for one image size: its nodes in an order in which they can run."""

    name: str
    nodes: tuple[Node, ...]

    def weights(self, node: Node) -> int:
        """Learned parameters of a node."""
        if node.kind == "conv":
            source = self.nodes[node.inputs[0]]
            taps = math.prod((node.kernel,) * len(node.sides))
            return source.channels // node.groups * node.channels * taps + (
                node.channels if node.bias else 0
            )
        if node.kind == "linear":
            width = self.nodes[node.inputs[0]].elements
            return node.channels * (width + (1 if node.bias else 0))
        if node.kind == "norm":
            return 2 * node.channels
        return node.channels if node.kind == "scale" else 0

    @property
    def parameters(self) -> int:
        """Learned parameters; running statistics of norms are not among them."""
        return sum(self.weights(node) for node in self.nodes)

    def macs(self, node: Node) -> int:
        """Multiply-adds of a convolution or linear node for one image; 0 for all others."""
        if node.kind == "linear":
            return node.channels * self.nodes[node.inputs[0]].elements
        if node.kind != "conv":
            return 0
        source = self.nodes[node.inputs[0]]
        taps = math.prod((node.kernel,) * len(node.sides))
        per_channel = taps * node.channels // node.groups
        if node.transposed:
            return source.elements * per_channel
        return node.elements * source.channels // node.groups * taps

    @property
    def parameter_tensors(self) -> int:
        """Tensors that the parameters are kept in: weights, biases, two for a norm."""
        count = 0
        for node in self.nodes:
            if node.kind in ("conv", "linear"):
                count += 2 if node.bias else 1
            count += {"norm": 2, "scale": 1}.get(node.kind, 0)
        return count

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the convolutions and linear layers for one image."""
        return sum(self.macs(node) for node in self.nodes)

    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For every node the places of those that read it."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for place, node in enumerate(self.nodes):
            for source in node.inputs:
                found[source].append(place)
        return tuple(tuple(places) for places in found)


def pooled(length: int, kernel: int, stride: int, padding: int, *, ceil: bool = False) -> int:
    """Outputs along one axis of a convolution or pooling."""
    span = length + 2 * padding - kernel
    if not ceil:
        return span // stride + 1
    outputs = -(-span // stride) + 1
    # the last window has to start inside the input or its left padding
    return outputs - 1 if (outputs - 1) * stride >= length + padding else outputs


@dataclass(slots=True)
class Builder:
    """Adds nodes to a network; every method returns the place of the last node it added."""

    nodes: list[Node] = field(default_factory=list)

    def start(self, channels: int, sides: tuple[int, ...]) -> int:
        """The network's input."""
        return self._add("input", (), channels, sides)

    def channels(self, x: int) -> int:
        """Channels of a node."""
        return self.nodes[x].channels

    def sides(self, x: int) -> tuple[int, ...]:
        """Sides of a node's feature map."""
        return self.nodes[x].sides

    def conv(
        self,
        x: int,
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: int | None = None,
        *,
        groups: int = 1,
        bias: bool = False,
        word: str = "",
    ) -> int:
        """A convolution; the padding is half the kernel unless given.

        ``word="linear"`` marks a pointwise one that frameworks run as a linear layer, whose product
        adds the bias.
        """
        pad = kernel // 2 if padding is None else padding
        source = self.nodes[x]
        if source.channels % groups or channels % groups:
            raise WorkloadError(
                "convnet: groups",
                groups,
                f"a divisor of {source.channels} and {channels} channels",
                repair="choose groups that divide both channel counts",
            )
        sides = tuple(pooled(side, kernel, stride, pad) for side in source.sides)
        self._check_sides(sides, source.sides)
        return self._add(
            "conv", (x,), channels, sides, kernel=kernel, stride=stride, padding=pad,
            groups=groups, bias=bias,
            word=word,
        )  # fmt: skip

    def up(self, x: int, channels: int, kernel: int = 2, *, bias: bool = False) -> int:
        """A transposed convolution whose step is its kernel."""
        sides = tuple(side * kernel for side in self.sides(x))
        return self._add(
            "conv", (x,), channels, sides, kernel=kernel, stride=kernel, bias=bias, transposed=True
        )

    def norm(self, x: int, word: str = "batch") -> int:
        """A norm: batch, layer (over channels) or instance."""
        return self._add("norm", (x,), self.channels(x), self.sides(x), word=word)

    def act(self, x: int, word: str = "relu") -> int:
        """An activation."""
        return self._add("act", (x,), self.channels(x), self.sides(x), word=word)

    def conv_norm(
        self,
        x: int,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        act: str = "relu",
    ) -> int:
        """Convolution, batch norm and, unless ``act`` is empty, an activation."""
        x = self.norm(self.conv(x, channels, kernel, stride, groups=groups))
        return self.act(x, act) if act else x

    def linear(self, x: int, channels: int, *, bias: bool = True) -> int:
        """A fully connected layer over everything in ``x``."""
        return self._add("linear", (x,), channels, (), bias=bias)

    def add(self, x: int, y: int) -> int:
        """Sum of two maps of one shape."""
        return self._add("add", (x, y), self.channels(x), self.sides(x))

    def scale(self, x: int) -> int:
        """One learned factor a channel."""
        return self._add("scale", (x,), self.channels(x), self.sides(x))

    def concat(self, *xs: int) -> int:
        """Maps joined along their channels."""
        return self._add("concat", xs, sum(map(self.channels, xs)), self.sides(xs[0]))

    def slice(self, x: int, channels: int) -> int:
        """Some of the channels, as a view."""
        return self._add("slice", (x,), channels, self.sides(x))

    def pool(
        self,
        x: int,
        kernel: int,
        stride: int,
        padding: int = 0,
        *,
        kind: str = "max_pool",
        ceil: bool = False,
        word: str = "",
    ) -> int:
        """Maximum or average pooling; ``word="adaptive"`` marks one that fixes its output."""
        old = self.sides(x)
        sides = tuple(pooled(side, kernel, stride, padding, ceil=ceil) for side in old)
        self._check_sides(sides, old)
        return self._add(
            kind, (x,), self.channels(x), sides, kernel=kernel, stride=stride, padding=padding,
            word=word,
        )  # fmt: skip

    def global_pool(self, x: int, *, keep: bool = False) -> int:
        """Mean over the map; ``keep`` leaves sides of length 1."""
        sides = (1,) * len(self.sides(x)) if keep else ()
        return self._add("global_pool", (x,), self.channels(x), sides)

    def squeeze_excite(
        self, x: int, width: int, *, act: str = "relu", gate: str = "sigmoid"
    ) -> int:
        """Pool, two 1 x 1 convolutions with biases, and the gate multiplied in."""
        y = self.act(self.conv(self.global_pool(x, keep=True), width, 1, bias=True), act)
        y = self.act(self.conv(y, self.channels(x), 1, bias=True), gate)
        return self._add("mul", (x, y), self.channels(x), self.sides(x))

    def shuffle(self, x: int) -> int:
        """Channels interleaved between groups: one copy."""
        return self._add("shuffle", (x,), self.channels(x), self.sides(x))

    def gather(self, x: int, channels: int) -> int:
        """Channels picked by an index: one copy."""
        return self._add("gather", (x,), channels, self.sides(x))

    def pixel_shuffle(self, x: int, factor: int) -> int:
        """``factor**2`` channels become ``factor`` times longer sides."""
        sides = tuple(side * factor for side in self.sides(x))
        channels = self.channels(x) // factor ** len(sides)
        return self._add("pixel_shuffle", (x,), channels, sides)

    def done(self, name: str) -> Convnet:
        """The finished network."""
        return Convnet(name, tuple(self.nodes))

    def _check_sides(self, sides: tuple[int, ...], old: tuple[int, ...]) -> None:
        if any(side < 1 for side in sides):
            raise WorkloadError(
                "convnet: image_size",
                old,
                "a map that the kernel still fits into",
                repair="use a larger image: the network's strides have used this one up",
            )

    def _add(
        self,
        kind: str,
        inputs: tuple[int, ...],
        channels: int,
        sides: tuple[int, ...],
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = False,
        transposed: bool = False,
        word: str = "",
    ) -> int:
        name = f"{len(self.nodes):03d}.{kind if kind == 'conv' else word or kind}"
        self.nodes.append(
            Node(
                name, kind, inputs, channels, sides, kernel, stride, padding, groups, bias,
                transposed, word,
            )
        )  # fmt: skip
        return len(self.nodes) - 1
