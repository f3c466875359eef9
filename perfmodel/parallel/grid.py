"""PlanGrid: many plans as arrays, one element a plan.

What differs between the plans of a search is an array; what they share (schedule, precision,
overlap ...) is one :class:`Plan`, the ``base``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import PlanError
from perfmodel.parallel.plan import RECOMPUTE, Plan, check_plan

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

COLUMNS: Final = (
    "tp",
    "pp",
    "dp",
    "cp",
    "ep",
    "expert_tp",
    "virtual_stages",
    "micro_batch_size",
    "zero",
    "zero_group",
    "recompute",
    "sequence_parallel",
)
"""Fields of a plan that are arrays in a grid; ``recompute`` is its place in RECOMPUTE."""


@dataclass(frozen=True, slots=True)
class PlanGrid:
    """(n,) integer arrays of the degrees of n plans, and what all of them share.

    ``zero_group`` is never empty here: it holds ``dp * cp`` where a plan leaves it out.
    """

    tp: Ints
    pp: Ints
    dp: Ints
    cp: Ints
    ep: Ints
    expert_tp: Ints
    virtual_stages: Ints
    micro_batch_size: Ints
    zero: Ints
    zero_group: Ints
    recompute: Ints
    sequence_parallel: Flags
    base: Plan

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, index: NDArray[np.intp] | Flags | slice) -> PlanGrid:
        """The plans at some places, or where a mask is true."""
        values = {name: getattr(self, name)[index] for name in COLUMNS}
        return PlanGrid(**values, base=self.base)

    def plan(self, index: int) -> Plan:
        """One plan of the grid."""
        values = {name: int(getattr(self, name)[index]) for name in COLUMNS}
        group = values["zero_group"]
        record: dict[str, Any] = {
            **values,
            "zero_group": None if group == values["dp"] * values["cp"] else group,
            "recompute": RECOMPUTE[values["recompute"]],
            "sequence_parallel": bool(values["sequence_parallel"]),
        }
        return replace(self.base, **record)


def grid_of(given: Iterable[Plan]) -> PlanGrid:
    """Plans as a grid; they may differ in :data:`COLUMNS` only.

    Raises
    ------
    PlanError
        If there is none, or two differ in something that a grid shares.
    """
    if not isinstance(given, Iterable):
        raise PlanError(
            "plans",
            f"<{type(given).__name__}>",
            "several plans",
            repair="give a list of plans, even of one",
        )
    plans = tuple(given)
    if not plans:
        raise PlanError("plans", 0, "at least one plan", repair="pass the plans to evaluate")
    for plan in plans:
        check_plan(plan)
    base = plans[0]
    shared = [field.name for field in fields(Plan) if field.name not in COLUMNS]
    for plan in plans:
        for name in shared:
            if getattr(plan, name) != getattr(base, name):
                raise PlanError(
                    f"plans: {name}",
                    getattr(plan, name),
                    f"{getattr(base, name)!r}, as in the first plan",
                    repair="evaluate plans that differ in it one after another",
                )
    columns = {
        name: np.array([int(getattr(plan, name)) for plan in plans], dtype=np.int64)
        for name in COLUMNS
        if name not in ("expert_tp", "zero_group", "recompute", "sequence_parallel")
    }
    return PlanGrid(
        **columns,
        expert_tp=np.array([plan.experts_tensor for plan in plans], dtype=np.int64),
        zero_group=np.array([plan.shard_group for plan in plans], dtype=np.int64),
        recompute=np.array([RECOMPUTE.index(plan.recompute) for plan in plans], dtype=np.int64),
        sequence_parallel=np.array([plan.sequence_parallel for plan in plans]),
        base=base,
    )


def distinct(*columns: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First places of the distinct rows of some integer columns, and each row's group.

    Returns
    -------
    first : (u,) array
        Where each of the u distinct rows stands first.
    group : (n,) array
        ``row[i] == row[first[group[i]]]``.
    """
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values = column.astype(np.int64)
        low = int(values.min())
        span = int(values.max()) - low + 1
        if span > 4096:  # sparse values: number them first so that the code cannot overflow
            _, values = np.unique(values, return_inverse=True)
            low, span = 0, int(values.max()) + 1
        if int(code.max(initial=0)) > 2**62 // span:
            _, code = np.unique(code, return_inverse=True)
        code = code * span + (values - low)
    _, first, group = np.unique(code, return_index=True, return_inverse=True)
    return first, group.reshape(-1)
