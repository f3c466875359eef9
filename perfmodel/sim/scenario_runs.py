"""From a checked scenario to its simulation, one function a kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.hardware import load_cluster
from perfmodel.parallel.plan import plan_from_dict
from perfmodel.sim import scenario_files as files
from perfmodel.sim.chrome import flow_trace, jobs_trace, layer_trace, run_trace, step_trace
from perfmodel.sim.flows import Flow, route_flow, solve_flows
from perfmodel.sim.from_plan import simulate_plan
from perfmodel.sim.graph import Stop, TaskGraph
from perfmodel.sim.intervals import best_interval, mean_interval
from perfmodel.sim.jobs import generate_jobs, read_jobs
from perfmodel.sim.layers import LayerCosts, layer_step
from perfmodel.sim.loader import DataLoader, run_loader
from perfmodel.sim.placement import Pool
from perfmodel.sim.power import Power
from perfmodel.sim.reliability import rate_from_node_days
from perfmodel.sim.scenario_perturb import perturbation_of
from perfmodel.sim.scheduler import Scheduling, schedule_jobs
from perfmodel.sim.schedules import build_schedule
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step import StepResult, replay
from perfmodel.sim.table import Schedule, read_schedule
from perfmodel.sim.training_run import simulate_run
from perfmodel.sim.training_setup import Checkpoints, FailureClass, TrainingRun
from perfmodel.units import format_seconds
from perfmodel.workload.transformer import load_model


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures, text, and the trace for whoever wants it."""

    result: dict[str, Any]
    text: str
    make_trace: Callable[[], dict[str, Any]]


def _pipeline(scenario: files.PipelineScenario, folder: Path, stop: Stop | None) -> Outcome:
    schedule = _schedule(scenario.schedule, folder)
    given = scenario.costs.model_dump()
    buckets = given.pop("gradient_buckets")
    if buckets and not isinstance(buckets[0], list):
        buckets = [buckets] * schedule.stages
    step = replay(
        schedule,
        StageCosts(**given, gradient_buckets=buckets),
        replicas=scenario.replicas,
        perturbation=perturbation_of(
            scenario.perturbation, scenario.seed, schedule.devices, scenario.replicas
        ),
        sends=scenario.sends,
        stop=stop,
    )
    return _step(step)


def _plan(scenario: files.PlanScenario, folder: Path, stop: Stop | None) -> Outcome:
    model = load_model(_name_or_path(scenario.model, folder))
    cluster = load_cluster(_name_or_path(scenario.cluster, folder), nodes=scenario.nodes)
    plan = plan_from_dict(scenario.plan)
    step = simulate_plan(
        model,
        cluster,
        plan,
        scenario.global_batch_size,
        scenario.seq_len,
        scenario.stack,
        schedule=scenario.schedule,
        perturbation=perturbation_of(
            scenario.perturbation, scenario.seed, plan.pp, plan.dp, plan=plan
        ),
        stop=stop,
    )
    return _step(step)


def _step(step: StepResult) -> Outcome:
    return Outcome(step.to_dict(), step.explain(), lambda: step_trace(step))


def _layers(scenario: files.LayersScenario, folder: Path, stop: Stop | None) -> Outcome:
    names = ("forward", "backward", "inline_forward", "inline_backward", "gather", "reduce",
             "launch", "optimizer")  # fmt: skip
    step = layer_step(
        LayerCosts(**{name: getattr(scenario, name) for name in names}),
        scenario.layers,
        ranks=scenario.ranks,
        mode=scenario.mode,
        prefetch=scenario.prefetch,
        bucket_layers=scenario.bucket_layers,
        micro_batches=scenario.micro_batches,
        perturbation=perturbation_of(scenario.perturbation, scenario.seed, 1, scenario.ranks),
        stop=stop,
    )
    return Outcome(step.to_dict(), step.explain(), lambda: layer_trace(step))


def _tasks(scenario: files.TasksScenario, folder: Path, stop: Stop | None) -> Outcome:
    graph = TaskGraph(scenario.name)
    tasks = _numbered([task.name for task in scenario.tasks], "tasks")
    links = _numbered([link.name for link in scenario.links], "links")
    streams: dict[str, int] = {}
    flows: dict[int, Flow] = {}
    for k, task in enumerate(scenario.tasks):
        where = f"scenario: tasks.{k} ({task.name!r})"
        if task.stream not in streams:
            streams[task.stream] = graph.add_stream(task.stream)
        after = [_find(name, tasks, f"{where}, after") for name in task.after]
        index = graph.add(task.name, streams[task.stream], task.seconds, after)
        if task.size > 0 and not task.links:
            raise ScenarioError(
                f"{where}: links", [], "the links that the transfer crosses", repair="name them"
            )
        if task.links:
            path = [_find(name, links, f"{where}, links") for name in task.links]
            flows[index] = route_flow(task.size, path)
    run = solve_flows(graph, flows, [link.rate for link in scenario.links], stop=stop)
    ends = {
        name: {"start_s": float(start), "end_s": float(end)}
        for name, start, end in zip(
            graph.names, run.timeline.start[:, 0], run.timeline.end[:, 0], strict=True
        )
    }
    seconds = run.timeline.seconds
    result = {"seconds": seconds, "events": run.events, "tasks": ends}
    text = "\n".join(
        [f"{len(graph)} tasks: {format_seconds(seconds)}"]
        + [
            f"  {name}: {format_seconds(row['start_s'])} .. {format_seconds(row['end_s'])}"
            for name, row in ends.items()
        ]
    )
    return Outcome(result, text, lambda: flow_trace(run, list(links)))


def _loader(scenario: files.LoaderScenario, folder: Path, stop: Stop | None) -> Outcome:
    given = scenario.loader.model_dump()
    if given["node_bandwidth"] is None:
        given["node_bandwidth"] = float("inf")
    loader = DataLoader(**given, seed=scenario.seed)
    run = run_loader(loader, scenario.step_seconds, scenario.steps)
    found = run.to_dict() | {"batch_period_s": loader.batch_period}
    text = (
        f"{scenario.steps} steps of {format_seconds(scenario.step_seconds)}:"
        f" {run.stall_fraction:.1%} of the time waiting for data"
        f" (a batch every {format_seconds(loader.batch_period)} at best)"
    )

    def trace() -> dict[str, Any]:
        events = [
            {"name": name, "cat": "loader", "ph": "X", "pid": 0, "tid": tid,
             "ts": round(float(start) * 1e6, 6), "dur": round(float(length) * 1e6, 6)}
            for tid, name, starts, lengths in (
                (0, "step", run.begin, np.full(scenario.steps, scenario.step_seconds)),
                (1, "wait for data", run.begin - run.stall, run.stall),
            )
            for start, length in zip(starts, lengths, strict=True)
        ]  # fmt: skip
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": found}

    return Outcome(found, text, trace)


def _training_run(scenario: files.TrainingRunScenario, folder: Path, stop: Stop | None) -> Outcome:
    saves = scenario.checkpoints
    run = TrainingRun(
        duration=scenario.duration,
        nodes=scenario.nodes,
        devices_per_node=scenario.devices_per_node,
        failures=[_failure(k, f, scenario.nodes) for k, f in enumerate(scenario.failures)],
        checkpoints=Checkpoints(
            size=saves.size,
            write_bandwidth=saves.write_bandwidth,
            read_bandwidth=saves.read_bandwidth or saves.write_bandwidth,
            interval=saves.interval,
            mode=saves.mode,
            snapshot_seconds=saves.snapshot_seconds,
        ),
        power=_power(scenario.power),
        **{
            name: getattr(scenario, name)
            for name in (
                "detect_seconds", "restart_seconds", "step_seconds", "spares", "swap_seconds",
                "repair_seconds", "elastic", "shrink_nodes", "seed",
            )
        },
    )  # fmt: skip
    first = simulate_run(run, stop=stop)
    found, text = first.to_dict(), first.explain()
    if scenario.seeds > 1:
        ratios = [first.effective_ratio]
        for k in range(1, scenario.seeds):
            again = replace(run, seed=run.seed + k)
            ratios.append(simulate_run(again, stop=stop).effective_ratio)
        mean, low, high = mean_interval(ratios)
        found["replications"] = {"seeds": scenario.seeds, "mean": mean, "low": low, "high": high}
        text += f"\nover {scenario.seeds} seeds: {mean:.2%} [{low:.2%} .. {high:.2%}]"
    if scenario.find_best_interval:
        best = best_interval(run, seeds=max(scenario.seeds, 3), stop=stop)
        found["best_interval"] = best.to_dict()
        text += (
            f"\nbest interval: {format_seconds(best.interval)} ({best.ratio:.2%});"
            f" Young {format_seconds(best.young)}, Daly {format_seconds(best.daly)}"
        )
    return Outcome(found, text, lambda: run_trace(first))


def _jobs(scenario: files.JobsScenario, folder: Path, stop: Stop | None) -> Outcome:
    if (scenario.trace is None) == (scenario.generator is None):
        raise ScenarioError(
            "scenario: trace, generator",
            "<both or neither>",
            "either trace (a CSV file) or generator",
            repair="give one of the two",
        )
    if scenario.trace is not None:
        trace = read_jobs(folder / scenario.trace, limit=scenario.limit)
    else:
        trace = _generated(scenario)
    how = scenario.scheduling
    rate = how.node_failures_per_1000_node_days
    given = how.model_dump(exclude={"node_failures_per_1000_node_days", "power"})
    scheduling = Scheduling(
        **given,
        node_failure_rate=float(rate_from_node_days(rate)) if rate > 0 else 0.0,
        power=_power(how.power),
        seed=scenario.seed,
    )
    result = schedule_jobs(trace, Pool(**scenario.pool.model_dump()), scheduling, stop=stop)
    return Outcome(result.to_dict(), result.explain(), lambda: jobs_trace(result))


def _generated(scenario: files.JobsScenario) -> Any:
    given = scenario.generator
    if given is None or given.mean_between_arrivals <= 0:
        raise ScenarioError(
            "scenario: generator.mean_between_arrivals", 0.0, "a time above 0",
            repair="give the mean time between submissions",
        )  # fmt: skip
    sizes = {}
    for text, weight in given.sizes.items():
        if not text.isdigit() or int(text) < 1:
            raise ScenarioError(
                f"scenario: generator.sizes.{text}", text, "a whole number of devices",
                repair='write sizes = { "1" = 0.7, "8" = 0.3 }',
            )  # fmt: skip
        sizes[int(text)] = weight
    return generate_jobs(
        given.count,
        arrival_rate=1 / given.mean_between_arrivals,
        mean_seconds=given.mean_seconds,
        spread=given.spread,
        sizes=sizes,
        users=given.users,
        priorities=given.priorities,
        distribution=given.distribution,
        seed=scenario.seed,
    )


RUNS: Final[dict[type, Callable[[Any, Path, Stop | None], Outcome]]] = {
    files.PipelineScenario: _pipeline,
    files.PlanScenario: _plan,
    files.LayersScenario: _layers,
    files.TasksScenario: _tasks,
    files.LoaderScenario: _loader,
    files.TrainingRunScenario: _training_run,
    files.JobsScenario: _jobs,
}


def _schedule(given: files.ScheduleFile, folder: Path) -> Schedule:
    if given.table is not None and given.name is None:
        return read_schedule(folder / given.table)
    if given.table is not None or given.name is None or not given.stages or not given.micro_batches:
        raise ScenarioError(
            "scenario: schedule",
            given.model_dump(exclude_none=True),
            "either table (a CSV file), or name with stages and micro_batches",
            repair="give one of the two",
        )
    return build_schedule(
        given.name, given.stages, given.micro_batches, virtual_stages=given.virtual_stages
    )


def _failure(k: int, given: files.FailureFile, nodes: int) -> FailureClass:
    ways = {
        "count and period": (given.count is not None) or (given.period is not None),
        "per_1000_node_days": given.per_1000_node_days is not None,
        "mean_time_between": given.mean_time_between is not None,
    }
    where = f"scenario: failures.{k} ({given.name!r})"
    rate = 0.0
    if given.count and given.period:
        rate = given.count / given.period
    elif given.per_1000_node_days:
        rate = float(rate_from_node_days(given.per_1000_node_days)) * nodes
    elif given.mean_time_between:
        rate = 1 / given.mean_time_between
    if sum(ways.values()) != 1 or rate <= 0:
        raise ScenarioError(
            where,
            [name for name, used in ways.items() if used],
            f"exactly one of {', '.join(ways)}, above 0",
            repair="say how often it happens in one way; leave out what never happens",
        )
    return FailureClass(given.name, rate, given.takes_node, given.detect_seconds)


def _power(given: files.PowerFile | None) -> Power | None:
    if given is None:
        return None
    caps = tuple((cap.start, cap.watts) for cap in given.caps)
    return Power(given.busy, given.idle, caps, given.exponent, given.overhead)


def _numbered(names: Sequence[str], what: str) -> dict[str, int]:
    found = {name: k for k, name in enumerate(names)}
    if len(found) < len(names):
        twice = next(name for k, name in enumerate(names) if found[name] != k)
        raise ScenarioError(
            f"scenario: {what}", twice, "names that differ", repair=f"rename one of the {what}"
        )
    return found


def _find(name: str, known: dict[str, int], where: str) -> int:
    if name not in known:
        raise ScenarioError(
            where,
            name,
            f"one of {', '.join(list(known)[:8]) or 'none given'}",
            nearest=nearest_name(name, known),
            repair="name one that the scenario describes",
        )
    return known[name]


def _name_or_path(text: str, folder: Path) -> str:
    """A bundled name, or a path taken from the scenario's folder."""
    beside = folder / text
    return str(beside) if text.endswith((".toml", ".json")) and beside.exists() else text
