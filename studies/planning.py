"""What the planner's studies share: simulating a plan, and drawing one plan against another."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from perfmodel.optimize.answer import MilpPlan
from perfmodel.report.style import figure, save
from perfmodel.sim.schedules import one_forward_one_backward
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step import replay


def simulated(plan: MilpPlan) -> float:
    """Step time of a 1F1B plan, event by event, with its sends on streams of their own [s]."""
    stages = plan.stages
    count = len(stages)
    forward = np.array([stage.forward for stage in stages])
    send = np.array([stage.send for stage in stages])
    backward = np.array([stage.seconds for stage in stages]) - forward - send
    onward = np.append(send[1:], 0.0) / 2 if count > 1 else np.zeros(1)
    back = send / 2 if count > 1 else np.zeros(1)
    back[0] = 0.0
    costs = StageCosts(
        forward=forward,
        backward_input=backward / 2,
        backward_weight=backward / 2,
        send_forward=onward,
        send_backward=back,
        optimizer=np.array([stage.once for stage in stages]),
    )
    schedule = one_forward_one_backward(count, plan.micro_batches)
    return replay(schedule, costs).seconds


@dataclass(frozen=True)
class Comparison:
    """A planned layout against the best uniform one, on paper and simulated."""

    title: str
    uniform: MilpPlan
    planned: MilpPlan

    @property
    def gain(self) -> float:
        """How many times faster the planned layout is, by the planner's own formula."""
        return self.uniform.step_time / self.planned.step_time

    @property
    def simulated_gain(self) -> float:
        """The same, event by event."""
        return simulated(self.uniform) / simulated(self.planned)

    @property
    def most(self) -> float:
        """No plan of the space can gain more than this: the uniform step over the proven bound."""
        return self.uniform.step_time / self.planned.bound

    def report(self) -> str:
        """Both plans, the gain and its limit."""
        return "\n".join(
            [
                f"== {self.title}",
                f"best uniform plan: {self.uniform.step_time:.4g} s,"
                f" simulated {simulated(self.uniform):.4g} s:"
                f" {len(self.uniform.stages)} stages, {self.uniform.stages[0].degrees},"
                f" {self.uniform.stages[-1].recompute}",
                self.planned.explain(),
                f"simulated: {simulated(self.planned):.4g} s",
                f"gain {self.gain:.3f} x, simulated {self.simulated_gain:.3f} x,"
                f" at most {self.most:.3f} x",
            ]
        )


def time_figure(comparison: Comparison) -> Figure:
    """Seconds of every stage for one micro-batch of equal samples, uniform and planned."""
    with figure(8.0, 4.0) as (drawn, axes):
        for plan, name in ((comparison.uniform, "best uniform"), (comparison.planned, "planned")):
            samples = plan.global_batch_size / plan.micro_batches
            each = np.array([stage.seconds for stage in plan.stages]) / samples
            edges = np.linspace(0.0, 1.0, len(each) + 1)
            axes.stairs(1e3 * each, edges, label=name, lw=2, baseline=None)
            axes.plot((edges[:-1] + edges[1:]) / 2, 1e3 * each, ".", color="#333333", ms=3)
        axes.set_ylim(bottom=0)
        axes.set(
            xlabel="place in the pipeline (0 first stage, 1 last)",
            ylabel="ms a sample",
            title=f"{comparison.title}: {comparison.gain:.2f} x",
        )
        axes.legend()
        return drawn


def memory_figure(comparison: Comparison) -> Figure:
    """Share of the device's memory that every stage holds, uniform and planned."""
    with figure(8.0, 4.0) as (drawn, axes):
        for plan, name in ((comparison.uniform, "best uniform"), (comparison.planned, "planned")):
            share = [stage.bytes_held / stage.capacity for stage in plan.stages]
            places = (np.arange(len(share)) + 0.5) / len(share)
            axes.plot(places, share, "o-", label=name)
        axes.axhline(1.0, color="#333333", lw=1.0, ls="--")
        axes.set(
            xlabel="place in the pipeline (0 first stage, 1 last)",
            ylabel="memory held / usable",
            ylim=(0, 1.1),
            title=comparison.title,
        )
        axes.legend()
        return drawn


def publish(comparison: Comparison, name: str, doc: str | None) -> None:
    """Print the report and save the pictures to the folder of ``--out``."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    out: Path = parser.parse_args().out
    print(comparison.report())
    for kind, drawn in (("time", time_figure(comparison)), ("memory", memory_figure(comparison))):
        print(f"drawn: {save(drawn, out / f'{name}-{kind}.svg')}")
