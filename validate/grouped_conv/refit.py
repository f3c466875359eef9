"""Coefficients from solo shapes and one half of the layers; the other half stays unseen.

One non-negative least-squares problem per variant, over all its residencies together. Rows are slot
times

    t = sum over programs p that shared the SM:  share_p (begin_p + sum over tiles
        (alpha_p + steps beta_p + filled gamma_p))

and layer times ``t(last slot) + spread lateness + launch``; each is divided by what was measured,
so that errors are relative. How much of its work a slot did in which company, and which slot is the
last, depend on the coefficients, so rows are made again after every solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from perfmodel.optimize.grouped.candidates import layer_seconds
from perfmodel.optimize.grouped.forms import Packing
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.optimize.grouped.sharing import Dealing, finish, lateness
from perfmodel.optimize.grouped.tiles import TileTimes, linked, variant_named
from validate.grouped_conv.dataset import UNITS, Run, Scheduled, in_tune_half
from validate.grouped_conv.plans import Held, paces, planned_seconds

Floats = npt.NDArray[np.float64]
Block = tuple[Floats, Floats, Floats]
Sampled = dict[tuple[str, ...], tuple[npt.NDArray[np.int64], Floats]]
LAYER_WEIGHT = 2.0
ROUNDS = 5
COLUMNS = 10
"""Of one residency: begin, then alpha, beta and gamma of three shapes."""


def columns(load: Held) -> Floats:
    """(slots, 10): begin, then tiles, steps and filled steps by shape."""
    return np.column_stack([load.busy, load.tiles, load.steps, load.filled]).astype(float)


def refit(run: Run, dealing: Dealing) -> list[TileTimes]:
    """One :class:`TileTimes` per variant and residency that the layers used, linked."""
    names = sorted({one.name.rsplit(" x", 1)[0] for one in run.schedules})
    sampled = {
        tuple(map(str, key)): (rows.slot.to_numpy(), rows.measured_s.to_numpy() * 1e6)
        for key, rows in run.slots.groupby(["layer", "variant", "placement", "form"])
    }
    found = [times for name in names for times in _one(run, name, dealing, sampled)]
    return list(linked(found, dealing))


@dataclass(frozen=True, slots=True)
class Gather:
    """PyTorch's gather of channels: ``start + each * elements`` [s]."""

    start: float
    each: float

    def seconds(self, conv: GroupedConv) -> float:
        """Time for a layer, groups padded to eight channels [s]."""
        return self.start + self.each * _elements(conv)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Everything that the tune half gave: tile times by name, packing, the framework's gather."""

    times: dict[str, TileTimes]
    packing: Packing
    gather: Gather


def fit_all(run: Run, dealing: Dealing) -> Fitted:
    """Tile times of both runs together, then what packing takes beside them."""
    times = {one.name: one for one in refit(run, dealing)}
    moved, packing, whole = [], [], []
    for one in run.schedules:
        if one.packing is not None and in_tune_half(one.conv.name):
            moved.append(Packing(0.0, 1.0).seconds(one.packing))
            packing.append(one.measured_s - _said(one, times))
            whole.append(one.measured_s)
    start, rate = _line(moved, packing, whole)
    mine = [one for one in run.gathered if in_tune_half(one.conv.name)]
    start_gather, each = _line(
        [_elements(one.conv) for one in mine],
        [one.measured_s - _said(one, times) for one in mine],
        [one.measured_s for one in mine],
    )
    return Fitted(times, Packing(start, 1 / rate, calibrated=True), Gather(start_gather, each))


def _said(one: Scheduled, times: dict[str, TileTimes]) -> float:
    own = times[one.name]
    return layer_seconds(own, slot_seconds(own, one.load))


def _elements(conv: GroupedConv) -> float:
    padded = sum(-(-len(group.channels) // 8) * 8 for group in conv.groups)
    return float(conv.batch * conv.height * conv.width * padded)


def _line(x: list[float], y: list[float], whole: list[float]) -> tuple[float, float]:
    """``start + slope x`` through y, errors relative to the whole time."""
    weight = 1.0 / np.array(whole)
    design = np.column_stack([np.ones(len(x)), x]) * weight[:, None]
    found, _ = nnls(design * 1e-6, np.array(y) * weight)
    return float(found[0] * 1e-6), float(found[1] * 1e-6)


def slot_seconds(times: TileTimes, load: Held) -> Floats:
    """Finish of each slot [s]."""
    return planned_seconds(times, load)


def _one(run: Run, variant: str, dealing: Dealing, sampled: Sampled) -> list[TileTimes]:
    mine = [one for one in run.schedules if one.name.rsplit(" x", 1)[0] == variant]
    levels = sorted({_programs(one) for one in mine})
    mine = [one for one in mine if in_tune_half(one.conv.name)]
    solo = _solo_rows(run, variant, levels)
    found = _times(variant, levels, _first_guess(levels), dealing)
    for _ in range(ROUNDS):
        blocks = [solo]
        for one in mine:
            blocks += _rows(sampled, one, found, levels)
        rows, time, weight = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        solved, _ = nnls(rows / time[:, None] * weight[:, None], weight, maxiter=20_000)
        found = _times(variant, levels, solved, dealing)
    return found


def _programs(one: Scheduled) -> int:
    return int(one.name.rsplit(" x", 1)[1])


def _first_guess(levels: list[int]) -> Floats:
    """Microseconds: steps decide, and cost in proportion to the programs that share an SM."""
    each = [[0.0, 1.0, 1.0, 1.0, *([0.3 * level] * 3), 0.0, 0.0, 0.0] for level in levels]
    return np.concatenate([*each, np.ones(len(levels)), np.zeros(len(levels))])


def _times(variant: str, levels: list[int], solved: Floats, dealing: Dealing) -> list[TileTimes]:
    seconds = solved * 1e-6
    found = []
    for index, level in enumerate(levels):
        own = seconds[index * COLUMNS : (index + 1) * COLUMNS]
        found.append(
            TileTimes(
                variant_named(variant),
                own[1:4],
                own[4:7],
                level,
                float(seconds[len(levels) * COLUMNS + index]),
                calibrated=True,
                spread=float(solved[len(levels) * (COLUMNS + 1) + index]),
                begin=float(own[0]),
                gamma=own[7:10],
            )
        )
    return list(linked(found, dealing))


def _solo_rows(run: Run, variant_name: str, levels: list[int]) -> Block:
    """Slots of the solo shapes, all busy; microseconds keep the problem well scaled."""
    variant = variant_named(variant_name)
    table = run.solo[(run.solo.variant == variant_name) & run.solo.residency.isin(levels)]
    rows = np.zeros((len(table), len(levels) * (COLUMNS + 2)))
    for row, one in zip(rows, table.to_dict("records"), strict=True):
        at = levels.index(int(one["residency"])) * COLUMNS
        shape, tiles = int(one["shape"]), int(one["tiles"])
        channels = int(str(one["layer"]).split("-c")[1].split("-")[0])
        row[at] = 1.0
        row[at + 1 + shape] = tiles
        row[at + 4 + shape] = tiles * int(one["steps"])
        row[at + 7 + shape] = tiles * float(variant.filled(np.array([channels]), 3)[0, shape])
    return rows, table.slot_s.to_numpy() * 1e6, np.ones(len(table))


def _rows(
    sampled: Sampled, one: Scheduled, found: list[TileTimes], levels: list[int]
) -> list[Block]:
    """Sampled slots (a layer weighs as four however many were sampled), and the layer itself."""
    times = next(t for t in found if t.residency == _programs(one))
    seconds, company = finish(paces(times, one.load), times.dealing, UNITS)
    shares = np.zeros((len(seconds), len(levels)))
    for programs in range(1, times.residency + 1):
        for level, weight in times.mix(programs):
            shares[:, levels.index(level.residency)] += weight * company[:, programs - 1]
    held = columns(one.load)
    wide = (shares[:, :, None] * held[:, None, :]).reshape(len(held), -1)
    ends = np.zeros((2, len(levels)))
    ends[:, levels.index(times.residency)] = 1.0, lateness(seconds) * 1e6
    last = np.concatenate([wide[int(seconds.argmax())], ends.reshape(-1)])
    blocks: list[Block] = []
    if one.packing is None:
        blocks.append((last[None], np.array([one.measured_s * 1e6]), np.array([LAYER_WEIGHT])))
    key = (one.conv.name, one.name, one.placement, one.form)
    slots, measured = sampled.get(key, (None, None))
    if slots is not None and measured is not None:
        rows = np.pad(wide[slots], ((0, 0), (0, 2 * len(levels))))
        blocks.append((rows, measured, np.full(len(slots), 2 / np.sqrt(len(slots)))))
    return blocks
