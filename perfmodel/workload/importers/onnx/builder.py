"""Collects the nodes and tensors of a program: views share storage, last uses end lifetimes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any, Final

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.onnx.assemble import assembled
from perfmodel.workload.importers.onnx.values import (
    ELEMENT_TYPES,
    LARGEST_TENSOR,
    Array,
    Shape,
    Spec,
    Value,
    contiguous,
    kept_format,
    view_strides,
)
from perfmodel.workload.program import ELEMENT_BYTES, Node, Program, Tensor

MOST_NODES: Final = 2_000_000
"""An unrolled loop beyond this many nodes is refused."""
_ARRAY_DTYPES: Final = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8",
    "u2": "int16", "u4": "int32", "u8": "int64", "f2": "fp16", "f4": "fp32", "f8": "fp64",
    "c8": "complex64", "c16": "complex128",
}  # fmt: skip


@dataclass(slots=True)
class Builder:
    """A program under construction.

    While ``folding`` is set, what is emitted is known before the first call: it becomes constants
    and no nodes.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    storages: list[int] = field(default_factory=list)
    assumptions: dict[str, None] = field(default_factory=dict)
    folding: bool = False
    node_name: str = ""
    module: str = ""
    source: str = ""
    _names: dict[str, int] = field(default_factory=dict)
    _bases: dict[int, Value] = field(default_factory=dict)
    _shared: dict[tuple[str, Spec], Value] = field(default_factory=dict)
    _renamed: dict[str, str] = field(default_factory=dict)
    _node_names: dict[str, int] = field(default_factory=dict)

    def at(self, name: str, module: str, source: str) -> None:
        """Nodes emitted from here on come from this place of the file."""
        self.node_name, self.module, self.source = name, module, source

    def value(
        self,
        spec: Spec,
        role: str = "activation",
        *,
        name: str | None = None,
        strides: Shape | None = None,
        storage: int | None = None,
        array: Array | None = None,
    ) -> Value:
        """A tensor with storage of its own, unless ``storage`` is given.

        Raises
        ------
        WorkloadError
            If the format is not a number format, or the size cannot be real.
        """
        where = f"tensor {name or self.node_name}"
        if spec.dtype not in ELEMENT_TYPES:
            raise WorkloadError(
                where,
                spec.dtype,
                f"a tensor of {', '.join(ELEMENT_TYPES)}",
                repair="cut text processing out of the graph (onnx.utils.extract_model)",
            )
        if prod(spec.shape) > LARGEST_TENSOR or any(size < 0 for size in spec.shape):
            raise WorkloadError(
                where,
                f"<shape {spec.shape}>",
                "sizes that are not negative, at most 2**50 elements",
                repair="check the file, and the sizes given for its dynamic dimensions",
            )
        if storage is None:
            storage = len(self.storages)
            self.storages.append(ceil(prod(spec.shape) * ELEMENT_BYTES[spec.dtype]))
        made = Value(
            _unique(name or f"{self.node_name}:out", self._names),
            spec.shape,
            spec.dtype,
            role,
            storage,
            contiguous(spec.shape) if strides is None else strides,
            array,
        )
        self._bases.setdefault(storage, made)
        return made

    def rename(self, value: Value, name: str) -> None:
        """Give a tensor that a rule made the name that it has in the file."""
        if value.name not in self._renamed and value.role == "activation":
            self._renamed[value.name] = _unique(name, self._names)

    def assume(self, sentence: str) -> None:
        """Note what had to be assumed."""
        self.assumptions[sentence] = None

    def constant(self, array: Array, *, name: str | None = None, role: str = "constant") -> Value:
        """A tensor whose content is known."""
        dtype = _ARRAY_DTYPES.get(array.dtype.str[1:], str(array.dtype))
        spec = Spec(tuple(int(size) for size in array.shape), dtype)
        return self.value(spec, role, name=name or f"{self.node_name}:const", array=array)

    def shared(self, name: str, spec: Spec) -> Value:
        """A constant that every node asking for it by this name and type reads."""
        key = (name, spec)
        if key not in self._shared:
            self._shared[key] = self.value(spec, "constant", name=name)
        return self._shared[key]

    def emit(
        self,
        target: str,
        inputs: Iterable[Value | None],
        outputs: Sequence[Spec],
        attributes: Mapping[str, Any] | None = None,
        *,
        like: Value | None = None,
        reads: Iterable[Value] = (),
    ) -> list[Value]:
        """Append a node with fresh outputs.

        ``like`` hands its memory format on, as PyTorch's element-wise operators, convolutions,
        norms and pools do. ``reads`` are scalars that stand in ``attributes``.
        """
        used = [value for value in inputs if value is not None]
        role = self._role([*used, *reads])
        made = [
            self.value(spec, role, strides=kept_format(spec.shape, like), name=self._output_name(k))
            for k, spec in enumerate(outputs)
        ]
        self._append(target, used, made, attributes)
        return made

    def one(
        self,
        target: str,
        inputs: Iterable[Value | None],
        spec: Spec,
        attributes: Mapping[str, Any] | None = None,
        *,
        like: Value | None = None,
    ) -> Value:
        """:meth:`emit` for a single output."""
        return self.emit(target, inputs, [spec], attributes, like=like)[0]

    def over(
        self,
        target: str,
        inputs: Sequence[Value],
        base: Value,
        attributes: Mapping[str, Any] | None = None,
    ) -> Value:
        """Append an in-place node; its result is ``base`` under a new name."""
        spec = Spec(base.shape, base.dtype)
        made = self.value(
            spec,
            base.role,
            strides=base.strides,
            storage=base.storage,
            name=self._output_name(0),
        )
        self._append(target, inputs, [made], attributes)
        return made

    def view(
        self,
        target: str,
        base: Value,
        shape: Shape,
        strides: Shape,
        attributes: Mapping[str, Any] | None = None,
        *,
        dtype: str | None = None,
    ) -> Value:
        """Append a view: another shape of the same storage."""
        made = self.value(
            Spec(shape, dtype or base.dtype),
            base.role if base.constant else "activation",
            strides=strides,
            storage=base.storage,
            name=self._output_name(0),
        )
        self._append(target, [base], [made], attributes)
        return made

    def reshape(self, base: Value, shape: Shape) -> Value:
        """``torch.reshape``: a view where the strides allow it, else a copy and a view of it."""
        if prod(shape) != base.numel:
            raise WorkloadError(
                f"{self.node_name}: reshape",
                f"<{base.shape} to {shape}>",
                "as many elements after as before",
                repair="the batch or another size is fixed inside the graph: export it again with"
                " that dimension dynamic",
            )
        if shape == base.shape:
            return base
        strides = view_strides(base.shape, base.strides, shape)
        if strides is not None:
            return self.view("aten.view", base, shape, strides, {"size": list(shape)})
        copy = self.clone(base)
        return self.view("aten._unsafe_view", copy, shape, contiguous(shape), {"size": list(shape)})

    def clone(self, base: Value) -> Value:
        """A contiguous copy."""
        spec = Spec(base.shape, base.dtype)
        return self.one("aten.clone", [base], spec, {"memory_format": "contiguous"})

    def permute(self, base: Value, order: Sequence[int]) -> Value:
        """Another order of the axes, as a view."""
        shape = tuple(base.shape[axis] for axis in order)
        strides = tuple(base.strides[axis] for axis in order)
        if list(order) == list(range(base.rank)):
            return base
        return self.view("aten.permute", base, shape, strides, {"dims": list(order)})

    def expand(self, base: Value, shape: Shape) -> Value:
        """Repeated axes of stride 0, as a view."""
        if shape == base.shape:
            return base
        new = len(shape) - base.rank
        strides = [0] * new
        for axis, size in enumerate(base.shape):
            strides.append(0 if size != shape[new + axis] else base.strides[axis])
        return self.view("aten.expand", base, shape, tuple(strides), {"size": list(shape)})

    def slice(self, base: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """``base[..., start:stop:step, ...]`` for a positive step, as a view."""
        size = len(range(start, stop, step))
        if size == base.shape[axis]:
            return base
        shape = (*base.shape[:axis], size, *base.shape[axis + 1 :])
        strides = tuple(s * step if k == axis else s for k, s in enumerate(base.strides))
        attributes = {"dim": axis, "start": start, "end": stop, "step": step}
        return self.view("aten.slice", base, shape, strides, attributes)

    def split(self, base: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
        """Consecutive pieces along an axis: views, made by one node."""
        if sum(sizes) != base.shape[axis] or any(size < 0 for size in sizes):
            raise WorkloadError(
                f"{self.node_name}: split",
                f"<{list(sizes)} of {base.shape[axis]}>",
                "pieces that add up to the axis",
                repair="a size may be fixed inside the graph: check the batch and the --dim sizes",
            )
        made = [
            self.value(
                Spec((*base.shape[:axis], size, *base.shape[axis + 1 :]), base.dtype),
                base.role if base.constant else "activation",
                strides=base.strides,
                storage=base.storage,
                name=self._output_name(k),
            )
            for k, size in enumerate(sizes)
        ]
        attributes = {"split_sizes": list(sizes), "dim": axis}
        self._append("aten.split_with_sizes", [base], made, attributes)
        return made

    def select(self, base: Value, axis: int, index: int) -> Value:
        """``base[..., index, ...]``, one dimension less, as a view."""
        shape = (*base.shape[:axis], *base.shape[axis + 1 :])
        strides = (*base.strides[:axis], *base.strides[axis + 1 :])
        return self.view("aten.select", base, shape, strides, {"dim": axis, "index": index})

    def finish(
        self, name: str, inputs: Sequence[Value], outputs: Sequence[Value], origin: str
    ) -> Program:
        """The program, with a storage freed after the last node that touches it."""
        for value in (*inputs, *outputs):
            self._register(value)
        return assembled(
            name,
            tuple(self.tensors.values()),
            self.nodes,
            self.storages,
            inputs=[value.name for value in inputs],
            outputs=[value.name for value in outputs],
            new_names=self._renamed,
            origin=origin,
            assumptions=tuple(self.assumptions),
        )

    def _append(
        self,
        target: str,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        attributes: Mapping[str, Any] | None,
    ) -> None:
        if self.folding:
            return
        if len(self.nodes) >= MOST_NODES:
            raise WorkloadError(
                self.node_name,
                f"<more than {MOST_NODES} nodes>",
                "a graph that unrolls to fewer nodes",
                repair="export the model with shorter loops",
            )
        for value in (*inputs, *outputs):
            self._register(value)
        self.nodes.append(
            Node(
                name=_unique(f"{self.node_name}/{target.rpartition('.')[2]}", self._node_names),
                target=target,
                inputs=tuple(value.name for value in inputs),
                outputs=tuple(value.name for value in outputs),
                attributes=dict(attributes or {}),
                phase="forward",
                module=self.module,
                source=self.source,
            )
        )

    def _register(self, value: Value) -> None:
        if value.name not in self.tensors:
            base = self._bases.get(value.storage)
            if value.constant and base is not None and base is not value:
                self._register(base)
            self.tensors[value.name] = Tensor(
                name=value.name,
                shape=value.shape,
                dtype=value.dtype,
                role=value.role,
                storage=value.storage,
                layout=value.layout,
            )

    def _role(self, inputs: Sequence[Value]) -> str:
        if not self.folding:
            return "activation"
        return "parameter" if any(value.role == "parameter" for value in inputs) else "constant"

    def _output_name(self, index: int) -> str:
        return f"{self.node_name}:out{index or ''}"


def _unique(name: str, taken: dict[str, int]) -> str:
    if name not in taken:
        taken[name] = 1
        return name
    while f"{name}.{taken[name]}" in taken:
        taken[name] += 1
    fresh = f"{name}.{taken[name]}"
    taken[name] += 1
    taken[fresh] = 1
    return fresh
