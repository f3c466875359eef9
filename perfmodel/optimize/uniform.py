"""The whole grid of uniform plans for a model, a batch and a number of devices.

Degrees are divisors of the device count; micro-batches divide the batch; a chunk count above 1
divides the layers. What contradicts the model or the batch is counted by reason and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import PlanError
from perfmodel.parallel.grid import COLUMNS, PlanGrid
from perfmodel.parallel.plan import (
    RECOMPUTE,
    Plan,
    check_plan,
    check_word,
    counted,
    counts,
    several,
)
from perfmodel.workload.transformer import ModelConfig, Shard, shard_faults

Ints = NDArray[np.int64]
Looked = TypeVar("Looked")

LARGEST_BLOCK: Final = 2**20
"""Plans that are held in memory at once."""
_DEGREES: Final = ("tp", "pp", "cp", "ep", "expert_tp", "micro_batch_size", "virtual_stages")


@dataclass(frozen=True, slots=True)
class Space:
    """What a search looks through; ``None`` means everything that divides.

    Parameters
    ----------
    tp, pp, cp, ep, expert_tp : tuple of int, optional
        Degrees; by default every divisor of the device count, with ``tp`` at most ``widest``.
    micro_batch_size : tuple of int, optional
        By default every divisor of the batch up to 32.
    virtual_stages : tuple of int, optional
        By default every divisor of the layers of a stage.
    zero, recompute, sequence_parallel : tuple
        Stages, words and switches to try.
    base : Plan
        Everything else: schedule, precision, overlap, offload.
    widest : int
        Largest tensor or context parallel degree tried by default.
    """

    tp: tuple[int, ...] | None = None
    pp: tuple[int, ...] | None = None
    cp: tuple[int, ...] | None = None
    ep: tuple[int, ...] | None = None
    expert_tp: tuple[int, ...] | None = None
    micro_batch_size: tuple[int, ...] | None = None
    virtual_stages: tuple[int, ...] | None = None
    zero: tuple[int, ...] = (0, 1, 2, 3)
    recompute: tuple[str, ...] = RECOMPUTE
    sequence_parallel: tuple[bool, ...] = (False, True)
    base: Plan = field(default_factory=Plan)
    widest: int = 64

    def __post_init__(self) -> None:
        for name in _DEGREES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, counts(f"space: {name}", getattr(self, name)))
        object.__setattr__(self, "zero", counts("space: zero", self.zero, least=0, most=3))
        object.__setattr__(self, "recompute", several("space: recompute", self.recompute))
        for word in self.recompute:
            check_word("space: recompute", word, RECOMPUTE)
        split = several("space: sequence_parallel", self.sequence_parallel)
        object.__setattr__(self, "sequence_parallel", split)
        if any(not isinstance(one, bool) for one in split):
            raise PlanError(
                "space: sequence_parallel", split, "true or false", repair="write (True,), say"
            )
        counted("space: widest", self.widest)
        check_plan(self.base)


def divisors(number: int) -> tuple[int, ...]:
    """All divisors in ascending order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def space_of(given: Any, kind: type[Looked], asker: str) -> Looked:
    """What a caller gave to look through, or everything.

    The search and the planner look through spaces of different kinds.

    Raises
    ------
    PlanError
        If it is something else.
    """
    if given is None:
        return kind()
    if not isinstance(given, kind):
        raise PlanError(
            f"{asker}: space",
            f"<{type(given).__name__} of {type(given).__module__}>",
            f"a {kind.__name__} of {kind.__module__}",
            repair="leave it out, or say there which degrees to try",
        )
    return given


def plan_blocks(
    space: Space, model: ModelConfig, devices: int, batch: int, seq_len: int, rejected: Counter[str]
) -> Iterator[PlanGrid]:
    """Blocks of valid plans; what is left out is counted in ``rejected`` by reason."""
    degrees = _degrees(space, model, devices, batch, rejected)
    layers = model.layers + model.encoder_layers
    micro = np.array(space.micro_batch_size or [d for d in divisors(batch) if d <= 32])
    chunks = np.array(space.virtual_stages or [d for d in divisors(layers) if d <= layers // 2])
    chunks = chunks if len(chunks) else np.array([1])
    zero = np.array(space.zero)
    recompute = np.array([RECOMPUTE.index(word) for word in space.recompute])
    split = np.array(space.sequence_parallel)
    sizes = [len(micro), len(chunks), len(zero), len(recompute), len(split)]
    inner = int(np.prod(sizes))
    step = max(1, LARGEST_BLOCK // inner)
    for start in range(0, len(degrees["tp"]), step):
        rows = {name: column[start : start + step] for name, column in degrees.items()}
        count = len(rows["tp"])
        shape = (count, *sizes)
        values = {
            name: np.broadcast_to(column.reshape(-1, 1, 1, 1, 1, 1), shape).reshape(-1)
            for name, column in rows.items()
        }
        for axis, (name, column) in enumerate(
            (
                ("micro_batch_size", micro),
                ("virtual_stages", chunks),
                ("zero", zero),
                ("recompute", recompute),
                ("sequence_parallel", split),
            )
        ):
            view = [1] * 6
            view[axis + 1] = -1
            values[name] = np.broadcast_to(column.reshape(view), shape).reshape(-1)
        grid = _valid(values, space, model, batch, seq_len, layers, rejected)
        if grid is not None:
            yield grid


def _degrees(
    space: Space, model: ModelConfig, devices: int, batch: int, rejected: Counter[str]
) -> dict[str, Ints]:
    """Every split of the devices over the degrees, with dp what is left."""
    every = divisors(devices)
    layers = model.layers + model.encoder_layers
    wide = tuple(d for d in every if d <= space.widest)
    tp = np.array(space.tp or wide)
    pp = np.array(space.pp or [d for d in every if d <= layers])
    cp = np.array(space.cp or wide)
    if model.is_moe:
        ep = np.array(space.ep or [d for d in divisors(model.experts) if devices % d == 0])
        etp = np.array(space.expert_tp or wide)
    else:
        ep, etp = np.array([1]), np.array([0])
    mesh = np.meshgrid(tp, pp, cp, ep, etp, indexing="ij")
    columns = dict(
        zip(("tp", "pp", "cp", "ep", "expert_tp"), (m.reshape(-1) for m in mesh), strict=True)
    )
    if not model.is_moe:
        columns["expert_tp"] = columns["tp"]
    used = columns["tp"] * columns["pp"] * columns["cp"]
    fits = devices % used == 0
    columns = {name: column[fits] for name, column in columns.items()}
    columns["dp"] = devices // used[fits]
    stage = columns["tp"] * columns["cp"] * columns["dp"]
    checks = (
        ("dp above the batch", columns["dp"] > batch),
        ("dp does not divide the batch", batch % columns["dp"] != 0),
        (
            "ep x expert_tp does not divide the devices of a stage",
            stage % (columns["ep"] * columns["expert_tp"]) != 0,
        ),
        # an expert is split as the rest, or not at all
        (
            "expert_tp neither 1 nor tp",
            (columns["expert_tp"] != 1) & (columns["expert_tp"] != columns["tp"])
            if space.expert_tp is None
            else np.zeros(len(stage), dtype=bool),
        ),
    )
    good = np.ones(len(stage), dtype=bool)
    for reason, bad in checks:
        rejected[reason] += int(np.sum(bad & good))
        good &= ~bad
    rejected += Counter()
    return {name: column[good] for name, column in columns.items()}


def _valid(
    values: dict[str, Any],
    space: Space,
    model: ModelConfig,
    batch: int,
    seq_len: int,
    layers: int,
    rejected: Counter[str],
) -> PlanGrid | None:
    # not plans of their own: sharding over one rank, splitting a sequence over one rank
    real = (values["zero"] == 0) | (values["dp"] * values["cp"] > 1)
    real &= (values["tp"] > 1) | ~values["sequence_parallel"]
    real &= (values["virtual_stages"] == 1) | (values["pp"] > 1)
    if len(space.virtual_stages or ()) != 1:
        real &= values["virtual_stages"] * values["pp"] <= layers
    values = {name: column[real] for name, column in values.items()}
    sequences = values["dp"] * values["micro_batch_size"]
    chunked = values["virtual_stages"] > 1
    shard = Shard(
        micro_batch=values["micro_batch_size"],
        seq_len=seq_len,
        tp=values["tp"],
        cp=values["cp"],
        ep=values["ep"],
        expert_tp=values["expert_tp"],
        sequence_parallel=values["sequence_parallel"],
        cp_kind=space.base.cp_method,
    )
    micro_batches = batch // sequences
    checks = [
        ("micro-batch does not divide the batch of a rank", batch % sequences != 0),
        ("more stages than layers", values["pp"] * values["virtual_stages"] > layers),
        (
            "virtual stages do not divide the layers",
            chunked & (layers % (values["pp"] * values["virtual_stages"]) != 0),
        ),
        (
            "interleaving needs micro-batches in multiples of pp",
            chunked & (micro_batches % values["pp"] != 0),
        ),
        *((reason, np.asarray(bad)) for bad, reason in shard_faults(model, shard)),
    ]
    good = np.ones(len(sequences), dtype=bool)
    for reason, bad in checks:
        rejected[reason] += int(np.sum(np.broadcast_to(bad, good.shape) & good))
        good &= ~bad
    if not good.any():
        return None
    values["zero_group"] = values["dp"] * values["cp"]
    columns = {name: np.ascontiguousarray(values[name][good]) for name in COLUMNS}
    return PlanGrid(**columns, base=space.base)
