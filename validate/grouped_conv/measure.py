"""Measure on one GPU: phase 1 fits tile times on solo shapes, phase 2 predicts and runs layers.

Phase 2 computes its schedules with the coefficients of phase 1, writes what they predict next to
what is measured, and never feeds anything back.
"""

from __future__ import annotations

import gc
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perfmodel.optimize.grouped.tiles import VARIANTS, TileTimes
from validate.grouped_conv.cases import layer_cases
from validate.grouped_conv.compiling import compile_all, compile_one, residency
from validate.grouped_conv.fit import fit, relative_errors
from validate.grouped_conv.layer import DEVICE, store_runs
from validate.grouped_conv.layers import Layers
from validate.grouped_conv.records import LAYERS, SLOTS, SOLO, Table
from validate.grouped_conv.solo import solo


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
    clock = clock_reader()
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
                compile_one(variant, run, timers=timers)
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
                runner.row(case, 0, method="none", note=repr(error)[:160])
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
                runner.row(case, 0, method="torch-compile-nhwc", note=repr(error)[:160])
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


def clock_reader() -> Callable[[], Any]:
    """A function that reads the SM clock [MHz], or gives nothing where it cannot be read."""
    try:
        from validate.bench.nvml import Board

        board = Board()
        return board.clock_mhz
    except Exception as error:
        print(f"no clock reader: {error!r}")
    return lambda: ""
