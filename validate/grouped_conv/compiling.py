"""Compiling every kernel before anything is timed, and how many programs of one share an SM."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from perfmodel.optimize.grouped.problem import GroupedConv, equal_groups
from perfmodel.optimize.grouped.tables import Tables
from perfmodel.optimize.grouped.tiles import VARIANTS, Variant
from validate.grouped_conv.layer import (
    DEVICE,
    DTYPES,
    build,
    launch,
    make_output,
    prepare,
    store_runs,
)

REGISTERS, SHARED, THREADS = 65536, 233472, 2048


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
        compile_one(variant, run, timers=timers)


def compile_one(variant: Variant, run: int, *, timers: bool) -> Any:
    """Compile and start one kernel on a layer of nothing."""
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
