"""Scenario files: what ``perfmodel simulate`` reads; the JSON Schema is generated from this.

Quantities are numbers in SI or text with a unit (``"5 min"``, ``"2 TB/s"``). Every model refuses
names that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema

from perfmodel.errors import UnitError
from perfmodel.units import parse


def _reader(dimension: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse(value, dimension)
        except UnitError as error:
            raise ValueError(f"{error.accepted}; {error.repair}") from None

    return read


def _quantity(dimension: str) -> WithJsonSchema:
    text = {"type": "string", "description": f"a number and a unit of {dimension}"}
    return WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, text]})


Time = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False),
    BeforeValidator(_reader("seconds")),
    _quantity("seconds"),
]
Size = Annotated[
    float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_reader("bytes")), _quantity("bytes")
]
Rate = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False),
    BeforeValidator(_reader("bytes per second")),
    _quantity("bytes per second"),
]
Draw = Annotated[
    float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_reader("watts")), _quantity("watts")
]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Times = Time | list[Time]
Sizes = Size | list[Size]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlowFile(_File):
    """A device (of one replica, or of all), or a global rank, that is slower by a factor."""

    device: Annotated[int, Field(ge=0)] | None = None
    replica: Annotated[int, Field(ge=0)] | None = None
    rank: Annotated[int, Field(ge=0)] | None = None
    factor: Factor


class PerturbationFile(_File):
    """What is not as it should be."""

    slow: list[SlowFile] = []
    links: list[SlowFile] = []
    jitter: Annotated[float, Field(ge=0, le=2)] = 0.0
    distribution: Literal["lognormal", "gamma", "exponential", "uniform"] = "lognormal"
    expert_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    experts: Count = 1
    expert_concentration: Factor | None = None


class LoaderFile(_File):
    """The data loader of one node."""

    batch_bytes: Size
    storage_bandwidth: Rate
    nodes: Count = 1
    decode_seconds: Time = 0.0
    workers: Count = 1
    prefetch: Count = 2
    latency: Time = 0.0
    decode_jitter: Annotated[float, Field(ge=0, le=3)] = 0.0
    node_bandwidth: Rate | None = None


class CapFile(_File):
    """From ``start`` on, all devices together draw at most ``watts``."""

    start: Time = 0.0
    watts: Draw


class PowerFile(_File):
    """What a device draws, and caps on all of them."""

    busy: Draw
    idle: Draw
    overhead: Annotated[float, Field(ge=1)] = 1.0
    exponent: Annotated[float, Field(ge=1)] = 3.0
    caps: list[CapFile] = []


class ScheduleFile(_File):
    """A named schedule, or a table of one's own (CSV: device, work, stage, micro_batch)."""

    name: str | None = None
    table: str | None = None
    stages: Count | None = None
    micro_batches: Count | None = None
    virtual_stages: Count = 1


class StageCostsFile(_File):
    """Times and bytes of a stage and micro-batch: one value, or one for each stage."""

    forward: Times
    backward_input: Times
    backward_weight: Times
    recompute: Times = 0.0
    inline_forward: Times = 0.0
    inline_backward: Times = 0.0
    send_forward: Times = 0.0
    send_backward: Times = 0.0
    launch: Times = 0.0
    gradient_buckets: list[Time] | list[list[Time]] = []
    optimizer: Times = 0.0
    parameter_gather: Times = 0.0
    activation_bytes: Sizes = 0.0
    static_bytes: Sizes = 0.0


class _Scenario(_File):
    name: str = "scenario"
    seed: Annotated[int, Field(ge=0)] = 0


class PipelineScenario(_Scenario):
    """One step of a pipeline with given times."""

    kind: Literal["pipeline"]
    schedule: ScheduleFile
    costs: StageCostsFile
    replicas: Count = 1
    sends: Literal["overlapped", "blocking"] = "overlapped"
    perturbation: PerturbationFile = PerturbationFile()


class PlanScenario(_Scenario):
    """One step of a model on a cluster under a plan."""

    kind: Literal["plan"]
    model: str
    cluster: str
    nodes: Count | None = None
    global_batch_size: Count
    seq_len: Count
    stack: str = "megatron"
    plan: dict[str, Any] = {}
    schedule: str | None = None
    perturbation: PerturbationFile = PerturbationFile()


class LayersScenario(_Scenario):
    """One data-parallel step, layer by layer."""

    kind: Literal["layers"]
    layers: Count
    ranks: Count = 1
    mode: Literal["replicated", "sharded"] = "replicated"
    prefetch: Annotated[int, Field(ge=0)] = 1
    bucket_layers: Count = 1
    micro_batches: Count = 1
    forward: Times
    backward: Times
    inline_forward: Times = 0.0
    inline_backward: Times = 0.0
    gather: Times = 0.0
    reduce: Times = 0.0
    launch: Times = 0.0
    optimizer: Time = 0.0
    perturbation: PerturbationFile = PerturbationFile()


class TaskFile(_File):
    """A task: a time, or a transfer of ``size`` over ``links`` after a latency of ``seconds``."""

    name: str
    stream: str
    seconds: Time = 0.0
    size: Size = 0.0
    links: list[str] = []
    after: list[str] = []


class LinkFile(_File):
    """A link that transfers share."""

    name: str
    rate: Rate


class TasksScenario(_Scenario):
    """Tasks on streams, and transfers that share links."""

    kind: Literal["tasks"]
    tasks: Annotated[list[TaskFile], Field(min_length=1)]
    links: list[LinkFile] = []


class LoaderScenario(_Scenario):
    """A data loader against steps."""

    kind: Literal["loader"]
    steps: Count
    step_seconds: Time
    loader: LoaderFile


class FailureFile(_File):
    """One class of interruptions; exactly one way to say how often."""

    name: str
    count: Factor | None = None
    period: Time | None = None
    per_1000_node_days: Factor | None = None
    mean_time_between: Time | None = None
    takes_node: bool = True
    detect_seconds: Time | None = None


class CheckpointsFile(_File):
    """How state is saved."""

    size: Size
    write_bandwidth: Rate
    read_bandwidth: Rate | None = None
    interval: Literal["young", "daly"] | Time = "daly"
    mode: Literal["sync", "async"] = "sync"
    snapshot_seconds: Time = 0.0


class TrainingRunScenario(_Scenario):
    """A job over weeks, with failures and checkpoints."""

    kind: Literal["training-run"]
    duration: Time
    nodes: Count
    devices_per_node: Count = 8
    failures: list[FailureFile] = []
    checkpoints: CheckpointsFile
    detect_seconds: Time = 0.0
    restart_seconds: Time = 0.0
    step_seconds: Time = 1.0
    spares: Annotated[int, Field(ge=0)] = 0
    swap_seconds: Time = 0.0
    repair_seconds: Time = 86400.0
    elastic: bool = False
    shrink_nodes: Count = 1
    power: PowerFile | None = None
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    find_best_interval: bool = False


class GeneratorFile(_File):
    """A seeded Poisson stream of jobs."""

    count: Annotated[int, Field(ge=1, le=5_000_000)]
    mean_between_arrivals: Time
    mean_seconds: Time
    spread: Annotated[float, Field(ge=0, le=10)] = 2.0
    sizes: dict[str, Factor] = {"1": 1.0}
    users: Count = 1
    priorities: Count = 1
    distribution: Literal["lognormal", "exponential", "constant"] = "lognormal"


class PoolFile(_File):
    """The devices that jobs share."""

    nodes: Count
    devices_per_node: Count = 8
    nodes_per_rack: Annotated[int, Field(ge=0)] = 0
    placement: Literal["pack", "rack", "any"] = "pack"
    slowdown: tuple[float, float, float] = (1.0, 1.0, 1.0)


class SchedulingFile(_File):
    """How jobs are chosen and interrupted."""

    policy: Literal["fifo", "priority", "fair"] = "fifo"
    backfill: bool = False
    backfill_depth: Count = 100
    preempt: bool = False
    checkpoint_seconds: Time = 0.0
    restart_seconds: Time = 0.0
    node_failures_per_1000_node_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    repair_seconds: Time = 86400.0
    power: PowerFile | None = None


class JobsScenario(_Scenario):
    """Many jobs on one cluster: a CSV trace, or a generator."""

    kind: Literal["jobs"]
    pool: PoolFile
    trace: str | None = None
    limit: Count | None = None
    generator: GeneratorFile | None = None
    scheduling: SchedulingFile = SchedulingFile()


Scenario = Annotated[
    PipelineScenario
    | PlanScenario
    | LayersScenario
    | TasksScenario
    | LoaderScenario
    | TrainingRunScenario
    | JobsScenario,
    Field(discriminator="kind"),
]
ADAPTER: TypeAdapter[Any] = TypeAdapter(Scenario)
