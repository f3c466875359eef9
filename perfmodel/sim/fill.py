"""Weight gradients into the holes: the order of F and I rows is given, W rows are placed.

Every row takes one slot. A device does the next row of its order as soon as its input is there;
while it waits, or when its activations are at the limit, it does the oldest weight gradient owed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perfmodel.sim.table import FORWARD, INPUT, WEIGHT


@dataclass(frozen=True, slots=True)
class Filled:
    """Orders with their weight gradients.

    Parameters
    ----------
    orders : list
        (work, stage, micro-batch) rows per device.
    slots : int
        Length of the schedule in slots of one forward.
    peak : int
        Most activations held at once by any device, counted in stages (chunks) until the weight
        gradient ends.
    """

    orders: list[list[tuple[int, int, int]]]
    slots: int
    peak: int


def fill_weights(
    orders: Sequence[Sequence[tuple[int, int, int]]],
    previous: Iterable[int],
    stages: int,
    limits: Sequence[int],
) -> Filled | None:
    """Place the weight gradients; ``None`` if the order cannot run within the limits.

    Parameters
    ----------
    orders : sequence
        F and I rows of each device, in order.
    previous : iterable of int
        The stage that feeds each stage, -1 for the first.
    stages : int
        How many stages there are.
    limits : sequence of int
        Most activations each device may hold.
    """
    before = list(previous)
    after = [-1] * stages
    for stage, feeder in enumerate(before):
        if feeder >= 0:
            after[feeder] = stage
    done: dict[tuple[int, int, int], int] = {}
    never = 1 << 60
    devices = range(len(orders))
    position, held = [0 for _ in devices], [0 for _ in devices]
    owed: list[list[tuple[int, int, int]]] = [[] for _ in devices]
    paid = [0 for _ in devices]
    filled: list[list[tuple[int, int, int]]] = [[] for _ in devices]
    left = sum(len(order) for order in orders)
    left += sum(work == INPUT for order in orders for work, _, _ in order)
    slot = peak = 0
    while left:
        started: list[tuple[int, tuple[int, int, int]]] = []
        for device in devices:
            order, at = orders[device], position[device]
            if at < len(order):
                work, stage, micro = order[at]
                source = before[stage] if work == FORWARD else after[stage]
                ready = 0 if source < 0 else done.get((work, source, micro), never)
                if ready <= slot and (work != FORWARD or held[device] < limits[device]):
                    started.append((device, order[at]))
                    position[device] = at + 1
                    continue
            if paid[device] < len(owed[device]):
                started.append((device, owed[device][paid[device]]))
                paid[device] += 1
        if not started:
            return None
        slot += 1
        left -= len(started)
        for device, row in started:
            filled[device].append(row)
            work, stage, micro = row
            if work == WEIGHT:
                held[device] -= 1
                continue
            done[row] = slot
            if work == FORWARD:
                held[device] += 1
                peak = max(peak, held[device])
            else:
                owed[device].append((WEIGHT, stage, micro))
    return Filled(filled, slot, peak)
