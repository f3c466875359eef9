"""A training plan replayed in order: the costs of :mod:`perfmodel.parallel` on a schedule's table.

With nothing disturbed the replay equals :func:`perfmodel.parallel.training.train` wherever that
closed form is exact: equal stages, or pipelines whose last device is the slowest (as is usual: it
holds the output head). With the slowest device elsewhere, 1F1B fills and drains otherwise than
the closed form assumes: by up to a fifth either way for random stage times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Efficiency
from perfmodel.errors import ScenarioError
from perfmodel.hardware import Cluster
from perfmodel.parallel.per_stage import StageTimes, stage_times
from perfmodel.parallel.plan import Plan
from perfmodel.sim.graph import Stop
from perfmodel.sim.perturb import Perturbation
from perfmodel.sim.schedules import build_schedule
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step import StepResult, replay
from perfmodel.sim.table import Schedule
from perfmodel.workload.transformer import ModelConfig, Stack

Floats = NDArray[np.float64]


def schedule_of(plan: Plan, micro_batches: int, name: str | None = None) -> Schedule:
    """The table that a plan runs; ``name`` replaces its schedule by another one."""
    chosen = name or plan.schedule
    if chosen == "1f1b" and plan.virtual_stages > 1:
        return build_schedule(
            "interleaved", plan.pp, micro_batches, virtual_stages=plan.virtual_stages
        )
    return build_schedule(chosen, plan.pp, micro_batches)


def costs_on(times: StageTimes, schedule: Schedule) -> StageCosts:
    """Device times as costs of a schedule's stages, each device's share split evenly over its own.

    What delays a micro-batch on a device (sends that nothing hides, waits for the host or for
    gathered weights) is put half into its forward and half into its backward. What happens once a
    step keeps its exposed time: gradients as one bucket after the device's last backward.
    """
    holder = np.asarray(schedule.stage_device)
    chunks = np.bincount(holder, minlength=schedule.devices)
    # Two pipelines through the same devices hold the model twice: each works a whole share.
    chains = sum(before < 0 for before in schedule.previous)
    share = (chains / chunks)[holder]
    wait = (times.waits + times.send)[holder] * share / 2
    last = _last_stage_of_device(schedule)
    return StageCosts(
        forward=times.forward[holder] * share,
        backward_input=(times.backward - times.weight)[holder] * share,
        backward_weight=times.weight[holder] * share,
        inline_forward=wait,
        inline_backward=wait,
        gradient_buckets=[
            [float(times.gradients[d])] if last[d] == s else [] for s, d in enumerate(holder)
        ],
        optimizer=np.where(last[holder] == np.arange(len(holder)), times.optimizer[holder], 0.0),
        parameter_gather=np.where(
            last[holder] == np.arange(len(holder)), times.weights[holder], 0.0
        ),
        activation_bytes=times.activation_bytes[holder] * share,
        static_bytes=times.static_bytes[holder] / chunks[holder],
    )


def simulate_plan(
    model: ModelConfig,
    cluster: Cluster,
    plan: Plan,
    global_batch_size: int,
    seq_len: int,
    stack: Stack | str = "megatron",
    *,
    schedule: str | Schedule | None = None,
    perturbation: Perturbation | None = None,
    efficiency: Efficiency | None = None,
    stop: Stop | None = None,
) -> StepResult:
    """Replay one training step of a plan.

    Parameters
    ----------
    model, cluster, plan, global_batch_size, seq_len, stack, efficiency
        As for :func:`perfmodel.parallel.training.train`.
    schedule : str or Schedule, optional
        Another schedule than the plan's: a name, or a table.
    perturbation : Perturbation, optional
        Factors of shape ``[pp, dp]`` (:func:`perfmodel.sim.perturb.factors_from_ranks`).

    Raises
    ------
    PlanError
        If the plan does not fit the model, the batch or the cluster.
    ScenarioError
        If the schedule does not exist for these sizes.
    """
    times = stage_times(
        model, cluster, plan, global_batch_size, seq_len, stack, efficiency=efficiency
    )
    if isinstance(schedule, Schedule):
        table = schedule
        if (table.devices, table.micro_batches) != (plan.pp, times.micro_batches):
            raise ScenarioError(
                f"schedule {table.name!r}",
                (table.devices, table.micro_batches),
                f"{plan.pp} devices and {times.micro_batches} micro-batches, as in the plan",
                repair="build the table for the plan's sizes",
            )
    else:
        table = schedule_of(plan, times.micro_batches, schedule)
    costs = costs_on(times, table)
    return replay(table, costs, replicas=plan.dp, perturbation=perturbation, stop=stop)


def _last_stage_of_device(schedule: Schedule) -> NDArray[np.int64]:
    """The stage of each device whose gradients are complete last."""
    found = np.zeros(schedule.devices, dtype=np.int64)
    found[schedule.device] = schedule.stage  # rows are in order, so the last one stays
    return found
