"""Inference: every operator is moved to where its result is first asked for.

Reference
---------
torch/_inductor/fx_passes/post_grad.py, ``reorder_for_locality``: from the last operator back, each
operand whose users have all been met is moved in front of the operator that met it last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from perfmodel.workload.lowering.compile.graph import Graph


def late(graph: Graph, alive: Sequence[int]) -> list[int]:
    """Living values in the order in which an inference graph computes them.

    A graph that writes in place keeps its order.
    """
    values = [graph.values[number] for number in alive]
    if any(value.scatter for value in values):
        return list(alive)
    waiting = dict.fromkeys(alive, 0)
    for value in values:
        for operand in set(value.inputs):
            waiting[operand] += 1
    before = {right: left for left, right in pairwise(alive)}
    after = dict(pairwise(alive))
    at = alive[-1] if alive else None
    while at is not None:
        for operand in dict.fromkeys(graph.values[at].inputs):
            waiting[operand] -= 1
            if waiting[operand] or graph.values[operand].kind == "source":
                continue
            if before.get(at) != operand:
                _unlink(before, after, operand)
                _link(before, after, operand, at)
        at = before.get(at)
    first = [number for number in alive if number not in before]
    order = first[:1]
    while order and order[-1] in after:
        order.append(after[order[-1]])
    return order


def _unlink(before: dict[int, int], after: dict[int, int], number: int) -> None:
    left, right = before.pop(number, None), after.pop(number, None)
    if left is not None:
        after.pop(left, None)
        if right is not None:
            after[left] = right
    if right is not None:
        before.pop(right, None)
        if left is not None:
            before[right] = left


def _link(before: dict[int, int], after: dict[int, int], number: int, place: int) -> None:
    """Put a value in front of another."""
    left = before.get(place)
    if left is not None:
        after[left], before[number] = number, left
    after[number], before[place] = place, number
