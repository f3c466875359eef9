"""Which operators of a training step the compiler sees.

``torch.compile(model)`` compiles the model alone: a loss that the caller computes from its output
runs eagerly between the compiled forward and backward graphs. It is told apart by the source lines
of the operators behind the last submodule: they stand in another file than the model's own (a model
library's losses, which its models call themselves, belong to the model).
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
    own = [site.node.source for site in forward if site.node.module]
    files, packages = {_file(source) for source in own}, {_package(source) for source in own}
    tail: list[Site] = []
    for site in reversed(forward):
        source = site.node.source
        library = _package(source) in packages and "loss" in _file(source)
        if site.node.module or _file(source) in files or library:
            break
        tail.append(site)
    places = {_file(site.node.source) for site in tail if site.node.source}
    if not tail or not own or not places:
        return set()
    found = {site.index for site in tail}
    for site in backward:
        # up to the first gradient that belongs to the model
        source = site.node.source
        if site.node.module or (source and _file(source) in files):
            break
        found.add(site.index)
    return found


def _file(source: str) -> str:
    return source.partition(":")[0]


def _package(source: str) -> str:
    return _file(source).split("/", maxsplit=1)[0]
