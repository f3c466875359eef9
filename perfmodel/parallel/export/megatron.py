"""Megatron-LM: a torchrun command with Megatron Core's flags.

Data parallelism has no flag: it is the world size over the other degrees.
"""

from __future__ import annotations

import re
import shlex
from typing import Any, Final

from perfmodel.errors import PlanError
from perfmodel.parallel.export.job import Job
from perfmodel.parallel.plan import Plan

_SIZES: Final = (
    ("--tensor-model-parallel-size", "tp"),
    ("--pipeline-model-parallel-size", "pp"),
    ("--context-parallel-size", "cp"),
    ("--expert-model-parallel-size", "ep"),
    ("--expert-tensor-parallel-size", "expert_tp"),
    ("--num-virtual-stages-per-pipeline-rank", "virtual_stages"),
    ("--micro-batch-size", "micro_batch_size"),
    ("--ddp-bucket-size", "bucket_parameters"),
)
_MODULES: Final = {
    "core": "core_attn",
    "norm": "layernorm",
    "activation": "moe_act",
    "mlp": "mlp",
    "experts": "moe",
}
_CP: Final = {"ring": "p2p", "ulysses": "a2a", "all_gather": "allgather"}
_STRATEGY: Final = {2: "optim_grads", 3: "optim_grads_params"}
_KNOWN: Final = frozenset(
    [flag for flag, _ in _SIZES]
    + [
        "--sequence-parallel",
        "--use-distributed-optimizer",
        "--use-megatron-fsdp",
        "--cp-comm-type",
        "--data-parallel-sharding-strategy",
        "--recompute-granularity",
        "--recompute-method",
        "--recompute-num-layers",
        "--recompute-modules",
        "--overlap-grad-reduce",
        "--overlap-param-gather",
        "--no-overlap-p2p-communication",
        "--tp-comm-overlap",
        "--overlap-moe-expert-parallel-comm",
        "--num-distributed-optimizer-instances",
        "--pipeline-model-parallel-layout",
        "--optimizer-cpu-offload",
        "--optimizer-offload-fraction",
    ]
)
_CONCERNS: Final = re.compile(r"parallel|recompute|fsdp|overlap|offload|virtual|distributed-opt")


def lacks(plan: Plan) -> list[tuple[str, str]]:
    """Schedules other than 1F1B, host memory for weights or activations, tf32."""
    found = []
    if plan.schedule != "1f1b":
        found.append(("schedule", "Megatron runs 1F1B, interleaved with virtual stages"))
    if "weights" in plan.offload or "activations" in plan.offload:
        found.append(("offload", "only the optimizer's state can be offloaded with pipelines"))
    if plan.precision == "tf32":
        found.append(("precision", "tf32 is a setting of PyTorch, not a flag"))
    if plan.zero == 0 and plan.zero_group is not None:
        found.append(("zero_group", "a shard group needs a sharded optimizer"))
    if plan.zero == 0 and "weights" not in plan.overlap:
        found.append(("overlap", "the gather of weights exists with a sharded optimizer only"))
    return found


def flags(plan: Plan, job: Job) -> list[str]:
    """Megatron's flags for a plan."""
    words = [f"{flag} {getattr(plan, field)}" for flag, field in _SIZES]
    if plan.virtual_stages == 1:
        words = [word for word in words if "virtual" not in word]
    if job.global_batch_size is not None:
        words.append(f"--global-batch-size {job.global_batch_size}")
    if job.seq_len is not None:
        words.append(f"--seq-length {job.seq_len}")
    if plan.sequence_parallel:
        words.append("--sequence-parallel")
    words += _sharding(plan)
    if plan.recompute == "full":
        words.append(
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
        )
    elif plan.recompute == "selective":
        modules = " ".join(_MODULES[module] for module in plan.recompute_modules)
        words.append(f"--recompute-granularity selective --recompute-modules {modules}")
    words += {
        "bf16": ["--bf16"],
        "fp16": ["--fp16"],
        "fp8": ["--bf16 --fp8-format hybrid"],
        "fp4": ["--bf16 --fp4-format e2m1"],
    }.get(plan.precision, [])
    words.append(f"--cp-comm-type {_CP[plan.cp_method]}")
    words += _overlap(plan)
    if "optimizer" in plan.offload:
        words.append("--optimizer-cpu-offload --optimizer-offload-fraction 1.0")
    if plan.layers_per_stage is not None:
        words.append(f"--pipeline-model-parallel-layout {_layout(plan.layers_per_stage)}")
    return words


def write(plan: Plan, job: Job, notes: tuple[str, ...] = ()) -> str:
    """The torchrun command."""
    nodes, local = job.nodes(plan.world)
    head = f"torchrun --nnodes {nodes} --nproc-per-node {local} {job.script}"
    body = " \\\n    ".join([head, *flags(plan, job)])
    return "".join(f"# not in Megatron: {note}\n" for note in notes) + body + "\n"


def read(text: str) -> Plan:
    """The plan of a Megatron command."""
    options = words_of(text)
    values: dict[str, Any] = {}
    for flag, field in _SIZES:
        if flag in options:
            values[field] = whole(options, flag)
    for flag in options:
        if flag not in _KNOWN and _CONCERNS.search(flag):
            raise PlanError(
                f"megatron: {flag}",
                " ".join(options[flag]) or "present",
                ", ".join(sorted(_KNOWN)),
                repair="leave it out, or express it by an accepted flag",
            )
    world = whole(options, "--nnodes") * whole(options, "--nproc-per-node")
    model = values.get("tp", 1) * values.get("pp", 1) * values.get("cp", 1)
    if world % model:
        raise PlanError(
            "megatron: world size",
            world,
            f"a multiple of tp x pp x cp = {model}",
            repair="correct --nnodes, --nproc-per-node or a degree",
        )
    values["dp"] = world // model
    values["sequence_parallel"] = "--sequence-parallel" in options
    values["zero"] = int("--use-distributed-optimizer" in options)
    strategy = options.get("--data-parallel-sharding-strategy", [""])[0]
    for stage, word in _STRATEGY.items():
        if strategy == word:
            values["zero"] = stage
    if "--num-distributed-optimizer-instances" in options:
        copies = values["dp"] * values.get("cp", 1)
        values["zero_group"] = copies // whole(options, "--num-distributed-optimizer-instances")
    values["recompute"] = options.get("--recompute-granularity", ["none"])[0]
    names = {word: name for name, word in _MODULES.items()}
    if "--recompute-modules" in options:
        values["recompute_modules"] = tuple(
            names.get(word, word) for word in options["--recompute-modules"]
        )
    values["precision"] = _precision(options)
    methods = {word: name for name, word in _CP.items()}
    word = options.get("--cp-comm-type", ["p2p"])[0]
    values["cp_method"] = methods.get(word, word)
    values["overlap"] = _read_overlap(options, values["zero"])
    if "--optimizer-cpu-offload" in options:
        values["offload"] = ("optimizer",)
    if "--pipeline-model-parallel-layout" in options:
        values["layers_per_stage"] = _read_layout(options["--pipeline-model-parallel-layout"][0])
    return Plan(**values)


def words_of(text: str) -> dict[str, list[str]]:
    """Flags and the words after each, comments and line continuations removed."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    options: dict[str, list[str]] = {}
    flag = ""
    for word in shlex.split(joined):
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            options[flag] = [value] if value else []
        elif flag:
            options[flag].append(word)
    return options


def whole(options: dict[str, list[str]], flag: str) -> int:
    """The whole number after a flag."""
    words = options.get(flag, [])
    if not words or not words[0].isdigit():
        raise PlanError(
            f"megatron: {flag}",
            words[0] if words else "nothing",
            "a whole number",
            repair=f"write {flag} and a number",
        )
    return int(words[0])


def _sharding(plan: Plan) -> list[str]:
    words = []
    if plan.zero == 1:
        words.append("--use-distributed-optimizer")
    elif plan.zero >= 2:
        words.append(
            "--use-distributed-optimizer --use-megatron-fsdp --data-parallel-sharding-strategy "
            + _STRATEGY[plan.zero]
        )
    if plan.zero and plan.zero_group is not None:
        instances = plan.dp * plan.cp // plan.zero_group
        words.append(f"--num-distributed-optimizer-instances {instances}")
    return words


def _overlap(plan: Plan) -> list[str]:
    words = []
    if "gradients" in plan.overlap:
        words.append("--overlap-grad-reduce")
    if "weights" in plan.overlap and plan.zero:
        words.append("--overlap-param-gather")
    if "pipeline" not in plan.overlap:
        words.append("--no-overlap-p2p-communication")
    if "tensor" in plan.overlap:
        words.append("--tp-comm-overlap")
    if "experts" in plan.overlap:
        words.append("--overlap-moe-expert-parallel-comm")
    return words


def _read_overlap(options: dict[str, list[str]], zero: int) -> tuple[str, ...]:
    present = {
        "gradients": "--overlap-grad-reduce" in options,
        "weights": "--overlap-param-gather" in options or zero == 0,
        "pipeline": "--no-overlap-p2p-communication" not in options,
        "tensor": "--tp-comm-overlap" in options,
        "experts": "--overlap-moe-expert-parallel-comm" in options,
    }
    return tuple(name for name, there in present.items() if there)


def _precision(options: dict[str, list[str]]) -> str:
    if "--fp4-format" in options:
        return "fp4"
    if "--fp8-format" in options:
        return "fp8"
    if "--bf16" in options:
        return "bf16"
    return "fp16" if "--fp16" in options else "fp32"


def _layout(layers: tuple[int, ...]) -> str:
    """Megatron's layout: E embedding, t decoder layer, L loss, | between chunks."""
    chunks = [f"t*{count}" if count else "" for count in layers]
    chunks[0] = "E" + chunks[0]
    chunks[-1] += "L"
    return "'" + "|".join(chunks) + "'"


def _read_layout(text: str) -> tuple[int, ...]:
    layers = []
    for chunk in text.split("|"):
        body = chunk.removeprefix("E").removesuffix("L").replace(",", "")
        match = re.fullmatch(r"(?:t\*(\d+)|(t*))", body)
        if match is None:
            raise PlanError(
                "megatron: --pipeline-model-parallel-layout",
                text,
                "chunks such as Et*3|t*4|t*3L",
                repair="write the layers of each chunk as t*N",
            )
        layers.append(int(match[1]) if match[1] else len(match[2]))
    return tuple(layers)
