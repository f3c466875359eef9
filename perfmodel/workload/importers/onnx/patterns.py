"""Operators that exporters spell out because the operator set lacks them, put together again.

PyTorch's exporters write GELU (before operator set 20), layer norm (before 17), SiLU, hard swish
(before 14) and the inverse square root as chains. PyTorch runs each as one kernel, and so does
every runtime after its first optimisation pass. Other chains stay as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

DOMAIN: Final = "com.microsoft"
"""Where the joined operators live: their names are those of ONNX Runtime."""
_CLOSE: Final = 1e-3


@dataclass(slots=True)
class _Net:
    """Who makes and who reads what; ``scalar`` tells the number behind a name."""

    nodes: Sequence[onnx.NodeProto]
    scalar: Callable[[str], float | None]
    kept: set[str]
    weights: set[str]
    maker: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, node in enumerate(self.nodes):
            for name in node.output:
                self.maker[name] = index
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(index)

    def before(self, name: str, *ops: str) -> int | None:
        """The node that makes ``name``, if it is one of ``ops``."""
        index = self.maker.get(name)
        return index if index is not None and self._is(index, ops) else None

    def after(self, index: int, *ops: str) -> int | None:
        """The only reader of a node's result, if it is one of ``ops``."""
        name = self.nodes[index].output[0]
        found = self.readers.get(name, [])
        if name in self.kept or len(found) != 1 or not self._is(found[0], ops):
            return None
        return found[0]

    def other(self, index: int, name: str) -> str:
        """The operand of a binary node that is not ``name``; empty if there is none."""
        given = list(self.nodes[index].input)
        if len(given) != 2 or name not in given:
            return ""
        return str(given[1] if given[0] == name else given[0])

    def number(self, index: int, name: str) -> float | None:
        """The number that a binary node combines ``name`` with."""
        other = self.other(index, name)
        return self.scalar(other) if other else None

    def stored(self, name: str) -> bool:
        """Whether ``name`` is a weight or a copy of one."""
        return name in self.weights or self.before(name, "Identity", "Constant") is not None

    def out(self, index: int) -> str:
        """A node's first result."""
        return str(self.nodes[index].output[0])

    def _is(self, index: int, ops: tuple[str, ...]) -> bool:
        node = self.nodes[index]
        return node.op_type in ops and node.domain in ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class _Match:
    """Nodes of a chain, the last of which ends it, and what stands for them."""

    chain: tuple[int, ...]
    op: str
    inputs: tuple[str, ...]
    epsilon: float | None = None


def joined(
    nodes: Sequence[onnx.NodeProto],
    scalar: Callable[[str], float | None],
    kept: set[str],
    weights: set[str],
) -> list[onnx.NodeProto]:
    """The nodes with known chains replaced, each by one node at its end.

    Parameters
    ----------
    nodes : sequence of NodeProto
        In an order in which they can run.
    scalar : callable
        The number that a name stands for, if it is a constant of one element.
    kept : set of str
        Results that must stay: outputs of the graph.
    weights : set of str
        Tensors that are the same in every call.
    """
    net = _Net(nodes, scalar, kept, weights)
    gone: set[int] = set()
    instead: dict[int, onnx.NodeProto] = {}
    for index, node in enumerate(nodes):
        find = _FINDERS.get(node.op_type)
        match = find(net, index) if find and node.domain in ("", "ai.onnx") else None
        if match is None or gone.intersection(match.chain) or not _closed(net, match):
            continue
        gone.update(match.chain)
        instead[match.chain[-1]] = _node(nodes[match.chain[-1]], match)
    return [
        instead.get(index, node)
        for index, node in enumerate(nodes)
        if index not in gone or index in instead
    ]


def _closed(net: _Net, match: _Match) -> bool:
    """Whether nothing outside the chain reads what is inside."""
    inside = set(match.chain)
    return all(
        name not in net.kept and inside.issuperset(net.readers.get(name, []))
        for index in match.chain[:-1]
        for name in net.nodes[index].output
    )


def _node(last: onnx.NodeProto, match: _Match) -> onnx.NodeProto:
    import onnx

    made = onnx.NodeProto()
    made.CopyFrom(last)
    del made.input[:]
    del made.attribute[:]
    made.op_type, made.domain = match.op, DOMAIN
    made.input.extend(match.inputs)
    if match.epsilon is not None:
        made.attribute.append(onnx.helper.make_attribute("epsilon", match.epsilon))
    return made


def _gelu(net: _Net, erf: int) -> _Match | None:
    """0.5 x (1 + erf(x / sqrt 2)), the half before, between or after."""
    scale = net.before(net.nodes[erf].input[0], "Div", "Mul")
    plus = net.after(erf, "Add")
    times = None if plus is None else net.after(plus, "Mul")
    if scale is None or plus is None or times is None:
        return None
    x = net.nodes[scale].input[0]
    wanted = sqrt(2.0) if net.nodes[scale].op_type == "Div" else sqrt(0.5)
    if not _near(net.number(scale, x), wanted) or not _near(net.number(plus, net.out(erf)), 1):
        return None
    partner = net.other(times, net.out(plus))
    last = net.after(times, "Mul")
    if last is not None:
        pair = (partner, net.other(last, net.out(times)))
        if any(one == x and _near(net.scalar(two), 0.5) for one, two in (pair, pair[::-1])):
            return _Match((scale, erf, plus, times, last), "Gelu", (x,))
    half = net.before(partner, "Mul")
    if half is not None and _near(net.number(half, x), 0.5):
        return _Match((scale, erf, plus, half, times), "Gelu", (x,))
    return None


def _layer_norm(net: _Net, mean: int) -> _Match | None:
    """A centred x over the root of its mean square, times a weight, plus a bias; last axis."""
    x = net.nodes[mean].input[0]
    less = net.after(mean, "Sub")
    if less is None or net.nodes[less].input[0] != x:
        return None
    centred = net.out(less)
    readers = net.readers.get(centred, [])
    square = next((k for k in readers if net.nodes[k].op_type in ("Pow", "Mul")), None)
    divide = next((k for k in readers if net.nodes[k].op_type == "Div"), None)
    if square is None or divide is None or len(readers) != 2:
        return None
    below, above = _run(net, square, "ReduceMean", "Add", "Sqrt"), _run(net, divide, "Mul", "Add")
    if not below or not above:
        return None
    (variance, plus, root), (scaled, shifted) = below, above
    epsilon = net.number(plus, net.out(variance))
    weight, bias = net.other(scaled, net.out(divide)), net.other(shifted, net.out(scaled))
    squared = list(net.nodes[square].input) == [centred] * 2
    good = (
        (squared or _near(net.number(square, centred), 2))
        and net.after(root, "Div") == divide
        and all(_last_axis(net, one) for one in (mean, variance))
        and all(net.stored(name) for name in (weight, bias))
    )
    if not good or epsilon is None:
        return None
    chain = (mean, less, square, variance, plus, root, divide, scaled, shifted)
    return _Match(chain, "LayerNormalization", (x, weight, bias), epsilon)


def _run(net: _Net, index: int, *ops: str) -> list[int]:
    """The chain of only readers behind a node; empty if it is not there whole."""
    found: list[int] = []
    for op in ops:
        following = net.after(found[-1] if found else index, op)
        if following is None:
            return []
        found.append(following)
    return found


def _gated(net: _Net, gate: int) -> _Match | None:
    """``x * sigmoid(x)``, and ``x * hard_sigmoid(x)`` with PyTorch's slope."""
    node = net.nodes[gate]
    x = node.input[0]
    times = net.after(gate, "Mul")
    if times is None or net.other(times, net.out(gate)) != x:
        return None
    if node.op_type == "Sigmoid":
        return _Match((gate, times), "Silu", (x,))
    slope = next((one.f for one in node.attribute if one.name == "alpha"), 0.2)
    return _Match((gate, times), "HardSwish", (x,)) if _near(slope, 1 / 6) else None


def _inverse_root(net: _Net, root: int) -> _Match | None:
    """1 / sqrt(x)."""
    after = net.after(root, "Reciprocal", "Div")
    if after is None:
        return None
    if net.nodes[after].op_type == "Div":
        top, below = net.nodes[after].input
        if below != net.out(root) or not _near(net.scalar(top), 1):
            return None
    return _Match((root, after), "Rsqrt", (net.nodes[root].input[0],))


def _last_axis(net: _Net, index: int) -> bool:
    """Whether a reduction is over the last axis; stated as -1 by PyTorch's exporters."""
    node = net.nodes[index]
    stated = next((list(one.ints) for one in node.attribute if one.name == "axes"), None)
    if stated is None and len(node.input) > 1:
        number = net.scalar(node.input[1])
        stated = [] if number is None else [int(number)]
    keep = next((one.i for one in node.attribute if one.name == "keepdims"), 1)
    return stated == [-1] and keep == 1


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and abs(value - wanted) < _CLOSE


_FINDERS: Final[dict[str, Callable[[_Net, int], _Match | None]]] = {
    "Erf": _gelu,
    "ReduceMean": _layer_norm,
    "Sigmoid": _gated,
    "HardSigmoid": _gated,
    "Sqrt": _inverse_root,
}
