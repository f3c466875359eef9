"""A simulated pipeline step as one Chakra trace a rank, with matching sends and receives.

The form that trace-driven simulators such as ASTRA-sim read: ``PREFIX.0.et``, ``PREFIX.1.et`` ...
"""

from __future__ import annotations

from pathlib import Path

from perfmodel.errors import ScenarioError
from perfmodel.sim.chakra import write_chakra
from perfmodel.sim.chakra_node import ChakraNode
from perfmodel.sim.step import StepResult
from perfmodel.sim.table import producers


def rank_nodes(result: StepResult, send_bytes: float) -> list[list[ChakraNode]]:
    """Nodes of each pipeline rank (of the first replica), in the order of its schedule.

    A row of work is a COMP node; where its result goes to another device, a COMM_SEND node there
    and a COMM_RECV node at the other end carry the same tag.

    Parameters
    ----------
    send_bytes : float
        Of one transfer [B]: a simulated step knows times, and traces want sizes.

    Raises
    ------
    ScenarioError
        If the size is not a positive number.
    """
    if not 0 < send_bytes < float("inf"):
        raise ScenarioError(
            "chakra: send_bytes", send_bytes, "a finite size above 0",
            repair="give the bytes of a micro-batch's activations between two stages",
        )  # fmt: skip
    schedule, line = result.schedule, result.timeline
    source, device = producers(schedule).tolist(), schedule.device.tolist()
    nodes: list[list[ChakraNode]] = [[] for _ in range(schedule.devices)]
    last: dict[int, int] = {}
    rows = schedule.rows
    needed = {row: k for k, row in enumerate(source) if row >= 0 and device[row] != device[k]}
    for row in range(rows):
        here, other = device[row], source[row]
        data: tuple[int, ...] = ()
        if other >= 0 and device[other] != here:
            receive = _transfer(
                "RECV", rows + 2 * other + 1, other, device[other], here, send_bytes
            )
            nodes[here].append(receive)
            data = (receive.id,)
        elif other >= 0:
            data = (other,)
        seconds = float(line.end[result.row_task[row], 0] - line.start[result.row_first[row], 0])
        nodes[here].append(
            ChakraNode(
                id=row,
                name=schedule.label(row),
                type="COMP_NODE",
                ctrl_deps=(last[here],) if here in last else (),
                data_deps=data,
                start_micros=round(float(line.start[result.row_first[row], 0]) * 1e6),
                duration_micros=round(seconds * 1e6),
                attributes={"is_cpu_op": False, "seconds": seconds},
            )
        )
        last[here] = row
        if row in needed:
            there = device[needed[row]]
            send = _transfer("SEND", rows + 2 * row, row, here, there, send_bytes, after=(row,))
            nodes[here].append(send)
    return nodes


def write_ranks(prefix: str | Path, result: StepResult, send_bytes: float) -> list[Path]:
    """Write ``PREFIX.RANK.et`` for every pipeline rank; the paths."""
    return [
        write_chakra(f"{prefix}.{rank}.et", nodes)
        for rank, nodes in enumerate(rank_nodes(result, send_bytes))
    ]


def _transfer(
    kind: str,
    number: int,
    tag: int,
    source: int,
    target: int,
    size: float,
    after: tuple[int, ...] = (),
) -> ChakraNode:
    return ChakraNode(
        id=number,
        name=f"{kind.lower()} {tag}",
        type=f"COMM_{kind}_NODE",
        data_deps=after,
        attributes={
            "is_cpu_op": False,
            "comm_size": round(size),
            "comm_src": source,
            "comm_dst": target,
            "comm_tag": tag,
        },
    )
