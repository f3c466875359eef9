"""Verdict: whether a plan fits, and if not, which single change would make it fit.

Levers are found by evaluating them, not by rule: each change is made to the plan, checked against
model, batch and cluster, and its memory computed by the same expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from perfmodel.parallel.plan import Plan
from perfmodel.units import format_bytes


def verdict(
    plan: Plan,
    needed: float,
    capacity: float,
    needs: Callable[[Plan], float],
    valid: Callable[[Plan], bool] | None,
    most: int = 3,
) -> str:
    """A sentence such as ``needs 93.1 GiB, has 80 GiB: raise tp to 4, or recompute=full``.

    Parameters
    ----------
    plan : Plan
        The plan in question.
    needed, capacity : float
        Bytes that it needs, bytes that a device has [B].
    needs : callable
        Memory of a changed plan [B].
    valid : callable, optional
        Whether a changed plan fits model, batch and cluster; without it no lever is tried.
    most : int
        Levers named.
    """
    if needed <= capacity:
        return f"fits: needs {format_bytes(needed)}, has {format_bytes(capacity)}"
    text = f"does not fit: needs {format_bytes(needed)}, has {format_bytes(capacity)}"
    if valid is None:
        return text
    helping = []
    closest = (needed, "")
    for name, changed in changes(plan):
        if not valid(changed):
            continue
        less = needs(changed)
        if less <= capacity:
            helping.append(f"{name} ({format_bytes(less)})")
            if len(helping) == most:
                break
        elif less < closest[0]:
            closest = (less, name)
    if helping:
        return f"{text}: {', or '.join(helping)}"
    if closest[1]:
        return (
            f"{text}; no single change is enough, {closest[1]} comes to {format_bytes(closest[0])}"
        )
    return f"{text}; no single change helps: use more devices"


def changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Single changes that may save memory, the cheapest in time first; the world size stays."""
    if plan.dp > 1 and plan.zero == 0:
        yield "zero=1", replace(plan, zero=1)
    if plan.tp > 1 and not plan.sequence_parallel:
        yield "sequence_parallel=true", replace(plan, sequence_parallel=True)
    if plan.micro_batch_size > 1:
        half = plan.micro_batch_size // 2
        yield f"lower micro_batch_size to {half}", replace(plan, micro_batch_size=half)
    if plan.recompute == "none":
        yield "recompute=selective", replace(plan, recompute="selective")
    if plan.virtual_stages > 1:
        yield "virtual_stages=1", replace(plan, virtual_stages=1, layers_per_stage=None)
    if plan.recompute != "full":
        yield "recompute=full", replace(plan, recompute="full")
    for factor in (2, 4, 8, 16):
        if plan.dp % factor:
            break
        less = plan.dp // factor
        group = None  # a shard group need not divide fewer ranks
        expert = plan.expert_tp if plan.ep > 1 else None
        tp = plan.tp * factor
        yield (
            f"raise tp to {tp}",
            replace(
                plan,
                tp=tp,
                dp=less,
                zero_group=group,
                expert_tp=expert,
                sequence_parallel=plan.sequence_parallel or plan.tp == 1,
            ),
        )
        yield (
            f"raise pp to {plan.pp * factor}",
            replace(plan, pp=plan.pp * factor, dp=less, zero_group=group, layers_per_stage=None)
            if _experts_divide(plan, less)
            else plan,
        )
    if (plan.dp > 1 and plan.pp == 1 and plan.zero in (1, 2)) or (plan.dp > 1 and plan.zero < 3):
        yield "zero=3", replace(plan, zero=3)
    if "optimizer" not in plan.offload:
        yield "offload=optimizer", replace(plan, offload=(*plan.offload, "optimizer"))


def _experts_divide(plan: Plan, dp: int) -> bool:
    return plan.tp * plan.cp * dp % (plan.ep * plan.experts_tensor) == 0
