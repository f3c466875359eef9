"""ONNX operators as aten operators: one module for each sort."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call
from perfmodel.workload.importers.onnx.rules import (
    attention,
    conv,
    indexing,
    movement,
    norms,
    pointwise,
    products,
    quantised,
    recurrent,
    reductions,
    sources,
)
from perfmodel.workload.importers.onnx.values import Value

Rule = Callable[[Call], list[Value]]

RULES: Final[MappingProxyType[str, Rule]] = MappingProxyType(
    {
        **pointwise.RULES,
        **movement.RULES,
        **indexing.RULES,
        **reductions.RULES,
        **products.RULES,
        **conv.RULES,
        **norms.RULES,
        **attention.RULES,
        **recurrent.RULES,
        **quantised.RULES,
        **sources.RULES,
    }
)
"""Operator, with its domain in front where that is not ONNX's own -> what emits it."""


def unknown(call: Call) -> list[Value]:
    """An operator without a rule keeps its own name; its outputs must be inferred or declared."""
    specs = [call.spec(k) for k, name in enumerate(call.outputs) if name]
    attributes = {
        key: value
        for key, value in call.attributes.items()
        if isinstance(value, str | int) or _is_plain(value)
    }
    made = iter(call.build.emit(f"onnx.{call.op}", call.inputs, specs, attributes))
    return [next(made) if name else call.x for name in call.outputs]


def _is_plain(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str | int) for one in value)
