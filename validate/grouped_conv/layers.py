"""Phase 2: one layer after another by every schedule, and by what PyTorch offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from perfmodel.optimize.grouped.candidates import Candidate, candidates, layer_seconds
from perfmodel.optimize.grouped.tables import Tables
from perfmodel.optimize.grouped.tiles import TileTimes
from validate.grouped_conv import baselines, timing
from validate.grouped_conv.cases import Case
from validate.grouped_conv.layer import (
    DEVICE,
    Layer,
    Prepared,
    build,
    input_sets,
    launch,
    make_outputs,
    packed_copy,
    prepare,
    reference_of,
    relative_error,
)
from validate.grouped_conv.plans import Held, held, ladder, planned_seconds
from validate.grouped_conv.records import Table


class Layers:
    """Phase 2: one layer after another, every method guarded."""

    def __init__(
        self, table: Table, slots: Table, coefficients: list[TileTimes], clock: Callable[[], Any]
    ) -> None:
        self.table, self.slots, self.coefficients, self.clock = table, slots, coefficients, clock
        self.units = torch.cuda.get_device_properties(0).multi_processor_count
        self.failures = 0

    def row(self, case: Case, sets: int, **more: Any) -> None:
        """Write one row about a layer."""
        conv = case.conv
        self.table.add(
            layer=conv.name, family=case.family, batch=conv.batch, groups=len(conv.groups),
            rows=conv.rows, sets=sets, sm_clock_mhz=self.clock(), **more,
        )  # fmt: skip

    def run(self, case: Case, index: int) -> None:
        """Our schedules, then what PyTorch offers."""
        conv = case.conv
        layer = build(conv, DEVICE)
        inputs = input_sets(conv)
        expected = reference_of(layer, inputs[0])
        found = candidates(conv, self.coefficients, self.units)
        if not found:
            raise RuntimeError("no variant with coefficients")
        for label, one, made in ladder(conv, found, self.units):
            self.guard(
                case, len(inputs), "schedule", label,
                lambda one=one, made=made, label=label: self._ours(
                    case, layer, inputs, expected, label, one, made
                ),
            )  # fmt: skip
        if conv.input_run in (0, 1, 2, 4):
            self.guard(
                case, len(inputs), "gather+schedule", "knapsack+lpt",
                lambda: self._gathered(case, layer, inputs, expected),
            )  # fmt: skip
        self._baselines(case, layer, inputs, expected, index)

    def guard(
        self, case: Case, sets: int, method: str, label: str, work: Callable[[], None]
    ) -> None:
        """Do the work; a failure becomes a row that says so."""
        try:
            work()
        except Exception as error:
            self.failures += 1
            note = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            self.row(case, sets, method=method, placement=label, note=note)
            torch.cuda.synchronize()

    def _ours(
        self, case: Case, layer: Layer, inputs: list[torch.Tensor], expected: torch.Tensor,
        label: str, one: Candidate, made: Tables,
    ) -> None:  # fmt: skip
        conv, variant = layer.conv, one.times.variant
        ready = prepare(variant, made, DEVICE)
        outputs = make_outputs(conv, len(inputs))
        launch(layer, ready, inputs[0], outputs[0])
        error = relative_error(outputs[0], expected)
        timed = timing.in_graph(
            [
                lambda x=x, y=y: launch(layer, ready, x, y)
                for x, y in zip(inputs, outputs, strict=True)
            ]
        )
        load = held(one, made)
        planned = planned_seconds(one.times, load)
        self.row(
            case, len(inputs), method="schedule", variant=one.times.name, placement=label,
            slots=one.slots, tiles=len(made.tiles), calls=timed.calls, latency_us=timed.us,
            p10_us=timed.p10, p90_us=timed.p90,
            predicted_us=layer_seconds(one.times, planned) * 1e6,
            bound_us=one.bound * 1e6, error=error,
        )  # fmt: skip
        if label in ("knapsack+lpt", "round-robin"):
            about = {"layer": conv.name, "variant": one.times.name, "placement": label}
            self.sample_slots(layer, ready, inputs, outputs, planned, load, about)

    def sample_slots(
        self, layer: Layer, ready: Prepared, inputs: list[torch.Tensor],
        outputs: list[torch.Tensor], planned: npt.NDArray[np.float64], load: Held,
        about: dict[str, str],
    ) -> None:  # fmt: skip
        """Time the slots of a schedule by the device's clock; a sample, the slowest among them."""

        def run(index: int) -> torch.Tensor:
            turn = index % len(inputs)
            launch(layer, ready, inputs[turn], outputs[turn], timers=True)
            return ready.timer

        run(3)
        torch.cuda.synchronize()
        measured, sm = timing.slots(run)
        # a sample of the slots, the slowest among them
        count = 64 if about["placement"] == "knapsack+lpt" else 32
        kept = np.linspace(0, len(measured) - 1, count).astype(int)
        for slot in sorted({*kept.tolist(), int(measured.argmax())}):
            tiles_of, steps_of = load.tiles[slot], load.steps[slot]
            if tiles_of.sum() == 0:
                continue
            self.slots.add(
                **about, slot=slot, sm=int(sm[slot]), planned_s=float(planned[slot]),
                measured_s=float(measured[slot]),
                **{f"tiles{i}": int(t) for i, t in enumerate(tiles_of)},
                **{f"steps{i}": int(t) for i, t in enumerate(steps_of)},
            )  # fmt: skip

    def _gathered(
        self, case: Case, layer: Layer, inputs: list[torch.Tensor], expected: torch.Tensor
    ) -> None:
        packed, index = packed_copy(layer, DEVICE)
        conv = packed.conv
        one = candidates(conv, self.coefficients, self.units)[0]
        made = one.tables()
        ready = prepare(one.times.variant, made, DEVICE)
        outputs = make_outputs(conv, len(inputs))

        def call(x: torch.Tensor, y: torch.Tensor) -> object:
            gathered = torch.index_select(x, 3, index)
            launch(packed, ready, gathered, y)
            return gathered

        call(inputs[0], outputs[0])
        error = relative_error(outputs[0], expected)
        timed = timing.in_graph(
            [lambda x=x, y=y: call(x, y) for x, y in zip(inputs, outputs, strict=True)]
        )
        self.row(
            case, len(inputs), method="gather+schedule", variant=one.times.name,
            placement="knapsack+lpt", slots=one.slots, tiles=len(made.tiles), calls=timed.calls,
            latency_us=timed.us, p10_us=timed.p10, p90_us=timed.p90,
            bound_us=one.bound * 1e6, error=error,
        )  # fmt: skip

    def _baselines(
        self, case: Case, layer: Layer, inputs: list[torch.Tensor], expected: torch.Tensor,
        index: int,
    ) -> None:  # fmt: skip
        conv = case.conv
        many = len(conv.groups)
        few = inputs[: max(2, min(len(inputs), 96 // many))]
        dense = many <= 8 or not conv.equal
        self.single_calls(case, layer, inputs, expected, dense_most=4_000_000 if dense else 0)
        if conv.equal and index % 4:
            return
        shapes = {(len(g.channels), g.outputs) for g in conv.groups}
        tuned = len(shapes) <= 8
        torch.backends.cudnn.benchmark = tuned
        note = "" if tuned else "cudnn heuristics: too many shapes to tune"
        self.guard(
            case, len(few), "loop-graph", "",
            lambda: self.timed(case, "loop-graph", baselines.loop(layer, few), expected, note),
        )  # fmt: skip
        for width in (4, 16):
            if width == 4 or many > 4:
                method = f"streams{width}-graph"
                self.guard(
                    case, len(few), method, "",
                    lambda width=width, method=method: self.timed(
                        case, method, baselines.streams(layer, few, width), expected, note
                    ),
                )  # fmt: skip
        longest = sorted(range(many), key=lambda g: -conv.inputs[g] * conv.outputs[g])
        if not conv.equal:
            self.guard(
                case, len(few), "streams16-longest-graph", "",
                lambda: self.timed(
                    case, "streams16-longest-graph",
                    baselines.streams(layer, few, 16, longest), expected, note,
                ),
            )  # fmt: skip
        self.guard(case, 1, "loop-eager", "", lambda: self.eager(case, layer, few[:1], note))
        if many > 4:
            self.guard(
                case, 1, "streams16-eager", "",
                lambda: self.row(
                    case, 1, method="streams16-eager", calls=1, note=note,
                    latency_us=timing.eager(baselines.streams(layer, few[:1], 16)[0], 3),
                ),
            )  # fmt: skip
        torch.backends.cudnn.benchmark = True

    def single_calls(
        self, case: Case, layer: Layer, inputs: list[torch.Tensor], expected: torch.Tensor,
        *, dense_most: int,
    ) -> None:  # fmt: skip
        """What PyTorch does in one call; dense for up to so many pairs of channels."""
        torch.backends.cudnn.benchmark = True
        conv = case.conv
        many = len(conv.groups)
        single: list[tuple[str, Callable[[], baselines.Calls]]] = []
        if conv.equal:
            single += [
                ("cudnn-nhwc", lambda: baselines.grouped(layer, inputs, nhwc=True)),
                ("cudnn-nchw", lambda: baselines.grouped(layer, inputs, nhwc=False)),
            ]
        else:
            wide = int(conv.inputs.max()) * many / conv.in_channels
            less = inputs[: max(2, int(len(inputs) / max(1.0, wide)))]
            single += [
                ("padded-nhwc", lambda: baselines.padded(layer, less, nhwc=True)),
                ("padded-nchw", lambda: baselines.padded(layer, less, nhwc=False)),
            ]
        if conv.in_channels * conv.out_channels <= dense_most:
            single.append(("dense", lambda: baselines.dense(layer, inputs)))
        for method, make in single:
            self.guard(
                case, len(inputs), method, "",
                lambda make=make, method=method: self.timed(case, method, make(), expected),
            )  # fmt: skip

    def eager(self, case: Case, layer: Layer, inputs: list[torch.Tensor], note: str) -> None:
        """Time an eager loop."""
        us = timing.eager(baselines.loop(layer, inputs)[0])
        self.row(case, 1, method="loop-eager", calls=1, latency_us=us, note=note)

    def timed(
        self, case: Case, method: str, calls: baselines.Calls, expected: torch.Tensor,
        note: str = "",
    ) -> None:  # fmt: skip
        """Check what the calls make against float64, and time them in a graph."""
        out = calls[0]()
        made = torch.cat(out, dim=1) if isinstance(out, list) else out
        if method.startswith("padded"):
            tall = int(case.conv.outputs.max())
            parts = [
                made[:, i * tall : i * tall + g.outputs] for i, g in enumerate(case.conv.groups)
            ]
            made = torch.cat(parts, dim=1)
        error = relative_error(made.permute(0, 2, 3, 1), expected)
        repeats = max(1, 10 // len(calls)) if len(calls) < 10 else 1
        timed = timing.in_graph(calls * repeats)
        self.row(
            case, len(calls), method=method, calls=timed.calls, latency_us=timed.us,
            p10_us=timed.p10, p90_us=timed.p90, error=error, note=note,
        )  # fmt: skip

    def compiled(self, case: Case) -> None:
        """``torch.compile`` of the grouped convolution, equal groups only."""
        layer = build(case.conv, DEVICE)
        inputs = input_sets(case.conv)
        expected = reference_of(layer, inputs[0])
        weight = torch.cat(layer.weights).to(DEVICE).contiguous(memory_format=torch.channels_last)
        conv = case.conv

        def plain(x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(
                x, weight, None, conv.stride, conv.padding, conv.dilation, len(conv.groups)
            )

        fast = torch.compile(plain)
        images = [x.permute(0, 3, 1, 2) for x in inputs]
        for image in images[:3]:
            fast(image)
        calls: baselines.Calls = [lambda x=x: fast(x) for x in images]
        self.timed(case, "torch-compile-nhwc", calls, expected)
