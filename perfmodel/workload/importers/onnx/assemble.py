"""Puts a program together: final names, storages counted from 0, the end of each lifetime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from perfmodel.workload.program import Node, Program, Tensor

_KEPT = frozenset({"parameter", "buffer", "constant", "input"})


def assembled(
    name: str,
    tensors: Sequence[Tensor],
    nodes: Sequence[Node],
    sizes: Sequence[int],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    new_names: Mapping[str, str],
    origin: str,
    assumptions: tuple[str, ...],
) -> Program:
    """A program of which every storage dies after the last node that touches it.

    Weights, inputs and outputs stay. ``sizes`` holds the bytes of every storage, used or not.
    """
    number = _numbering(tensors)
    held = {tensor.name: tensor.storage for tensor in tensors}
    kept = {tensor.storage for tensor in tensors if tensor.role in _KEPT}
    kept |= {held[output] for output in outputs}
    last: dict[int, int] = {}
    for index, node in enumerate(nodes):
        for tensor_name in (*node.inputs, *node.outputs):
            last[held[tensor_name]] = index
    dying: dict[int, list[int]] = {}
    for storage, index in last.items():
        if storage not in kept:
            dying.setdefault(index, []).append(storage)
    new = new_names
    return Program(
        name=name,
        tensors=tuple(
            replace(one, name=new.get(one.name, one.name), storage=number[one.storage])
            for one in tensors
        ),
        nodes=tuple(
            replace(
                node,
                inputs=tuple(new.get(one, one) for one in node.inputs),
                outputs=tuple(new.get(one, one) for one in node.outputs),
                frees=tuple(sorted(number[storage] for storage in dying.get(index, ()))),
            )
            for index, node in enumerate(nodes)
        ),
        inputs=tuple(inputs),
        outputs=tuple(dict.fromkeys(new.get(one, one) for one in outputs)),
        origin=origin,
        module_calls=_modules(nodes),
        storages=tuple(sizes[storage] for storage in number),
        assumptions=assumptions,
    )


def _numbering(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Storages that tensors of the program use, counted from 0."""
    number: dict[int, int] = {}
    for tensor in tensors:
        number.setdefault(tensor.storage, len(number))
    return number


def _modules(nodes: Iterable[Node]) -> int:
    """Modules that the file names, their parents included: each is called once."""
    paths = {node.module for node in nodes if node.module}
    parents = {path[:k] for path in paths for k, letter in enumerate(path) if letter == "."}
    return len(paths | parents) + 1 if paths else 0
