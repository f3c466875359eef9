"""Plan: how a training job is spread over devices, as one frozen value.

Every degree stands in one place; world size, group sizes and their places in the cluster derive
from it. A plan is checked for itself when it is made, and against a model, a batch and a cluster by
:func:`check`, with both sides of every contradiction in the message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from perfmodel.errors import PlanError, nearest_name
from perfmodel.units import whole
from perfmodel.workload.precision import precision_name

if TYPE_CHECKING:
    from perfmodel.hardware import Cluster
    from perfmodel.workload.layer import Shard
    from perfmodel.workload.model import ModelConfig

LARGEST_COUNT: Final = 2**53
"""float64 holds every whole number up to here."""
SCHEDULES: Final = ("1f1b", "gpipe", "zb-h1")
"""Pipeline schedules; ``1f1b`` with ``virtual_stages`` above 1 is interleaved 1F1B."""
RECOMPUTE: Final = ("none", "selective", "full")
MODULES: Final = ("core", "norm", "activation", "mlp", "experts")
"""What selective recomputation may repeat; ``core`` is core attention, ``activation`` the function
between the products of an MLP or expert."""
PRECISIONS: Final = ("bf16", "fp16", "fp8", "fp4", "tf32", "fp32")
CP_METHODS: Final = ("ring", "ulysses", "all_gather")
OFFLOADS: Final = ("weights", "activations", "optimizer")
OVERLAPS: Final = ("gradients", "weights", "pipeline", "tensor", "experts")
"""Communication that may hide behind computation: gradient reduction behind the backward pass,
gathers of sharded weights behind both passes, pipeline sends, tensor-parallel collectives behind
their matrix products, expert exchanges behind the other micro-batch."""

_COUNTS: Final = (
    "tp", "pp", "dp", "cp", "ep", "virtual_stages", "micro_batch_size", "bucket_parameters",
    "expert_tp", "zero_group",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to spread a training job.

    Parameters
    ----------
    tp, pp, dp, cp, ep : int
        Tensor, pipeline, data, context and expert parallel degrees. Experts are spread over the
        devices of one pipeline stage: ``ep * expert_tp`` divides ``tp * cp * dp``.
    expert_tp : int, optional
        Tensor parallel degree inside an expert; by default ``tp`` without expert parallelism and 1
        with it.
    virtual_stages : int
        Model chunks that each device holds (interleaved schedule above 1).
    micro_batch_size : int
        Sequences in a micro-batch of one data parallel rank.
    schedule : str
        One of :data:`SCHEDULES`.
    zero : int
        0: nothing sharded over data parallel ranks, 1: optimizer, 2: gradients too, 3: weights too
        (FSDP).
    zero_group : int, optional
        Ranks that share one copy of the sharded states (HSDP); all ``dp * cp`` by default.
    sequence_parallel : bool
        Norms, dropouts and residuals split over the tensor parallel ranks.
    recompute : str
        ``"none"``, ``"selective"`` (the modules below) or ``"full"``.
    recompute_modules : tuple of str
        What ``"selective"`` repeats, of :data:`MODULES`; core attention by default.
    offload : tuple of str
        What lives in host memory, of :data:`OFFLOADS`.
    precision : str
        Of the matrix products: one of :data:`PRECISIONS`.
    cp_method : str
        ``"ring"``, ``"ulysses"`` or ``"all_gather"``.
    overlap : tuple of str
        Which communication hides behind computation, of :data:`OVERLAPS`.
    bucket_parameters : int
        Parameters in a gradient bucket.
    layers_per_stage : tuple of int, optional
        Layers of each of the ``pp * virtual_stages`` chunks in model order; as even as possible by
        default.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    expert_tp: int | None = None
    virtual_stages: int = 1
    micro_batch_size: int = 1
    schedule: str = "1f1b"
    zero: int = 0
    zero_group: int | None = None
    sequence_parallel: bool = False
    recompute: str = "none"
    recompute_modules: tuple[str, ...] = ("core",)
    offload: tuple[str, ...] = ()
    precision: str = "bf16"
    cp_method: str = "ring"
    overlap: tuple[str, ...] = ("gradients", "weights", "pipeline")
    bucket_parameters: int = 40_000_000
    layers_per_stage: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None or name not in ("expert_tp", "zero_group"):
                object.__setattr__(self, name, counted(f"plan: {name}", value))
        stage = whole(self.zero)
        if stage is None or not 0 <= stage <= 3:
            raise PlanError(
                "plan: zero", self.zero, "0, 1, 2 or 3", repair="give the ZeRO stage as a number"
            )
        object.__setattr__(self, "zero", stage)
        if not isinstance(self.sequence_parallel, bool):
            raise PlanError(
                "plan: sequence_parallel",
                self.sequence_parallel,
                "true or false",
                repair="switch it on or off",
            )
        object.__setattr__(self, "precision", precision_name(self.precision))
        for name, known in (
            ("schedule", SCHEDULES),
            ("recompute", RECOMPUTE),
            ("precision", PRECISIONS),
            ("cp_method", CP_METHODS),
        ):
            check_word(f"plan: {name}", getattr(self, name), known)
        modules: dict[str, tuple[str, ...]] = {
            "recompute_modules": MODULES,
            "offload": OFFLOADS,
            "overlap": OVERLAPS,
        }
        for name, accepted in modules.items():
            words = several(f"plan: {name}", getattr(self, name))
            for word in words:
                check_word(f"plan: {name}", word, accepted)
            object.__setattr__(self, name, tuple(sorted(set(words), key=accepted.index)))
        if self.expert_tp is None:
            object.__setattr__(self, "expert_tp", self.tp if self.ep == 1 else 1)
        self._check_degrees()

    def _check_degrees(self) -> None:
        if self.virtual_stages > 1 and self.pp == 1:
            raise PlanError(
                "plan: virtual_stages",
                f"{self.virtual_stages} with pp=1",
                "1 where there is no pipeline",
                repair="raise pp above 1, or set virtual_stages to 1",
            )
        if self.virtual_stages > 1 and self.schedule != "1f1b":
            raise PlanError(
                "plan: virtual_stages",
                f"{self.virtual_stages} with schedule {self.schedule}",
                "1 for this schedule; interleaving belongs to 1f1b",
                repair="use schedule 1f1b, or set virtual_stages to 1",
            )
        stage = self.tp * self.cp * self.dp
        experts = self.ep * self.experts_tensor
        if stage % experts:
            raise PlanError(
                "plan: ep",
                f"ep={self.ep} x expert_tp={self.experts_tensor}",
                f"a divisor of tp x cp x dp = {self.tp} x {self.cp} x {self.dp} = {stage}",
                repair="lower ep or expert_tp, or raise dp",
            )
        copies = self.dp * self.cp
        if self.zero_group is not None and copies % self.zero_group:
            raise PlanError(
                "plan: zero_group",
                self.zero_group,
                f"a divisor of dp x cp = {copies}",
                repair="choose a shard group that divides the data parallel ranks",
            )
        if self.layers_per_stage is not None:
            layout = counts("plan: layers_per_stage", self.layers_per_stage, least=0)
            object.__setattr__(self, "layers_per_stage", layout)
            chunks = self.pp * self.virtual_stages
            if len(layout) != chunks:
                raise PlanError(
                    "plan: layers_per_stage",
                    layout,
                    f"{chunks} numbers, for pp={self.pp} x virtual_stages={self.virtual_stages}",
                    repair="give the layers of every chunk in model order",
                )

    @property
    def world(self) -> int:
        """Devices in use."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def experts_tensor(self) -> int:
        """Tensor parallel degree inside an expert."""
        return self.tp if self.expert_tp is None else self.expert_tp

    @property
    def chunks(self) -> int:
        """Model chunks in the pipeline: ``pp * virtual_stages``."""
        return self.pp * self.virtual_stages

    @property
    def shard_group(self) -> int:
        """Ranks that share one copy of the sharded states."""
        return self.zero_group or self.dp * self.cp

    def micro_batches(self, global_batch_size: int) -> int:
        """Micro-batches of one data parallel rank in a step."""
        return global_batch_size // (self.dp * self.micro_batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; :func:`plan_from_dict` reads them back."""
        record = asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in record.items()
        }

    def __repr__(self) -> str:
        """The fields that are not at their defaults."""
        shown = [
            f"{field.name}={value!r}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
            and not (field.name == "expert_tp" and value == (self.tp if self.ep == 1 else 1))
        ]
        return f"Plan({', '.join(shown)})"


def plan_from_dict(record: dict[str, Any]) -> Plan:
    """The inverse of :meth:`Plan.to_dict`; an unknown key is an error."""
    known = [field.name for field in fields(Plan)]
    for name, value in record.items():
        if name not in known:
            raise PlanError(
                f"plan: {name}",
                value,
                f"the fields {', '.join(known)}",
                nearest=nearest_name(str(name), known),
                repair="correct the name",
            )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    return Plan(**values)


def sizes_of_step(global_batch_size: int, seq_len: int, where: str = "plan") -> tuple[int, int]:
    """Sequences of a step and tokens of each as ints.

    Raises
    ------
    PlanError
        If one is no whole number of at least 1.
    """
    batch = counted(f"{where}: global_batch_size", global_batch_size)
    return batch, counted(f"{where}: seq_len", seq_len)


def check(
    plan: Plan, model: ModelConfig, cluster: Cluster, global_batch_size: int, seq_len: int
) -> None:
    """Raise unless the plan fits the model, the batch and the cluster.

    Batch and length have gone through :func:`sizes_of_step`.

    Raises
    ------
    PlanError
        With both sides of the first contradiction.
    """
    check_plan(plan)
    degrees = f"tp x pp x dp x cp = {plan.tp} x {plan.pp} x {plan.dp} x {plan.cp}"
    if plan.world != cluster.devices:
        raise PlanError(
            "plan: world size",
            f"{degrees} = {plan.world}",
            f"the {cluster.devices} devices of {cluster.name} "
            f"({cluster.nodes} x {cluster.devices_per_node})",
            repair="change a degree, or the number of nodes, so that both agree",
        )
    for fault in faults(plan, model, global_batch_size, seq_len):
        raise fault


def faults(
    plan: Plan, model: ModelConfig, global_batch_size: int, seq_len: int
) -> tuple[PlanError, ...]:
    """Every contradiction between a plan, a model and a batch."""
    found: list[PlanError] = []

    def need(holds: bool, name: str, got: str, accepted: str, repair: str) -> None:
        if not holds:
            found.append(PlanError(f"plan: {name}", got, accepted, repair=repair))

    sequences = plan.dp * plan.micro_batch_size
    need(
        plan.dp <= global_batch_size,
        "dp",
        f"dp={plan.dp}",
        f"at most the global batch size {global_batch_size}",
        "lower dp, or raise the batch",
    )
    need(
        global_batch_size % sequences == 0,
        "micro_batch_size",
        f"dp x micro_batch_size = {plan.dp} x {plan.micro_batch_size} = {sequences}",
        f"a divisor of the global batch size {global_batch_size}",
        "change dp or micro_batch_size, or the batch",
    )
    layers = model.layers + model.encoder_layers
    need(
        plan.chunks <= layers,
        "pp",
        f"pp x virtual_stages = {plan.pp} x {plan.virtual_stages} = {plan.chunks}",
        f"at most the {layers} layers of {model.name}",
        "lower pp or virtual_stages",
    )
    if plan.layers_per_stage is not None:
        need(
            sum(plan.layers_per_stage) == layers,
            "layers_per_stage",
            f"{plan.layers_per_stage}, {sum(plan.layers_per_stage)} in all",
            f"the {layers} layers of {model.name}",
            "make the numbers add up",
        )
    if plan.virtual_stages > 1:
        micro_batches = global_batch_size // sequences
        need(
            micro_batches % plan.pp == 0,
            "virtual_stages",
            f"{micro_batches} micro-batches with virtual_stages={plan.virtual_stages}",
            f"a multiple of pp={plan.pp} for the interleaved schedule",
            "change dp or micro_batch_size, or set virtual_stages to 1",
        )
    need(
        plan.tp > 1 or not plan.sequence_parallel,
        "sequence_parallel",
        "true with tp=1",
        "false where there is no tensor parallelism",
        "raise tp, or switch it off",
    )
    found += _shard_faults(plan, model, seq_len)
    return tuple(found)


def shard_of(plan: Plan, seq_len: int) -> Shard:
    """What one rank sees of a micro-batch."""
    from perfmodel.workload.layer import Shard

    return Shard(
        micro_batch=plan.micro_batch_size,
        seq_len=seq_len,
        tp=plan.tp,
        cp=plan.cp,
        ep=plan.ep,
        expert_tp=plan.experts_tensor,
        sequence_parallel=plan.sequence_parallel,
        cp_kind=plan.cp_method,
    )


def _shard_faults(plan: Plan, model: ModelConfig, seq_len: int) -> list[PlanError]:
    from perfmodel.workload.layer import shard_faults

    shard = shard_of(plan, seq_len)
    return [
        PlanError(
            f"plan on {model.name} with seq_len {seq_len}",
            f"tp={plan.tp} cp={plan.cp} ep={plan.ep} expert_tp={plan.experts_tensor}",
            reason,
            repair="choose a degree that divides",
        )
        for bad, reason in shard_faults(model, shard)
        if bad
    ]


def check_plan(given: Any) -> None:
    """Raise unless it is a :class:`Plan`.

    Raises
    ------
    PlanError
        Naming what it is.
    """
    if not isinstance(given, Plan):
        raise PlanError(
            "plan",
            f"<{type(given).__name__}>",
            "a Plan",
            repair="give for example pm.Plan(tp=8, dp=2), or an answer's own: found.best.plan",
        )


def counted(where: str, value: object, *, least: int = 1, most: int = LARGEST_COUNT) -> int:
    """``value`` as an int, or an error if it is no whole number in its range.

    Raises
    ------
    PlanError
        Naming ``where`` it stood.
    """
    number = whole(value)
    if number is None or not least <= number <= most:
        raise PlanError(
            where,
            value,
            f"a whole number of at least {least}, at most {most:,}",
            repair="give a whole number, without quotes or a decimal point",
        )
    return number


def counts(
    where: str, given: object, *, least: int = 1, most: int = LARGEST_COUNT
) -> tuple[int, ...]:
    """Several values, each as of :func:`counted`."""
    return tuple(counted(where, one, least=least, most=most) for one in several(where, given))


def several(where: str, given: object) -> tuple[Any, ...]:
    """What an iterable holds, or an error if it is none, or text.

    Raises
    ------
    PlanError
        Naming ``where`` it stood.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise PlanError(
            where, given, "several values, in a tuple", repair=f"write one alone as ({given!r},)"
        )
    return tuple(given)


def check_word(where: str, value: object, known: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of the words.

    Raises
    ------
    PlanError
        Naming ``where`` it stood.
    """
    if not isinstance(value, str) or value not in known:
        raise PlanError(
            where,
            value,
            ", ".join(known),
            nearest=nearest_name(value, known),
            repair="use one of the accepted words",
        )
