"""Walks a graph in order: folds what is constant, unrolls loops, hands the rest to the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.onnx import sequences
from perfmodel.workload.importers.onnx.builder import Builder
from perfmodel.workload.importers.onnx.call import Call
from perfmodel.workload.importers.onnx.file import attributes_of, in_order, reads_of
from perfmodel.workload.importers.onnx.fold import LARGEST_FOLDED, foldable, folded
from perfmodel.workload.importers.onnx.infer import array_of, declared, inferred
from perfmodel.workload.importers.onnx.patterns import joined
from perfmodel.workload.importers.onnx.places import module_of, source_of
from perfmodel.workload.importers.onnx.rules import RULES, unknown
from perfmodel.workload.importers.onnx.rules.products import linear
from perfmodel.workload.importers.onnx.values import DTYPES, Spec, Value

if TYPE_CHECKING:
    import onnx

_BOUNDED: Final = frozenset({"NonZero", "Compress", "Unique"})
_SMALLEST_WEIGHT: Final = 64  # fewer numbers may as well be sizes or scales
_BUFFERS: Final = {"BatchNormalization": (3, 4)}

Env = dict[str, "Value | list[Value] | None"]


@dataclass(slots=True)
class Walk:
    """What stays the same while graphs are walked, one inside another."""

    build: Builder
    opsets: Mapping[str, int]
    folder: str
    sizes: dict[str, int] = field(default_factory=dict)
    sole: dict[str, onnx.NodeProto | None] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)

    def initializers(self, graph: onnx.GraphProto, env: Env) -> None:
        """Weights and constants of a graph."""
        if graph.sparse_initializer:
            raise WorkloadError(
                f"graph {graph.name!r}",
                "<sparse initializers>",
                "dense ones",
                repair="densify them before export",
            )
        buffers = {
            name
            for node in graph.node
            for index in _BUFFERS.get(node.op_type, ())
            for name in node.input[index : index + 1]
        }
        made: set[str] = set()
        for tensor in graph.initializer:
            if not tensor.name or tensor.name in made:
                raise WorkloadError(
                    f"graph {graph.name!r}: initializers",
                    tensor.name,
                    "a name of its own for each",
                    repair="rename one of the two",
                )
            made.add(tensor.name)
            env[tensor.name] = self._initializer(tensor, tensor.name in buffers)

    def _initializer(self, tensor: onnx.TensorProto, buffer: bool) -> Value:
        spec = tensor_spec(tensor)
        array = array_of(tensor, self.folder, limit=LARGEST_FOLDED)
        floating = spec.dtype.startswith(("fp", "bf")) or (
            spec.dtype in {"int8", "uint8", "int4"} and prod(spec.shape) > 1
        )
        role = "buffer" if buffer else "parameter" if floating and spec.shape else "constant"
        return self.build.value(spec, role, name=tensor.name, array=array)

    def graph(self, graph: onnx.GraphProto, env: Env, prefix: str = "") -> None:
        """Run every node of ``graph``; ``env`` maps its tensors and grows."""
        where = f"graph {graph.name!r}"
        known = declared([*graph.value_info, *graph.output], self.sizes)
        numbers = self.numbers(graph, env)
        kept = {value.name for value in graph.output}
        weights = {
            name for name, value in env.items() if isinstance(value, Value) and value.constant
        }
        nodes = joined(in_order(graph.node, set(env), where), numbers.get, kept, weights)
        self.note_readers(nodes, kept)
        for index, node in enumerate(nodes):
            if node.output and node.output[0] in self.skipped:
                self.skipped.discard(node.output[0])
                continue
            name = node.name or f"{node.op_type}_{index}"
            self.build.at(prefix + name, module_of(node), source_of(node))
            self.node(node, env, known)

    def numbers(self, graph: onnx.GraphProto, env: Env) -> dict[str, float]:
        """Constants of one element, wherever they are stored."""
        found = {
            name: float(value.array.reshape(-1)[0])
            for name, value in env.items()
            if isinstance(value, Value) and value.array is not None and value.array.size == 1
        }
        for node in graph.node:
            if node.op_type == "Constant" and not node.domain:
                array = constant_array(node)
                if array is not None and array.size == 1 and array.dtype.kind in "biuf":
                    found[node.output[0]] = float(array.reshape(-1)[0])
        return found

    def note_readers(self, nodes: Sequence[onnx.NodeProto], kept: set[str]) -> None:
        """Who reads each tensor that the graph makes, if it is one node only."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in reads_of(node):
                readers.setdefault(name, []).append(node)
        for node in nodes:
            for name in node.output:
                found = readers.get(name, [])
                self.sole[name] = found[0] if len(found) == 1 and name not in kept else None

    def node(
        self,
        node: onnx.NodeProto,
        env: Env,
        known: Mapping[str, Spec],
    ) -> None:
        """One operator of any kind."""
        from perfmodel.workload.importers.onnx import control

        attributes = attributes_of(node)
        default = node.domain in ("", "ai.onnx")
        if default and node.op_type == "Constant":
            env[node.output[0]] = self.constant(node, attributes)
        elif default and node.op_type in sequences.OPERATORS:
            sequences.run(node, attributes, env, self.build)
        elif default and node.op_type == "If":
            control.run_if(self, node, attributes, env)
        elif default and node.op_type == "Loop":
            control.run_loop(self, node, attributes, env)
        elif default and node.op_type == "Scan":
            control.run_scan(self, node, attributes, env)
        else:
            self.operator(node, attributes, env, known)

    def operator(
        self,
        node: onnx.NodeProto,
        attributes: dict[str, Any],
        env: Env,
        known: Mapping[str, Spec],
    ) -> None:
        """An operator that works on tensors."""
        inputs = [self.look_up(name, env, node) for name in node.input]
        default = node.domain in ("", "ai.onnx")
        if default and node.op_type in ("Shape", "Size"):
            env[node.output[0]] = self.shape_of(inputs[0], node, attributes)
            return
        specs = inferred(node, inputs, self.opsets)
        if any(spec is None for spec in specs):
            specs = [
                known.get(name) if spec is None else spec
                for name, spec in zip(node.output, specs, strict=True)
            ]
        constant = all(value is None or value.constant for value in inputs)
        if constant and foldable(node.op_type):
            arrays = self.fold(node, inputs, attributes, specs)
            if arrays is not None:
                wanted = [name for name in node.output if name]
                trained = any(value is not None and value.role == "parameter" for value in inputs)
                role = "parameter" if trained else "constant"
                for name, array in zip(wanted, arrays, strict=False):
                    env[name] = self.build.constant(array, name=name, role=role)
                return
        op = node.op_type if default else f"{node.domain}.{node.op_type}"
        call = Call(
            op=op,
            opset=self.opsets.get(node.domain, 1),
            inputs=inputs,
            attributes=attributes,
            specs=specs,
            outputs=list(node.output),
            build=self.build,
        )
        self.build.folding = constant and foldable(node.op_type) and bool(node.input)
        try:
            made = self.linear(call, node, env)
            if made is None:
                made = RULES[op](call) if op in RULES else unknown(call)
        finally:
            self.build.folding = False
        for name, value in zip(node.output, made, strict=False):
            if name:
                env[name] = value
                if not any(value is one for one in inputs):
                    self.build.rename(value, name)

    def linear(self, call: Call, node: onnx.NodeProto, env: Env) -> list[Value] | None:
        """``MatMul`` and the ``Add`` of a bias behind it are one ``aten.addmm``."""
        add = self.sole.get(node.output[0]) if call.op == "MatMul" else None
        if add is None or add.op_type != "Add" or add.domain or self.build.folding:
            return None
        others = [name for name in add.input if name != node.output[0]]
        bias = env.get(others[0]) if len(others) == 1 else None
        weight = call.get(1)
        if not isinstance(bias, Value) or weight is None or weight.rank != 2:
            return None
        if not (bias.constant and weight.constant and bias.shape == weight.shape[1:]):
            return None
        made = linear(call, bias)
        env[add.output[0]] = made
        self.build.rename(made, add.output[0])
        self.skipped.add(add.output[0])
        return [made]

    def fold(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any],
        specs: Sequence[Spec | None],
    ) -> list[Any] | None:
        """The outputs of a small operator on known constants."""
        present = [value for value in inputs if value is not None]
        if any(value.array is None for value in present):
            return None
        if any(value.role == "parameter" and value.numel > _SMALLEST_WEIGHT for value in present):
            return None
        if any(
            prod(spec.shape) > LARGEST_FOLDED if spec else node.op_type not in _BOUNDED
            for spec, name in zip(specs, node.output, strict=True)
            if name
        ):
            return None
        arrays = [None if value is None else value.array for value in inputs]
        return folded(node, arrays, attributes, self.opsets)

    def constant(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Value:
        """The operator ``Constant``."""
        name = node.output[0]
        if "value" in attributes:
            spec = tensor_spec(attributes["value"])
            array = array_of(attributes["value"], self.folder, limit=LARGEST_FOLDED)
            return self.build.value(spec, "constant", name=name, array=array)
        for key, dtype in (("value_float", np.float32), ("value_int", np.int64)):
            for one in (key, f"{key}s"):
                if one in attributes:
                    return self.build.constant(np.asarray(attributes[one], dtype), name=name)
        raise WorkloadError(
            f"node {self.build.node_name!r} (Constant)",
            f"<{', '.join(attributes) or 'no value'}>",
            "a dense tensor of numbers",
            repair="cut text processing out of the graph (onnx.utils.extract_model)",
        )

    def shape_of(
        self, value: Value | None, node: onnx.NodeProto, attributes: Mapping[str, Any]
    ) -> Value:
        """``Shape`` and ``Size``: known to the host, whatever the tensor holds."""
        shape = () if value is None else value.shape
        if node.op_type == "Size":
            return self.build.constant(np.asarray(prod(shape), np.int64), name=node.output[0])
        part = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
        return self.build.constant(np.asarray(part, np.int64), name=node.output[0])

    def look_up(self, name: str, env: Env, node: onnx.NodeProto) -> Value | None:
        """The tensor of that name; ``None`` for an absent one."""
        if not name:
            return None
        value = env[name]
        if isinstance(value, list):
            raise WorkloadError(
                f"node {self.build.node_name!r} ({node.op_type})",
                f"<the sequence {name!r}>",
                "a tensor",
                repair="export the model without sequences",
            )
        return value


def constant_array(node: onnx.NodeProto) -> Any:
    """Content of a small ``Constant`` of numbers, else ``None``."""
    attributes = attributes_of(node)
    if "value" in attributes:
        return array_of(attributes["value"], "", limit=1)
    found = attributes.get("value_float", attributes.get("value_int"))
    return None if found is None else np.asarray(found)


def tensor_spec(tensor: onnx.TensorProto) -> Spec:
    """Type of a stored tensor.

    Raises
    ------
    WorkloadError
        If it holds text or has a negative size.
    """
    if tensor.data_type not in DTYPES or any(size < 0 for size in tensor.dims):
        raise WorkloadError(
            f"initializer {tensor.name!r}",
            f"<element type {tensor.data_type}, shape {list(tensor.dims)}>",
            f"numbers: {', '.join(dict.fromkeys(DTYPES.values()))}",
            repair="cut text processing out of the graph (onnx.utils.extract_model)",
        )
    return Spec(tuple(int(size) for size in tensor.dims), DTYPES[tensor.data_type])
