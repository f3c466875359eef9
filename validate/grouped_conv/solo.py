"""Phase 1: every variant, residency and tile shape on shapes of its own, by slot timers."""

from __future__ import annotations

import time

import numpy as np
import torch

from perfmodel.optimize.grouped.heuristics import longest_first
from perfmodel.optimize.grouped.knapsack import merge
from perfmodel.optimize.grouped.tables import tables
from perfmodel.optimize.grouped.tiles import VARIANTS, Variant
from validate.grouped_conv import timing
from validate.grouped_conv.cases import solo_cases
from validate.grouped_conv.fit import Observation
from validate.grouped_conv.layer import (
    DEVICE,
    Layer,
    build,
    input_sets,
    launch,
    make_output,
    prepare,
)
from validate.grouped_conv.records import Table


def solo(
    times_s: float, table: Table, resident: dict[str, int]
) -> tuple[list[Observation], dict[str, float]]:
    """Phase 1: every variant, residency and tile shape on shapes of its own; slot timers."""
    units = torch.cuda.get_device_properties(0).multi_processor_count
    seen: list[Observation] = []
    gaps: dict[str, list[float]] = {}
    deadline = time.monotonic() + times_s
    # shapes outermost, so that a cut phase still covers every variant
    jobs = [
        (variant, shape, conv)
        for variant in VARIANTS
        for shape in range(len(variant.tiles))
        for conv in solo_cases(variant, shape, units * resident.get(variant.name, 2))
    ]
    order = np.random.default_rng(0).permutation(len(jobs))
    for number, at in enumerate(order):
        if time.monotonic() > deadline:
            print(f"phase 1 cut after {number} of {len(jobs)} shapes")
            break
        variant, shape, conv = jobs[at]
        try:
            layer = build(conv, DEVICE)
            inputs = input_sets(conv, 4)
            y = make_output(conv, DEVICE)
            most = resident.get(variant.name, 2)
            for share in sorted({1, min(2, most), most}):
                _solo_one(layer, variant, shape, share, units, inputs, y, table, seen, gaps, most)
        except Exception as error:
            print(f"solo {variant.name} {shape} {conv.name}: {error!r}")
            torch.cuda.synchronize()
    table.flush()
    return seen, {name: max(0.0, float(np.median(found))) for name, found in gaps.items()}


def _solo_one(
    layer: Layer, variant: Variant, shape: int, share: int, units: int,
    inputs: list[torch.Tensor], y: torch.Tensor, table: Table, seen: list[Observation],
    gaps: dict[str, list[float]], most: int,
) -> None:  # fmt: skip
    conv = layer.conv
    slots = units * share
    pick = np.full(len(conv.groups), shape)
    number = variant.counts(conv)
    kinds = merge(number, np.ones_like(number, dtype=float), pick)
    counts = longest_first(kinds.seconds, kinds.number, slots)
    ready = prepare(variant, tables(conv, variant, pick, kinds, counts), DEVICE)

    def run(index: int) -> torch.Tensor:
        launch(layer, ready, inputs[index % len(inputs)], y, timers=True)
        return ready.timer

    run(3)
    torch.cuda.synchronize()
    measured, _ = timing.slots(run)
    held = counts.sum(axis=1)
    steps = int(variant.steps(conv.inputs[:1], conv.kernel)[0, shape])
    for tiles in np.unique(held[held > 0]):
        chosen = measured[held == tiles]
        p10, p90 = np.percentile(chosen, (10, 90))
        table.add(
            variant=variant.name, residency=share, layer=conv.name, shape=shape, tiles=int(tiles),
            steps=steps, slots=len(chosen), slot_s=float(chosen.mean()), p10_s=float(p10),
            p90_s=float(p90),
        )  # fmt: skip
        if len(chosen) >= 0.1 * slots:
            seen.append(
                Observation(variant.name, share, shape, int(tiles), steps, float(chosen.mean()))
            )
    if share == most and conv.name.endswith("l1") and len(gaps.get(variant.name, ())) < 8:
        timed = timing.in_graph(
            [lambda i=i: launch(layer, ready, inputs[i % len(inputs)], y) for i in range(20)],
            least_ms=2.0,
        )
        gaps.setdefault(variant.name, []).append(timed.us * 1e-6 - float(measured.max()))
