"""What happens in time: steps in order, failures, jobs and queues."""

from perfmodel.sim.chakra import read_chakra, write_chakra
from perfmodel.sim.chakra_ranks import write_ranks
from perfmodel.sim.contended import replay_on
from perfmodel.sim.from_plan import simulate_plan
from perfmodel.sim.graph import Stopped, TaskGraph, solve
from perfmodel.sim.intervals import best_interval, replicate
from perfmodel.sim.kineto import beside, read_kineto
from perfmodel.sim.layers import LayerCosts, layer_step
from perfmodel.sim.perturb import Perturbation, factors_from_ranks
from perfmodel.sim.scenario import ScenarioResult, run_scenario, simulate
from perfmodel.sim.scheduler import Scheduling, schedule_jobs
from perfmodel.sim.schedules import SCHEDULES, build_schedule
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step import StepResult, replay
from perfmodel.sim.table import Schedule, make_schedule, read_schedule
from perfmodel.sim.training_run import simulate_run
from perfmodel.sim.training_setup import Checkpoints, FailureClass, TrainingRun

__all__ = [
    "SCHEDULES",
    "Checkpoints",
    "FailureClass",
    "LayerCosts",
    "Perturbation",
    "ScenarioResult",
    "Schedule",
    "Scheduling",
    "StageCosts",
    "StepResult",
    "Stopped",
    "TaskGraph",
    "TrainingRun",
    "beside",
    "best_interval",
    "build_schedule",
    "factors_from_ranks",
    "layer_step",
    "make_schedule",
    "read_chakra",
    "read_kineto",
    "read_schedule",
    "replay",
    "replay_on",
    "replicate",
    "run_scenario",
    "schedule_jobs",
    "simulate",
    "simulate_plan",
    "simulate_run",
    "solve",
    "write_chakra",
    "write_ranks",
]
