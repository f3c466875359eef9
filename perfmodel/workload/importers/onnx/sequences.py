"""Sequences of tensors, which PyTorch's older exporter makes of Python lists."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.onnx.builder import Builder
from perfmodel.workload.importers.onnx.values import Spec, Value, integers

if TYPE_CHECKING:
    import onnx

OPERATORS: Final = frozenset(
    (
        "SequenceEmpty",
        "SequenceConstruct",
        "SequenceInsert",
        "SequenceErase",
        "SequenceAt",
        "SequenceLength",
        "SplitToSequence",
        "ConcatFromSequence",
    )
)


def run(
    node: onnx.NodeProto,
    attributes: Mapping[str, Any],
    env: MutableMapping[str, Value | list[Value] | None],
    build: Builder,
) -> None:
    """Run one operator on sequences; a sequence is a Python list."""
    given = [env[name] if name else None for name in node.input]
    out = node.output[0]
    op = node.op_type
    if op == "SequenceEmpty":
        env[out] = []
    elif op == "SequenceConstruct":
        env[out] = [value for value in given if isinstance(value, Value)]
    elif op == "SplitToSequence":
        env[out] = _split(node, attributes, given, build)
    else:
        _on_list(node, attributes, given, env, build)


def _on_list(
    node: onnx.NodeProto,
    attributes: Mapping[str, Any],
    given: list[Value | list[Value] | None],
    env: MutableMapping[str, Value | list[Value] | None],
    build: Builder,
) -> None:
    out, op = node.output[0], node.op_type
    items = given[0]
    if not isinstance(items, list):
        raise _refused(node, "a tensor where a sequence is meant")
    if op == "SequenceLength":
        env[out] = build.constant(np.asarray(len(items), np.int64), name=out)
    elif op == "SequenceAt":
        env[out] = items[_position(node, given[1], len(items))]
    elif op == "SequenceInsert":
        new = given[1]
        if not isinstance(new, Value):
            raise _refused(node, "no tensor to insert")
        at = _position(node, given[2], len(items) + 1) if len(given) > 2 else len(items)
        env[out] = [*items[:at], new, *items[at:]]
    elif op == "SequenceErase":
        at = _position(node, given[1], len(items)) if len(given) > 1 else len(items) - 1
        env[out] = [*items[:at], *items[at + 1 :]]
    else:
        env[out] = join(items, int(attributes["axis"]), bool(attributes.get("new_axis")), build)


def join(items: list[Value], axis: int, new_axis: bool, build: Builder) -> Value:
    """One tensor of a list: ``aten.stack`` or ``aten.cat``."""
    if not items:
        raise WorkloadError(
            f"node {build.node_name!r}",
            "<an empty sequence>",
            "at least one tensor to join",
            repair="check the trip count of the loop that fills it",
        )
    first = items[0]
    if new_axis:
        place = axis % (first.rank + 1)
        shape = (*first.shape[:place], len(items), *first.shape[place:])
        return build.one("aten.stack", items, Spec(shape, first.dtype), {"dim": place})
    place = axis % first.rank
    size = sum(item.shape[place] for item in items)
    shape = (*first.shape[:place], size, *first.shape[place + 1 :])
    return build.one("aten.cat", items, Spec(shape, first.dtype), {"dim": place})


def _split(
    node: onnx.NodeProto,
    attributes: Mapping[str, Any],
    given: list[Value | list[Value] | None],
    build: Builder,
) -> list[Value]:
    value, sizes = given[0], given[1] if len(given) > 1 else None
    if not isinstance(value, Value):
        raise _refused(node, "a sequence where a tensor is meant")
    axis = int(attributes.get("axis", 0)) % value.rank
    length = value.shape[axis]
    if sizes is None:
        parts = [1] * length
    elif isinstance(sizes, Value) and sizes.array is not None:
        parts = integers(sizes.array)
        if sizes.rank == 0 and parts[0] > 0:
            step = parts[0]
            parts = [min(step, length - start) for start in range(0, length, step)]
    else:
        raise _refused(node, "sizes that are known only when the model runs")
    made, start = [], 0
    for size in parts:
        made.append(build.slice(value, axis, start, start + size))
        start += size
    if sizes is None and not attributes.get("keepdims", 1):
        made = [build.select(one, axis, 0) for one in made]
    return made


def _position(node: onnx.NodeProto, value: Value | list[Value] | None, count: int) -> int:
    if not isinstance(value, Value) or value.array is None:
        raise _refused(node, "a position that is known only when the model runs")
    place = integers(value.array)[0]
    if not -count <= place < count:
        raise _refused(node, f"position {place} of {count}")
    return place % count


def _refused(node: onnx.NodeProto, got: str) -> WorkloadError:
    return WorkloadError(
        f"node {node.name or node.output[0]!r} ({node.op_type})",
        f"<{got}>",
        "sequences whose length and positions follow from shapes",
        repair="export the model without lists of tensors",
    )
