"""Types of a node's outputs, by the rules that the onnx package ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.onnx.dims import size_of
from perfmodel.workload.importers.onnx.values import DTYPES, ELEMENT_TYPES, Spec, Value

if TYPE_CHECKING:
    import onnx

_KNOWN_TO_RULES = 4096  # entries of a constant that a shape rule may want to see


def inferred(
    node: onnx.NodeProto, inputs: Sequence[Value | None], opsets: Mapping[str, int]
) -> list[Spec | None]:
    """One entry for each output; ``None`` where the rules cannot tell.

    Raises
    ------
    WorkloadError
        If the rules find the inputs inconsistent.
    """
    import onnx

    nothing: list[Spec | None] = [None] * len(node.output)
    version = opsets.get(node.domain)
    if version is None or not onnx.defs.has(node.op_type, node.domain):
        return nothing
    types = {
        value_name: _type(value)
        for value_name, value in zip(node.input, inputs, strict=True)
        if value is not None
    }
    data = {
        value_name: onnx.numpy_helper.from_array(value.array)
        for value_name, value in zip(node.input, inputs, strict=True)
        if value is not None
        and value.array is not None
        and value.array.size <= _KNOWN_TO_RULES
        and value.array.dtype.kind in "biuf"
    }
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=imports
        )
    except Exception as error:  # the checker and each operator's rule have errors of their own
        raise _inconsistent(node, inputs, str(error)) from None
    return [_spec(found.get(name)) if name else None for name in node.output]


def declared(values: Sequence[onnx.ValueInfoProto], sizes: Mapping[str, int]) -> dict[str, Spec]:
    """Types that the file itself states, where they are complete by the sizes of named dims."""
    found = {}
    for value in values:
        spec = _spec(value.type, sizes)
        if spec is not None:
            found[value.name] = spec
    return found


def _type(value: Value) -> Any:
    import onnx

    return onnx.helper.make_tensor_type_proto(ELEMENT_TYPES[value.dtype], list(value.shape))


def _spec(found: Any, sizes: Mapping[str, int] = MappingProxyType({})) -> Spec | None:
    if found is None or found.WhichOneof("value") != "tensor_type":
        return None
    tensor = found.tensor_type
    if not tensor.HasField("shape") or tensor.elem_type not in DTYPES:
        return None
    shape = []
    for dim in tensor.shape.dim:
        fixed = dim.WhichOneof("value") == "dim_value"
        size = int(dim.dim_value) if fixed else size_of(dim.dim_param, sizes)
        if size is None or size < 0:
            return None
        shape.append(size)
    return Spec(tuple(shape), DTYPES[tensor.elem_type])


def _inconsistent(
    node: onnx.NodeProto, inputs: Sequence[Value | None], message: str
) -> WorkloadError:
    shapes = ", ".join("absent" if one is None else str(one.shape) for one in inputs)
    lines = [line for line in message.splitlines() if line.strip()]
    return WorkloadError(
        f"node {node.name or (node.output[0] if node.output else '')!r} ({node.op_type})",
        f"<inputs {shapes}: {lines[0] if lines else 'rejected'}>"[:400],
        "inputs whose shapes and formats fit the operator",
        repair="a size may be fixed inside the graph: check the batch and the --dim sizes, or"
        " export it again with that dimension dynamic",
    )


def array_of(tensor: onnx.TensorProto, folder: str, *, limit: int) -> Any:
    """Content of a small tensor, or ``None`` where it is large or not there.

    Values kept beside the file are read only if they are small and the file is there.
    """
    import onnx

    if tensor.data_type not in DTYPES or int(np.prod(tensor.dims, dtype=object)) > limit:
        return None
    try:
        if onnx.external_data_helper.uses_external_data(tensor):
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            onnx.external_data_helper.load_external_data_for_tensor(copy, folder)
            tensor = copy
        array = onnx.numpy_helper.to_array(tensor)
    except (OSError, ValueError, TypeError, onnx.checker.ValidationError):
        return None
    return array if array.dtype.kind in "biufc" else None
