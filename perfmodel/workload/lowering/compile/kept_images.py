"""Heads of attention that a channels-last network keeps for its backward pass.

What the forward graph hands on in four axes lies channels last if a convolution comes behind it
(torch/_inductor/graph.py, ``run_node`` and ``find_nodes_prefer_channels_last``): queries, keys,
values, the result and its logarithms are stored once more in that order, heads innermost, and put
back in rows for the gradient's call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from perfmodel.workload.lowering.compile.buffers import base_of
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.compile.limits import HEADS, LAST
from perfmodel.workload.lowering.compile.names import Names
from perfmodel.workload.lowering.eager.names import group_of
from perfmodel.workload.lowering.site import Site, numel


def last_convolution(sites: Iterable[Site]) -> int:
    """Index of the last convolution of the forward pass; -1 for none."""
    return max(
        (
            site.index
            for site in sites
            if site.node.phase == "forward" and group_of(site.name) == "convolution"
        ),
        default=-1,
    )


@dataclass(frozen=True, slots=True)
class KeptImages:
    """Copies of what attention in front of the last convolution keeps.

    Parameters
    ----------
    names : Names
        What each tensor of the program holds.
    end : int
        Index of that convolution; -1 where the network is not turned, or has no backward pass.
    kept : dict
        The copy of each tensor that was turned.
    """

    names: Names
    end: int
    kept: dict[str, int] = field(default_factory=dict)

    def operands(self, site: Site, args: Sequence[int]) -> list[int]:
        """What a call of attention, or of its gradient, is handed."""
        graph, found = self.names.graph, list(args)
        for place, name in enumerate(site.node.inputs):
            if site.node.phase == "backward" and name in self.kept:
                found[place] = _copy(graph, self.kept[name], HEADS, f"gradient of {name}")
                late = replace(graph.values[found[place]], backward=True)  # no step of the program
                graph.values[found[place]] = late
            elif place < 3 and self._keeps(site, name, found[place]):
                self.kept[name] = _copy(graph, found[place], LAST, name)
                found[place] = _copy(graph, self.kept[name], HEADS)
        return found

    def results(self, site: Site, values: Sequence[int]) -> list[int]:
        """What the call hands on; gradients lie in order then, and products take copies of them."""
        graph, found = self.names.graph, list(values)
        if site.node.phase == "backward":
            turned = any(name in self.kept for name in site.node.inputs)
            return (
                [_copy(graph, value, "copy", heavy=False) for value in found] if turned else found
            )
        for place, name in enumerate(site.node.outputs[: len(found)]):
            if self._keeps(site, name, found[place]):
                self.kept[name] = _copy(graph, found[place], LAST, name)
                found[place] = _copy(graph, self.kept[name], "rows", heavy=False)
        return found

    def _keeps(self, site: Site, name: str, value: int) -> bool:
        graph = self.names.graph
        shape = graph.values[value].shape
        dense = base_of(graph, value).numel == numel(
            shape
        )  # parts of one product stay where they are
        images = dense and len(shape) == 4 and shape[1] > 1
        return images and site.index < self.end and name in self.names.later


def _copy(graph: Graph, number: int, name: str, told: str = "", *, heavy: bool = True) -> int:
    value = graph.values[number]
    return graph.map(
        name, (number,), value.shape, value.dtype, 0, heavy=heavy, arguments=told or number
    )
