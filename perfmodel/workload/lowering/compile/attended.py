"""Attention that a model writes out, as the compiler puts the fused operator in its place.

Scores over a number, a softmax along the keys, the product with the values; no mask, no dropout, an
inference step. Queries, keys and values are copied into rows all three (heads were split off by a
transposition), or none is; of scores that are multiplied by a number only the latter is known.

Reference
---------
torch/_inductor/fx_passes/fuse_attention.py, ``_sfdp_pattern_1``, ``_2`` and ``_11``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from perfmodel.workload.program import Node, Program, Tensor

_VIEWS: Final = ("aten.view", "aten._unsafe_view", "aten.reshape", "aten.expand")
_HALF: Final = ("bf16", "fp16")
_STEP: Final = 8
_WIDEST: Final = 256


@dataclass(slots=True)
class _Chain:
    """Nodes between two tensors: views, and copies among them."""

    name: str
    nodes: list[int]
    copies: int


@dataclass(frozen=True, slots=True)
class _Found:
    """The operands of one attention, the node behind it, and the nodes that it replaces."""

    operands: tuple[str, str, str]
    scale: float
    result: int
    nodes: frozenset[int]


def with_fused_attention(program: Program) -> Program:
    """The program with each written-out attention as one operator.

    Parameters
    ----------
    program : Program
        Of inference; one with a backward pass is left as it is.
    """
    targets = {node.target for node in program.nodes}
    if "aten._softmax" not in targets or program.phase_nodes("backward"):
        return program
    made = {name: at for at, node in enumerate(program.nodes) for name in node.outputs}
    uses = Counter(name for node in program.nodes for name in node.inputs)
    uses.update(program.outputs)
    found = [
        match
        for at, node in enumerate(program.nodes)
        if node.target == "aten._softmax" and (match := _match(program, at, made, uses))
    ]
    return _replaced(program, found) if found else program


def _match(
    program: Program, softmax: int, made: dict[str, int], uses: Counter[str]
) -> _Found | None:
    nodes = program.nodes
    scaled = _scaled(program, softmax, made)
    after = _ahead(program, nodes[softmax].outputs[0], uses)
    if scaled < 0 or after is None:
        return None
    scores = _behind(program, nodes[scaled].inputs[0], made, uses, heads=False)
    first, (second, between) = made.get(scores.name, -1), after
    if first < 0 or nodes[first].target != "aten.bmm" or scores.copies:
        return None
    parts = [_behind(program, name, made, uses) for name in nodes[first].inputs]
    parts.append(_behind(program, nodes[second].inputs[1], made, uses))
    turned, copied = made.get(parts[1].name, -1), {part.copies for part in parts}
    last = _ahead_view(program, nodes[second].outputs[0], nodes[softmax].inputs[0])
    multiplied = nodes[scaled].target == "aten.mul"
    if last < 0 or turned < 0 or len(copied) > 1 or (copied == {1} and multiplied):
        return None
    operands = (parts[0].name, nodes[turned].inputs[0], parts[2].name)
    tensors = [program.tensor(name) for name in operands]
    fits = all(len(t.shape) == 4 and t.dtype in _HALF and t.shape[-1] <= _WIDEST for t in tensors)
    if nodes[turned].target != "aten.transpose" or not fits:
        return None
    inside = {softmax, scaled, first, second, turned, *between, *scores.nodes}
    inside |= {at for part in parts for at in part.nodes}
    number = float(nodes[scaled].attributes["other"])
    return _Found(operands, number if multiplied else 1.0 / number, last, frozenset(inside))


def _scaled(program: Program, softmax: int, made: dict[str, int]) -> int:
    """The division or product by a number in front of a softmax along the last of four axes."""
    node = program.nodes[softmax]
    at = made.get(node.inputs[0], -1)
    axes = len(program.tensor(node.inputs[0]).shape)
    if at < 0 or axes != 4 or int(node.attributes.get("dim", -1)) % axes != axes - 1:
        return -1
    before = program.nodes[at]
    plain = before.target in ("aten.div", "aten.mul") and len(before.inputs) == 1
    return at if plain and before.attributes.get("other") else -1


def _behind(
    program: Program, name: str, made: dict[str, int], uses: Counter[str], *, heads: bool = True
) -> _Chain:
    """What a tensor is a view, or a copy in rows, of; no further than where it shows ``heads``."""
    chain = _Chain(name, [], 0)
    while True:
        at = made.get(chain.name, -1)
        copy = at >= 0 and program.nodes[at].target == "aten.clone"
        if at < 0 or uses[chain.name] > 1 or not (copy or program.nodes[at].target in _VIEWS):
            return chain
        shape = program.tensor(program.nodes[at].inputs[0]).shape
        if heads and len(program.tensor(chain.name).shape) == 4 and len(shape) != 4:
            return chain
        chain.nodes.append(at)
        chain.copies += copy
        chain.name = program.nodes[at].inputs[0]


def _ahead(program: Program, name: str, uses: Counter[str]) -> tuple[int, list[int]] | None:
    """The product that takes views of a tensor on its left, and these views."""
    passed: list[int] = []
    for at, node in enumerate(program.nodes):
        if name not in node.inputs:
            continue
        if uses[name] > 1:
            return None
        if node.target == "aten.bmm" and node.inputs[0] == name:
            return at, passed
        if node.target not in _VIEWS:
            return None
        passed.append(at)
        name = node.outputs[0]
    return None


def _ahead_view(program: Program, name: str, scores: str) -> int:
    """The view that gives a product its heads back, as the scores have them; -1 for no such."""
    lead = program.tensor(scores).shape[:2]
    for at, node in enumerate(program.nodes):
        if name in node.inputs:
            shape = program.tensor(node.outputs[0]).shape if node.outputs else ()
            return at if node.target in _VIEWS and len(shape) == 4 and shape[:2] == lead else -1
    return -1


def _replaced(program: Program, found: Sequence[_Found]) -> Program:
    tensors, storages = list(program.tensors), list(program.storages)
    last = {match.result: match for match in found}
    gone = frozenset().union(*(match.nodes for match in found))
    nodes: list[Node] = []
    for at, node in enumerate(program.nodes):
        if at in last:
            nodes += _fused(program, node, last[at], tensors, storages)
        elif at not in gone:
            nodes.append(node)
    return replace(
        program, tensors=tuple(tensors), nodes=tuple(nodes), storages=tuple(storages), again=None
    )


def _fused(
    program: Program, node: Node, match: _Found, tensors: list[Tensor], storages: list[int]
) -> list[Node]:
    """The operator; heads whose width is no multiple of eight are padded, and cut afterwards."""
    width = program.tensor(match.operands[0]).shape[-1]
    short = -width % _STEP
    result = program.tensor(node.outputs[0])
    names, nodes = list(match.operands), []

    def new(like: Tensor, name: str, width: int) -> str:
        shape = (*like.shape[:-1], width)
        wide = replace(like, name=f"{node.name}/{name}", shape=shape, storage=len(storages),
                       role="activation", layout="contiguous")  # fmt: skip
        tensors.append(wide)
        storages.append(int(wide.bytes))
        return wide.name

    for place, name in enumerate(match.operands if short else ()):
        like = program.tensor(name)
        names[place] = new(like, f"padded{place}", like.shape[-1] + short)
        pad = {"pad": [0, short], "value": 0.0}
        nodes.append(
            Node(f"{node.name}/pad{place}", "aten.constant_pad_nd", (name,), (names[place],), pad,
                 node.phase, node.module, node.source)
        )  # fmt: skip
    kind = "flash" if short else "cudnn"
    out = new(result, "attended", result.shape[-1] + short)
    masked = {} if short else {"absent": ["attn_bias"], "compute_log_sumexp": False}
    nodes.append(
        Node(f"{node.name}/attention", f"aten._scaled_dot_product_{kind}_attention", tuple(names),
             (out,), {"dropout_p": 0.0, "is_causal": False, "scale": match.scale} | masked,
             node.phase, node.module, node.source)
    )  # fmt: skip
    part = {"dim": 3, "start": 0, "end": result.shape[-1], "step": 1}
    view = "aten.slice" if short else "aten.view"
    nodes.append(replace(node, target=view, inputs=(out,),
                         attributes=part if short else {"size": list(result.shape)}))  # fmt: skip
    at = next(place for place, tensor in enumerate(tensors) if tensor.name == result.name)
    own = next(tensor for tensor in tensors if tensor.name == out)
    tensors[at] = replace(result, storage=own.storage)
    return nodes
