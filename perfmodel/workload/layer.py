"""What one rank sees of a model: shards, kinds of layer, and calls of operators.

Sizes are integers or integer NumPy arrays that broadcast, so one :class:`Shard` can stand for a
whole grid of plans. A size that does not divide evenly is rounded up: the rank with the most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Flag, Op, Size, check_choice, checked_size


@dataclass(frozen=True, slots=True)
class Shard:
    """The slice of a training or inference step that one rank computes.

    Parameters
    ----------
    micro_batch, seq_len : int or array
        Sequences in a micro-batch; tokens of a whole sequence, before context parallelism.
    tp, cp, ep, expert_tp : int or array
        Tensor, context and expert parallel degrees; tensor parallel degree inside an expert.
    sequence_parallel : bool or array
        Whether norms and residuals are split over the ``tp`` ranks along the sequence.
    cp_kind : str
        How context parallelism exchanges: ``"ring"``, ``"ulysses"`` or ``"all_gather"``.
    past : int or array
        Keys already in the cache before these ``seq_len`` tokens (decoding has ``seq_len`` 1).
    """

    micro_batch: Size
    seq_len: Size
    tp: Size = 1
    cp: Size = 1
    ep: Size = 1
    expert_tp: Size = 1
    sequence_parallel: Flag = False
    cp_kind: str = "ring"
    past: Size = 0

    def __post_init__(self) -> None:
        check_choice(self.cp_kind, ("ring", "ulysses", "all_gather"), "shard: cp_kind")
        for name in ("micro_batch", "seq_len", "tp", "cp", "ep", "expert_tp", "past"):
            size = checked_size(getattr(self, name), f"shard: {name}", zero=name == "past")
            object.__setattr__(self, name, size)

    @property
    def local_len(self) -> Size:
        """Tokens of a sequence on this rank."""
        return ceil_div(self.seq_len, self.cp)

    @property
    def tokens(self) -> Size:
        """Tokens that the matrix products of this rank see."""
        return self.micro_batch * self.local_len

    @property
    def rows(self) -> Size:
        """Tokens that norms and residuals of this rank see: fewer under sequence parallelism."""
        return ceil_div(self.tokens, where(self.sequence_parallel, self.tp, 1))


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Layers that cost the same.

    Parameters
    ----------
    name : str
        ``"dense"``, ``"moe"``, ``"dense-window"``, ``"encoder"`` ...
    layers : tuple of int
        Their places in the stack of blocks (encoder blocks first).
    moe : bool
        Routed experts instead of a dense MLP.
    causal : bool
        Whether a query sees only earlier keys.
    window : int
        Sliding-window size; 0 is none.
    cross : bool
        Whether it also attends to the encoder's output.
    """

    name: str
    layers: tuple[int, ...]
    moe: bool = False
    causal: bool = True
    window: int = 0
    cross: bool = False

    @property
    def count(self) -> int:
        """How many layers."""
        return len(self.layers)


@dataclass(frozen=True, slots=True)
class Call:
    """``count`` calls of one operator on one rank.

    Parameters
    ----------
    name : str
        Which one: ``"qkv"``, ``"core"``, ``"fc1"`` ...
    op : Op
        The operator.
    count : int or array
        How often it runs, 0 where a plan of the grid does not need it.
    module : str
        attention, mlp, norm, router, experts, embedding, head, loss or optimizer.
    grad : str
        ``""`` in the forward pass; ``"input"`` or ``"weight"`` for the two halves of a backward
        pass, which a zero-bubble schedule may separate.
    core : bool
        Belongs to core attention, which selective recomputation repeats.
    """

    name: str
    op: Op
    count: Size = 1
    module: str = "mlp"
    grad: str = ""
    core: bool = False


def layer_kinds(model: ModelConfig) -> tuple[LayerKind, ...]:
    """The kinds of layer of a model, in order of first appearance.

    Examples
    --------
    >>> from perfmodel.workload.model import load_model
    >>> [(kind.name, kind.count) for kind in layer_kinds(load_model("deepseek-v3"))]
    [('dense', 3), ('moe', 58)]
    """
    found: dict[tuple[str, bool, bool, int, bool], list[int]] = {}
    for layer in range(model.encoder_layers):
        found.setdefault(("encoder", False, False, 0, False), []).append(layer)
    causal = model.architecture != "encoder"
    cross = model.architecture == "encoder-decoder"
    for layer in range(model.layers):
        moe = model.experts > 0 and (not model.moe or model.moe[layer])
        windowed = model.window > 0 and (not model.windowed or model.windowed[layer])
        window = model.window if windowed else 0
        base = "moe" if moe else ("dense" if causal else "encoder")
        name = base + ("-window" if windowed else "") + ("-cross" if cross else "")
        key = (name, moe, causal, window, cross)
        found.setdefault(key, []).append(model.encoder_layers + layer)
    return tuple(
        LayerKind(name, tuple(layers), moe, causal, window, cross)
        for (name, moe, causal, window, cross), layers in found.items()
    )


def ceil_div(size: Size, parts: Size) -> Size:
    """The largest share when ``size`` is split into ``parts``."""
    return -(-size // parts)


def where(condition: Flag, yes: Size, no: Size) -> Size:
    """``numpy.where`` that keeps plain integers plain."""
    if isinstance(condition, bool):
        return yes if condition else no
    return np.where(condition, yes, no)


def heads_on_rank(model: ModelConfig, shard: Shard) -> tuple[Size, Size]:
    """Query and key-value heads of one rank; key-value heads are copied where tp exceeds them."""
    return ceil_div(model.heads, shard.tp), ceil_div(model.kv_heads, shard.tp)


def expert_rows(model: ModelConfig, shard: Shard) -> Size:
    """Rows that the routed experts of one rank process, for a balanced router.

    The ``tokens`` of a tensor parallel group visit ``experts_per_token`` experts each and are
    shared out over its ranks; the ``expert_tp`` ranks of one expert see the same rows.
    """
    rows: Any = shard.tokens * model.experts_per_token * shard.expert_tp
    return ceil_div(rows, shard.tp)


def shard_faults(model: ModelConfig, shard: Shard) -> tuple[tuple[Flag, str], ...]:
    """Which plans do not divide the model: pairs of a mask (true is bad) and the reason."""
    checks: list[tuple[Any, str]] = [
        (model.heads % shard.tp != 0, f"tp must divide {model.heads} heads"),
        (
            (model.kv_heads % shard.tp != 0) & (shard.tp % model.kv_heads != 0),
            f"tp and {model.kv_heads} key-value heads must divide one another",
        ),
        (shard.seq_len % shard.cp != 0, "cp must divide the sequence length"),
    ]
    if not model.is_moe or not all(model.moe or (True,)):
        checks.append((model.ffn % shard.tp != 0, f"tp must divide the MLP width {model.ffn}"))
    split = where(shard.sequence_parallel, shard.tp, 1)
    checks.append(
        (shard.local_len % split != 0, "tp must divide the sequence under sequence parallelism")
    )
    if shard.cp_kind == "ulysses":
        heads: Any = ceil_div(model.heads, shard.tp)
        checks.append((heads % shard.cp != 0, "cp must divide the heads of a rank (Ulysses)"))
    if model.is_moe:
        checks += [
            (model.experts % shard.ep != 0, f"ep must divide {model.experts} experts"),
            (
                model.expert_ffn % shard.expert_tp != 0,
                f"expert_tp must divide the expert width {model.expert_ffn}",
            ),
        ]
    else:
        checks.append((shard.ep > 1, "ep above 1 needs a model with experts"))
    return tuple(checks)
