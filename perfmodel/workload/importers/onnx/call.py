"""One operator of the file, as a rule sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.onnx.builder import Builder
from perfmodel.workload.importers.onnx.values import Shape, Spec, Value, integers


@dataclass(frozen=True, slots=True)
class Call:
    """A node with its inputs looked up and its outputs' types inferred.

    Attributes
    ----------
    op : str
        ONNX name; with the domain in front where that is not the default one.
    opset : int
        Version of its operator set.
    inputs : list of Value or None
        ``None`` for an optional input that is absent.
    attributes : dict
    specs : list of Spec or None
        Types of the outputs, ``None`` where shape inference has no answer.
    outputs : list of str
        Names of the outputs; empty for one that nobody wants.
    build : Builder
        Takes what the rule emits.
    """

    op: str
    opset: int
    inputs: list[Value | None]
    attributes: dict[str, Any]
    specs: list[Spec | None]
    outputs: list[str]
    build: Builder

    @property
    def where(self) -> str:
        """For errors."""
        return f"node {self.build.node_name!r} ({self.op})"

    @property
    def x(self) -> Value:
        """The first input."""
        return self.input(0)

    def input(self, index: int) -> Value:
        """An input that must be there.

        Raises
        ------
        WorkloadError
            If it is not.
        """
        value = self.get(index)
        if value is None:
            raise WorkloadError(
                self.where,
                f"<{sum(one is not None for one in self.inputs)} inputs>",
                f"an input {index}",
                repair="check that the file is valid (onnx.checker.check_model)",
            )
        return value

    def get(self, index: int) -> Value | None:
        """An optional input."""
        return self.inputs[index] if index < len(self.inputs) else None

    def rest(self, start: int = 0) -> list[Value]:
        """All inputs that are there, from ``start`` on."""
        return [value for value in self.inputs[start:] if value is not None]

    def spec(self, index: int = 0) -> Spec:
        """Type of an output.

        Raises
        ------
        WorkloadError
            If it depends on data.
        """
        found = self.specs[index] if index < len(self.specs) else None
        if found is None:
            shapes = ", ".join("absent" if v is None else str(v.shape) for v in self.inputs)
            raise WorkloadError(
                self.where,
                f"<an output whose shape is not known before it runs (inputs {shapes})>",
                "operators whose output shapes follow from their input shapes",
                repair="cut the graph before it (onnx.utils.extract_model), or state the shape in"
                " the file (graph.value_info)",
            )
        return found

    def ints(self, name: str, index: int | None = None) -> list[int] | None:
        """Integers from an attribute (older operator sets) or from a known input (newer ones).

        Raises
        ------
        WorkloadError
            If the input is there and depends on data.
        """
        found = self.attributes.get(name)
        if found is not None:
            return [int(one) for one in (found if isinstance(found, list) else [found])]
        value = None if index is None else self.get(index)
        if value is None:
            return None
        if value.array is None:
            raise WorkloadError(
                f"{self.where}: {name}",
                "<a value that is known only when the model runs>",
                "a constant, or something that follows from shapes",
                repair="export it with this value fixed",
            )
        return integers(value.array)

    def axis(self, rank: int, default: int = 0, name: str = "axis") -> int:
        """The attribute ``axis``, counted from the front.

        Raises
        ------
        WorkloadError
            If it lies outside the tensor.
        """
        return self.normal([int(self.attributes.get(name, default))], rank)[0]

    def normal(self, axes: Sequence[int], rank: int) -> list[int]:
        """Axes counted from the front."""
        for axis in axes:
            if not -rank <= axis < max(rank, 1):
                raise WorkloadError(
                    f"{self.where}: axis",
                    axis,
                    f"an axis of a tensor of rank {rank}",
                    repair="check that the file is valid (onnx.checker.check_model)",
                )
        return [axis % rank if rank else 0 for axis in axes]

    def refuse(self, got: str, accepted: str, repair: str) -> WorkloadError:
        """A complaint about this operator, to raise."""
        return WorkloadError(self.where, f"<{got}>", accepted, repair=repair)


def nonzero(bias: Value | None) -> Value | None:
    """``None`` for a bias of computed zeros, which exporters write where there is none."""
    if bias is not None and bias.role == "constant" and bias.array is not None:
        return bias if bias.array.any() else None
    return bias


def same(value: Value, shape: Shape | None = None, dtype: str | None = None) -> Spec:
    """The type of ``value``, with another shape or format where given."""
    return Spec(value.shape if shape is None else shape, dtype or value.dtype)
