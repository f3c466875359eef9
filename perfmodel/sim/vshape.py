"""V-shaped schedules: ZBV, V-Half and V-Min from one repeating pattern.

Each device holds two chunks, the model going down the devices and back up, so that the last chunk
sits beside the first. A *pattern* gives every device a start slot for its forward and its input
backward of both chunks; it repeats every six slots (two forwards, two input backwards, two weight
gradients), so the four slots of a device must differ modulo six. How far apart the pattern puts
neighbours sets how long an activation lives, hence the memory: the idea of "controllable memory"
(Qi et al. 2024, arXiv 2405.15362). A few shapes are laid out for the number of micro-batches,
with the ramps drawn together and the weight gradients placed by
:func:`perfmodel.sim.fill.fill_weights`; the shortest that keeps the memory limit is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from perfmodel.errors import ScenarioError
from perfmodel.sim.fill import Filled, fill_weights
from perfmodel.sim.table import FORWARD, INPUT, Schedule, make_schedule

PERIOD: Final = 6


@dataclass(frozen=True, slots=True)
class Shape:
    """A pattern and how its ramps are drawn together.

    Parameters
    ----------
    steps : four ints
        Slots from a device to the next for F0 (down), F1 (up), I1 (down) and I0 (up).
    gaps : three ints
        Slots at the turns between them.
    head, tail : (int, float)
        How many first and last micro-batches lean towards the middle, by how many slots each.
    """

    steps: tuple[int, int, int, int]
    gaps: tuple[int, int, int] = (1, 1, 1)
    head: tuple[int, float] = (0, 0.0)
    tail: tuple[int, float] = (0, 0.0)


# Chosen among all steps of 1 to 4, gaps of 1 to 4 and a dozen leans, for 2 to 16 stages: in each
# tuple, some shape was as short as any that was tried.
_ZBV: Final = (Shape((1, 4, 1, 2)),)
_MIN: Final = (
    Shape((1, 1, 1, 1), tail=(1, 1.1)),
    Shape((1, 1, 1, 1), head=(2, 2.1), tail=(1, 3.1)),
    Shape((2, 2, 1, 1), head=(1, 1.1)),
)
_HALF: Final = (
    Shape((1, 2, 1, 1), (3, 1, 1), head=(1, 1.1), tail=(1, 1.1)),
    Shape((1, 2, 1, 1), tail=(1, 1.1)),
)


def zbv(stages: int, micro_batches: int) -> Schedule:
    """No bubble but the ramp, (p-1)/2 forwards long, at the activation memory of 1F1B."""
    return v_schedule("zbv", stages, micro_batches, 2 * stages, (*_ZBV, *_HALF))


def v_half(stages: int, micro_batches: int) -> Schedule:
    """About half the activation memory of 1F1B: p/2 + 1 stage units."""
    return v_schedule("v-half", stages, micro_batches, stages + 2, _HALF)


def v_min(stages: int, micro_batches: int) -> Schedule:
    """About a third of the activation memory of 1F1B: p/3 + 1 stage units, rounded up."""
    return v_schedule("v-min", stages, micro_batches, ceil(2 * stages / 3) + 2, _MIN)


def v_schedule(
    name: str, stages: int, micro_batches: int, most_chunks: int, shapes: Iterable[Shape]
) -> Schedule:
    """The shortest V schedule among the shapes that holds at most ``most_chunks`` activations.

    Parameters
    ----------
    stages, micro_batches : int
        Devices, and micro-batches of a step.
    most_chunks : int
        Limit on activations held by one device, in chunks (half a stage each).
    shapes : iterable of Shape
        What to try.

    Raises
    ------
    ScenarioError
        If no shape keeps the limit.
    """
    best: Filled | None = None
    ideal = PERIOD * micro_batches + stages - 1
    limits = [most_chunks] * stages
    previous = range(-1, 2 * stages - 1)
    for shape in shapes:
        if best is not None and best.slots <= ideal:
            break
        orders = _unroll(shape, stages, micro_batches)
        filled = fill_weights(orders, previous, 2 * stages, limits)
        if filled is not None and (best is None or filled.slots < best.slots):
            best = filled
    if best is None:
        raise ScenarioError(
            f"schedule {name!r}",
            most_chunks / 2,
            f"an activation limit that some shape of {stages} stages keeps",
            repair="raise the limit, or use 'zbv'",
        )
    holders = [*range(stages), *reversed(range(stages))]
    return make_schedule(name, best.orders, holders, tuple(previous))


def pattern(
    stages: int, steps: Sequence[int], gaps: Sequence[int]
) -> list[tuple[int, int, int, int]]:
    """Start slots (F0, F1, I1, I0) of each device, distinct modulo :data:`PERIOD`."""
    taken: list[set[int]] = [set() for _ in range(stages)]
    slots = [[0, 0, 0, 0] for _ in range(stages)]
    down, up = range(stages), range(stages - 1, -1, -1)
    clock = 0
    for kind, (walk, step, gap) in enumerate(
        zip((down, up, down, up), steps, (0, *gaps), strict=True)
    ):
        for index, device in enumerate(walk):
            clock += gap if index == 0 else step
            while clock % PERIOD in taken[device]:
                clock += 1
            taken[device].add(clock % PERIOD)
            slots[device][kind] = clock
    return [(a, b, c, d) for a, b, c, d in slots]


def _unroll(shape: Shape, stages: int, micro_batches: int) -> list[list[tuple[int, int, int]]]:
    """Rows of every device in the order of the repeated pattern."""
    slots, head, tail = pattern(stages, shape.steps, shape.gaps), shape.head, shape.tail
    lean = [0.0] * micro_batches
    for m in range(min(head[0], micro_batches)):
        lean[m] += head[1] * (head[0] - m)
    for m in range(max(0, micro_batches - tail[0]), micro_batches):
        lean[m] -= tail[1] * (m - (micro_batches - tail[0]) + 1)
    orders = []
    for device, starts in enumerate(slots):
        first, last = device, 2 * stages - 1 - device
        kinds = ((FORWARD, first), (FORWARD, last), (INPUT, last), (INPUT, first))
        timed = sorted(
            (start + PERIOD * m + lean[m], k, m)
            for k, start in enumerate(starts)
            for m in range(micro_batches)
        )
        orders.append([(*kinds[k], m) for _, k, m in timed])
    return orders
