"""Arithmetic of shapes: what the host works out before the device is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perfmodel.workload.importers.onnx.values import Array

if TYPE_CHECKING:
    import onnx

LARGEST_FOLDED: Final = 65_536
"""Constants up to this many elements are worked out; of larger ones only the shape is kept."""

_NEVER: Final = frozenset(
    (
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "Dropout",
        "DequantizeLinear",
        "QuantizeLinear",
    )
)
_SAME: Final = MappingProxyType(
    {
        "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum,
        "Min": np.minimum, "Equal": np.equal, "Less": np.less, "Greater": np.greater,
        "LessOrEqual": np.less_equal, "GreaterOrEqual": np.greater_equal, "Not": np.logical_not,
        "And": np.logical_and, "Or": np.logical_or, "Floor": np.floor, "Ceil": np.ceil,
        "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt,
    }
)  # fmt: skip

_BOOLEAN: Final = frozenset(
    ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or")
)


def foldable(op_type: str) -> bool:
    """Whether constants in mean constants out."""
    return op_type not in _NEVER


def folded(
    node: onnx.NodeProto,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any],
    opsets: Mapping[str, int],
) -> list[Array] | None:
    """The outputs of a node whose inputs are all known, or ``None`` if they cannot be had."""
    present = [array for array in inputs if array is not None]
    if node.domain not in ("", "ai.onnx") or not foldable(node.op_type):
        return None
    if sum(array.size for array in present) > LARGEST_FOLDED:
        return None
    try:
        with np.errstate(all="ignore"):
            made = _by_hand(node.op_type, inputs, attributes)
            if made is None:
                made = _by_reference(node, inputs, opsets)
    except Exception:  # an input that the operator rejects: shape inference will say it better
        return None
    if made is None or any(array.size > LARGEST_FOLDED for array in made):
        return None
    return made


def _by_hand(
    op: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any]
) -> list[Array] | None:
    """The common ones, without the weight of the reference implementation."""
    first = inputs[0] if inputs else None
    if first is None:
        return None
    made: Any = None
    if op in _SAME and all(array is not None for array in inputs):
        made = _SAME[op](first) if len(inputs) == 1 else first
        for other in inputs[1:]:
            made = _SAME[op](made, other)
        made = np.asarray(made).astype(bool if op in _BOOLEAN else first.dtype)
    elif op in _STRUCTURAL:
        made = _STRUCTURAL[op](inputs, attributes)
    return None if made is None else [np.asarray(made)]


def _gather(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return np.take(inputs[0], inputs[1].astype(np.int64), axis=attributes.get("axis", 0))


def _axes(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[int, ...] | None:
    found = attributes.get("axes") if len(inputs) < 2 else inputs[1].tolist()
    return None if found is None else tuple(found)


def _unsqueeze(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return np.expand_dims(inputs[0], _axes(inputs, attributes) or ())


def _squeeze(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return np.squeeze(inputs[0], _axes(inputs, attributes))


def _divide(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    a, b = inputs
    if a.dtype.kind not in "iu":
        return a / b
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


def _reshape(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    array, shape = inputs
    keep = 0 if not attributes.get("allowzero") else None
    target = [array.shape[k] if size == keep else int(size) for k, size in enumerate(shape)]
    return array.reshape(target)


_STRUCTURAL: Final[Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]]] = (
    MappingProxyType(
        {
            "Identity": lambda inputs, attributes: inputs[0],
            "Gather": _gather,
            "Concat": lambda inputs, attributes: np.concatenate(inputs, axis=attributes["axis"]),
            "Unsqueeze": _unsqueeze,
            "Squeeze": _squeeze,
            "Div": _divide,
            "Reshape": _reshape,
            "Where": lambda inputs, attributes: np.where(*inputs),
        }
    )
)


def _by_reference(
    node: onnx.NodeProto, inputs: Sequence[Array | None], opsets: Mapping[str, int]
) -> list[Array] | None:
    """The reference implementation that the onnx package ships."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    names = [f"i{k}" if array is not None else "" for k, array in enumerate(inputs)]
    del copy.input[:]
    copy.input.extend(names)
    outputs = [f"o{k}" for k, name in enumerate(node.output) if name]
    renamed = [f"o{k}" if name else "" for k, name in enumerate(node.output)]
    del copy.output[:]
    copy.output.extend(renamed)
    unknown = onnx.TensorProto.UNDEFINED
    graph = onnx.helper.make_graph(
        [copy],
        "fold",
        [onnx.helper.make_tensor_value_info(name, unknown, None) for name in names if name],
        [onnx.helper.make_tensor_value_info(name, unknown, None) for name in outputs],
    )
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if name}
    found = ReferenceEvaluator(model).run(None, feeds)
    arrays = [np.asarray(one) for one in found]
    return arrays if all(array.dtype.kind in "biufc" for array in arrays) else None
