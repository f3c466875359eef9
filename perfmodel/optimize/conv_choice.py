r"""Which algorithm and layout every convolution of a network should use.

Every node has a layout; every convolution, for each layout, its fastest algorithm whose workspace
fits (if need be on a fraction of the batch at a time). A map whose readers want the other layout is
transformed once. With :math:`l_v \in \{0, 1\}` for the layouts and :math:`t_u` for a transform
behind node :math:`u`:

.. math::

    \min \sum_v c_v^0 + (c_v^1 - c_v^0)\, l_v + \sum_u T_u t_u, \qquad
    t_u \ge l_v - l_u,\; t_u \ge l_u - l_v \quad \text{for every reader } v

The matrix is that of a minimum cut, so the linear relaxation is already whole and the answer exact.

Reference
---------
Meng et al., "DYNAMAP", FPGA 2021 (algorithm mapping with layout transitions); Oyama et al.,
"mu-cuDNN", 2018 (micro-batches under a workspace limit).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from perfmodel.cost.conv_algorithms import algorithm, applicable
from perfmodel.cost.conv_compare import algorithm_cost
from perfmodel.cost.price import price
from perfmodel.errors import Infeasible, WorkloadError
from perfmodel.hardware import Accelerator
from perfmodel.optimize.milp import Program, solve
from perfmodel.workload.convnet import Convnet, Setting, conv_op
from perfmodel.workload.ops.base import check_choice
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.ops.streams import Fused

LAYOUTS: Final = ("nhwc", "nchw")
SPLITS: Final = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a convolution: algorithm, layout, and in how many pieces of the batch."""

    algorithm: str
    layout: str
    pieces: int
    seconds: float
    workspace: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best choice for a network.

    Parameters
    ----------
    seconds, bound : float
        Convolutions and transforms, and what no choice can beat [s].
    options : tuple of (str, Option)
        Name of every convolution and what it uses.
    transforms : tuple of str
        Nodes whose map is brought into the other layout.
    greedy_seconds : float
        Every layer's own fastest option, transforms paid afterwards [s].
    direct_seconds : float
        The library's convolution everywhere, in its better layout [s].
    workspace : int
        Largest workspace in use [B].
    """

    seconds: float
    bound: float
    options: tuple[tuple[str, Option], ...]
    transforms: tuple[str, ...]
    greedy_seconds: float
    direct_seconds: float
    workspace: int

    @property
    def gap(self) -> float:
        """How far the choice may be from the optimum, as a share of it."""
        return max(0.0, self.seconds / self.bound - 1.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "latency_s": self.seconds,
            "lower_bound_s": self.bound,
            "gap": self.gap,
            "greedy_s": self.greedy_seconds,
            "direct_s": self.direct_seconds,
            "workspace_bytes": self.workspace,
            "transforms": list(self.transforms),
            "layers": [
                {
                    "name": name,
                    "algorithm": one.algorithm,
                    "layout": one.layout,
                    "pieces": one.pieces,
                    "latency_us": one.seconds * 1e6,
                    "workspace_bytes": one.workspace,
                }
                for name, one in self.options
            ],
        }


def options_of(
    op: Conv2d, accelerator: Accelerator, workspace_cap: float, *, batch: int
) -> tuple[Option, ...]:
    """Every way to run a convolution within a workspace.

    Parameters
    ----------
    op : Conv2d
        For the whole batch.
    accelerator : Accelerator
        The device.
    workspace_cap : float
        Intermediate buffers that may exist at once [B].
    batch : int
        Images; pieces divide it.
    """
    found = []
    for layout in LAYOUTS:
        shaped = replace(op, layout=layout)
        for name in applicable(shaped):
            for pieces in SPLITS:
                if batch % pieces:
                    continue
                piece = replace(shaped, n=batch // pieces)
                need = algorithm(name, piece).workspace
                if need <= workspace_cap:
                    seconds = pieces * algorithm_cost(name, piece, accelerator).seconds
                    found.append(Option(name, layout, pieces, seconds, need))
                if need == 0:
                    break
    return tuple(found)


def choose(
    net: Convnet,
    accelerator: Accelerator,
    setting: Setting,
    *,
    workspace_cap: float = float("inf"),
    input_layout: str = "nchw",
) -> Chosen:
    """The exact best algorithms and layouts of a network.

    Parameters
    ----------
    net : Convnet
        Two-dimensional.
    accelerator : Accelerator
        The device.
    setting : Setting
        Batch and format; its layout is not used.
    workspace_cap : float
        Intermediate buffers that may exist at once [B].
    input_layout : str
        How the images arrive.

    Raises
    ------
    WorkloadError
        If the network has three-dimensional convolutions, or the layout is none.
    Infeasible
        If the solver proves that nothing fits, which the direct algorithm rules out.
    """
    check_choice(input_layout, LAYOUTS, "conv choice: input_layout")
    start = LAYOUTS.index(input_layout)
    by_node: dict[int, tuple[Option, ...]] = {}
    known: dict[Conv2d, tuple[Option, ...]] = {}
    for place, node in enumerate(net.nodes):
        if node.kind != "conv":
            continue
        op = conv_op(net, node, setting)
        if not isinstance(op, Conv2d):
            raise WorkloadError(
                f"conv choice: {node.name}",
                op.family,
                "two-dimensional convolutions",
                repair="choose a two-dimensional network",
            )
        if op not in known:
            known[op] = options_of(op, accelerator, workspace_cap, batch=setting.batch)
        by_node[place] = known[op]
    costs = np.zeros((len(net.nodes), 2))
    for place, options in by_node.items():
        for index in (0, 1):
            costs[place, index] = _best(options, index).seconds
    transform = np.array(
        [_transform(net, place, setting, accelerator) for place in range(len(net.nodes))]
    )
    labels, bound = _cut(net, costs, transform, start)
    alone = {place: _fastest(options) for place, options in by_node.items()}
    greedy = _follow(net, {place: LAYOUTS.index(one.layout) for place, one in alone.items()}, start)
    direct = _only_direct(by_node)
    return Chosen(
        seconds=total(net, costs, transform, labels, start),
        bound=bound,
        options=tuple(
            (net.nodes[place].name, _best(options, int(labels[place])))
            for place, options in by_node.items()
        ),
        transforms=tuple(net.nodes[place].name for place in _turned(net, labels)),
        greedy_seconds=total(net, costs, transform, greedy, start),
        direct_seconds=min(
            total(net, direct(costs), transform, np.full(len(net.nodes), index), start)
            for index in (0, 1)
        ),
        workspace=max(
            (_best(options, int(labels[place])).workspace for place, options in by_node.items()),
            default=0,
        ),
    )


def total(net: Convnet, costs: Any, transform: Any, labels: Any, start: int) -> float:
    """Time of a layout for every node [s]; the input has the layout it arrives in."""
    labels = np.array(labels)
    labels[0] = start
    nodes = float(costs[np.arange(len(labels)), labels].sum())
    return nodes + float(sum(transform[place] for place in _turned(net, labels)))


def _turned(net: Convnet, labels: Any) -> list[int]:
    return [
        place
        for place, readers in enumerate(net.consumers())
        if any(labels[reader] != labels[place] for reader in readers)
    ]


def _cut(net: Convnet, costs: Any, transform: Any, start: int) -> tuple[Any, float]:
    """The program above, in units of the largest cost."""
    count = len(net.nodes)
    unit = max(float(costs.max()), 1e-12)
    rows, columns, values = [], [], []
    row = 0
    for place, readers in enumerate(net.consumers()):
        for reader in readers:
            for sign in (1.0, -1.0):
                rows += [row, row, row]
                columns += [count + place, reader, place]
                values += [1.0, -sign, sign]
                row += 1
    upper = np.ones(2 * count)
    lower = np.zeros(2 * count)
    lower[0] = upper[0] = float(start)
    program = Program(
        cost=np.concatenate([costs[:, 1] - costs[:, 0], transform]) / unit,
        lower=lower,
        upper=upper,
        integer=np.arange(2 * count) < count,
        rows=np.array(rows, dtype=np.int64),
        columns=np.array(columns, dtype=np.int64),
        values=np.array(values),
        row_lower=np.zeros(row),
        row_upper=np.full(row, np.inf),
    )
    solution = solve(program)
    if solution.values is None:
        raise Infeasible(
            "conv choice",
            solution.status,
            "a network whose convolutions fit the workspace",
            repair="raise the workspace cap",
        )
    labels = np.round(solution.values[:count]).astype(int)
    base = float(costs[:, 0].sum())
    return labels, base + unit * solution.bound


def _best(options: tuple[Option, ...], layout: int) -> Option:
    return min(
        (one for one in options if one.layout == LAYOUTS[layout]), key=lambda one: one.seconds
    )


def _fastest(options: tuple[Option, ...]) -> Option:
    return min(options, key=lambda one: one.seconds)


def _only_direct(by_node: dict[int, tuple[Option, ...]]) -> Any:
    def costs(like: Any) -> Any:
        table = np.zeros_like(like)
        for place, options in by_node.items():
            for one in options:
                if one.algorithm == "direct":
                    table[place, LAYOUTS.index(one.layout)] = one.seconds
        return table

    return costs


def _follow(net: Convnet, given: dict[int, int], start: int) -> Any:
    """Nodes that are free take the layout of what they read."""
    labels = np.zeros(len(net.nodes), dtype=int)
    for place, node in enumerate(net.nodes):
        inherited = labels[node.inputs[0]] if node.inputs else start
        labels[place] = given.get(place, int(inherited))
    return labels


def _transform(net: Convnet, place: int, setting: Setting, accelerator: Accelerator) -> float:
    node = net.nodes[place]
    if all(side == 1 for side in node.sides):
        return 0.0
    e = setting.element
    op = Fused("layout", setting.batch * node.elements, e, e, 0)
    return float(price(op, accelerator).seconds)
