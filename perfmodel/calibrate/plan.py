"""`perfmodel calibrate --plan`: what to run on a chip that nobody has measured yet."""

from __future__ import annotations

from perfmodel.hardware import Accelerator


def measurement_plan(accelerator: Accelerator) -> str:
    """Commands that measure a chip and calibrate on it, as text for the terminal."""
    name = accelerator.name.lower()
    return "\n".join(
        [
            f"To calibrate {name}, on a machine that has one (PyTorch and NumPy suffice there):",
            "",
            "  python3 -m validate.bench plan --out plan.jsonl --seed 1",
            "  python3 -m validate.bench measure --plan plan.jsonl --out run --seconds 560",
            "  python3 -m validate.bench unpack run",
            "",
            "Repeat `measure` until it has nothing left to do; it resumes where it stopped. About",
            "ten minutes give coefficients, thirty minutes (6,000 operators) a full correction.",
            "Then, anywhere:",
            "",
            f"  perfmodel calibrate validate/measurements/{name} --device {name}",
            "",
            "Shapes that no fit has seen judge the result: repeat with --seed 2 and run",
            f"  perfmodel validate --ops FILE.jsonl --on {name}",
        ]
    )
