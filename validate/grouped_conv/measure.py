"""Measure on one GPU: phase 1 fits tile times on solo shapes, phase 2 predicts and runs layers.

Phase 2 computes its schedules with the coefficients of phase 1, writes what they predict next to
what is measured, and never feeds anything back.
"""

from __future__ import annotations

import csv
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perfmodel.optimize.grouped.candidates import Candidate, candidates
from perfmodel.optimize.grouped.heuristics import longest_first
from perfmodel.optimize.grouped.knapsack import merge
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.optimize.grouped.tables import Tables, tables
from perfmodel.optimize.grouped.tiles import VARIANTS, TileTimes, Variant
from validate.grouped_conv import baselines, timing
from validate.grouped_conv.cases import Case, layer_cases, solo_cases
from validate.grouped_conv.fit import Observation, fit, relative_errors
from validate.grouped_conv.layer import (
    DTYPES,
    Layer,
    build,
    launch,
    make_output,
    packed_copy,
    prepare,
    reference,
    relative_error,
    store_runs,
)
from validate.grouped_conv.plans import held, ladder, planned_seconds

DEVICE = "cuda"
SET_BYTES = 150e6
REGISTERS, SHARED, THREADS = 65536, 233472, 2048

SOLO = (
    "variant",
    "residency",
    "layer",
    "shape",
    "tiles",
    "steps",
    "slots",
    "slot_s",
    "p10_s",
    "p90_s",
)
LAYERS = (
    "layer", "family", "batch", "groups", "rows", "method", "variant", "placement", "slots", "tiles",  # noqa: E501
    "calls", "sets", "latency_us", "p10_us", "p90_us", "predicted_us", "bound_us", "error",
    "sm_clock_mhz", "note",
)  # fmt: skip
SLOTS = (
    "layer", "variant", "placement", "slot", "sm", "planned_s", "measured_s",
    "tiles0", "tiles1", "tiles2", "steps0", "steps1", "steps2",
)  # fmt: skip


class Table:
    """A CSV written row by row, flushed as it goes."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns, self.rows = path, columns, 0
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, columns, restval="", lineterminator="\n")
        self._writer.writeheader()

    def add(self, **row: Any) -> None:
        """Write one row; floats with six significant digits."""
        self._writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
        self.rows += 1

    def flush(self) -> None:
        """To disk."""
        self._file.flush()


def residency(variant: Variant, kernel: Any) -> int:
    """Programs of a compiled kernel that fit an SM at once."""
    registers = getattr(kernel, "n_regs", None) or variant.max_registers or 168
    shared = getattr(kernel.metadata, "shared", 49152) + 1024
    per = -(-int(registers) // 8) * 8 * 32 * variant.warps
    return max(1, min(REGISTERS // per, SHARED // shared, THREADS // (32 * variant.warps), 6))


def _idle_tables() -> Tables:
    return Tables(np.zeros(2, dtype=np.int32), np.zeros((1, 4), dtype=np.int32))


def _needed() -> list[tuple[Variant, int, bool]]:
    return [(v, run, timers) for v in VARIANTS for run in store_runs(v) for timers in (False, True)]


def compile_part(part: int, of: int) -> None:
    """Compile every ``of``-th kernel into the compiler's cache on disk."""
    for variant, run, timers in _needed()[part::of]:
        _compile(variant, run, timers=timers)


def _compile(variant: Variant, run: int, *, timers: bool) -> Any:
    from perfmodel.optimize.grouped.problem import equal_groups

    channels, made = 16, (16 if run == 8 else 8 if run == 4 else 18)
    conv = GroupedConv(1, 8, 8, channels, equal_groups(channels, made, 2))
    layer = build(conv, DEVICE)
    x = torch.zeros(1, 8, 8, channels, device=DEVICE, dtype=DTYPES["bf16"])
    kernel = launch(
        layer, prepare(variant, _idle_tables(), DEVICE), x, make_output(conv, DEVICE), timers=timers
    )
    torch.cuda.synchronize()
    return kernel


def compile_all(processes: int) -> None:
    """Compile in parallel processes; what fails is compiled (and reported) at its first use."""
    command = [sys.executable, "-m", "validate.grouped_conv", "compile"]
    running = [
        subprocess.Popen([*command, "--part", str(part), "--of", str(processes)])
        for part in range(processes)
    ]
    deadline = time.monotonic() + 75
    for one in running:
        try:
            one.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.kill()


def input_sets(conv: GroupedConv, most: int = 48, seed: int = 1) -> list[torch.Tensor]:
    """Random inputs that together exceed the last-level cache where ``most`` sets can; each starts
    on a 128-byte line.
    """
    shape = (conv.batch, conv.height, conv.width, conv.in_channels)
    size = int(np.prod(shape))
    stride = -(-size // 64) * 64
    each = 2 * (size + conv.rows * conv.out_channels)
    count = int(min(most, max(4, -(-SET_BYTES // each))))
    maker = torch.Generator(device=DEVICE).manual_seed(seed)
    flat = torch.randn(count * stride, generator=maker, device=DEVICE, dtype=DTYPES[conv.dtype])
    return [flat[i * stride : i * stride + size].view(shape) for i in range(count)]


def _outputs(conv: GroupedConv, count: int) -> list[torch.Tensor]:
    return [make_output(conv, DEVICE) for _ in range(count)]


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


class Layers:
    """Phase 2: one layer after another, every method guarded."""

    def __init__(
        self, table: Table, slots: Table, coefficients: list[TileTimes], clock: Callable[[], Any]
    ) -> None:
        self.table, self.slots, self.coefficients, self.clock = table, slots, coefficients, clock
        self.units = torch.cuda.get_device_properties(0).multi_processor_count
        self.failures = 0

    def _row(self, case: Case, sets: int, **more: Any) -> None:
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
            self._guard(
                case, len(inputs), "schedule", label,
                lambda one=one, made=made, label=label: self._ours(
                    case, layer, inputs, expected, label, one, made
                ),
            )  # fmt: skip
        if conv.input_run in (0, 1, 2, 4):
            self._guard(
                case, len(inputs), "gather+schedule", "knapsack+lpt",
                lambda: self._gathered(case, layer, inputs, expected),
            )  # fmt: skip
        self._baselines(case, layer, inputs, expected, index)

    def _guard(
        self, case: Case, sets: int, method: str, label: str, work: Callable[[], None]
    ) -> None:
        try:
            work()
        except Exception as error:
            self.failures += 1
            note = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            self._row(case, sets, method=method, placement=label, note=note)
            torch.cuda.synchronize()

    def _ours(
        self, case: Case, layer: Layer, inputs: list[torch.Tensor], expected: torch.Tensor,
        label: str, one: Candidate, made: Tables,
    ) -> None:  # fmt: skip
        conv, variant = layer.conv, one.times.variant
        ready = prepare(variant, made, DEVICE)
        outputs = _outputs(conv, len(inputs))
        launch(layer, ready, inputs[0], outputs[0])
        error = relative_error(outputs[0], expected)
        timed = timing.in_graph(
            [
                lambda x=x, y=y: launch(layer, ready, x, y)
                for x, y in zip(inputs, outputs, strict=True)
            ]
        )
        load = held(one, made)
        planned = planned_seconds(one, load)
        self._row(
            case, len(inputs), method="schedule", variant=one.times.name, placement=label,
            slots=one.slots, tiles=len(made.tiles), calls=timed.calls, latency_us=timed.us,
            p10_us=timed.p10, p90_us=timed.p90,
            predicted_us=float(planned.max() + one.times.launch) * 1e6,
            bound_us=one.bound * 1e6, error=error,
        )  # fmt: skip
        if label not in ("knapsack+lpt", "round-robin"):
            return

        def run(index: int) -> torch.Tensor:
            launch(
                layer, ready, inputs[index % len(inputs)], outputs[index % len(inputs)], timers=True,  # noqa: E501
            )  # fmt: skip
            return ready.timer

        run(3)
        torch.cuda.synchronize()
        measured, sm = timing.slots(run)
        # a sample of the slots, the slowest among them
        kept = np.linspace(0, one.slots - 1, 64 if label == "knapsack+lpt" else 32).astype(int)
        for slot in sorted({*kept.tolist(), int(measured.argmax())}):
            tiles_of, steps_of = load.tiles[slot], load.steps[slot]
            if tiles_of.sum() == 0:
                continue
            self.slots.add(
                layer=conv.name, variant=one.times.name, placement=label, slot=slot,
                sm=int(sm[slot]), planned_s=float(planned[slot]),
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
        outputs = _outputs(conv, len(inputs))

        def call(x: torch.Tensor, y: torch.Tensor) -> object:
            gathered = torch.index_select(x, 3, index)
            launch(packed, ready, gathered, y)
            return gathered

        call(inputs[0], outputs[0])
        error = relative_error(outputs[0], expected)
        timed = timing.in_graph(
            [lambda x=x, y=y: call(x, y) for x, y in zip(inputs, outputs, strict=True)]
        )
        self._row(
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
        torch.backends.cudnn.benchmark = True
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
        if conv.in_channels * conv.out_channels <= 4_000_000 and (many <= 8 or not conv.equal):
            single.append(("dense", lambda: baselines.dense(layer, inputs)))
        for method, make in single:
            self._guard(
                case, len(inputs), method, "",
                lambda make=make, method=method: self._timed(case, method, make(), expected),
            )  # fmt: skip
        if conv.equal and index % 4:
            return
        shapes = {(len(g.channels), g.outputs) for g in conv.groups}
        tuned = len(shapes) <= 8
        torch.backends.cudnn.benchmark = tuned
        note = "" if tuned else "cudnn heuristics: too many shapes to tune"
        self._guard(
            case, len(few), "loop-graph", "",
            lambda: self._timed(case, "loop-graph", baselines.loop(layer, few), expected, note),
        )  # fmt: skip
        for width in (4, 16):
            if width == 4 or many > 4:
                method = f"streams{width}-graph"
                self._guard(
                    case, len(few), method, "",
                    lambda width=width, method=method: self._timed(
                        case, method, baselines.streams(layer, few, width), expected, note
                    ),
                )  # fmt: skip
        longest = sorted(range(many), key=lambda g: -conv.inputs[g] * conv.outputs[g])
        if not conv.equal:
            self._guard(
                case, len(few), "streams16-longest-graph", "",
                lambda: self._timed(
                    case, "streams16-longest-graph",
                    baselines.streams(layer, few, 16, longest), expected, note,
                ),
            )  # fmt: skip
        self._guard(case, 1, "loop-eager", "", lambda: self._eager(case, layer, few[:1], note))
        if many > 4:
            self._guard(
                case, 1, "streams16-eager", "",
                lambda: self._row(
                    case, 1, method="streams16-eager", calls=1, note=note,
                    latency_us=timing.eager(baselines.streams(layer, few[:1], 16)[0], 3),
                ),
            )  # fmt: skip
        torch.backends.cudnn.benchmark = True

    def _eager(self, case: Case, layer: Layer, inputs: list[torch.Tensor], note: str) -> None:
        us = timing.eager(baselines.loop(layer, inputs)[0])
        self._row(case, 1, method="loop-eager", calls=1, latency_us=us, note=note)

    def _timed(
        self, case: Case, method: str, calls: baselines.Calls, expected: torch.Tensor,
        note: str = "",
    ) -> None:  # fmt: skip
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
        self._row(
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
        self._timed(case, "torch-compile-nhwc", calls, expected)


def reference_of(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The float64 result, without tuning it."""
    torch.backends.cudnn.benchmark = False
    try:
        return reference(layer.conv, layer.weights, x)
    finally:
        torch.backends.cudnn.benchmark = True


def measure(out: Path, seconds: float) -> int:  # noqa: PLR0912, PLR0915
    """Everything, inside ``seconds`` of wall-clock time; returns the exit code."""
    from validate.grouped_conv.sidecar import environment, write_coefficients, write_sidecars

    began = time.monotonic()
    left = lambda: seconds - (time.monotonic() - began)  # noqa: E731
    out.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    compile_all(min(12, os.cpu_count() or 1))
    print(f"compiled, {left():.0f} s left", flush=True)
    torch.backends.cudnn.benchmark = True
    clock = _clock_reader()
    spin = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(20):
        spin @ spin
    torch.cuda.synchronize()
    del spin
    solo_table = Table(out / "grouped_solo.csv", SOLO)
    layer_table = Table(out / "grouped_layers.csv", LAYERS)
    slot_table = Table(out / "grouped_slots.csv", SLOTS)
    resident: dict[str, int] = {}
    for variant in VARIANTS:
        try:
            kernels = [
                _compile(variant, run, timers=timers)
                for run in store_runs(variant)
                for timers in (False, True)
            ]
            resident[variant.name] = min(residency(variant, kernel) for kernel in kernels)
            shown = [(getattr(k, "n_regs", None), getattr(k, "n_spills", None)) for k in kernels]
            print(f"{variant.name}: {resident[variant.name]} a unit, (registers, spills) {shown}")
        except Exception as error:
            print(f"variant {variant.name} does not run: {error!r}")
    print("residency", json.dumps(resident), f"{left():.0f} s left", flush=True)
    gc.collect()
    gc.disable()  # collected between layers: a collection inside a capture costs milliseconds
    coefficients: list[TileTimes] = []
    done = 0
    runner = None
    try:
        seen, gaps = solo(min(0.25 * seconds, left() - 60), solo_table, resident)
        coefficients = fit(seen, gaps)
        errors = relative_errors(seen, coefficients)
        print(
            f"phase 1: {len(seen)} observations, median |error| {np.median(np.abs(errors)):.1%},"
            f" {left():.0f} s left; launch {json.dumps({k: round(v * 1e6, 2) for k, v in gaps.items()})}",  # noqa: E501
            flush=True,
        )
        write_coefficients(out / "grouped_coefficients.toml", coefficients)
        runner = Layers(layer_table, slot_table, coefficients, clock)
        cases = layer_cases()
        compile_at = 25.0
        for index, case in enumerate(cases):
            if left() < compile_at:
                print(f"phase 2 cut after {index} of {len(cases)} layers")
                break
            try:
                runner.run(case, index)
                done += 1
            except Exception as error:
                print(f"layer {case.conv.name}: {error!r}")
                runner._row(case, 0, method="none", note=repr(error)[:160])
                torch.cuda.synchronize()
            layer_table.flush()
            slot_table.flush()
            if index % 8 == 7:
                gc.collect()
        for case in [c for c in cases if c.conv.equal][:4]:
            if left() < 12:
                break
            try:
                runner.compiled(case)
            except Exception as error:
                runner._row(case, 0, method="torch-compile-nhwc", note=repr(error)[:160])
    except Exception:
        traceback.print_exc()
    finally:
        for one in (solo_table, layer_table, slot_table):
            one.flush()
        write_sidecars(
            out, [solo_table, layer_table, slot_table], environment(), date, seconds,
            time.monotonic() - began,
        )  # fmt: skip
    print(
        f"{done} layers, {layer_table.rows} rows, {runner.failures if runner else 0} failed methods,"  # noqa: E501
        f" {slot_table.rows} slots, {left():.0f} s left",
        flush=True,
    )
    return 0 if done else 1


def _clock_reader() -> Callable[[], Any]:
    try:
        from validate.bench.nvml import Board

        board = Board()
        return board.clock_mhz
    except Exception as error:
        print(f"no clock reader: {error!r}")
    return lambda: ""
