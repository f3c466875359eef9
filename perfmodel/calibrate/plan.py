"""`perfmodel calibrate --plan`: what to run on a chip that nobody has measured yet."""

from __future__ import annotations

import shlex
from typing import Final

from perfmodel.hardware import Accelerator

CUDA_VENDORS: Final = ("NVIDIA", "AMD")
"""Whose accelerators PyTorch calls ``cuda``."""


def measurement_plan(accelerator: Accelerator, device: str | None = None) -> str:
    """Commands that measure a chip and calibrate on it, as text for the terminal.

    Parameters
    ----------
    accelerator : Accelerator
        The chip.
    device : str, optional
        How the user names it: by name (the default) or by the path of its file.
    """
    name = accelerator.name.lower()
    folder = name.replace(" ", "-")
    named = shlex.quote(name if device is None else device)
    if accelerator.vendor not in CUDA_VENDORS or accelerator.kind == "cpu":
        return _by_hand(name, named)
    return "\n".join(
        [
            f"To calibrate {name}, in a copy of this repository on a machine that has one (PyTorch",
            "and NumPy suffice there):",
            "",
            "  python3 -m validate.bench plan --out plan.jsonl --seed 1",
            "  python3 -m validate.bench measure --plan plan.jsonl --out run --seconds 560",
            f"  python3 -m validate.bench unpack run --name {folder}",
            "",
            "Repeat `measure` until it has nothing left to do; it resumes where it stopped. About",
            "ten minutes give coefficients, thirty minutes (6,000 operators) a full correction.",
            "Formats that the chip lacks are tried a few times and left out. Then, anywhere:",
            "",
            f"  perfmodel calibrate validate/measurements/{folder} --device {named}",
            "",
            "Shapes that no fit has seen judge the result: repeat with --seed 2 and run",
            f"  perfmodel validate --ops run/ops.csv --on {named}",
        ]
    )


def _by_hand(name: str, named: str) -> str:
    return "\n".join(
        [
            "The harness times devices that PyTorch calls cuda (NVIDIA, AMD), which",
            f"{name} is not. With timings of your own:",
            "",
            "  python3 -m validate.bench plan --out plan.jsonl --seed 1",
            "",
            "lists operators worth timing. Write one CSV an operator, with its keys and the",
            "columns device and latency_us, and beside it a TOML file of the same name that",
            'holds sha256 = "..." of the CSV; then:',
            "",
            f"  perfmodel calibrate DIR --device {named}",
            f"  perfmodel validate --ops FILE.jsonl --on {named}",
        ]
    )
