"""Constructors of pipeline schedules: each one fills the table of :mod:`perfmodel.sim.table`.

Orders are laid out for equal forward, input-backward and weight-gradient times (the assumption of
the papers); the solver then runs them with whatever times the stages have.

References
----------
GPipe: Huang et al. 2019. 1F1B and interleaving: Narayanan et al. 2021 (arXiv 2104.04473).
ZB-H1, ZB-H2: Qi et al. 2023 (arXiv 2401.10241). ZBV, V-Half, V-Min: Qi et al. 2024
(arXiv 2405.15362). DualPipe: DeepSeek-V3 technical report 2024 (arXiv 2412.19437).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.sim.fill import fill_weights
from perfmodel.sim.table import (
    BACKWARD,
    FORWARD,
    INPUT,
    MOST_ROWS,
    WEIGHT,
    Schedule,
    make_schedule,
)
from perfmodel.sim.vshape import v_half, v_min, zbv

Row = tuple[int, int, int]


def gpipe(stages: int, micro_batches: int) -> Schedule:
    """All forwards, then all backwards in reverse order."""
    orders = [
        [(FORWARD, s, m) for m in range(micro_batches)]
        + [(BACKWARD, s, m) for m in reversed(range(micro_batches))]
        for s in range(stages)
    ]
    return make_schedule("gpipe", orders, range(stages))


def one_forward_one_backward(stages: int, micro_batches: int) -> Schedule:
    """1F1B: warm up by the distance to the end, then alternate."""
    orders = [
        [(BACKWARD if k else FORWARD, s, m) for k, m in _alternate(stages - 1 - s, micro_batches)]
        for s in range(stages)
    ]
    return make_schedule("1f1b", orders, range(stages))


def interleaved(stages: int, micro_batches: int, virtual_stages: int) -> Schedule:
    """Interleaved 1F1B: ``virtual_stages`` chunks a device, visited in rounds of ``stages``.

    Raises
    ------
    ScenarioError
        If the micro-batches do not fill whole rounds.
    """
    if micro_batches % stages:
        raise ScenarioError(
            "schedule 'interleaved': micro_batches",
            micro_batches,
            f"a multiple of the {stages} pipeline stages",
            repair=f"take {max(1, micro_batches // stages) * stages} micro-batches, or '1f1b'",
        )
    count = micro_batches * virtual_stages

    def forward(device: int, k: int) -> Row:
        group, inside = divmod(k, stages * virtual_stages)
        chunk, position = divmod(inside, stages)
        return FORWARD, chunk * stages + device, group * stages + position

    def backward(device: int, k: int) -> Row:
        group, inside = divmod(k, stages * virtual_stages)
        chunk, position = divmod(inside, stages)
        stage = (virtual_stages - 1 - chunk) * stages + device
        return BACKWARD, stage, group * stages + position

    orders = []
    for device in range(stages):
        warm = min((stages - device - 1) * 2 + (virtual_stages - 1) * stages, count)
        orders.append(
            [
                backward(device, k) if kind else forward(device, k)
                for kind, k in _alternate(warm, count)
            ]
        )
    holders = [s % stages for s in range(stages * virtual_stages)]
    return make_schedule(f"interleaved-v{virtual_stages}", orders, holders)


def zb_h1(stages: int, micro_batches: int) -> Schedule:
    """1F1B with weight gradients moved into the bubble, at the memory of 1F1B."""
    return _zero_bubble("zb-h1", stages, micro_batches, warm=1, most=stages)


def zb_h2(stages: int, micro_batches: int) -> Schedule:
    """Twice the warm-up of ZB-H1: no bubble between the ramps, at about twice the memory."""
    return _zero_bubble("zb-h2", stages, micro_batches, warm=2, most=2 * stages - 1)


def dualpipe(stages: int, micro_batches: int) -> Schedule:
    """Two pipelines through the same devices from both ends, each with half of the micro-batches.

    Stages ``0 .. p-1`` are the one copy of the model and ``p .. 2p-1`` the other.

    Raises
    ------
    ScenarioError
        If the number of stages or of micro-batches is odd, or there are fewer than two
        micro-batches a stage.
    """
    if stages % 2 or micro_batches % 2 or micro_batches < 2 * stages:
        raise ScenarioError(
            "schedule 'dualpipe'",
            (stages, micro_batches),
            "an even number of stages and an even number of micro-batches, at least 2 a stage",
            repair="take more micro-batches, or an even number of stages",
        )
    half = micro_batches // 2
    orders = [_dualpipe_device(device, stages, half) for device in range(stages)]
    holders = [*range(stages), *reversed(range(stages))]
    previous = [*range(-1, stages - 1), -1, *range(stages, 2 * stages - 1)]
    return make_schedule("dualpipe", orders, holders, previous)


def _dualpipe_device(device: int, stages: int, half: int) -> list[Row]:
    """One device's order: near direction ``a`` (whose start is closer) and far direction ``b``."""
    near = min(device, stages - 1 - device)
    far_side = device >= stages // 2
    left = stages // 2 - 1 - near
    stage = [device, 2 * stages - 1 - device]
    if far_side:
        stage.reverse()
    offset = [half, 0] if far_side else [0, half]
    counters = {(kind, side): 0 for kind in (FORWARD, INPUT) for side in (0, 1)}
    owed: list[Row] = []
    rows: list[Row] = []

    def forward(side: int) -> None:
        m = counters[FORWARD, side]
        counters[FORWARD, side] += 1
        rows.append((FORWARD, stage[side], offset[side] + m))

    def backward(side: int, *, whole: bool) -> None:
        m = offset[side] + counters[INPUT, side]
        counters[INPUT, side] += 1
        rows.append((INPUT, stage[side], m))
        if whole:
            rows.append((WEIGHT, stage[side], m))
        else:
            owed.append((WEIGHT, stage[side], m))

    for _ in range(2 * left):
        forward(0)
    for _ in range(near + 1):
        forward(0)
        forward(1)
    for _ in range(left):
        backward(1, whole=False)
        rows.append(owed.pop(0))
        forward(1)
    for _ in range(half - stages + near + 1):
        forward(0)
        backward(1, whole=True)
        forward(1)
        backward(0, whole=True)
    for _ in range(left):
        backward(1, whole=True)
        forward(1)
        backward(0, whole=True)
    # In the last phases weight gradients wait, so that input gradients travel on at once.
    turn, odd = (near + 1) // 2, near % 2
    for k in range(near + 1):
        backward(1, whole=k < turn + 1 - odd)
        backward(0, whole=k < turn)
    for _ in range(left):
        if owed:
            rows.append(owed.pop(0))
        backward(0, whole=False)
    rows.extend(owed)
    return rows


def _alternate(warm: int, count: int) -> list[tuple[int, int]]:
    """``warm`` forwards, then forward and backward in turn, then the remaining backwards."""
    warm = min(warm, count)
    pairs = [(0, k) for k in range(warm)]
    for k in range(count - warm):
        pairs += [(0, warm + k), (1, k)]
    return pairs + [(1, k) for k in range(count - warm, count)]


def _zero_bubble(name: str, stages: int, micro_batches: int, *, warm: int, most: int) -> Schedule:
    orders = [
        [
            (INPUT if k else FORWARD, s, m)
            for k, m in _alternate(warm * (stages - 1 - s), micro_batches)
        ]
        for s in range(stages)
    ]
    filled = fill_weights(orders, range(-1, stages - 1), stages, [most] * stages)
    if filled is None:
        raise ScenarioError(
            f"schedule {name!r}",
            (stages, micro_batches),
            "sizes for which the order exists",
            repair="use '1f1b'",
        )
    return make_schedule(name, filled.orders, range(stages))


_PLAIN: Final[dict[str, Callable[[int, int], Schedule]]] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "zb-h1": zb_h1,
    "zb-h2": zb_h2,
    "zbv": zbv,
    "v-half": v_half,
    "v-min": v_min,
    "dualpipe": dualpipe,
}
SCHEDULES: Final = (*_PLAIN, "interleaved")


def build_schedule(
    name: str, stages: int, micro_batches: int, *, virtual_stages: int = 1
) -> Schedule:
    """The named schedule's table.

    Parameters
    ----------
    name : str
        One of :data:`SCHEDULES`.
    stages : int
        Pipeline ranks.
    micro_batches : int
        Micro-batches of a step.
    virtual_stages : int
        Chunks per device; only ``interleaved`` takes more than one (the V schedules always have
        two).

    Raises
    ------
    ScenarioError
        For an unknown name or sizes that the schedule does not exist for.
    """
    where = f"schedule {name!r}"
    if name not in SCHEDULES:
        raise ScenarioError(
            "schedule",
            name,
            ", ".join(SCHEDULES),
            nearest=nearest_name(name, SCHEDULES),
            repair="name one of these, or give a table of your own",
        )
    for what, value in (
        ("stages", stages),
        ("micro_batches", micro_batches),
        ("virtual_stages", virtual_stages),
    ):
        if value < 1:
            raise ScenarioError(
                f"{where}: {what}", value, "a whole number of at least 1", repair=f"raise {what}"
            )
    if stages * micro_batches * virtual_stages * 3 > MOST_ROWS:
        raise ScenarioError(
            where,
            (stages, micro_batches, virtual_stages),
            f"at most {MOST_ROWS:,} rows",
            repair="simulate fewer micro-batches; the steady state repeats itself",
        )
    if name == "interleaved":
        return interleaved(stages, micro_batches, virtual_stages)
    if virtual_stages > 1 and name not in ("zbv", "v-half", "v-min"):
        raise ScenarioError(
            f"{where}: virtual_stages",
            virtual_stages,
            "1 (only 'interleaved' takes more)",
            repair="name the schedule 'interleaved', or set virtual_stages to 1",
        )
    return _PLAIN[name](stages, micro_batches)
