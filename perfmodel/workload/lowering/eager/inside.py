"""Who calls an operator: Python, or C++ code by itself, which costs the less.

``F.linear`` transposes its weight and folds its input to a matrix, behind the casts that autocast
makes of both; fused evaluation paths and the backward pass run without Python altogether, but for
what activation checkpointing runs again.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final

from perfmodel.workload.program import Program

PRODUCTS: Final = ("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten._grouped_mm")
FOLDS: Final = (
    "aten.t", "aten.view", "aten._unsafe_view", "aten.expand", "aten.transpose", "aten.reshape",
)  # fmt: skip
CAST: Final = "aten._to_copy"
CASTING: Final = (
    "aten.convolution", "aten.native_layer_norm", "aten.native_group_norm", "aten._softmax",
    "aten._log_softmax", "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_flash_attention", "aten._scaled_dot_product_efficient_attention",
    "aten.scaled_dot_product_attention",
)  # fmt: skip
"""Operators before which autocast changes formats, besides products."""

SHORTEST: Final = 6
"""Operators in a row, of more than one line, that do not come in this order by chance."""
_Key = tuple[str, str, str]


def recomputed(program: Program) -> frozenset[int]:
    """Nodes of the backward pass in which Python runs a piece of the forward pass again.

    Its operators come once more from the same modules and lines in the same order, while the
    derivative goes through them from the last to the first. Handles that one of the two takes
    (detach) and casts that the first kept (autocast) are left out of the comparison.
    """
    forward: list[_Key] = []
    again: list[tuple[int, _Key]] = []
    for place, node in enumerate(program.nodes):
        if node.target in ("aten.detach", CAST) or not node.source:
            continue
        key = (node.module, node.source, node.target)
        if node.phase == "forward":
            forward.append(key)
        elif node.phase == "backward":
            again.append((place, key))
    places: dict[_Key, list[int]] = {}
    for at, key in enumerate(forward):
        places.setdefault(key, []).append(at)
    found: set[int] = set()
    begin = 0
    while begin < len(again):
        longest = max(
            (_common(forward, at, again, begin) for at in places.get(again[begin][1], ())),
            default=0,
        )
        run = again[begin : begin + longest]
        if longest >= SHORTEST and len({source for _, (_, source, _) in run}) > 1:
            found |= set(range(run[0][0], run[-1][0] + 1))
            begin += longest
        else:
            begin += 1
    return frozenset(found)


def _common(forward: list[_Key], at: int, again: list[tuple[int, _Key]], begin: int) -> int:
    """How many operators agree from two places on."""
    count = 0
    while (
        at + count < len(forward)
        and begin + count < len(again)
        and forward[at + count] == again[begin + count][1]
    ):
        count += 1
    return count


def inside(program: Program, again: frozenset[int] = frozenset()) -> frozenset[int]:
    """Nodes that are called from C++ code.

    Those of fused paths (attribute ``within``) and of the backward pass without what is computed
    ``again``, and in a run of nodes of one module and line that is nothing but a product, the views
    around it and the casts before it, these views and casts; casts also before what else autocast
    changes formats for.
    """
    found = {
        place
        for place, node in enumerate(program.nodes)
        if (node.phase == "backward" and place not in again) or node.attributes.get("within")
    }
    numbered = enumerate(program.nodes)
    for _, run in groupby(numbered, key=lambda pair: (pair[1].module, pair[1].source)):
        members = list(run)
        names = [node.target for _, node in members if node.target != CAST]
        products = sum(name in PRODUCTS for name in names)
        if products == 1 and all(name in PRODUCTS or name in FOLDS for name in names):
            found |= {place for place, node in members if node.target in (*FOLDS, CAST)}
        elif any(name in CASTING for name in names):
            found |= {place for place, node in members if node.target == CAST}
    return frozenset(found)
