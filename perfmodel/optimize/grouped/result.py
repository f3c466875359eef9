"""GroupedSchedule: which tiles, on which slots, how long, how far from the optimum."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.optimize.grouped.candidates import Candidate
from perfmodel.optimize.grouped.forms import Form
from perfmodel.optimize.grouped.placement import Placement
from perfmodel.optimize.grouped.problem import Floats, GroupedConv, Integers
from perfmodel.optimize.grouped.tables import Tables
from perfmodel.optimize.grouped.waves import Waves
from perfmodel.units import format_seconds


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Tiles on slots, for a picture: row (slot), start and duration [s], kind (the tile shape)."""

    row: Integers
    start: Floats
    duration: Floats
    kind: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GroupedSchedule:
    """A schedule with its certificate.

    Parameters
    ----------
    layer : GroupedConv
        What was asked for.
    form : Form
        What runs: the layer as given, with groups merged, or on packed channels.
    packing : float
        Time of the kernel that packs the channels, 0 without one [s].
    chosen : Candidate
        Variant, tile shape of each group and placement, of the form.
    placement : Placement
        The ladder, and the proven bound of the placement.
    bounds : dict of str to float
        Lower bounds of the layer on the device [s]: ``compute``, ``memory``, ``knapsack`` (of the
        chosen variant), ``placement`` (of the chosen shapes).
    waves : Waves or None
        The plan for streams alone, with its own bound.
    others : tuple of (str, float)
        Other forms and variants and what they would take [s], fastest first.
    library : tuple of (str, float)
        What one call of a convolution library is expected to take on the layer [s], fastest first:
        ``grouped`` (equal groups side by side), ``dense`` (zeros outside the groups).
    """

    device: str
    layer: GroupedConv
    form: Form
    packing: float
    chosen: Candidate
    placement: Placement
    bounds: dict[str, float]
    waves: Waves | None
    others: tuple[tuple[str, float], ...]
    library: tuple[tuple[str, float], ...] = ()

    @property
    def advice(self) -> str:
        """What to run: ``"schedule"``, or the library's call that is expected to be faster."""
        if self.library and self.library[0][1] < self.seconds:
            return self.library[0][0]
        return "schedule"

    @property
    def advised_seconds(self) -> float:
        """Time of what is advised [s]."""
        return min([self.seconds, *(seconds for _, seconds in self.library)])

    @property
    def conv(self) -> GroupedConv:
        """The layer that runs: that of the form."""
        return self.chosen.conv

    @property
    def seconds(self) -> float:
        """Time of the layer: packing if any, the last slot, and the launch [s]."""
        return self.chosen.seconds + self.packing

    @property
    def calibrated(self) -> bool:
        """Whether tile times were fitted on this device."""
        return self.chosen.times.calibrated

    @property
    def placement_gap(self) -> float:
        """How far the placement can be from the best one for the chosen shapes."""
        return self.placement.gap

    @property
    def joint_gap(self) -> float:
        """How far shapes and placement together can be from the best of this variant."""
        bound = max(self.bounds["knapsack"], self.bounds["compute"], self.bounds["memory"])
        return max(0.0, self.chosen.makespan / bound - 1)

    def tables(self) -> Tables:
        """The int32 tables that drive the kernel."""
        return self.chosen.tables()

    def spans(self) -> Spans:
        """Every tile as a span; slots are rows."""
        made = self.tables()
        times = self.chosen.times
        slot = np.repeat(np.arange(self.chosen.slots), np.diff(made.first))
        each = times.seconds(self.conv)[made.tiles[:, 0], made.tiles[:, 3]]
        before = np.cumsum(each) - each
        origin = np.append(before, 0.0)[made.first[:-1].astype(int).clip(max=len(each))]
        shapes = [f"{tile.bm}x{tile.bn}" for tile in times.variant.tiles]
        return Spans(
            slot,
            before - origin[slot] + times.begin,
            each,
            tuple(shapes[s] for s in made.tiles[:, 3]),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        chosen, conv = self.chosen, self.layer
        return {
            "device": self.device,
            "name": conv.name,
            "groups": len(conv.groups),
            "flops": conv.flops,
            "compulsory_bytes": conv.compulsory_bytes,
            "latency_s": self.seconds,
            "advice": self.advice,
            "advised_s": self.advised_seconds,
            "library_s": dict(self.library),
            "form": self.form.name,
            "groups_of_form": [list(part) for part in self.form.parts],
            "packing_s": self.packing,
            "makespan_s": chosen.makespan,
            "launch_s": chosen.times.launch,
            "calibrated": self.calibrated,
            "variant": chosen.times.variant.name,
            "residency": chosen.times.residency,
            "slots": chosen.slots,
            "tiles": int(chosen.counts.sum()),
            "tile_shapes": [[tile.bm, tile.bn, tile.bk] for tile in chosen.times.variant.tiles],
            "shape_of_group": chosen.pick.tolist(),
            "slot_s": chosen.slot_seconds.tolist(),
            "planned_slot_s": chosen.planned.tolist(),
            "method": self.placement.method,
            "proof": self.placement.proof,
            "placement_bound_s": self.placement.bound,
            "placement_gap": self.placement_gap,
            "joint_gap": self.joint_gap,
            "bounds_s": dict(self.bounds),
            "ladder_s": dict(self.placement.ladder),
            "solve_s": self.placement.seconds,
            "waves": None
            if self.waves is None
            else {
                "groups": [list(wave) for wave in self.waves.waves],
                "latency_s": self.waves.seconds,
                "bound_s": self.waves.bound,
                "gap": self.waves.gap,
            },
            "others_s": [list(other) for other in self.others],
        }

    def explain(self) -> str:
        """The schedule, its ladder and its proof as text."""
        chosen, conv = self.chosen, self.layer
        shapes = chosen.times.variant.tiles
        used = Counter(int(shape) for shape in chosen.pick)
        load = chosen.slot_seconds
        busy = float(load.mean() / load.max()) if load.max() > 0 else 0.0
        lines = [
            f"{conv.name or 'layer'}: {len(conv.groups)} groups, {conv.rows} pixels,"
            f" {format_seconds(self.seconds)} on {self.device}"
            + ("" if self.calibrated else " (tile times from the datasheet, not calibrated)"),
            f"  {self.form.name}: {len(self.conv.groups)} groups run"
            + (f", channels packed in {format_seconds(self.packing)}" if self.packing else ""),
            f"  kernel {chosen.times.name}: {int(chosen.counts.sum())} tiles on {chosen.slots}"
            f" slots, busy {busy:.0%}",
            "  shapes: "
            + ", ".join(
                f"{shapes[shape].bm}x{shapes[shape].bn} for {number} groups"
                for shape, number in sorted(used.items())
            ),
            f"  placement by {self.placement.method}: gap at most {self.placement_gap:.2%}"
            f" ({self.placement.proof}); with shapes at most {self.joint_gap:.2%}",
        ]
        lines += [
            f"    {name:<14} {format_seconds(value)}"
            for name, value in self.placement.ladder.items()
        ]
        lines += [f"  bound {name}: {format_seconds(value)}" for name, value in self.bounds.items()]
        if self.waves is not None:
            lines.append(
                f"  streams alone: {len(self.waves.waves)} waves,"
                f" {format_seconds(self.waves.seconds)} (gap at most {self.waves.gap:.1%})"
            )
        if self.library:
            calls = ", ".join(f"{name} {format_seconds(value)}" for name, value in self.library)
            lines.append(f"  one call of a library: {calls}")
        if self.advice != "schedule":
            lines.append(f"  advice: run the library's {self.advice} convolution, not the schedule")
        lines += [f"  other: {name} {format_seconds(value)}" for name, value in self.others[:4]]
        return "\n".join(lines)
