"""MLCommons Chakra execution traces in and out.

Two encodings: the protobuf stream that ASTRA-sim reads (a GlobalMetadata message, then Node
messages, each with its length before it; schema ``ChakraProtoMsg`` of mlcommons/chakra, 1.0.0) for
names ending in ``.et``, and JSON with the same field names otherwise. Scalar attributes of every
type are read and kept; list attributes, ``inputs``, ``outputs`` and ``storage`` are not.

A trap that this module takes care of: Chakra counts what one rank *puts in*, so an all-gather of
``comm_size`` bytes yields ``world`` times as much, while elsewhere in perfmodel (and in nccl-tests)
a size is the whole, larger buffer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.errors import ScenarioError
from perfmodel.files import write_bytes
from perfmodel.sim import protowire as wire
from perfmodel.sim.chakra_node import (
    COLLECTIVES,
    VERSION,
    ChakraNode,
    Scalar,
    decode,
    encode,
    node_type,
)
from perfmodel.sim.graph import TaskGraph, Timeline, topological_order
from perfmodel.sim.trace_file import read_bytes, read_json, write_json


def read_chakra(path: str | Path) -> list[ChakraNode]:
    """The nodes of a trace file.

    Raises
    ------
    ScenarioError
        If the file is broken, an id appears twice, or a node waits for one that does not exist.
    """
    if str(path).endswith((".et", ".et.gz")):
        data = read_bytes(path, "Chakra trace")
        parts = list(wire.messages(data, str(path)))[1:]  # the first is the GlobalMetadata
        nodes = [decode(message, f"{path}: message {k + 1}") for k, message in enumerate(parts)]
    else:
        nodes = _from_json(str(path), read_json(path, "Chakra trace"))
    check_nodes(nodes, str(path))
    return nodes


def write_chakra(path: str | Path, nodes: Sequence[ChakraNode]) -> Path:
    """Write a trace: protobuf if the name ends in ``.et``, else JSON."""
    check_nodes(nodes, str(path))
    if str(path).endswith(".et"):
        head = wire.delimited(wire.field(1, VERSION))
        return write_bytes(path, head + b"".join(wire.delimited(encode(n)) for n in nodes))
    document = {"version": VERSION, "nodes": [_to_json(node) for node in nodes]}
    return write_json(path, document)


def check_nodes(nodes: Sequence[ChakraNode], where: str) -> None:
    """Unique ids, and no node that waits for one that is not there.

    Raises
    ------
    ScenarioError
        Naming the node and the id at fault.
    """
    known: set[int] = set()
    for node in nodes:
        if node.id in known:
            raise ScenarioError(
                f"{where}: node {node.id}", "<an id that appears twice>", "unique ids",
                repair="renumber the nodes",
            )  # fmt: skip
        known.add(node.id)
    for node in nodes:
        for other in (*node.ctrl_deps, *node.data_deps):
            if other not in known:
                raise ScenarioError(
                    f"{where}: node {node.id} ({node.name!r})",
                    f"<waits for node {other}>",
                    "nodes of the same file",
                    repair="convert the trace again, or drop this dependency",
                )


def graph_of(
    nodes: Sequence[ChakraNode],
    *,
    world: int = 1,
    price: Callable[[str, float, int], float] | None = None,
    name: str = "chakra trace",
) -> TaskGraph:
    """A trace as a task graph: compute, communication, memory and host streams.

    Parameters
    ----------
    world : int
        Ranks of its collectives.
    price : callable, optional
        ``price(op, size_bytes, world)`` gives the seconds of a collective, ``size_bytes`` being the
        whole buffer; the recorded durations are used when absent.

    Raises
    ------
    ScenarioError
        For a circle of nodes (spelt out), or a collective that cannot be priced.
    """
    check_nodes(nodes, name)
    index = {node.id: k for k, node in enumerate(nodes)}
    needs = [
        tuple(sorted({index[i] for i in (*node.ctrl_deps, *node.data_deps)})) for node in nodes
    ]
    topological_order(name, needs, lambda k: f"node {nodes[k].id} ({nodes[k].name!r})")
    graph = TaskGraph(name)
    streams = {
        what: graph.add_stream(what) for what in ("compute", "communication", "memory", "host")
    }
    task_of: dict[int, int] = {}
    for k in _by_recorded_start(nodes, needs):
        node = nodes[k]
        task_of[k] = graph.add(
            node.name,
            streams[_stream(node)],
            _seconds(node, world, price, name),
            tuple(task_of[other] for other in needs[k]),
            kind=node.type.removesuffix("_NODE").lower(),
        )
    return graph


def nodes_of(
    timeline: Timeline, sizes: Mapping[int, tuple[str, float, int]] | None = None
) -> list[ChakraNode]:
    """A solved graph (its first replica) as nodes.

    Parameters
    ----------
    sizes : mapping, optional
        Task -> (collective, whole buffer [B], ranks): given as ``comm_type`` and, turned into what
        one rank puts in, ``comm_size``.
    """
    graph = timeline.graph
    last: dict[int, int] = {}
    nodes = []
    for task in timeline.order:
        stream = graph.stream[task]
        before = (last[stream],) if stream in last else ()
        last[stream] = task
        seconds = float(timeline.end[task, 0] - timeline.start[task, 0])
        # Durations are whole microseconds in the schema; the exact time goes along.
        attributes: dict[str, Scalar] = {
            "is_cpu_op": graph.kind[task] == "launch",
            "seconds": seconds,
        }
        kind = "COMP_NODE"
        if sizes is not None and task in sizes:
            op, size, world = sizes[task]
            kind = "COMM_COLL_NODE"
            attributes |= {
                "comm_type": COLLECTIVES.index(op),
                "comm_size": round(size / world if op in ("all_gather", "gather") else size),
            }
        nodes.append(
            ChakraNode(
                id=task,
                name=graph.names[task],
                type=kind,
                ctrl_deps=before,
                data_deps=graph.after[task],
                start_micros=round(float(timeline.start[task, 0]) * 1e6),
                duration_micros=round(seconds * 1e6),
                attributes=attributes,
            )
        )
    return nodes


def whole_buffer(op: str, put_in: float, world: int) -> float:
    """The whole (larger) buffer of a collective, from what one rank puts in [B]."""
    return put_in * world if op in ("all_gather", "gather") else put_in


def _by_recorded_start(nodes: Sequence[ChakraNode], needs: list[tuple[int, ...]]) -> list[int]:
    """A dependency order that follows the recorded start times, so that streams keep theirs."""
    waiting = [len(need) for need in needs]
    feeds: list[list[int]] = [[] for _ in needs]
    for k, need in enumerate(needs):
        for other in need:
            feeds[other].append(k)
    ready = [(nodes[k].start_micros, nodes[k].id, k) for k, n in enumerate(waiting) if n == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, _, k = heapq.heappop(ready)
        order.append(k)
        for other in feeds[k]:
            waiting[other] -= 1
            if waiting[other] == 0:
                heapq.heappush(ready, (nodes[other].start_micros, nodes[other].id, other))
    return order


def _stream(node: ChakraNode) -> str:
    if node.type.startswith("COMM"):
        return "communication"
    if node.type.startswith("MEM"):
        return "memory"
    return "host" if node.attributes.get("is_cpu_op") else "compute"


def _seconds(
    node: ChakraNode,
    world: int,
    price: Callable[[str, float, int], float] | None,
    where: str,
) -> float:
    if node.type == "COMM_COLL_NODE" and price is not None:
        kind, size = node.attributes.get("comm_type"), node.attributes.get("comm_size")
        if not isinstance(kind, int) or not 0 <= kind < len(COLLECTIVES) or size is None:
            raise ScenarioError(
                f"{where}: node {node.id} ({node.name!r})",
                {"comm_type": kind, "comm_size": size},
                f"comm_type from 0 to {len(COLLECTIVES) - 1} and comm_size in bytes",
                repair="convert the trace with collective sizes, or use its recorded durations",
            )
        op = COLLECTIVES[kind]
        return price(op, whole_buffer(op, float(size), world), world)
    exact = node.attributes.get("seconds")
    return float(exact) if isinstance(exact, float) else node.duration_micros / 1e6


def _to_json(node: ChakraNode) -> dict[str, Any]:
    return {
        "id": node.id,
        "name": node.name,
        "type": node.type,
        "ctrl_deps": list(node.ctrl_deps),
        "data_deps": list(node.data_deps),
        "start_time_micros": node.start_micros,
        "duration_micros": node.duration_micros,
        "attr": [{"name": name, "value": value} for name, value in node.attributes.items()],
    }


def _from_json(where: str, document: Any) -> list[ChakraNode]:
    rows = document.get("nodes") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise ScenarioError(
            f"{where}: nodes", type(rows).__name__, "a list of nodes",
            repair='write {"version": ..., "nodes": [...]}',
        )  # fmt: skip
    nodes = []
    for k, row in enumerate(rows):
        place = f"{where}: nodes[{k}]"
        try:
            nodes.append(
                ChakraNode(
                    id=int(row["id"]),
                    name=str(row.get("name", "")),
                    type=node_type(row.get("type"), place),
                    ctrl_deps=tuple(int(x) for x in row.get("ctrl_deps", ())),
                    data_deps=tuple(int(x) for x in row.get("data_deps", ())),
                    start_micros=int(row.get("start_time_micros", 0)),
                    duration_micros=int(row.get("duration_micros", 0)),
                    attributes=_json_attributes(row.get("attr", [])),
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ScenarioError(
                place, f"<{type(error).__name__}: {error}>", "id, type, deps and times of a node",
                repair="correct the node",
            ) from None  # fmt: skip
    return nodes


def _json_attributes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Scalar]:
    return {
        str(row["name"]): row["value"]
        for row in rows
        if isinstance(row["value"], int | float | bool | str)
    }
