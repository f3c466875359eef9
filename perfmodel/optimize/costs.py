"""From a model and clusters to the arrays of the planner.

A *mode* is one way to build a stage: device type, devices, degrees, ZeRO stage, micro-batch. The
prices of a layer under a mode come from the tables that price uniform plans too
(:mod:`perfmodel.parallel.layers`): kernels, exposed tensor, context and expert collectives, what
recomputation repeats, bytes kept. Here they are laid out per layer, with the work of once a step:

- gradients: reduced over the ranks that hold the same parameters; what is longer than the layer's
  own backward pass is exposed, and so is one bucket of each stage;
- weights: gathered after the optimizer (ZeRO 1 and 2), behind the next forward pass;
- optimizer: clipping, AdamW and clearing, over the layer's share.

Sums over layers stand for the sums that a stage would overlap as a whole, so a stage is never
cheaper here than when it is priced as one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.cost import price
from perfmodel.hardware import Cluster
from perfmodel.network import collective_seconds
from perfmodel.parallel import overlap as hiding
from perfmodel.parallel import placement
from perfmodel.parallel.footprint import LIVE_PARAMETERS
from perfmodel.parallel.grid import PlanGrid, distinct, grid_of
from perfmodel.parallel.layers import SHARD_COLUMNS, LayerTable, layer_table
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.pricer import AXES
from perfmodel.parallel.states import ParameterBytes, effective_stack, parameter_bytes
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.op import Fused
from perfmodel.workload.transformer import (
    ModelConfig,
    Stack,
    clear_gradients,
    embedding_parameters,
    head_parameters,
    layer_kinds,
    layer_parameters,
    load_precision,
    optimizer_calls,
)

Floats = npt.NDArray[np.float64]

STRATEGIES: Final = ("none", "selective", "full", "offload")
"""What a layer may do with its activations: keep them, repeat core attention and MLP, repeat the
whole block, or move them to host memory."""
SELECTIVE: Final = ("core", "mlp", "experts")


def degrees_of(plan: Plan) -> str:
    """The degrees inside a stage, for people: ``"tp8 dp4 zero1 mbs2"``."""
    words = [f"tp{plan.tp}", f"dp{plan.dp}"]
    words += [f"cp{plan.cp}"] * (plan.cp > 1) + [f"ep{plan.ep}"] * (plan.ep > 1)
    return " ".join([*words, f"zero{plan.zero}", f"mbs{plan.micro_batch_size}"])


@dataclass(frozen=True, slots=True, eq=False)
class ModeCosts:
    """Costs of every layer of one model piece under N modes of one device type.

    ``seconds``, ``persistent``, ``activation``, ``transient`` : (N, L, K) arrays;
    ``forward`` (N, L): the forward part; ``once``, ``bucket``: (N, L) and (N,) seconds a step;
    ``boundary`` (N,): bytes a device sends to the next stage for one micro-batch;
    ``accumulation`` (N, L): adding a micro-batch's gradients to the earlier ones [s].
    """

    layers: tuple[str, ...]
    seconds: Floats
    forward: Floats
    persistent: Floats
    activation: Floats
    transient: Floats
    once: Floats
    bucket: Floats
    boundary: Floats
    accumulation: Floats


def mode_costs(
    model: ModelConfig,
    cluster: Cluster,
    plans: list[Plan],
    seq_len: int,
    stack: Stack,
    *,
    ends: tuple[bool, bool] = (True, True),
    prefix: str = "",
) -> ModeCosts:
    """Price every layer of ``model`` for the degrees of each plan.

    Parameters
    ----------
    model, cluster, stack
        What runs, on what, how.
    plans : list of Plan
        Degrees, ZeRO stage and micro-batch of a stage.
    seq_len : int
        Tokens of a sequence of this model (an image's patches for a vision tower).
    ends : (bool, bool)
        Whether the embedding and the head belong to the piece.
    prefix : str
        Put before the layers' names.
    """
    kinds = layer_kinds(model)
    grid = grid_of(plans)
    stack = effective_stack(grid.base, stack)
    # Modes share few distinct shards: price those, then give every mode its own.
    first, shard_of = distinct(*(getattr(grid, name) for name in SHARD_COLUMNS))
    shards = grid.take(first)
    tables = [
        layer_table(model, kinds, cluster, _with_modules(shards, modules), seq_len, stack)
        for modules in (("core",), SELECTIVE)
    ]
    table, deep = tables
    width = parameter_bytes(grid.base, stack)
    n = len(shards)
    number = len(kinds)
    shape = (n, number + 2, len(STRATEGIES))
    seconds, activation, transient = (np.zeros(shape) for _ in range(3))
    forward = np.zeros((n, number + 2))
    backward = np.zeros((n, number + 2))
    host_rate = None if cluster.host_link is None else cluster.host_link.bandwidth_per_direction
    launch = 0.0 if stack.graph else stack.host_launch
    for c in range(number):
        _fill_block(
            c, table, deep, launch, host_rate, seconds, activation, transient, forward, backward
        )
    for place, end in ((number, table.embedding), (number + 1, table.head)):
        ahead = end.forward.times[0] + end.exposed["forward"]
        back = end.backward.times[0] + end.exposed["backward"]
        ahead = np.maximum(ahead, launch * end.forward.launches)
        back = np.maximum(back, launch * end.backward.launches)
        seconds[:, place] = (ahead + back)[:, None]
        forward[:, place], backward[:, place] = ahead, back
        activation[:, place] = end.kept[:, None]
    transient[:, number + 1] = table.logits[:, None]
    if not model.vocab:
        transient[:, number + 1] = 0.0
    boundary = np.asarray(table.boundary, float)[shard_of]
    seconds, forward, backward = seconds[shard_of], forward[shard_of], backward[shard_of]
    activation, transient = activation[shard_of], transient[shard_of]
    dense, experts = _parameters(model, kinds, grid)
    messages = _messages(cluster, grid, width, dense, experts)
    if (grid.zero >= 2).any():
        _each_micro_batch(cluster, grid, messages, seconds, forward)
    persistent = _state_bytes(grid, width, dense, experts)
    transient = transient + _gathered_bytes(grid, width, dense, experts)[:, :, None]
    once = _once(cluster, grid, stack, dense, experts, messages, forward, backward)
    whole = (dense + experts).max(axis=1)
    tail = np.minimum(grid.base.bucket_parameters / np.maximum(whole, 1.0), 1.0)
    first_and_last = np.where(grid.zero <= 1, messages[0].max(axis=1), 0.0)
    first_and_last = first_and_last + np.where(grid.zero > 0, messages[1].max(axis=1), 0.0)
    bucket = np.where(grid.zero == 3, 0.0, first_and_last * tail)
    order, names = _order(model, kinds, ends, prefix)
    return ModeCosts(
        names,
        seconds[:, order],
        forward[:, order],
        np.repeat(persistent[:, order, None], len(STRATEGIES), axis=2),
        activation[:, order],
        transient[:, order],
        once[:, order],
        bucket,
        boundary,
        _accumulation(cluster, stack, dense + experts)[:, order],
    )


def _with_modules(grid: PlanGrid, modules: tuple[str, ...]) -> PlanGrid:
    return replace(grid, base=replace(grid.base, recompute_modules=modules))


def _fill_block(
    c: int,
    table: LayerTable,
    deep: LayerTable,
    launch: float,
    host_rate: float | None,
    seconds: Floats,
    activation: Floats,
    transient: Floats,
    forward: Floats,
    backward: Floats,
) -> None:
    """Times and bytes of one kind of block under every strategy."""
    block = table.blocks[c]
    comm = {way: sum(block.exposed[way][axis] for axis in AXES) for way in block.exposed}
    ahead = block.forward.times[0] + comm["forward"]
    back = block.backward.times[0] + comm["backward"]
    forward[:, c] = np.maximum(ahead, launch * block.forward.launches)
    backward[:, c] = np.maximum(back, launch * block.backward.launches)
    sources = ((table, 0), (deep, 1), (table, 2))
    for k, (source, word) in enumerate(sources):
        own = source.blocks[c]
        again = own.again[word].times[0] + sum(own.again_exposed[word][axis] for axis in AXES)
        launches = block.backward.launches + own.again[word].launches
        seconds[:, c, k] = forward[:, c] + np.maximum(back + again, launch * launches)
        activation[:, c, k] = own.kept[word]
        transient[:, c, k] = own.transient[word] + own.alive
    if host_rate is None:
        seconds[:, c, 3] = np.inf
        return
    # Out behind the forward pass, in again behind the backward one; two blocks' worth stay.
    kept = block.kept[0]
    wait = np.maximum(kept / host_rate - forward[:, c], 0.0)
    wait = wait + np.maximum(kept / host_rate - backward[:, c], 0.0)
    seconds[:, c, 3] = forward[:, c] + backward[:, c] + wait
    transient[:, c, 3] = 2 * kept + block.alive


def _parameters(model: ModelConfig, kinds: Any, grid: PlanGrid) -> tuple[Floats, Floats]:
    """Dense and routed parameters on a device: (N, kinds + embedding + head)."""
    n = len(grid)
    dense, experts = np.zeros((n, len(kinds) + 2)), np.zeros((n, len(kinds) + 2))
    for c, kind in enumerate(kinds):
        own, routed = layer_parameters(model, kind, grid.tp, grid.ep, grid.expert_tp)
        dense[:, c], experts[:, c] = own, routed
    dense[:, -2] = embedding_parameters(model, grid.tp)
    dense[:, -1] = head_parameters(model, grid.tp)
    if model.tied and model.vocab:
        # With a pipeline the last stage holds a copy of the table.
        dense[:, -1] += np.ceil(model.vocab / grid.tp) * model.hidden
    return dense, experts


def _expert_shards(grid: PlanGrid) -> tuple[Any, Any]:
    copies = grid.dp * grid.cp
    holders = grid.tp * copies // (grid.ep * grid.expert_tp)
    return holders, np.maximum(holders * grid.zero_group // copies, 1)


def _messages(
    cluster: Cluster, grid: PlanGrid, width: ParameterBytes, dense: Floats, experts: Floats
) -> tuple[Floats, Floats]:
    """Seconds to reduce each layer's gradients, and to gather its weights: (N, layers)."""
    domain = placement.domain_devices(cluster)
    everyone = placement.data_group(grid, domain)
    experts_group = placement.expert_data_group(grid, domain)

    def time(op: str, size: Floats, group: placement.Group) -> Floats:
        spent = collective_seconds(
            op, size, group.size[:, None], cluster, ranks_per_node=group.local[:, None]
        )
        return np.asarray(spent * (size > 0), dtype=np.float64)

    replicated = (grid.zero == 0)[:, None]
    reduce = np.zeros_like(dense)
    for size, group in ((dense, everyone), (experts, experts_group)):
        scatter = time("reduce_scatter", size * width.gradient, group)
        reduce += np.where(replicated, time("all_reduce", size * width.gradient, group), scatter)
    gather = time("all_gather", dense * width.message, everyone)
    gather += time("all_gather", experts * width.message, experts_group)
    return reduce, gather


def _each_micro_batch(
    cluster: Cluster,
    grid: PlanGrid,
    messages: tuple[Floats, Floats],
    seconds: Floats,
    forward: Floats,
) -> None:
    """What sharding exchanges in every micro-batch, behind the layers.

    ZeRO 2 scatters gradients behind the backward pass; ZeRO 3 gathers weights for both passes too.
    """
    reduce, gather = messages
    behind = np.where(np.isfinite(seconds), seconds - forward[:, :, None], 0.0)
    share = hiding.stolen_share(cluster.accelerator)
    wait = hiding.exposed((gather + reduce)[:, :, None], behind, share)
    wait += hiding.exposed(gather, forward, share)[:, :, None]
    # Nothing runs beside the gathers of embedding and head, the last two columns.
    wait[:, -2:] = (gather + reduce)[:, -2:, None]
    seconds += np.where((grid.zero == 3)[:, None, None], wait, 0.0)
    scatter = hiding.exposed(reduce[:, :, None], behind, share)
    seconds += np.where((grid.zero == 2)[:, None, None], scatter, 0.0)


def _state_bytes(grid: PlanGrid, width: ParameterBytes, dense: Floats, experts: Floats) -> Floats:
    """Weights, gradients and optimizer states of each layer on a device [B]."""
    zero = grid.zero[:, None]
    _, expert_shards = _expert_shards(grid)
    total = np.zeros_like(dense)
    for size, shards in ((dense, grid.zero_group), (experts, expert_shards)):
        part = 1.0 / np.asarray(shards, float)[:, None]
        # Under ZeRO 3 the shard is the master copy where there is one.
        sharded = 0.0 if width.optimizer > width.moments else width.weight * part
        weight = np.where(zero == 3, sharded, width.weight + width.copy)
        gradient = width.gradient * np.where(zero >= 2, part, 1.0)
        optimizer = width.optimizer * np.where(zero >= 1, part, 1.0)
        total += size * (weight + gradient + optimizer)
    return total


def _gathered_bytes(
    grid: PlanGrid, width: ParameterBytes, dense: Floats, experts: Floats
) -> Floats:
    """Under ZeRO 3: this layer's weights, and what is on its way before and behind it [B]."""
    layer = dense + experts
    ahead = np.minimum(layer, LIVE_PARAMETERS)
    whole = np.minimum(layer, 2 * ahead) * (width.message + width.copy)
    whole = whole + ahead * 2 * width.message
    return np.where((grid.zero == 3)[:, None], whole, 0.0)


def _once(
    cluster: Cluster,
    grid: PlanGrid,
    stack: Stack,
    dense: Floats,
    experts: Floats,
    messages: tuple[Floats, Floats],
    forward: Floats,
    backward: Floats,
) -> Floats:
    """Exposed gradients and weights, and the optimizer, of each layer [s]."""
    reduce, gather = messages
    zero = grid.zero[:, None]
    overlap = grid.base.overlap
    share = hiding.stolen_share(cluster.accelerator)
    gradients = hiding.exposed(reduce, backward, share) if "gradients" in overlap else reduce
    weights = hiding.exposed(gather, forward, share) if "weights" in overlap else gather
    _, expert_shards = _expert_shards(grid)
    states = dense / np.where(zero > 0, grid.zero_group[:, None], 1)
    states = states + experts / np.where(zero > 0, np.asarray(expert_shards)[:, None], 1)
    numel = np.maximum(np.ceil(states), 1.0).astype(np.int64)
    precision = load_precision(grid.base.precision)
    optimizer = np.zeros_like(dense)
    for call in (
        *optimizer_calls(numel, stack, precision=precision),
        *clear_gradients(numel, stack),
    ):
        optimizer += price(call.op, cluster.accelerator).seconds * call.count
    exposed = np.where(zero >= 2, 0.0, gradients)
    exposed = exposed + np.where((zero == 1) | (zero == 2), weights, 0.0)
    return np.asarray(exposed + optimizer, dtype=np.float64)


def _accumulation(cluster: Cluster, stack: Stack, parameters: Floats) -> Floats:
    """Seconds to add one micro-batch's gradients, where the products do not do so themselves."""
    if stack.fused_wgrad_accumulation:
        return np.zeros_like(parameters)
    width = int(bytes_per_element(stack.grad_dtype))
    fresh = int(min(bytes_per_element(stack.weight_dtype), 2))
    whole = np.maximum(np.ceil(parameters), 1.0).astype(np.int64)
    add = Fused("accumulate", whole, fresh + width, width, 1)
    return np.asarray(price(add, cluster.accelerator).seconds, dtype=np.float64)


def _order(
    model: ModelConfig, kinds: Any, ends: tuple[bool, bool], prefix: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Which column stands for each planning layer, and the layers' names."""
    total = model.layers + model.encoder_layers
    column = np.zeros(total, dtype=np.int64)
    for c, kind in enumerate(kinds):
        column[list(kind.layers)] = c
    names = [f"{prefix}{kinds[c].name} {i}" for i, c in enumerate(column)]
    order = column.tolist()
    if ends[0]:
        order, names = [len(kinds), *order], [f"{prefix}embedding", *names]
    if ends[1]:
        order, names = [*order, len(kinds) + 1], [*names, f"{prefix}head"]
    return np.array(order), tuple(names)
