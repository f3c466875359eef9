"""Run layers of no earlier run with frozen coefficients: as given, merged, and packed first.

Nothing is fitted here. What is written is what the shipped coefficients predict, and what happened.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from perfmodel.optimize.grouped.candidates import layer_seconds
from perfmodel.optimize.grouped.files import read_times
from perfmodel.optimize.grouped.forms import Packing
from perfmodel.optimize.grouped.tiles import TileTimes
from validate.grouped_conv import baselines, timing
from validate.grouped_conv.cases import Case
from validate.grouped_conv.compiling import compile_all
from validate.grouped_conv.formed import form_layer, pack, run_form
from validate.grouped_conv.fresh_cases import LOST, fresh_cases
from validate.grouped_conv.fresh_plans import Planned, plan
from validate.grouped_conv.layer import (
    DEVICE,
    Layer,
    build,
    input_sets,
    make_outputs,
    prepare,
    reference_of,
    relative_error,
)
from validate.grouped_conv.layers import Layers
from validate.grouped_conv.measure import clock_reader
from validate.grouped_conv.plans import held, planned_seconds
from validate.grouped_conv.records import FRESH, FRESH_SLOTS, PACKS, Table

# Until the packing kernel is measured: a launch, and a third of the device's memory rate.
PACKING = Packing(2.0e-6, 1.0e12)
PLANNERS = 12
SHIPPED = Path(__file__).parents[2] / "hardware_specs/efficiency/grouped_conv/h100-sxm5-80gb.toml"


class FreshLayers(Layers):
    """Schedules of every form, slot timers of the best, and the fastest ways of PyTorch."""

    def __init__(
        self, table: Table, slots: Table, packs: Table, times: list[TileTimes],
        clock: Callable[[], Any],
    ) -> None:  # fmt: skip
        super().__init__(table, slots, times, clock)
        self.packs = packs

    def run_planned(self, case: Case, plans: Sequence[Planned]) -> None:
        """One layer."""
        layer = build(case.conv, DEVICE)
        inputs = input_sets(case.conv)
        expected = reference_of(layer, inputs[0])
        for one in plans:
            self.guard(
                case, len(inputs), "schedule", one.label,
                lambda one=one: self._schedule(case, layer, inputs, expected, one),
            )  # fmt: skip
        self._pytorch(case, layer, inputs, expected)

    def _schedule(
        self, case: Case, layer: Layer, inputs: list[torch.Tensor], expected: torch.Tensor,
        one: Planned,
    ) -> None:  # fmt: skip
        formed = form_layer(layer, one.form, DEVICE)
        times = one.candidate.times
        ready = prepare(times.variant, one.tables, DEVICE)
        outputs = make_outputs(case.conv, len(inputs))
        run_form(formed, ready, inputs[0], outputs[0])
        error = relative_error(outputs[0], expected)
        timed = timing.in_graph(
            [
                lambda x=x, y=y: run_form(formed, ready, x, y)
                for x, y in zip(inputs, outputs, strict=True)
            ]
        )
        load = held(one.candidate, one.tables)
        planned = planned_seconds(times, load)
        self.row(
            case, len(inputs), method="schedule", form=one.form.name, variant=times.name,
            placement=one.label, slots=len(one.tables.first) - 1, tiles=len(one.tables.tiles),
            calls=timed.calls, latency_us=timed.us, p10_us=timed.p10, p90_us=timed.p90,
            predicted_us=(layer_seconds(times, planned) + one.packing) * 1e6,
            packing_us=one.packing * 1e6, bound_us=one.candidate.bound * 1e6, error=error,
        )  # fmt: skip
        if formed.index is not None:
            alone = timing.in_graph([lambda x=x: pack(formed, x) for x in inputs], least_ms=1.0)
            self.packs.add(
                layer=case.conv.name, form=one.form.name,
                pixels=inputs[0][..., 0].numel(), read=int((formed.index >= 0).sum()),
                written=len(formed.index), in_channels=case.conv.in_channels,
                latency_us=alone.us, p10_us=alone.p10, p90_us=alone.p90,
            )  # fmt: skip
        if one.label in ("knapsack+lpt", "round-robin"):
            packed = [pack(formed, x) for x in inputs[:4]]
            self.sample_slots(
                formed.layer, ready, packed, outputs[:4], planned, load,
                {"layer": case.conv.name, "form": one.form.name, "variant": times.name,
                 "placement": one.label},
            )  # fmt: skip

    def _pytorch(
        self, case: Case, layer: Layer, inputs: list[torch.Tensor], expected: torch.Tensor
    ) -> None:
        conv = case.conv
        self.single_calls(case, layer, inputs, expected, dense_most=1_500_000)
        if conv.equal or conv.name in LOST:
            return
        many = len(conv.groups)
        few = inputs[: max(2, min(len(inputs), 96 // many))]
        torch.backends.cudnn.benchmark = False
        note = "cudnn heuristics: too many shapes to tune"
        for width in (4, 16) if many > 4 else (4,):
            method = f"streams{width}-graph"
            self.guard(
                case, len(few), method, "",
                lambda width=width, method=method: self.timed(
                    case, method, baselines.streams(layer, few, width), expected, note
                ),
            )  # fmt: skip
        self.guard(case, 1, "loop-eager", "", lambda: self.eager(case, layer, few[:1], note))
        torch.backends.cudnn.benchmark = True


def measure_fresh(out: Path, seconds: float, most: int) -> int:
    """Everything, inside ``seconds`` of wall-clock time; returns the exit code."""
    from validate.grouped_conv.sidecar import environment, write_coefficients, write_sidecars

    began = time.monotonic()
    left = lambda: seconds - (time.monotonic() - began)  # noqa: E731
    out.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    times = read_times(SHIPPED)
    write_coefficients(out / "grouped_fresh_coefficients.toml", times)
    cases = fresh_cases()[:most]
    written = [
        Table(out / "grouped_fresh.csv", FRESH),
        Table(out / "grouped_fresh_slots.csv", FRESH_SLOTS),
        Table(out / "grouped_fresh_packs.csv", PACKS),
    ]
    done = 0
    pool = ProcessPoolExecutor(
        min(PLANNERS, os.cpu_count() or 1), multiprocessing.get_context("spawn")
    )
    try:
        units = torch.cuda.get_device_properties(0).multi_processor_count
        waiting = [
            pool.submit(plan, case.conv, times, units, PACKING, whole=case.conv.name not in LOST)
            for case in cases
        ]
        compile_all(min(14, os.cpu_count() or 1))
        print(f"compiled, {left():.0f} s left", flush=True)
        torch.backends.cudnn.benchmark = True
        _spin()
        runner = FreshLayers(*written, list(times), clock_reader())
        gc.collect()
        gc.disable()  # collected between layers: a collection inside a capture costs milliseconds
        for index, (case, planned) in enumerate(zip(cases, waiting, strict=True)):
            if left() < 4:
                print(f"cut after {index} of {len(cases)} layers")
                break
            try:
                runner.run_planned(case, planned.result())
                done += 1
            except Exception as error:
                print(f"layer {case.conv.name}: {error!r}", flush=True)
                torch.cuda.synchronize()
            if index % 8 == 7:
                gc.collect()
                for one in written:
                    one.flush()
        print(f"{done} layers, {runner.failures} failed methods, {left():.0f} s left", flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for one in written:
            one.flush()
        write_sidecars(
            out, written, environment(), date, seconds, time.monotonic() - began, verb="fresh"
        )
    return 0 if done else 1


def _spin() -> None:
    spin = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(20):
        spin @ spin
    torch.cuda.synchronize()
