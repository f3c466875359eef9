"""Views that PyTorch's C++ code takes by itself: Python never sees them, and they cost the less.

``F.linear`` transposes its weight and folds its input to a matrix; fused evaluation paths and the
backward pass run without Python altogether.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final

from perfmodel.workload.program import Program

PRODUCTS: Final = ("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten._grouped_mm")
FOLDS: Final = (
    "aten.t", "aten.view", "aten._unsafe_view", "aten.expand", "aten.transpose", "aten.reshape",
)  # fmt: skip


def inside(program: Program) -> frozenset[int]:
    """Nodes that are called from C++ code.

    Those of the backward pass and of fused paths (attribute ``within``), and the views in a run of
    nodes of one module and line that is nothing but a product and the views around it.
    """
    found = {
        place
        for place, node in enumerate(program.nodes)
        if node.phase == "backward" or node.attributes.get("within")
    }
    numbered = enumerate(program.nodes)
    for _, run in groupby(numbered, key=lambda pair: (pair[1].module, pair[1].source)):
        members = list(run)
        names = [node.target for _, node in members]
        products = sum(name in PRODUCTS for name in names)
        if products == 1 and all(name in PRODUCTS or name in FOLDS for name in names):
            found |= {place for place, node in members if node.target in FOLDS}
    return frozenset(found)
