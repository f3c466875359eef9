"""One node of an execution trace, and its protobuf encoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from perfmodel.errors import ScenarioError
from perfmodel.sim import protowire as wire

TYPES: Final = (
    "INVALID_NODE", "METADATA_NODE", "MEM_LOAD_NODE", "MEM_STORE_NODE", "COMP_NODE",
    "COMM_SEND_NODE", "COMM_RECV_NODE", "COMM_COLL_NODE", "STORAGE_NODE", "BATCH_NODE",
    "CHECKPOINT_NODE",
)  # fmt: skip
COLLECTIVES: Final = (
    "all_reduce", "reduce", "all_gather", "gather", "scatter", "broadcast", "all_to_all",
    "reduce_scatter", "reduce_scatter_block", "barrier",
)  # fmt: skip
VERSION: Final = "0.0.4"
Scalar = int | float | bool | str
# AttributeProto: field number of each scalar type.
_DOUBLE, _FLOAT, _INT64, _UINT64, _BOOL, _STRING = 3, 5, 9, 13, 27, 29
_PLAIN_INTS: Final = (7, 9, 11, 13)
_ZIGZAG_INTS: Final = (15, 17)
_FIXED_INTS: Final = (19, 21, 23, 25)


@dataclass(frozen=True, slots=True)
class ChakraNode:
    """One node of an execution trace.

    Parameters
    ----------
    id : int
        Unique in its file.
    name : str
        What it is.
    type : str
        One of :data:`TYPES`.
    ctrl_deps, data_deps : tuple of int
        Nodes that it waits for.
    start_micros, duration_micros : int
        When and how long [us].
    attributes : dict
        ``comm_type`` (index into :data:`COLLECTIVES`), ``comm_size`` (bytes a rank puts in),
        ``comm_src``, ``comm_dst``, ``comm_tag``, ``is_cpu_op`` and others.
    """

    id: int
    name: str
    type: str
    ctrl_deps: tuple[int, ...] = ()
    data_deps: tuple[int, ...] = ()
    start_micros: int = 0
    duration_micros: int = 0
    attributes: Mapping[str, Scalar] = field(default_factory=dict)


def encode(node: ChakraNode) -> bytes:
    """A Node message."""
    parts = [
        wire.field(1, node.id),
        wire.field(2, node.name),
        wire.field(3, TYPES.index(node.type)),
        wire.packed(4, list(node.ctrl_deps)),
        wire.packed(5, list(node.data_deps)),
        wire.field(6, node.start_micros),
        wire.field(7, node.duration_micros),
    ]
    for name, value in node.attributes.items():
        # bool before int: a Python bool is an int.
        number = (
            _BOOL if isinstance(value, bool)
            else _INT64 if isinstance(value, int)
            else _DOUBLE if isinstance(value, float)
            else _STRING
        )  # fmt: skip
        inner = wire.field(1, name) + wire.field(
            number, int(value) if isinstance(value, bool) else value
        )
        parts.append(wire.field(10, inner))
    return b"".join(parts)


def decode(message: bytes, where: str) -> ChakraNode:
    """The node of a Node message; fields that are not kept are skipped."""
    plain: dict[int, int] = {}
    name = ""
    deps: dict[int, list[int]] = {4: [], 5: []}
    attributes: dict[str, Scalar] = {}
    for number, kind, value in wire.fields(message, where):
        if number in deps:
            deps[number] += wire.integers(kind, value, where)
        elif isinstance(value, int):
            plain[number] = value
        elif number == 2:
            name = _text(value, where)
        elif number == 10:
            found = _attribute(value, where)
            if found is not None:
                attributes[found[0]] = found[1]
    return ChakraNode(
        id=plain.get(1, 0),
        name=name,
        type=node_type(plain.get(3, 0), where),
        ctrl_deps=tuple(deps[4]),
        data_deps=tuple(deps[5]),
        start_micros=plain.get(6, 0),
        duration_micros=plain.get(7, 0),
        attributes=attributes,
    )


def _attribute(message: bytes, where: str) -> tuple[str, Scalar] | None:
    """Name and value; ``None`` for a list, which is not kept."""
    name, found = "", None
    for number, _, value in wire.fields(message, where):
        if number == 1 and isinstance(value, bytes):
            name = _text(value, where)
        elif isinstance(value, int):
            found = _integer(number, value)
        elif number == _DOUBLE:
            found = wire.double(value)
        elif number == _FLOAT:
            found = wire.single(value)
        elif number in _FIXED_INTS:
            found = int.from_bytes(value, "little", signed=number in (23, 25))
        elif number == _STRING:
            found = _text(value, where)
    return None if found is None else (name, found)


def _integer(number: int, value: int) -> Scalar | None:
    if number == _BOOL:
        return bool(value)
    if number in _ZIGZAG_INTS:
        return value >> 1 ^ -(value & 1)
    if number in _PLAIN_INTS:
        return value if number in (11, _UINT64) else wire.signed(value)
    return None


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ScenarioError(where, value, "text in UTF-8", repair="write the trace again") from None


def node_type(number: object, where: str) -> str:
    """The name of a node type, from its name or number."""
    if isinstance(number, str) and number in TYPES:
        return number
    if isinstance(number, int) and 0 <= number < len(TYPES):
        return TYPES[number]
    raise ScenarioError(
        f"{where}: type", number, ", ".join(TYPES), repair="convert the trace with this schema"
    )
