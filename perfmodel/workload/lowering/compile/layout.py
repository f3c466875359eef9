"""Whether a compiled network runs its convolutions channels last.

References
----------
torch/_inductor/graph.py, ``decide_layout_opt``: shares of the arithmetic weighted by measured
speedups of channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from perfmodel.workload.lowering.eager.conv import conv_op
from perfmodel.workload.lowering.eager.names import base_name, group_of
from perfmodel.workload.lowering.site import Site

_INFERENCE: Final = {"grouped": 1.358, "default": 0.823, "in_out": 0.725, "small": 0.783}
_NODES_PER_CONVOLUTION: Final = 300
_DECOMPOSED: Final = MappingProxyType(
    {
        "layer_norm": 10, "rms_norm": 7, "batch_norm": 16, "group_norm": 12, "softmax": 5,
        "safe_softmax": 5, "attention": 1,
    }
)  # fmt: skip
"""Nodes of the compiler's graph that an operator of a group becomes, beyond one."""
_ACTIVATIONS: Final = MappingProxyType({"gelu": 7, "silu": 6, "hardswish": 6, "native_dropout": 4})


def prefers_channels_last(sites: Sequence[Site]) -> bool:
    """Whether the compiler's heuristic turns the network."""
    training = any(site.node.phase == "backward" for site in sites)
    forward = [site for site in sites if site.node.phase == "forward"]
    convolutions = [site for site in forward if site.name == "convolution"]
    if not convolutions or _nodes(forward) >= _NODES_PER_CONVOLUTION * len(convolutions):
        return False
    kinds = [_kind(site) for site in convolutions]
    if training:
        return not ({"grouped", "in_out"} & set(kinds) or set(kinds) == {"small"}) and not any(
            _is_in_out(site) for site in convolutions
        )
    flops = [
        float(conv_op(site, site.inputs[0], site.inputs[1], site.outputs[0], "fwd").flops)
        for site in convolutions
    ]
    weighted = sum(_INFERENCE[kind] * each for kind, each in zip(kinds, flops, strict=True))
    return weighted <= sum(flops)


def _nodes(forward: Sequence[Site]) -> int:
    """Nodes of the graph that the compiler looks at: decomposed operators, inputs, the output."""
    made = {name for site in forward for name in site.node.outputs}
    inputs = {name for site in forward for name in site.node.inputs} - made
    more = sum(
        _ACTIVATIONS.get(base_name(site.name), _DECOMPOSED.get(group_of(site.name), 0))
        for site in forward
    )
    return len(forward) + len(inputs) + more + 1


def _kind(site: Site) -> str:
    weight = site.inputs[1].shape
    if int(site.attribute("groups", 1)) > 1 and weight[1] > 1:
        return "grouped"
    if weight[0] <= 64 and weight[1] <= 64:
        return "small"
    return "in_out" if _is_in_out(site) else "default"


def _is_in_out(site: Site) -> bool:
    weight = site.inputs[1].shape
    return weight[0] * 2 <= weight[1] and len(weight) > 2 and weight[2] > 1
