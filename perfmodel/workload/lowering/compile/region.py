"""Which operators of a training step the compiler sees.

``torch.compile(model)`` compiles the model alone: a loss that the caller computes from its output
runs eagerly between the compiled forward and backward graphs. It is told apart by the source lines
of the operators behind the last submodule: they come from another place than the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.workload.lowering.site import Site


def outside(sites: Sequence[Site]) -> set[int]:
    """Indices of the nodes of a loss that is not part of the compiled module."""
    forward = [site for site in sites if site.node.phase == "forward"]
    backward = [site for site in sites if site.node.phase == "backward"]
    if not backward:
        return set()
    roots = {_root(site.node.source) for site in forward if site.node.module}
    tail: list[Site] = []
    for site in reversed(forward):
        if site.node.module or _root(site.node.source) in roots:
            break
        tail.append(site)
    lines = {site.node.source for site in tail if site.node.source}
    if not tail or not roots or not lines:
        return set()
    found = {site.index for site in tail}
    for site in backward:
        # up to the first gradient that belongs to the model
        if site.node.module or (site.node.source and site.node.source not in lines):
            break
        found.add(site.index)
    return found


def _root(source: str) -> str:
    """The package of a source line, or the file where it lies in none."""
    return source.split("/", maxsplit=1)[0].partition(":")[0]
