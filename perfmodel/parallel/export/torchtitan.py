"""torchtitan: the sections of a TOML file that say how a job is spread.

torchtitan always splits norms over tensor parallel ranks, always hides FSDP's communication, and
derives two chunks a device for the interleaved schedule.
"""

from __future__ import annotations

import tomllib
from typing import Any, Final

from perfmodel.errors import PlanError
from perfmodel.parallel.export.job import Job
from perfmodel.parallel.plan import Plan

_DEFAULT: Final = Plan()
_CONVERTERS: Final = {"fp8": "quantize.linear.float8"}
_PARAM: Final = {"bf16": "bfloat16", "fp8": "bfloat16", "fp32": "float32"}
_KEYS: Final = frozenset(
    [
        "data_parallel_replicate_degree",
        "data_parallel_shard_degree",
        "fsdp_reshard_after_forward",
        "tensor_parallel_degree",
        "enable_async_tensor_parallel",
        "pipeline_parallel_degree",
        "pipeline_parallel_schedule",
        "pipeline_parallel_microbatch_size",
        "context_parallel_degree",
        "context_parallel_rotate_method",
        "expert_parallel_degree",
        "expert_tensor_parallel_degree",
    ]
)


def lacks(plan: Plan) -> list[tuple[str, str]]:
    """What the configuration has no key for."""
    checks = (
        (plan.zero == 1, "zero", "FSDP shards gradients with the optimizer (2) or weights too (3)"),
        (plan.zero == 0 and plan.cp > 1, "zero", "context parallel ranks always share weights"),
        (plan.zero > 1 and plan.shard_group == 1, "zero", "sharding over one rank is not said"),
        (plan.zero == 0 and plan.zero_group is not None, "zero_group", "plain replicas have none"),
        (
            plan.zero_group is not None and plan.zero_group % plan.cp != 0,
            "zero_group",
            "the shard group contains all context parallel ranks",
        ),
        (
            plan.tp > 1 and not plan.sequence_parallel,
            "sequence_parallel",
            "tensor parallelism always splits the sequence",
        ),
        (plan.cp > 1 and plan.cp_method == "ulysses", "cp_method", "keys and values rotate"),
        (
            plan.virtual_stages > 2,
            "virtual_stages",
            "the interleaved schedule takes two chunks a device unless layers are counted",
        ),
        (plan.schedule == "zb-h1", "schedule", "ZB-H1 is not offered"),
        (plan.expert_tp not in (1, plan.tp), "expert_tp", "1 or tp"),
        (plan.precision not in _PARAM, "precision", "bfloat16, float32 or float8 linear layers"),
        (
            plan.recompute == "selective" and plan.recompute_modules != ("core",),
            "recompute_modules",
            "selective checkpointing chooses operators by itself",
        ),
        (
            plan.offload not in ((), ("weights", "optimizer")),
            "offload",
            "CPU offload moves weights and optimizer together",
        ),
        (
            set(plan.overlap) - {"tensor"} != set(_DEFAULT.overlap),
            "overlap",
            "FSDP and pipeline communication is always hidden, expert exchanges never",
        ),
        (
            plan.bucket_parameters != _DEFAULT.bucket_parameters,
            "bucket_parameters",
            "FSDP reduces block by block",
        ),
        (
            plan.layers_per_stage is not None,
            "layers_per_stage",
            "the layers of a stage are split at module names",
        ),
    )
    return [(field, reason) for missing, field, reason in checks if missing]


def write(plan: Plan, job: Job, notes: tuple[str, ...] = ()) -> str:
    """TOML sections training, parallelism, activation_checkpoint and model."""
    sharded = plan.zero >= 2
    shard = max(1, plan.shard_group // plan.cp) if sharded else 1
    lines = [f"# not in torchtitan: {note}" for note in notes]
    lines += ["[training]"]
    local = plan.micro_batch_size
    if job.global_batch_size is not None:
        lines.append(f"global_batch_size = {job.global_batch_size}")
        local = local if plan.pp == 1 else job.global_batch_size // plan.dp
    lines.append(f"local_batch_size = {local}")
    if job.seq_len is not None:
        lines.append(f"seq_len = {job.seq_len}")
    lines += [
        f'mixed_precision_param = "{_PARAM.get(plan.precision, "bfloat16")}"',
        f"enable_cpu_offload = {_truth('optimizer' in plan.offload)}",
        "",
        "[parallelism]",
        f"data_parallel_replicate_degree = {plan.dp // shard}",
        f"data_parallel_shard_degree = {shard}",
        f'fsdp_reshard_after_forward = "{"always" if plan.zero == 3 else "never"}"',
        f"tensor_parallel_degree = {plan.tp}",
        f"enable_async_tensor_parallel = {_truth('tensor' in plan.overlap)}",
        f"pipeline_parallel_degree = {plan.pp}",
        f'pipeline_parallel_schedule = "{_schedule(plan)}"',
        f"pipeline_parallel_microbatch_size = {plan.micro_batch_size}",
        f"context_parallel_degree = {plan.cp}",
        "context_parallel_rotate_method = "
        f'"{"allgather" if plan.cp_method == "all_gather" else "alltoall"}"',
        f"expert_parallel_degree = {plan.ep}",
        f"expert_tensor_parallel_degree = {plan.expert_tp}",
        "",
        "[activation_checkpoint]",
        f'mode = "{plan.recompute}"',
    ]
    if plan.recompute == "selective":
        lines.append('selective_ac_option = "op"')
    if plan.precision in _CONVERTERS:
        lines += ["", "[model]", f'converters = ["{_CONVERTERS[plan.precision]}"]']
    return "\n".join(lines) + "\n"


def read(text: str) -> Plan:
    """The plan of a torchtitan configuration."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError("torchtitan", f"<{error}>", "TOML", repair="correct the file") from None
    section = content.get("parallelism", {})
    for key in section:
        if key not in _KEYS:
            raise PlanError(
                f"torchtitan: parallelism.{key}",
                section[key],
                ", ".join(sorted(_KEYS)),
                repair="leave it out, or express it by an accepted key",
            )

    def degree(name: str) -> int:
        value = section.get(name, 1)
        if type(value) is not int or value < 1:
            raise PlanError(
                f"torchtitan: parallelism.{name}",
                value,
                "a whole number of at least 1 (not -1: a plan is explicit)",
                repair="write the number",
            )
        return value

    training = content.get("training", {})
    shard = degree("data_parallel_shard_degree")
    replicas = degree("data_parallel_replicate_degree")
    cp, pp = degree("context_parallel_degree"), degree("pipeline_parallel_degree")
    tp = degree("tensor_parallel_degree")
    schedule = section.get("pipeline_parallel_schedule", "1F1B")
    schedules = {"1F1B": "1f1b", "Interleaved1F1B": "1f1b", "GPipe": "gpipe"}
    if schedule not in schedules:
        raise PlanError(
            "torchtitan: parallelism.pipeline_parallel_schedule",
            schedule,
            ", ".join(schedules),
            repair="choose a schedule that a plan knows",
        )
    converters = content.get("model", {}).get("converters", [])
    precision = {"bfloat16": "bf16", "float32": "fp32"}[
        training.get("mixed_precision_param", "bfloat16")
    ]
    micro = degree("pipeline_parallel_microbatch_size")
    if "pipeline_parallel_microbatch_size" not in section:
        micro = training.get("local_batch_size", 1)
    values: dict[str, Any] = {
        "tp": tp,
        "pp": pp,
        "dp": shard * replicas,
        "cp": cp,
        "ep": degree("expert_parallel_degree"),
        "expert_tp": section.get("expert_tensor_parallel_degree"),
        "micro_batch_size": micro,
        "virtual_stages": 2 if schedule == "Interleaved1F1B" else 1,
        "schedule": schedules[schedule],
        "sequence_parallel": tp > 1,
        "zero": _zero(section, shard * cp),
        "recompute": content.get("activation_checkpoint", {}).get("mode", "none"),
        "precision": "fp8" if any("float8" in name for name in converters) else precision,
        "cp_method": "all_gather"
        if section.get("context_parallel_rotate_method") == "allgather"
        else "ring",
    }
    if replicas > 1 and values["zero"]:
        values["zero_group"] = shard * cp
    if section.get("enable_async_tensor_parallel"):
        values["overlap"] = (*_DEFAULT.overlap, "tensor")
    if training.get("enable_cpu_offload"):
        values["offload"] = ("weights", "optimizer")
    return Plan(**values)


def _zero(section: dict[str, Any], sharers: int) -> int:
    """FSDP runs wherever the shard and context parallel ranks are more than one."""
    if sharers == 1:
        return 0
    return 2 if section.get("fsdp_reshard_after_forward") == "never" else 3


def _schedule(plan: Plan) -> str:
    if plan.virtual_stages > 1:
        return "Interleaved1F1B"
    return "GPipe" if plan.schedule == "gpipe" else "1F1B"


def _truth(value: bool) -> str:
    return "true" if value else "false"
