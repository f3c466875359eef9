"""Whether a compiled network runs its convolutions channels last.

References
----------
torch/_inductor/graph.py, ``decide_layout_opt``: shares of the arithmetic weighted by measured
speedups of channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perfmodel.workload.lowering.eager.conv import conv_op
from perfmodel.workload.lowering.site import Site

_INFERENCE: Final = {"grouped": 1.358, "default": 0.823, "in_out": 0.725, "small": 0.783}
_NODES_PER_CONVOLUTION: Final = 300


def prefers_channels_last(sites: Sequence[Site]) -> bool:
    """Whether the compiler's heuristic turns the network."""
    training = any(site.node.phase == "backward" for site in sites)
    forward = [site for site in sites if site.node.phase == "forward"]
    convolutions = [site for site in forward if site.name == "convolution"]
    if not convolutions or len(forward) >= _NODES_PER_CONVOLUTION * len(convolutions):
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
