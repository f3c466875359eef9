"""What a backward pass recomputes: nothing, everything, or named modules.

``"none"``; ``"full"`` keeps only a block's input; ``"selective"`` is core attention; or names of
:data:`MODULES` joined by ``+``, e.g. ``"layernorm+moe_act"``.

References
----------
Korthikanti et al. (arXiv 2205.05198), section 5; Megatron Core ``--recompute-modules``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.adapter import Adapter
from perfmodel.workload.attention import core_forward, cross_core
from perfmodel.workload.blocks import block_forward
from perfmodel.workload.layer import Call, LayerKind, Shard
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.precision import BF16, Precision
from perfmodel.workload.stack import Stack

MODULES: Final = (
    "core_attn",
    "layernorm",
    "mla_up_proj",
    "mlp_act",
    "mlp",
    "shared_experts",
    "moe_act",
    "moe",
)
"""Modules that can be recomputed on their own: core attention; the norms' outputs; queries, keys
and values from their latents; the activation of a dense or shared MLP; a dense MLP; shared experts;
the activation of routed experts; routed experts with their router."""

RECOMPUTE: Final = ("none", "selective", "full")
_FULL: Final = frozenset({"full"})


@lru_cache(maxsize=256)
def recompute_modules(recompute: str) -> frozenset[str]:
    """The set of modules that a word or a ``+`` list means; ``{"full"}`` for everything.

    Raises
    ------
    WorkloadError
        If a name is not known.
    """
    if recompute == "none":
        return frozenset()
    if recompute == "full":
        return _FULL
    words = recompute.split("+") if isinstance(recompute, str) else [recompute]
    for word in words:
        if word not in (*MODULES, "selective"):
            known = (*RECOMPUTE, *MODULES)
            raise WorkloadError(
                "recompute",
                recompute,
                f"{', '.join(RECOMPUTE)}, or modules joined by +: {', '.join(MODULES)}",
                nearest=nearest_name(word, known),
                repair="use one of the accepted words",
            )
    return frozenset("core_attn" if word == "selective" else word for word in words)


# calls of a forward pass that each module repeats; a product whose output only the next module
# reads (fc2) is never repeated
_NAMES: Final = (
    ("layernorm", ("norm1", "norm2", "cross_norm")),
    ("mla_up_proj", ("q_up", "q", "kv_up", "rope", "join_keys", "q_norm", "kv_norm")),
    ("mlp_act", ("act", "shared_act")),
    ("mlp", ("fc1", "act")),
    ("shared_experts", ("shared_fc1", "shared_act")),
    ("moe_act", ("expert_act",)),
    (
        "moe",
        (
            "router",
            "router_softmax",
            "router_topk",
            "dispatch",
            "expert_cast",
            "expert_fc1",
            "expert_act",
        ),
    ),
)


def recompute_calls(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    recompute: str,
    *,
    precision: Precision = BF16,
    adapter: Adapter | None = None,
) -> tuple[Call, ...]:
    """The forward calls that one block's backward pass repeats.

    Full recomputation repeats the whole block except its last residual, whose output nothing
    needs. The recomputed expert products of ``"moe"`` also repeat the dispatch all-to-all.
    """
    modules = recompute_modules(recompute)
    if not modules:
        return ()
    if modules == {"core_attn"}:
        core = core_forward(model, kind, shard, stack, precision)
        if kind.cross:
            core += cross_core(model, shard, stack, precision)
        return core
    calls = block_forward(model, kind, shard, stack, precision=precision, adapter=adapter)
    if modules == _FULL:
        return tuple(call for call in calls if not call.name.startswith(("residual2", "residual_")))
    names = {name for module, names in _NAMES if module in modules for name in names}
    return tuple(
        call
        for call in calls
        if _stem(call.name) in names or ("core_attn" in modules and call.core)
    )


def _stem(name: str) -> str:
    """``"norm1_3"`` -> ``"norm1"``: an unfused step belongs to its chain."""
    for suffix in ("_gate", "_cast", "_rotate", "_scale", "_add"):
        name = name.removesuffix(suffix) if not name.startswith("expert_cast") else name
    head, _, tail = name.rpartition("_")
    return head if tail.isdigit() else name
