"""Small programs written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.workload.lowering.site import item_bytes, numel
from perfmodel.workload.program import Node, Program, Tensor

Spec = tuple[Any, ...]


def program(tensors: Mapping[str, Spec], nodes: Sequence[Spec], outputs: Sequence[str] = ()):
    """A program from ``name: (shape, dtype, role, layout)`` and ``(target, in, out, attributes)``.

    A tensor whose role is ``"view of NAME"`` shares that tensor's storage. A fifth entry of a node
    is its phase.
    """
    made: dict[str, Tensor] = {}
    storages: list[int] = []
    for name, spec in tensors.items():
        shape, dtype, role, layout = (*spec, *("bf16", "activation", "contiguous")[len(spec) - 1 :])
        if role.startswith("view of "):
            parent = made[role.removeprefix("view of ")]
            made[name] = Tensor(name, shape, dtype, parent.role, parent.storage, layout)
            continue
        made[name] = Tensor(name, shape, dtype, role, len(storages), layout)
        storages.append(numel(shape) * item_bytes(dtype))
    written = [
        Node(
            f"n{place}",
            f"aten.{node[0]}",
            tuple(node[1]),
            tuple(node[2]),
            node[3] if len(node) > 3 else {},
            node[4] if len(node) > 4 else "forward",
        )
        for place, node in enumerate(nodes)
    ]
    return Program(
        "recipe", tuple(made.values()), tuple(written), (), tuple(outputs), "test", 1,
        tuple(storages),
    )  # fmt: skip
