"""Slurm: an sbatch script that starts torchrun on every node with Megatron's flags."""

from __future__ import annotations

import re

from perfmodel.errors import PlanError
from perfmodel.parallel.export import megatron
from perfmodel.parallel.export.job import Job
from perfmodel.parallel.plan import Plan

lacks = megatron.lacks


def write(plan: Plan, job: Job, notes: tuple[str, ...] = ()) -> str:
    """One task a node; torchrun starts a process for each device."""
    nodes, local = job.nodes(plan.world)
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name={job.name}",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={local}",
        "#SBATCH --exclusive",
        *(f"# not in Megatron: {note}" for note in notes),
        'head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export CUDA_DEVICE_MAX_CONNECTIONS=1",
    ]
    command = " \\\n    ".join(
        [
            f'srun torchrun --nnodes {nodes} --nproc-per-node {local} --rdzv-id "$SLURM_JOB_ID"',
            '--rdzv-backend c10d --rdzv-endpoint "$head_node:29500"',
            job.script,
            *megatron.flags(plan, job),
        ]
    )
    return "\n".join([*head, command]) + "\n"


def read(text: str) -> Plan:
    """The plan of the script's torchrun command, checked against its own header."""
    start = text.find("torchrun")
    if start < 0:
        raise PlanError(
            "slurm", text[:60], "a script that runs torchrun", repair="give the whole script"
        )
    plan = megatron.read(text[start:])
    nodes = _header(text, "nodes")
    local = _header(text, "gpus-per-node")
    if nodes * local != plan.world:
        raise PlanError(
            "slurm: #SBATCH",
            f"--nodes={nodes} --gpus-per-node={local}",
            f"the {plan.world} devices that torchrun starts",
            repair="make header and command agree",
        )
    return plan


def _header(text: str, name: str) -> int:
    match = re.search(rf"^#SBATCH\s+--{name}[=\s](\d+)\s*$", text, flags=re.MULTILINE)
    if match is None:
        raise PlanError(
            f"slurm: #SBATCH --{name}", "nothing", "a whole number", repair="add the line"
        )
    return int(match[1])
