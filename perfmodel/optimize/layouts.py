"""A planned layout in the words of frameworks: Megatron Core, torchtitan, DeepSpeed.

Stages of unequal size have a term in Megatron (a layout string) and in torchtitan (lists of module
names); DeepSpeed cuts pipelines by a rule and has none. Degrees or recomputation that differ from
stage to stage have a term nowhere: what a framework cannot say is listed, never dropped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from perfmodel.errors import PlanError, nearest_name
from perfmodel.optimize.answer import MilpPlan, StageAnswer

FORMATS: Final = ("megatron", "torchtitan", "deepspeed")


@dataclass(frozen=True, slots=True)
class Export:
    """``text`` in the framework's words, and ``missing``: what it has no words for."""

    framework: str
    text: str
    missing: tuple[str, ...]


def megatron_layout(plan: MilpPlan) -> str:
    """Megatron Core's ``--pipeline-model-parallel-layout``.

    ``E`` is the embedding, ``t`` a layer, ``L`` the head and loss; ``|`` separates stages, and runs
    are written ``t*3``.
    """
    if plan.virtual_stages == 1:
        return "|".join("".join(_runs(_letters(plan, stage))) for stage in plan.stages)
    chunks = [["t"] * count for count in plan.chunks]
    chunks[0].insert(0, "E")
    chunks[-1].append("L")
    return "|".join("".join(_runs(chunk)) for chunk in chunks)


def _letters(plan: MilpPlan, stage: StageAnswer) -> list[str]:
    letters = []
    for place in range(stage.first, stage.last + 1):
        name = plan.layers[place]
        letters.append("E" if name == "embedding" else "L" if name == "head" else "t")
    return letters


def _runs(letters: list[str]) -> list[str]:
    return [
        letter if count == 1 else f"{letter}*{count}"
        for letter, count in ((a, len(list(b))) for a, b in groupby(letters))
    ]


def parse_megatron_layout(text: str) -> tuple[str, ...]:
    """The letters of each stage of a layout string: the inverse of :func:`megatron_layout`.

    Raises
    ------
    PlanError
        If it is not a layout.
    """
    stages = []
    for part in text.split("|"):
        letters, place = "", 0
        while place < len(part):
            letter, place = part[place], place + 1
            digits = ""
            if part[place : place + 1] == "*":
                place += 1
                while place < len(part) and part[place].isdigit():
                    digits, place = digits + part[place], place + 1
            if letter not in "EtL" or (digits == "" and part[place - 1 : place] == "*"):
                raise PlanError(
                    "megatron layout",
                    text,
                    "letters E, t, L with counts such as t*3, stages separated by |",
                    repair="write a stage as its layers, e.g. Et*3|t*4|t*3L",
                )
            letters += letter * (int(digits) if digits else 1)
        stages.append(letters)
    return tuple(stages)


def export_layout(plan: MilpPlan, framework: str) -> Export:
    """The layout and degrees of a plan for one framework.

    Raises
    ------
    PlanError
        If the framework is unknown, or there is no plan to export.
    """
    if framework not in FORMATS:
        raise PlanError(
            "export: framework",
            framework,
            ", ".join(FORMATS),
            nearest=nearest_name(framework, FORMATS),
            repair="name one of the accepted frameworks",
        )
    if not plan.stages:
        raise PlanError(
            "export", plan.status, "a plan with stages", repair="plan a job that fits first"
        )
    missing = _unsayable(plan)
    if any(": " in name for name in plan.layers):
        missing = ("towers of several models in one pipeline", *missing)
    write = {"megatron": _megatron, "torchtitan": _torchtitan, "deepspeed": _deepspeed}[framework]
    return write(plan, missing)


def _unsayable(plan: MilpPlan) -> tuple[str, ...]:
    found = []
    if len({(s.plan.tp, s.plan.cp, s.plan.ep) for s in plan.stages}) > 1:
        degrees = "; ".join(f"stage {i}: {s.degrees}" for i, s in enumerate(plan.stages))
        found.append(f"degrees that differ between stages ({degrees})")
    if len({s.device_type for s in plan.stages}) > 1:
        found.append("a device type for each stage: order the hosts by stage")
    return tuple(found)


def _recompute(plan: MilpPlan) -> tuple[str, tuple[str, ...]]:
    """Megatron's flags for recomputation, and what they cannot say."""
    inner = [
        [word for place, word in enumerate(s.strategies, s.first) if _is_block(plan, place)]
        for s in plan.stages
    ]
    words = {word for stage in inner for word in stage}
    if words <= {"none"}:
        return "", ()
    if words == {"full"}:
        return (
            " --recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            (),
        )
    if words == {"selective"}:
        return " --recompute-granularity selective --recompute-modules core_attn mlp", ()
    counts = [sum(word == "full" for word in stage) for stage in inner]
    note = "recomputation by layer: " + "; ".join(
        f"stage {i}: {s.recompute}" for i, s in enumerate(plan.stages)
    )
    flags = " --recompute-granularity full --recompute-method block"
    flags += f" --recompute-num-layers {max(counts)}"
    return flags, (note,)


def _is_block(plan: MilpPlan, place: int) -> bool:
    return not plan.layers[place].endswith(("embedding", "head"))


def _megatron(plan: MilpPlan, missing: tuple[str, ...]) -> Export:
    first = plan.stages[0].plan
    recompute, unsaid = _recompute(plan)
    text = (
        f"--tensor-model-parallel-size {first.tp} --pipeline-model-parallel-size {len(plan.stages)}"
        f" --context-parallel-size {first.cp} --expert-model-parallel-size {first.ep}"
        f" --micro-batch-size {first.micro_batch_size}"
        f" --global-batch-size {plan.global_batch_size} --seq-length {plan.seq_len}"
    )
    if len(plan.stages) > 1:
        text += f" --pipeline-model-parallel-layout '{megatron_layout(plan)}'"
    if first.sequence_parallel:
        text += " --sequence-parallel"
    if first.zero == 3:
        text += " --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params"
    elif first.zero:
        text += " --use-distributed-optimizer"
    return Export("megatron", text + recompute, missing + unsaid)


def _torchtitan(plan: MilpPlan, missing: tuple[str, ...]) -> Export:
    first = plan.stages[0].plan
    modules = [
        [name for place in range(s.first, s.last + 1) for name in _modules(plan, place)]
        for s in plan.stages
    ]
    words = {
        w for s in plan.stages for p, w in enumerate(s.strategies, s.first) if _is_block(plan, p)
    }
    mode = {frozenset({"none"}): "none", frozenset({"full"}): "full"}.get(frozenset(words))
    if mode is None:
        mode = "full" if "full" in words else "none"
        missing += (
            "recomputation by layer: "
            + "; ".join(f"stage {i}: {s.recompute}" for i, s in enumerate(plan.stages)),
        )
    shard = first.dp if first.zero == 3 else 1
    if first.zero in (1, 2):
        missing += (f"zero {first.zero}: data_parallel_shard_degree shards weights too",)
        shard = first.dp
    lines = [
        "[training]",
        f"local_batch_size = {first.micro_batch_size * plan.micro_batches}",
        f"global_batch_size = {plan.global_batch_size}",
        f"seq_len = {plan.seq_len}",
        "",
        "[parallelism]",
        f"tensor_parallel_degree = {first.tp}",
        f"context_parallel_degree = {first.cp}",
        f"expert_parallel_degree = {first.ep}",
        f"data_parallel_shard_degree = {shard}",
        f"data_parallel_replicate_degree = {first.dp // shard}",
        f"pipeline_parallel_degree = {len(plan.stages)}",
    ]
    if len(plan.stages) > 1:
        schedule = {"1f1b": "1F1B", "gpipe": "GPipe"}[plan.schedule]
        lines += [
            f'pipeline_parallel_schedule = "{schedule}"',
            f"pipeline_parallel_microbatch_size = {first.micro_batch_size}",
            f"module_fqns_per_model_part = {json.dumps(modules)}",
        ]
    lines += ["", "[activation_checkpoint]", f'mode = "{mode}"', ""]
    return Export("torchtitan", "\n".join(lines), missing)


def _modules(plan: MilpPlan, place: int) -> list[str]:
    name = plan.layers[place]
    if name.endswith("embedding"):
        return ["tok_embeddings"]
    if name.endswith("head"):
        return ["norm", "output"]
    return [f"layers.{sum(_is_block(plan, p) for p in range(place))}"]


def _deepspeed(plan: MilpPlan, missing: tuple[str, ...]) -> Export:
    first = plan.stages[0].plan
    body = {
        "train_batch_size": plan.global_batch_size,
        "train_micro_batch_size_per_gpu": first.micro_batch_size,
        "gradient_accumulation_steps": plan.micro_batches,
        "zero_optimization": {"stage": first.zero},
        "bf16": {"enabled": first.precision == "bf16"},
    }
    if len(plan.stages) > 1:
        sizes = [s.layers for s in plan.stages]
        missing += (
            f"stages of {sizes} layers: PipelineModule cuts by a rule (uniform, parameters, type)",
        )
        if first.zero > 1:
            missing += (f"zero {first.zero} with a pipeline",)
    if any(word != "none" for s in plan.stages for word in s.strategies):
        missing += ("which layers are recomputed: set activation_checkpoint_interval in the model",)
    if first.tp > 1:
        missing += (f"tensor parallel degree {first.tp}: it belongs to the model's own code",)
    return Export("deepspeed", json.dumps(body, indent=2), missing)
