"""From which batch on does the GPU, and not its host, decide how long inference takes?

ResNet-50 and ViT-B/16 in fp32, read from ONNX files with a dynamic batch, on an A100 and an H100
with the same host. In eager PyTorch every operator costs the host microseconds; a compiled model
launches fewer kernels, a captured graph costs the host next to nothing. Below the crossover the
device waits, and a faster GPU changes nothing; the faster the GPU, the larger the batch at which
it is reached.

``python -m studies.study_trace_launch_bound --out out``
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from perfmodel.cost.program import ProgramEstimate
from perfmodel.report.figures import curves
from perfmodel.report.programs import memory_over_time, operator_roofline, timeline
from perfmodel.report.style import save
from perfmodel.study.own_model import estimate_program
from perfmodel.workload.importers.load import load_graph

MODELS = Path(__file__).parent / "models"
CHIPS = ("a100-sxm4-80gb", "h100-sxm5-80gb")
STACKS = ("torch-eager", "torch-compile", "cuda-graph")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Point:
    """One model, batch, chip and stack."""

    model: str
    batch: int
    chip: str
    stack: str
    found: ProgramEstimate


@dataclass(frozen=True, slots=True)
class Sweep:
    """All points of the study."""

    points: tuple[Point, ...]

    def line(self, model: str, chip: str, stack: str) -> list[Point]:
        """One line of a picture, by batch."""
        return [p for p in self.points if (p.model, p.chip, p.stack) == (model, chip, stack)]

    def crossover(self, model: str, chip: str) -> int | None:
        """The first batch at which eager inference waits for the device more than for the host."""
        for point in self.line(model, chip, "torch-eager"):
            if point.found.launch_bound < 0.05:
                return point.batch
        return None

    def gain(self, model: str, chip: str, batch: int, stack: str = "cuda-graph") -> float:
        """How many times faster than eager a stack is."""
        eager, other = (
            next(p for p in self.line(model, chip, one) if p.batch == batch)
            for one in ("torch-eager", stack)
        )
        return eager.found.seconds / other.found.seconds


def study(
    models: Sequence[str] = ("resnet50", "vit_b_16"), batches: Sequence[int] = BATCHES
) -> Sweep:
    """Price every combination; a program is read once for each batch."""
    points = []
    for model in models:
        for batch in batches:
            program = load_graph(MODELS / f"{model}.onnx", batch_size=batch)
            points += [
                Point(model, batch, chip, stack, estimate_program(program, chip, stack=stack))
                for chip in CHIPS
                for stack in STACKS
            ]
    return Sweep(tuple(points))


def picture(sweep: Sweep, model: str) -> Figure:
    """Time per image over the batch."""
    lines = {
        f"{chip.split('-')[0].upper()}, {stack}": sweep.line(model, chip, stack)
        for chip in CHIPS
        for stack in STACKS
    }
    return curves(
        f"{model}: inference in fp32",
        {name: [p.batch for p in line] for name, line in lines.items()},
        {name: [p.found.seconds / p.batch * 1e3 for p in line] for name, line in lines.items()},
        xlabel="batch",
        ylabel="time per image [ms]",
    )


def report(sweep: Sweep) -> None:
    """The numbers behind the pictures."""
    for model in dict.fromkeys(point.model for point in sweep.points):
        for chip in CHIPS:
            first = sweep.line(model, chip, "torch-eager")[0].found
            batches = [point.batch for point in sweep.line(model, chip, "torch-eager")]
            gains = ", ".join(
                f"{b}: {sweep.gain(model, chip, b):.2f}x"
                f" ({sweep.gain(model, chip, b, 'torch-compile'):.2f}x compiled)"
                for b in batches
            )
            print(
                f"{model} on {chip}: host {first.host_seconds * 1e3:.2f} ms, device"
                f" {first.device_seconds * 1e3:.2f} ms at batch {batches[0]}; the device decides"
                f" from batch {sweep.crossover(model, chip)}; gain of a graph {gains}"
            )


def check(sweep: Sweep) -> None:
    """The claims of this study."""
    for model in dict.fromkeys(point.model for point in sweep.points):
        a100, h100 = (sweep.line(model, chip, "torch-eager") for chip in CHIPS)
        assert h100[0].found.launch_bound > 0.2, "batch 1 waits for the host"
        assert h100[-1].found.launch_bound < 0.01, "a large batch does not"
        faster = [a.found.seconds / h.found.seconds for a, h in zip(a100, h100, strict=True)]
        assert faster[0] < 0.75 * faster[-1], "at batch 1 the faster GPU is not used"
        crossed = [sweep.crossover(model, chip) for chip in CHIPS]
        assert crossed[0] is not None
        assert crossed[1] is not None
        assert crossed[0] <= crossed[1], "a faster GPU needs a larger batch to be busy"
        gains = np.array([sweep.gain(model, CHIPS[1], point.batch) for point in h100])
        assert gains[0] > 1.3, "a graph pays at batch 1"
        assert abs(gains[-1] - 1) < 0.05, "and not at a large one"
        compiled = [sweep.gain(model, CHIPS[1], p.batch, "torch-compile") for p in h100]
        assert min(compiled) > 0.95, "compiling does not slow it down"


def main(argv: list[str] | None = None) -> None:
    """Price, draw, and check the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    sweep = study()
    report(sweep)
    drawn = {model: picture(sweep, model) for model in ("resnet50", "vit_b_16")}
    from perfmodel.hardware import load_accelerator

    example = sweep.line("resnet50", CHIPS[1], "torch-eager")[0].found
    large = sweep.line("resnet50", CHIPS[1], "torch-eager")[-1].found
    drawn["timeline"] = timeline(example)
    drawn["roofline"] = operator_roofline(large, load_accelerator(CHIPS[1]), "tf32")
    drawn["memory"] = memory_over_time(large)
    for name, figure in drawn.items():
        print(f"drawn: {save(figure, out / f'trace-launch-bound-{name}.svg')}")
    check(sweep)


if __name__ == "__main__":
    main()
