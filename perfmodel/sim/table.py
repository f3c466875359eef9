"""A pipeline schedule as data: one table, whatever the algorithm that filled it.

A row says that a device does one piece of work (``F`` forward, ``B`` whole backward, ``I`` the
backward towards the input, ``W`` the weight gradient) of one stage for one micro-batch; the rows of
a device stand in the order in which it does them. Stages form one or more chains (two when a
pipeline runs from both ends), and :attr:`Schedule.previous` says who feeds whom. What a row waits
for follows from that alone, so a user's own table needs no code.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import ScenarioError, nearest_name

WORK: Final = ("F", "B", "I", "W")
FORWARD, BACKWARD, INPUT, WEIGHT = range(4)
COLUMNS: Final = ("device", "work", "stage", "micro_batch")
MOST_ROWS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rows of work in execution order, grouped by device.

    Parameters
    ----------
    name : str
        Which algorithm, or where the table came from.
    devices, micro_batches : int
        Pipeline ranks, and micro-batches of the whole step.
    stage_device : tuple of int
        The device that holds each stage, shape ``[stages]``.
    previous : tuple of int
        The stage whose output feeds each stage, ``-1`` for the first of a chain.
    device, work, stage, micro_batch : int arrays
        The table, shape ``[rows]``; ``work`` indexes :data:`WORK`.
    """

    name: str
    devices: int
    micro_batches: int
    stage_device: tuple[int, ...]
    previous: tuple[int, ...]
    device: NDArray[np.int64]
    work: NDArray[np.int64]
    stage: NDArray[np.int64]
    micro_batch: NDArray[np.int64]

    @property
    def stages(self) -> int:
        """Stages (virtual ones counted) over all devices."""
        return len(self.stage_device)

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return len(self.device)

    def label(self, row: int) -> str:
        """``"F s3 m7"``: a row for people."""
        return f"{WORK[self.work[row]]} s{self.stage[row]} m{self.micro_batch[row]}"

    def to_csv(self) -> str:
        """The table with its header; :func:`read_schedule` reads it back."""
        lines = [",".join(COLUMNS)]
        lines += [
            f"{d},{WORK[w]},{s},{m}"
            for d, w, s, m in zip(self.device, self.work, self.stage, self.micro_batch, strict=True)
        ]
        return "\n".join(lines) + "\n"


def make_schedule(
    name: str,
    orders: Sequence[Iterable[tuple[int, int, int]]],
    stage_device: Sequence[int],
    previous: Sequence[int] | None = None,
) -> Schedule:
    """A checked :class:`Schedule` from one ordered list of (work, stage, micro-batch) per device.

    Raises
    ------
    ScenarioError
        If a row names an unknown stage, appears twice, is missing, or stands before what it needs
        on the same device.
    """
    flat = [(d, *row) for d, order in enumerate(orders) for row in order]
    if not flat:
        raise ScenarioError(
            f"schedule {name!r}", 0, "at least one row", repair="add forward and backward rows"
        )
    table = np.array(flat, dtype=np.int64)
    chain = tuple(range(-1, len(stage_device) - 1)) if previous is None else tuple(previous)
    schedule = Schedule(
        name=name,
        devices=len(orders),
        micro_batches=int(table[:, 3].max()) + 1,
        stage_device=tuple(stage_device),
        previous=chain,
        device=table[:, 0].copy(),
        work=table[:, 1].copy(),
        stage=table[:, 2].copy(),
        micro_batch=table[:, 3].copy(),
    )
    check_schedule(schedule)
    return schedule


def check_schedule(schedule: Schedule) -> None:
    """Every piece of work once, on the device of its stage, after what it needs there.

    Raises
    ------
    ScenarioError
        Naming the row at fault. Waiting in a circle *between* devices is found when the schedule is
        solved (:func:`perfmodel.sim.graph.topological_order`).
    """
    where = f"schedule {schedule.name!r}"
    stages, rows = schedule.stages, schedule.rows
    if rows > MOST_ROWS:
        raise ScenarioError(
            where, rows, f"at most {MOST_ROWS:,} rows", repair="simulate fewer micro-batches"
        )
    for column, low, high in (
        ("stage", 0, stages - 1),
        ("micro_batch", 0, schedule.micro_batches - 1),
        ("work", 0, len(WORK) - 1),
    ):
        values = getattr(schedule, column)
        bad = np.flatnonzero((values < low) | (values > high))
        if bad.size:
            raise ScenarioError(
                f"{where}: row {bad[0]}, {column}",
                int(values[bad[0]]),
                f"{low} to {high}",
                repair="correct the row, or declare more stages",
            )
    holder = np.asarray(schedule.stage_device)[schedule.stage]
    if (bad := np.flatnonzero(holder != schedule.device)).size:
        row = int(bad[0])
        raise ScenarioError(
            f"{where}: row {row} ({schedule.label(row)})",
            f"<device {schedule.device[row]}>",
            f"device {holder[row]}, which holds stage {schedule.stage[row]}",
            repair="move the row, or give the stage to that device",
        )
    place = _positions(schedule)
    absent = place < 0
    needs_weight = ~absent[INPUT]
    checks = (
        (absent[FORWARD] & ~(absent[BACKWARD] & absent[INPUT]), "its forward is missing"),
        (~absent[FORWARD] & absent[BACKWARD] & absent[INPUT], "its backward is missing"),
        (~absent[BACKWARD] & ~absent[INPUT], "it has both a whole and an input backward"),
        (needs_weight & absent[WEIGHT], "its weight gradient is missing"),
        (~needs_weight & ~absent[WEIGHT], "its weight gradient has no input backward"),
        (~absent[BACKWARD] & (place[BACKWARD] < place[FORWARD]), "its backward is too early"),
        (needs_weight & (place[INPUT] < place[FORWARD]), "its input backward is too early"),
        (
            needs_weight & ~absent[WEIGHT] & (place[WEIGHT] < place[INPUT]),
            "its weight gradient is too early",
        ),
    )
    for fault, what in checks:
        if np.any(fault):
            stage, micro = (int(x) for x in np.argwhere(fault)[0])
            raise ScenarioError(
                f"{where}: stage {stage}, micro-batch {micro}",
                f"<{what}>",
                "F then B, or F then I then W, each once, in that order on the device",
                repair="correct the rows of this stage and micro-batch",
            )
    for stage, before in enumerate(schedule.previous):
        if not -1 <= before < stages or before == stage:
            raise ScenarioError(
                f"{where}: previous[{stage}]",
                before,
                "another stage, or -1 for the first",
                repair="give the stage that feeds it",
            )
        if before >= 0:
            fault = absent[FORWARD, stage] & ~absent[FORWARD, before]
            fault |= ~absent[FORWARD, stage] & absent[FORWARD, before]
            if np.any(fault):
                raise ScenarioError(
                    f"{where}: stage {stage}, micro-batch {int(np.flatnonzero(fault)[0])}",
                    "<a micro-batch in only one of two linked stages>",
                    "the same micro-batches along a chain",
                    repair="add the missing rows",
                )


def _positions(schedule: Schedule) -> NDArray[np.int64]:
    """Row of each piece of work, shape [4, stages, micro-batches]; -1 where there is none."""
    place = np.full((len(WORK), schedule.stages, schedule.micro_batches), -1, dtype=np.int64)
    key = (schedule.work, schedule.stage, schedule.micro_batch)
    place[key] = np.arange(schedule.rows)
    if (again := np.flatnonzero(place[key] != np.arange(schedule.rows))).size:
        row = int(again[0])
        raise ScenarioError(
            f"schedule {schedule.name!r}: row {row}",
            f"<{schedule.label(row)} twice>",
            "each piece of work once",
            repair="remove one of the two rows",
        )
    return place


def producers(schedule: Schedule) -> NDArray[np.int64]:
    """The row on another stage whose result each row waits for, shape ``[rows]``; -1 if none.

    A forward waits for the forward of the stage before it, a backward for the backward of the stage
    after it. What a row needs on its own device stands above it in the table.
    """
    place = _positions(schedule)
    following = np.full(schedule.stages, -1, dtype=np.int64)
    for stage, before in enumerate(schedule.previous):
        if before >= 0:
            following[before] = stage
    previous = np.asarray(schedule.previous)
    backward = np.maximum(place[BACKWARD], place[INPUT])
    found = np.full(schedule.rows, -1, dtype=np.int64)
    forward_rows = (schedule.work == FORWARD) & (previous[schedule.stage] >= 0)
    found[forward_rows] = place[
        FORWARD, previous[schedule.stage[forward_rows]], schedule.micro_batch[forward_rows]
    ]
    back = (schedule.work == BACKWARD) | (schedule.work == INPUT)
    back &= following[schedule.stage] >= 0
    found[back] = backward[following[schedule.stage[back]], schedule.micro_batch[back]]
    return found


def read_schedule(
    source: str | Path, *, name: str | None = None, previous: Sequence[int] | None = None
) -> Schedule:
    """A user's own table: the path of a CSV file, or its text.

    Parameters
    ----------
    source : str or Path
        Columns ``device,work,stage,micro_batch``; rows of a device in execution order.
    previous : sequence of int, optional
        Who feeds each stage; a single chain ``0 -> 1 -> ...`` when absent.

    Raises
    ------
    ScenarioError
        If the file cannot be read, or a row is not understood.
    """
    is_text = isinstance(source, str) and "\n" in source
    where = name or ("schedule table" if is_text else str(source))
    try:
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(
            where, f"<{error}>", "a readable CSV file", repair="check the path"
        ) from None
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ScenarioError(
            f"{where}: header",
            ",".join(reader.fieldnames or ()),
            ",".join(COLUMNS),
            repair="name the four columns in this order",
        )
    orders: dict[int, list[tuple[int, int, int]]] = {}
    holders: dict[int, int] = {}
    for line, row in enumerate(reader, start=2):
        work = (row["work"] or "").strip()
        if work not in WORK:
            raise ScenarioError(
                f"{where}: line {line}, work",
                work,
                "F, B, I or W",
                nearest=nearest_name(work, WORK),
                repair="write F (forward), B (backward), I (input part) or W (weight part)",
            )
        try:
            device, stage, micro = (int(row[c]) for c in ("device", "stage", "micro_batch"))
        except (TypeError, ValueError):
            raise ScenarioError(
                f"{where}: line {line}",
                ",".join(str(row[c]) for c in COLUMNS),
                "whole numbers for device, stage and micro_batch",
                repair="correct the line",
            ) from None
        if min(device, stage, micro) < 0 or max(device, stage, micro) > MOST_ROWS:
            raise ScenarioError(
                f"{where}: line {line}",
                (device, stage, micro),
                f"numbers from 0 to {MOST_ROWS:,}",
                repair="correct the line",
            )
        if holders.setdefault(stage, device) != device:
            raise ScenarioError(
                f"{where}: line {line}, device",
                device,
                f"{holders[stage]}, where stage {stage} was before",
                repair="keep a stage on one device",
            )
        orders.setdefault(device, []).append((WORK.index(work), stage, micro))
    for what, seen in (("device", orders), ("stage", holders)):
        missing = set(range(max(seen, default=-1) + 1)) - set(seen)
        if missing:
            raise ScenarioError(
                where,
                f"<no row for {what} {min(missing)}>",
                f"{what}s numbered 0, 1, 2 ... without holes",
                repair=f"renumber the {what}s, or add the missing rows",
            )
    return make_schedule(
        name or ("table" if is_text else Path(source).stem),
        [orders[d] for d in sorted(orders)],
        [holders[s] for s in sorted(holders)],
        previous,
    )
