"""A graph of values without mutation: what a compiler sees after its decompositions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from perfmodel.workload.lowering.site import Work, item_bytes

Shape = tuple[int, ...]
UNROLLED: Final = 8
"""Terms from which on a reduction is a loop (torch/_inductor/config.py)."""


@dataclass(frozen=True, slots=True)
class Index:
    """Where an element of a view lies in its parent, both counted in logical order.

    ``offset + sum(i_k stride_k)`` over the multi-index of ``shape``.
    """

    shape: Shape
    strides: tuple[int, ...]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of the graph.

    Parameters
    ----------
    number : int
        Its place in :attr:`Graph.values`.
    kind : str
        ``source`` (in memory before), ``map`` (element-wise), ``reduce``, ``view``, ``extern`` (a
        library call) or ``result`` (a further output of the extern that is its input).
    inputs : tuple of int
        Operands; a map broadcasts them.
    shape, dtype
        Of the value.
    name : str
        The step, for the reader.
    node : int
        The program's node that it belongs to, -1 for a source.
    backward : bool
        Whether it belongs to the backward graph.
    operations : int
        FLOP for each element of the iteration.
    index : Index, optional
        A view's map into its parent; None keeps the logical order (a reshape).
    over : tuple of int
        Axes of the operand that a reduction runs over.
    work : Work, optional
        What an extern runs.
    storage : int
        The program's storage of a source, else -1.
    random, scatter, heavy, window : bool
        Random numbers; writes part of its first operand's memory in place; must not be computed
        twice; looks at its operand many times over (pooling, resampling).
    layout : str
        How a source lies in memory; ``padded`` where a product's rows are longer than they show.
    room : int
        Elements of its memory where strides are rounded up; 0 where they are not.
    beside : tuple of int
        Operands that the operator is handed and its kernel does not read.
    calls : int
        Calls before its own that launch nothing.
    """

    number: int
    kind: str
    inputs: tuple[int, ...]
    shape: Shape
    dtype: str
    name: str
    node: int = -1
    backward: bool = False
    operations: int = 0
    index: Index | None = None
    over: tuple[int, ...] = ()
    work: Work | None = None
    storage: int = -1
    random: bool = False
    scatter: bool = False
    heavy: bool = False
    window: bool = False
    layout: str = ""
    room: int = 0
    beside: tuple[int, ...] = ()
    calls: int = 0

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all elements [B]."""
        return self.numel * item_bytes(self.dtype)

    @property
    def held(self) -> tuple[str, int]:
        """Format and elements of its memory."""
        return self.dtype, max(self.numel, self.room)

    @property
    def is_scan(self) -> bool:
        """Whether it is a running sum: generated, with what it sums computed in its loop."""
        return self.work is not None and [k.kind for k in self.work.kernels] == ["scan"]

    @property
    def lazy(self) -> bool:
        """Whether it can be computed where it is used, without memory of its own."""
        return self.kind == "map" and not self.scatter


@dataclass(slots=True)
class Graph:
    """Values in an order in which they can be computed, built by appending.

    ``autocast`` is the format of the autocast context that the model runs in, if any; ``saved``
    are operands of attention that the backward pass reads; ``joint`` says that forward and backward
    are traced together (torch/_functorch/partitioners.py, ``fx_graph_cse``, runs on these only);
    ``again`` that the current node is a checkpointed one that the backward pass repeats; ``views``
    counts views that are called like operators and have not been given to a value yet;
    ``unfolded`` are nodes that copy what a product takes as it lies; ``given_last`` says that
    convolutions are handed operands that lie channels last.
    """

    values: list[Value] = field(default_factory=list)
    node: int = -1
    backward: bool = False
    known: dict[tuple[object, ...], int] = field(default_factory=dict)
    autocast: str = ""
    joint: bool = False
    again: bool = False
    saved: set[int] = field(default_factory=set)
    views: int = 0
    unfolded: frozenset[int] = frozenset()
    given_last: bool = False

    def add(
        self, kind: str, inputs: Sequence[int], shape: Sequence[int], dtype: str, name: str,
        **more: object,
    ) -> int:  # fmt: skip
        """Append a value that belongs to the current node; answers its number."""
        number = len(self.values)
        late = self.is_late(inputs)
        self.values.append(
            Value(number, kind, tuple(inputs), tuple(shape), dtype, name, self.node, late,
                  **more)  # type: ignore[arg-type]
        )  # fmt: skip
        return number

    def is_late(self, inputs: Sequence[int]) -> bool:
        """Whether a step of these operands belongs to the backward pass.

        What that pass computes of values of the forward pass alone may be computed there, and kept
        (torch/_functorch/partitioners.py, ``classify_nodes``).
        """
        if not self.backward or self.again or not inputs:
            return self.backward
        return any(self.values[number].backward for number in inputs)

    def view(self, parent: int, shape: Sequence[int], index: Index | None = None) -> int:
        """A view; one that changes nothing is its parent."""
        source = self.values[parent]
        if index is None and tuple(shape) == source.shape:
            return parent
        key = ("view", parent, tuple(shape), index)
        if key not in self.known:
            self.known[key] = self.add("view", (parent,), shape, source.dtype, "view", index=index)
        return self.known[key]

    def map(
        self, name: str, inputs: Sequence[int], shape: Sequence[int], dtype: str, operations: int,
        **more: object,
    ) -> int:  # fmt: skip
        """An element-wise step over broadcast operands.

        The same step of the same operands is computed once; ``arguments`` tell apart steps that
        differ in numbers only.
        """
        arguments = more.pop("arguments", "")
        key = (name, tuple(inputs), tuple(shape), dtype, arguments, self.is_late(inputs))
        once = not (more.get("random") or more.get("scatter"))
        if once and key in self.known:
            return self.known[key]
        number = self.add("map", inputs, shape, dtype, name, operations=operations, **more)
        if once:
            self.known[key] = number
        return number

    def reduce(
        self, name: str, operand: int, over: Sequence[int], dtype: str, *, keepdim: bool,
        operations: int = 1,
    ) -> int:  # fmt: skip
        """A reduction over axes of one operand."""
        shape = self.values[operand].shape
        axes = tuple(sorted(axis % len(shape) for axis in over)) if shape else ()
        kept = tuple(
            1 if axis in axes else size
            for axis, size in enumerate(shape)
            if keepdim or axis not in axes
        )
        terms = math.prod(shape[axis] for axis in axes)
        if len(axes) == 1 and 1 < terms < UNROLLED and math.prod(kept) > 1:
            return self._unrolled(name, operand, axes[0], kept, dtype, operations)
        key = ("reduce", name, operand, kept, dtype, axes, self.is_late((operand,)))
        if key not in self.known:
            self.known[key] = self.add(
                "reduce", (operand,), kept, dtype, name, operations=operations, over=axes
            )
        return self.known[key]

    def _unrolled(
        self, name: str, operand: int, axis: int, kept: Shape, dtype: str, operations: int
    ) -> int:
        """A sum of so few terms that it is written out (torch/_inductor/ir.py, ``Reduction``)."""
        shape = self.values[operand].shape
        rest = (*shape[:axis], *shape[axis + 1 :])
        terms = [
            self.view(self.view(operand, rest, selected(shape, axis, place)), kept)
            for place in range(shape[axis])
        ]
        return self.map(name, terms, kept, dtype, operations * len(terms))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of the logical order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def permuted(shape: Shape, dims: Sequence[int]) -> Index:
    """The index of a permutation of axes."""
    strides = contiguous_strides(shape)
    axes = [dim % len(shape) for dim in dims]
    return Index(tuple(shape[a] for a in axes), tuple(strides[a] for a in axes))


def expanded(shape: Shape, target: Shape) -> Index | None:
    """The index of a broadcast to ``target``; None where nothing is repeated."""
    lead = len(target) - len(shape)
    if math.prod(shape) == math.prod(target):
        return None
    strides = contiguous_strides(shape)
    return Index(
        target,
        tuple(
            0 if axis < lead or shape[axis - lead] == 1 else strides[axis - lead]
            for axis in range(len(target))
        ),
    )


def sliced(shape: Shape, dim: int, start: int, step: int, size: int) -> Index:
    """The index of ``size`` entries along one axis."""
    strides = contiguous_strides(shape)
    axis = dim % len(shape)
    return Index(
        (*shape[:axis], size, *shape[axis + 1 :]),
        (*strides[:axis], strides[axis] * step, *strides[axis + 1 :]),
        start * strides[axis],
    )


def selected(shape: Shape, dim: int, place: int) -> Index:
    """The index of one entry along an axis, which vanishes."""
    strides = contiguous_strides(shape)
    axis = dim % len(shape)
    place = place % shape[axis] if shape[axis] else 0
    return Index(
        (*shape[:axis], *shape[axis + 1 :]),
        (*strides[:axis], *strides[axis + 1 :]),
        place * strides[axis],
    )
