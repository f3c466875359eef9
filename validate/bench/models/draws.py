"""A draw of models as tables: what is trained, run and decoded, eagerly, captured and compiled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from validate.bench.models.cases import Case

Changes = dict[str, Any]
PURE: Changes = {"autocast": False}
FOREACH: Changes = {"implementation": "foreach"}
SGD: Changes = {"optimizer": "sgd", "implementation": "foreach"}


@dataclass(frozen=True, slots=True)
class Draw:
    """Models of a draw.

    Attributes
    ----------
    last
        Networks that run channels last.
    trained
        Model, batch, sequence, GB, and what differs from fused AdamW under autocast.
    inferred
        Model, batch, sequence.
    decoded
        Model, batch, context, GB.
    compiled, trained_compiled
        Those of them that run, and train, compiled too.
    held_gb
        What a compiled one that runs holds while others compile [GB].
    """

    last: tuple[str, ...]
    trained: tuple[tuple[str, int, int, float, Changes], ...]
    inferred: tuple[tuple[str, int, int], ...]
    decoded: tuple[tuple[str, int, int, float], ...]
    compiled: tuple[str, ...]
    trained_compiled: tuple[str, ...]
    held_gb: float = 4.0


def _layout(draw: Draw, model: str) -> str:
    return "channels_last" if model in draw.last else "contiguous"


def trained(draw: Draw) -> list[Case]:
    """Eager training."""
    table = []
    for model, batch, seq, gb, more in draw.trained:
        base = Case("train", model, "eager", batch, seq, layout=_layout(draw, model),
                    autocast=True, optimizer="adamw", implementation="fused", gb=gb)  # fmt: skip
        table.append(replace(base, **more))
    return table


def inferred(draw: Draw) -> list[Case]:
    """Eager and captured inference."""
    eager = [
        Case("infer", model, "eager", batch, seq, layout=_layout(draw, model))
        for model, batch, seq in draw.inferred
    ]
    return [case for one in eager for case in (one, replace(one, mode="graph"))]


def decoded(draw: Draw) -> list[Case]:
    """Decoding, eager and captured."""
    eager = [Case("decode", model, "eager", batch, seq) for model, batch, seq, _ in draw.decoded]
    return [case for one in eager for case in (one, replace(one, mode="graph"))]


def compiled(draw: Draw) -> list[Case]:
    """Compiled steps of the same."""
    infer = {case.model: case for case in inferred(draw) if case.mode == "eager"}
    train = {case.model: case for case in trained(draw)}
    cases = [train[name] for name in draw.trained_compiled]
    cases += [replace(infer[name], gb=draw.held_gb) for name in draw.compiled]
    cases += [
        Case("decode", model, "eager", batch, seq, gb=gb) for model, batch, seq, gb in draw.decoded
    ]
    return [replace(case, mode="compiled") for case in cases]


def eager(draw: Draw) -> list[Case]:
    """Cases that nothing compiles."""
    return [*decoded(draw), *trained(draw), *inferred(draw)]
