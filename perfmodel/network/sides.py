"""How an algorithm's steps and bytes divide between the inside of a domain and the outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.network.algorithms import Floats, traffic

# What a library chooses from by itself, by cost.
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "all_reduce": ("ring", "tree", "in_network"),
    "all_gather": ("ring",),
    "reduce_scatter": ("ring",),
    "all_to_all": ("direct",),
    "broadcast": ("ring", "tree"),
    "reduce": ("ring", "tree"),
    "gather": ("direct",),
    "scatter": ("direct",),
    "p2p": ("direct",),
}
STAGED: Final = ("all_reduce", "all_gather", "reduce_scatter")  # can be done level by level
# Expert parallelism's own kernels instead of the library's sends: 43 to 47 of 50 GB/s a card.
DISPATCH: Final = "dispatch"
DISPATCH_SHARE: Final = 0.89  # deepep-2025, mean over 16, 32 and 64 ranks, both directions

_FLAT: Final = {DISPATCH: "direct", "sharp": "in_network"}
SHARP: Final = "sharp"  # the switches between nodes add: an all-reduce goes up and down once


@dataclass(frozen=True, slots=True)
class Sides:
    """Steps and bytes of the busiest device, inside and outside the innermost domain.

    Parameters
    ----------
    steps_in, steps_out : array
        Messages one after another.
    wire_in, wire_out : array
        Bytes sent, one direction [B].
    copied : array
        Bytes of a rank's own part, which it handles without sending them on [B].
    serial : bool
        Whether the two sides take turns instead of streaming at once.
    """

    steps_in: Floats
    wire_in: Floats
    steps_out: Floats
    wire_out: Floats
    copied: Floats
    serial: bool = False


def split(op: str, algorithm: str, size: Floats, ranks: Floats, local: Floats) -> Sides:
    """Steps and bytes of an algorithm on either side of the domain's border.

    Parameters
    ----------
    op, algorithm : str
        An operation and one of its algorithms; ``"hierarchical"`` scatters inside, works outside on
        ``1 / local`` of the data, and gathers inside, one stage after another.
    size : array
        The larger buffer [B].
    ranks, local : array
        Members of the group, and of it inside one domain.

    Notes
    -----
    ``ring`` crosses every border once a turn, the local members' cards in parallel. ``tree`` and
    ``in_network`` run chains or the switch inside and two binary trees outside: with two domains
    each sends n one way, with more the inner nodes send 2 n. ``sharp`` adds inside like
    ``in_network`` and in the switches between nodes: n / local up and down once, whatever their
    number [1]_. ``direct`` sends each peer its block.
    The logarithmic algorithms go through the inside first, then outside on what is left.

    References
    ----------
    .. [1] R. L. Graham et al., "Scalable Hierarchical Aggregation Protocol (SHArP): A Hardware
       Architecture for Efficient Data Reduction", COMHPC 2016.
    """
    groups = np.ceil(ranks / local)
    zero = np.zeros_like(size)
    outer = groups > 1
    copied = np.where(ranks > 1, size / ranks, 0.0) if op in STAGED else zero
    if algorithm == "hierarchical":
        inner = traffic(op, "ring", size, local)
        across = traffic(op, "ring", size / local, groups)
        return Sides(inner.steps, inner.wire, across.steps, across.wire, copied, serial=True)
    flat = traffic(op, _FLAT.get(algorithm, algorithm), size, ranks)
    if algorithm == "ring":
        turns = 2.0 if op == "all_reduce" else 1.0
        steps_out = np.where(outer, turns * (groups - 1.0), zero)
        wire_in = np.where(local > 1, flat.wire, zero)
        wire_out = np.where(outer, flat.wire / local, zero)
        return Sides(flat.steps - steps_out, wire_in, steps_out, wire_out, copied)
    if algorithm == SHARP:
        once = np.where(outer, 1.0, 0.0)
        steps_in = np.where(local > 1, flat.steps, 0.0)
        wire_in = np.where(local > 1, flat.wire, zero)
        return Sides(steps_in, wire_in, 2.0 * once, once * size / local, copied)
    if algorithm in ("tree", "in_network"):
        turns = 2.0 if op == "all_reduce" else 1.0
        chain = turns * (local - 1.0) if algorithm == "tree" else np.where(local > 1, flat.steps, 0)
        depth = turns * np.ceil(np.log2(np.maximum(groups, 1.0)) - 1e-12)
        both = np.where(groups > 2, turns, 1.0) * size / local
        wire_in = np.where(local > 1, flat.wire, zero)
        return Sides(
            np.where(outer, chain, flat.steps), wire_in, depth, np.where(outer, both, zero), copied
        )
    if algorithm in ("direct", DISPATCH):  # of p - 1 peers, local - 1 are inside
        inside = np.where(ranks > 1, (local - 1.0) / np.maximum(ranks - 1.0, 1.0), 0.0)
        there = 1.0 - inside
        return Sides(
            flat.steps * inside, flat.wire * inside, flat.steps * there, flat.wire * there, copied
        )
    left = size / local if op != "all_to_all" and algorithm != "recursive_doubling" else size
    inner = traffic(op, algorithm, size, local)
    across = traffic(op, algorithm, left, groups)
    return Sides(inner.steps, inner.wire, across.steps, across.wire, copied)
