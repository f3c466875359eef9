"""Other layers that compute the same: groups merged under zero weights, channels packed first.

Small groups leave most of a tile empty, channels that are not in aligned runs of eight are loaded
one by one. Both can be bought off:

* **merged**: neighbouring groups become one that reads the aligned run of channels around them;
  weights outside the groups are zeros. More products, fewer and fuller tiles, no extra kernel.
* **packed**: one more kernel writes the channels side by side, each merged group padded to a
  multiple of eight.

Outputs lie where they lay: only neighbours in the order of the outputs are merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from perfmodel.optimize.grouped.problem import (
    ELEMENT_BYTES,
    Group,
    GroupedConv,
    Integers,
    contiguous_groups,
)

WIDTHS: Final = (8, 16, 32, 64, 128, 256, 2**31)
"""Widest merged groups that are tried."""
RUN: Final = 8
Parts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A layer that computes another one.

    Parameters
    ----------
    name : str
        ``as given``, ``merged 64``, ``packed 64`` (at most so many channels a merged group).
    conv : GroupedConv
        What runs.
    parts : tuple of tuple of int
        Groups of the original layer in each group that runs.
    gather : (channels,) int array or None
        The original channel of each packed one, -1 for a zero; ``None`` if nothing is packed.
    """

    name: str
    conv: GroupedConv
    parts: Parts
    gather: Integers | None = None

    def places(self, original: GroupedConv, part: int) -> Iterator[tuple[int, Integers]]:
        """Groups of a part, each with the places of its channels among the part's."""
        channels = np.array(self.conv.groups[part].channels)
        if self.gather is not None:
            channels = self.gather[channels]
        at = {int(channel): place for place, channel in enumerate(channels) if channel >= 0}
        for group in self.parts[part]:
            yield group, np.array([at[c] for c in original.groups[group].channels])


def as_given(conv: GroupedConv) -> Form:
    """The layer itself."""
    return Form("as given", conv, tuple((index,) for index in range(len(conv.groups))))


def forms(conv: GroupedConv) -> list[Form]:
    """The layer as given, merged and packed, without those that come out alike."""
    found = [as_given(conv)]
    seen = {_key(found[0])}
    # channels in aligned runs of eight gain nothing from being moved
    for packed in (False, True) if conv.input_run != RUN else (False,):
        for width in WIDTHS:
            one = _packed(conv, width) if packed else _merged(conv, width)
            if _key(one) not in seen:
                seen.add(_key(one))
                found.append(one)
    return found


def _key(form: Form) -> tuple[object, ...]:
    return form.gather is not None, form.parts, tuple(g.channels for g in form.conv.groups)


def _label(kind: str, width: int) -> str:
    return f"{kind} all" if width == WIDTHS[-1] else f"{kind} {width}"


def _merged(conv: GroupedConv, width: int) -> Form:
    run = math.gcd(RUN, conv.in_channels)
    ends = [(min(group.channels), max(group.channels) + 1) for group in conv.groups]
    aligned = [(low // run * run, -(-high // run) * run) for low, high in ends]
    parts: list[list[int]] = []
    low = high = 0
    for index, (first, last) in enumerate(aligned):
        if parts and max(high, last) - min(low, first) <= width:
            low, high = min(low, first), max(high, last)
            parts[-1].append(index)
        else:
            low, high = first, last
            parts.append([index])
    groups = []
    for part in parts:
        start = min(aligned[index][0] for index in part)
        end = max(aligned[index][1] for index in part)
        groups.append(Group(tuple(range(start, end)), _outputs(conv, part)))
    made = replace(conv, groups=tuple(groups))
    return Form(_label("merged", width), made, tuple(map(tuple, parts)))


def _packed(conv: GroupedConv, width: int) -> Form:
    parts: list[list[int]] = []
    union: set[int] = set()
    unions: list[list[int]] = []
    for index, group in enumerate(conv.groups):
        wider = union | set(group.channels)
        if parts and -(-len(wider) // RUN) * RUN <= width:
            parts[-1].append(index)
            union = wider
            unions[-1] = sorted(union)
        else:
            union = set(group.channels)
            parts.append([index])
            unions.append(sorted(union))
    gather: list[int] = []
    widths = []
    for channels in unions:
        extra = -len(channels) % RUN
        gather += channels + [-1] * extra
        widths.append(len(channels) + extra)
    made = replace(
        conv,
        in_channels=sum(widths),
        groups=contiguous_groups(widths, [_outputs(conv, part) for part in parts]),
    )
    return Form(_label("packed", width), made, tuple(map(tuple, parts)), np.array(gather))


def _outputs(conv: GroupedConv, part: list[int]) -> int:
    return sum(conv.groups[index].outputs for index in part)


@dataclass(frozen=True, slots=True)
class Packing:
    """The kernel that packs channels: ``start + bytes / rate`` [s], [B/s]."""

    start: float
    rate: float
    calibrated: bool = False

    def seconds(self, form: Form) -> float:
        """Time of the packing that a form needs [s]; 0 without one."""
        if form.gather is None:
            return 0.0
        conv = form.conv
        pixels = conv.batch * conv.height * conv.width
        read = int((form.gather >= 0).sum())
        moved = ELEMENT_BYTES[conv.dtype] * pixels * (read + len(form.gather))
        return self.start + moved / self.rate
