"""DeepSpeed: the JSON configuration.

DeepSpeed's file describes one data parallel rank: its batch, its ZeRO stage, where states live.
Tensor parallel degree, Ulysses sequence parallel degree and pipeline stages have keys; experts,
chunks and schedules are set in the program.
"""

from __future__ import annotations

import json
from typing import Any, Final

from perfmodel.errors import PlanError
from perfmodel.parallel.export.job import Job
from perfmodel.parallel.plan import Plan

_DEFAULT: Final = Plan()


def lacks(plan: Plan) -> list[tuple[str, str]]:
    """What the JSON has no key for."""
    checks = (
        (plan.ep > 1, "ep", "expert parallelism is an argument of the MoE layer"),
        (plan.expert_tp != (plan.tp if plan.ep == 1 else 1), "expert_tp", "set in the program"),
        (plan.virtual_stages > 1, "virtual_stages", "the pipeline engine has one chunk a device"),
        (plan.schedule != "1f1b", "schedule", "the pipeline engine runs 1F1B"),
        (plan.cp > 1 and plan.cp_method != "ulysses", "cp_method", "only Ulysses is offered"),
        (plan.sequence_parallel, "sequence_parallel", "a choice of the model's code"),
        (plan.precision not in ("bf16", "fp16", "fp32"), "precision", "bf16, fp16 or fp32"),
        (
            plan.recompute != "none" and (plan.pp == 1 or plan.recompute == "selective"),
            "recompute",
            "only the pipeline module checkpoints by configuration, and whole layers",
        ),
        ("activations" in plan.offload, "offload", "activations are offloaded in the program"),
        ("weights" in plan.offload and plan.zero < 3, "offload", "weights move with stage 3 only"),
        ("optimizer" in plan.offload and plan.zero == 0, "offload", "needs stage 1 or more"),
        (
            plan.zero_group is not None and plan.zero < 3,
            "zero_group",
            "MiCS shard groups exist with stage 3",
        ),
        (plan.pp > 1 and plan.zero > 1, "zero", "the pipeline engine takes stage 0 or 1"),
        (
            set(plan.overlap) | {"gradients"} != set(_DEFAULT.overlap),
            "overlap",
            "overlap_comm is the only switch",
        ),
        (plan.layers_per_stage is not None, "layers_per_stage", "partitions are chosen by method"),
    )
    return [(field, reason) for missing, field, reason in checks if missing]


def write(plan: Plan, job: Job, notes: tuple[str, ...] = ()) -> str:
    """The JSON text; it needs the global batch size, from which data parallelism derives."""
    if job.global_batch_size is None:
        raise PlanError(
            "export to deepspeed: global_batch_size",
            None,
            "the sequences of a step: train_batch_size fixes the data parallel degree",
            repair="pass Job(global_batch_size=...)",
        )
    zero: dict[str, Any] = {
        "stage": plan.zero,
        "overlap_comm": "gradients" in plan.overlap,
        "reduce_bucket_size": plan.bucket_parameters,
    }
    if "optimizer" in plan.offload and plan.zero:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if "weights" in plan.offload and plan.zero == 3:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if plan.zero_group is not None and plan.zero == 3:
        zero["mics_shard_size"] = plan.zero_group
    record: dict[str, Any] = {
        "train_batch_size": job.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.micro_batches(job.global_batch_size),
        "zero_optimization": zero,
    }
    if plan.precision in ("bf16", "fp16"):
        record[plan.precision] = {"enabled": True}
    if plan.tp > 1:
        record["tensor_parallel"] = {"autotp_size": plan.tp}
    if plan.cp > 1 and plan.cp_method == "ulysses":
        record["sequence_parallel_size"] = plan.cp
    if plan.pp > 1:
        interval = int(plan.recompute == "full")
        record["pipeline"] = {"stages": plan.pp, "activation_checkpoint_interval": interval}
    if notes:
        record["_not_in_deepspeed"] = list(notes)
    return json.dumps(record, indent=2) + "\n"


def read(text: str) -> Plan:
    """The plan of a DeepSpeed configuration."""
    try:
        record = json.loads(text)
    except ValueError as error:
        raise PlanError("deepspeed", f"<{error}>", "JSON", repair="correct the file") from None
    if not isinstance(record, dict):
        raise PlanError("deepspeed", record, "a JSON object", repair="give the whole file")
    micro = _whole(record, "train_micro_batch_size_per_gpu")
    steps = _whole(record, "gradient_accumulation_steps")
    batch = _whole(record, "train_batch_size")
    if batch % (micro * steps):
        raise PlanError(
            "deepspeed: train_batch_size",
            batch,
            f"a multiple of micro-batch x accumulation = {micro} x {steps}",
            repair="make the three agree",
        )
    zero = record.get("zero_optimization", {})
    pipeline = record.get("pipeline", {})
    offload = [
        name
        for name, key in (("weights", "offload_param"), ("optimizer", "offload_optimizer"))
        if zero.get(key, {}).get("device", "none") != "none"
    ]
    cp = record.get("sequence_parallel_size", 1)
    precision = next((p for p in ("bf16", "fp16") if record.get(p, {}).get("enabled")), "fp32")
    overlap = [name for name in _DEFAULT.overlap if name != "gradients" or zero.get("overlap_comm")]
    values: dict[str, Any] = {
        "tp": record.get("tensor_parallel", {}).get("autotp_size", 1),
        "pp": pipeline.get("stages", 1),
        "dp": batch // (micro * steps),
        "cp": cp,
        "micro_batch_size": micro,
        "zero": zero.get("stage", 0),
        "zero_group": zero.get("mics_shard_size"),
        "offload": tuple(offload),
        "precision": precision,
        "overlap": tuple(overlap),
        "bucket_parameters": zero.get("reduce_bucket_size", _DEFAULT.bucket_parameters),
        "recompute": "full" if pipeline.get("activation_checkpoint_interval") else "none",
    }
    if cp > 1:
        values["cp_method"] = "ulysses"
    return Plan(**values)


def _whole(record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    if type(value) is not int or value < 1:
        raise PlanError(
            f"deepspeed: {key}",
            value,
            'a whole number of at least 1 (not "auto": a plan is explicit)',
            repair="write the number",
        )
    return value
