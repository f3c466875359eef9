"""Launch commands: a plan in the words of the frameworks, and back.

Every dialect has three functions: ``lacks`` names what it cannot say, ``write`` says the rest,
``read`` turns its text back into a plan. What a dialect lacks is never dropped in silence:
:func:`export` refuses, or writes it as a comment when told to.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Final

from perfmodel.errors import PlanError, nearest_name
from perfmodel.parallel.export import deepspeed, megatron, slurm, torchtitan
from perfmodel.parallel.export.job import Job
from perfmodel.parallel.plan import Plan

__all__ = ["DIALECTS", "Job", "Lack", "export", "lacks", "parse"]

_MODULES: Final[dict[str, ModuleType]] = {
    "megatron": megatron,
    "torchtitan": torchtitan,
    "deepspeed": deepspeed,
    "slurm": slurm,
}
DIALECTS: Final = tuple(_MODULES)


@dataclass(frozen=True, slots=True)
class Lack:
    """A term of a plan that a dialect cannot say."""

    field: str
    reason: str


def lacks(plan: Plan, dialect: str) -> tuple[Lack, ...]:
    """What a dialect cannot say of a plan; empty if nothing."""
    return tuple(Lack(field, reason) for field, reason in _module(dialect).lacks(plan))


def export(plan: Plan, dialect: str, job: Job | None = None, *, partial: bool = False) -> str:
    """A plan in the words of a framework.

    Parameters
    ----------
    plan : Plan
        What to say.
    dialect : str
        ``megatron`` (torchrun command), ``torchtitan`` (TOML), ``deepspeed`` (JSON) or ``slurm``
        (sbatch script).
    job : Job, optional
        Batch, sequence length, devices in a node and what else a launch needs.
    partial : bool
        Write what the dialect can say, and list the rest.

    Raises
    ------
    PlanError
        If the dialect is unknown, or lacks a term and ``partial`` is false.
    """
    module = _module(dialect)
    missing = lacks(plan, dialect)
    if missing and not partial:
        raise PlanError(
            f"export to {dialect}: {missing[0].field}",
            getattr(plan, missing[0].field),
            "; ".join(f"{lack.field}: {lack.reason}" for lack in missing),
            repair="change the plan, choose another dialect, or export partially",
        )
    notes = tuple(f"{lack.field}={getattr(plan, lack.field)}: {lack.reason}" for lack in missing)
    text: str = module.write(plan, job or Job(), notes)
    return text


def parse(text: str, dialect: str) -> Plan:
    """The plan that a launch text of a dialect describes.

    Raises
    ------
    PlanError
        If the dialect is unknown, the text cannot be read, or it sets something about parallelism
        that a plan has no word for.
    """
    plan: Plan = _module(dialect).read(text)
    return plan


def _module(dialect: str) -> ModuleType:
    if dialect not in _MODULES:
        raise PlanError(
            "export: dialect",
            dialect,
            ", ".join(DIALECTS),
            nearest=nearest_name(dialect, DIALECTS),
            repair="choose one of the dialects",
        )
    return _MODULES[dialect]
