"""Plan: one door for the exact search over uniform plans and the MILP over the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perfmodel.errors import PlanError, nearest_name
from perfmodel.hardware import Cluster, cluster_of
from perfmodel.workload.model import ModelConfig, model_of

if TYPE_CHECKING:
    from perfmodel.optimize.answer import MilpPlan
    from perfmodel.optimize.search import SearchResult

METHODS: Final = ("search", "milp")


def plan(
    model: ModelConfig | str | Path,
    cluster: Cluster | str | Path | Sequence[Cluster],
    global_batch_size: int,
    seq_len: int,
    *,
    objective: str = "step_time",
    method: str = "search",
    top: int = 5,
    stack: str = "megatron",
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> SearchResult | MilpPlan:
    """The best way to train a model on a cluster.

    Parameters
    ----------
    model : ModelConfig, str or Path
        What is trained: a value, a bundled name or the path of a Hugging Face ``config.json``.
    cluster : Cluster, str, Path or sequence of Cluster
        On what; several clusters of different devices need ``method="milp"``.
    global_batch_size, seq_len : int
        Sequences in a step, tokens in a sequence.
    objective : str
        What is minimised: ``"step_time"`` or ``"memory"``; the MILP knows more.
    method : str
        ``"search"``: exact over the whole grid of uniform plans; ``"milp"``: layers, stages and
        devices may differ, with a certified gap.
    top : int
        Plans that the search returns.
    stack : str
        How the software runs the work.
    progress : callable, optional
        Called with the number of plans evaluated so far.
    **options
        Passed on to :func:`~perfmodel.optimize.search.search` or
        :func:`~perfmodel.optimize.planner.milp_plan`.

    Raises
    ------
    PlanError
        If the question itself is wrong.
    Infeasible
        If no plan fits; the levers are in the message.

    Examples
    --------
    >>> best = plan("llama-3-8b", load_cluster("dgx-h100"), 64, 2048)
    >>> best.plans[0].fits
    True
    """
    chosen = model_of(model)
    where: Cluster | Sequence[Cluster]
    if isinstance(cluster, Sequence) and not isinstance(cluster, str | bytes):
        where = cluster
    else:
        where = cluster_of(cluster)
    if isinstance(method, str) and method == "milp":
        from perfmodel.optimize.planner import milp_plan

        return milp_plan(
            chosen, where, global_batch_size, seq_len, objective=objective, stack=stack, **options
        )
    if not (isinstance(method, str) and method == "search"):
        raise PlanError(
            "plan: method",
            method,
            ", ".join(METHODS),
            nearest=nearest_name(method, METHODS),
            repair="use one of the accepted methods",
        )
    if not isinstance(where, Cluster):
        raise PlanError(
            "plan: cluster",
            f"<{len(where)} clusters>",
            "one cluster for method='search'",
            repair="pass one cluster, or method='milp'",
        )
    from perfmodel.optimize.search import search

    return search(
        chosen,
        where,
        global_batch_size,
        seq_len,
        objective,
        top,
        stack=stack,
        progress=progress,
        **options,
    )
