"""What the planner enumerates: stage counts, stage sizes, micro-batches, and modes of a stage.

A *point* fixes the number of stages, the devices of a stage of each device type and the sequences
that a stage takes at a time (so the number of micro-batches). Everything else (where to cut, which
degrees each stage uses, what each layer recomputes) is left to the exact programmes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from perfmodel.hardware import Cluster
from perfmodel.optimize.costs import STRATEGIES
from perfmodel.parallel import placement
from perfmodel.parallel.plan import Plan, check_word, counts, several
from perfmodel.workload.transformer import ModelConfig, Shard, load_model, shard_faults


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of layers of one model: a whole model, or a tower of a larger one.

    Parameters
    ----------
    model : ModelConfig
        Its layers are planned in order.
    seq_len : int
        Tokens of one sample in this piece.
    ends : (bool, bool)
        Whether its embedding and its head take part.
    repeat : int
        Sequences of this piece in one sample: the tiles of an image, say.
    """

    model: ModelConfig
    seq_len: int
    ends: tuple[bool, bool] = (True, True)
    repeat: int = 1


_COUNTS: Final = {
    "stages": 1, "tp": 1, "cp": 1, "ep": 1, "zero": 0, "micro_batch_sizes": 1, "virtual_stages": 1
}  # fmt: skip
"""Fields of several whole numbers, and the least of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Which degrees and strategies may be used; ``None`` means all that fit.

    Parameters
    ----------
    stages : tuple of int, optional
        Numbers of pipeline stages.
    tp, cp, ep : tuple of int, optional
        Degrees of a stage; by default tp up to one NVLink domain, cp 1, ep all that divide.
    zero : tuple of int
        ZeRO stages.
    strategies : tuple of str
        What a layer may do with its activations, of
        :data:`~perfmodel.optimize.costs.STRATEGIES`.
    micro_batch_sizes : tuple of int, optional
        Sequences of one data-parallel rank at a time; by default up to 16.
    virtual_stages : tuple of int, optional
        Chunks that each device holds (interleaved 1F1B above 1), for models whose blocks are all
        alike; by default 1, 2 and 4 for those, and 1 for other models.
    schedule : str
        ``"1f1b"`` or ``"gpipe"``.
    precision : str
        Of the matrix products.
    per_layer : bool
        Let every layer of a stage have its own degrees and ZeRO stage, at the price of moving its
        input; one device type only.
    """

    stages: tuple[int, ...] | None = None
    tp: tuple[int, ...] | None = None
    cp: tuple[int, ...] = (1,)
    ep: tuple[int, ...] | None = None
    zero: tuple[int, ...] = (1, 2, 3)
    strategies: tuple[str, ...] = ("none", "selective", "full")
    micro_batch_sizes: tuple[int, ...] | None = None
    virtual_stages: tuple[int, ...] | None = None
    schedule: str = "1f1b"
    precision: str = "bf16"
    per_layer: bool = False

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, counts(f"space: {name}", given, least=least))
        for word in several("space: strategies", self.strategies):
            check_word("space: strategies", word, STRATEGIES)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the enumeration.

    ``sizes[g]`` are the devices of a stage of type g (0: the type is not used).
    """

    stages: int
    sizes: tuple[int, ...]
    samples: int
    micro_batches: int
    virtual_stages: int = 1


def pieces_of(model: ModelConfig | str | Sequence[Piece], seq_len: int) -> tuple[Piece, ...]:
    """The pieces of a question: a whole model is one piece."""
    if isinstance(model, str):
        model = load_model(model)
    if isinstance(model, ModelConfig):
        return (Piece(model, seq_len),)
    return tuple(model)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def points_of(
    clusters: tuple[Cluster, ...], layers: int, batch: int, space: Space, alike: bool = False
) -> list[Point]:
    """Every point: all devices of every cluster are used, each stage on one type.

    ``alike`` says that all blocks cost the same, so that a device's layers may be dealt out in
    chunks without changing what it has to do.
    """
    chunks = space.virtual_stages or ((1, 2, 4) if alike else (1,))
    found = []
    for sizes in product(*(divisors(cluster.devices) for cluster in clusters)):
        stages = sum(c.devices // n for c, n in zip(clusters, sizes, strict=True))
        if stages > layers or (space.stages is not None and stages not in space.stages):
            continue
        for micro_batches in divisors(batch):
            for virtual in chunks:
                interleaved = space.schedule == "1f1b" and alike and stages > 1
                whole = micro_batches % stages == 0 and stages * virtual <= layers - 2
                if virtual == 1 or (interleaved and whole):
                    found.append(
                        Point(stages, sizes, batch // micro_batches, micro_batches, virtual)
                    )
    return found


def modes_of(
    pieces: tuple[Piece, ...], cluster: Cluster, needed: set[tuple[int, int]], space: Space
) -> list[Plan]:
    """Modes of one device type for the needed (devices, samples) of a stage."""
    domain = placement.domain_devices(cluster)
    tps = space.tp or tuple(t for t in divisors(domain) if t & (t - 1) == 0)
    experts = max(piece.model.experts for piece in pieces)
    eps = space.ep or (tuple(divisors(experts)) if experts else (1,))
    sizes = space.micro_batch_sizes or tuple(range(1, 17))
    found = []
    for devices, samples in sorted(needed):
        for tp, cp in product(tps, space.cp):
            if devices % (tp * cp):
                continue
            dp = devices // (tp * cp)
            if samples % dp or samples // dp not in sizes:
                continue
            for ep in eps:
                wide = tp if ep == 1 else 1
                if devices % (ep * wide):
                    continue
                degrees = (samples // dp, tp, cp, ep, wide)
                if not any(divides(piece, *degrees) for piece in pieces):
                    continue
                for zero in space.zero if dp * cp > 1 else (min(space.zero[0], 1),):
                    found.append(
                        Plan(
                            tp=tp,
                            dp=dp,
                            cp=cp,
                            ep=ep,
                            zero=zero if dp * cp > 1 else 0,
                            micro_batch_size=samples // dp,
                            sequence_parallel=tp > 1,
                            precision=space.precision,
                            recompute_modules=("core",),
                        )
                    )
    return found


def divides(piece: Piece, micro_batch: int, tp: int, cp: int, ep: int, expert_tp: int) -> bool:
    """Whether the degrees divide a piece; expert degrees concern pieces with experts only."""
    moe = piece.model.is_moe
    shard = Shard(
        micro_batch=micro_batch * piece.repeat,
        seq_len=padded_length(piece, tp * cp),
        tp=tp,
        cp=cp,
        ep=ep if moe else 1,
        expert_tp=expert_tp if moe else 1,
        sequence_parallel=tp > 1,
    )
    return not any(bad for bad, _ in shard_faults(piece.model, shard))


def padded_length(piece: Piece, parts: int) -> int:
    """Tokens of a piece; a vision tower's are padded to a multiple of the ranks that split them."""
    if piece.model.patch:
        return -(-piece.seq_len // parts) * parts
    return piece.seq_len
