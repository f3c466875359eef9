"""The picture of a grouped-convolution schedule: tiles on the SMs of a GPU over time."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from perfmodel.optimize.grouped_conv import GroupedSchedule
from perfmodel.report.figures import timeline

ROWS = 24


def schedule_picture(found: GroupedSchedule, *, rows: int = ROWS) -> Figure:
    """Tiles on an even sample of the SMs, coloured by shape; time 0 is the start of the kernel.

    Each SM has a row for every program that shares it. Tiles take the time that they have while all
    programs of an SM are busy, the time that placement and its bound refer to.

    Parameters
    ----------
    found : GroupedSchedule
        What :func:`~perfmodel.optimize.grouped_conv.schedule` answered.
    rows : int
        About how many rows are drawn; the first and the last SM are among them.
    """
    times, slots = found.chosen.times, found.chosen.slots
    units = slots // times.residency
    place = times.dealing.places(units, times.residency)
    sample = max(1, min(rows // times.residency, units))
    shown = np.unique(np.linspace(0, units - 1, sample).round().astype(int))
    row_of = {
        int(slot): (int(np.searchsorted(shown, place[slot] % units)), int(place[slot] // units))
        for slot in np.flatnonzero(np.isin(place % units, shown))
    }
    order = sorted(row_of, key=row_of.__getitem__)
    rank = np.full(slots, -1)
    rank[order] = np.arange(len(order))
    spans = found.spans()
    at = rank[spans.row]
    kept = at >= 0
    name = f"{found.layer.name}: " if found.layer.name else ""
    title = f"{name}{found.form.name}, {times.name}, {len(shown)} of {units} SMs, {slots} slots"
    return timeline(
        title,
        [f"SM {place[slot] % units}, slot {slot}" for slot in order],
        at[kept],
        spans.start[kept],
        spans.duration[kept],
        [kind for kind, keep in zip(spans.kind, kept, strict=True) if keep],
        unit="us",
        scale=1e6,
    )
