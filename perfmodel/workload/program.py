"""A recorded program: the operators that one step of a model dispatches, and when memory dies.

A :class:`Program` is what an importer makes of a model: every operator below autograd in the order
of the host's calls, the tensors between them, which tensors share storage, and after which operator
each storage is released. It says nothing of kernels or time; lowering and pricing do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.dtype import BYTES_PER_ELEMENT

if TYPE_CHECKING:
    from perfmodel.cost.program import ProgramEstimate

ELEMENT_BYTES: Final = MappingProxyType(
    dict(BYTES_PER_ELEMENT)
    | {"uint8": 1.0, "int16": 2.0, "complex32": 4.0, "complex64": 8.0, "complex128": 16.0}
)
"""Bytes of one element of every format that a tensor of a program may have [B]."""

LAYOUTS: Final = ("contiguous", "channels_last", "strided", "sparse")
PHASES: Final = ("forward", "backward", "optimizer")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: a view of a storage.

    Attributes
    ----------
    name : str
        Unique in the program: a parameter's qualified name, or the node that made it.
    shape : tuple of int
    dtype : str
        Short name of the number format.
    role : str
        ``parameter``, ``buffer``, ``input``, ``activation``, ``gradient`` (of a parameter),
        ``state`` (of the optimizer) or ``constant`` (made before the step by none of these).
    storage : int
        Index into :attr:`Program.storages`; tensors with the same number share memory.
    layout : str
        ``contiguous``, ``channels_last``, ``strided`` (anything else) or ``sparse``.
    host : bool
        Whether it lies in host memory, as the step counters of an optimizer do.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    storage: int
    layout: str = "contiguous"
    host: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> float:
        """Bytes of the elements, whether or not they are distinct in memory [B]."""
        return self.numel * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator, as the host calls it.

    Attributes
    ----------
    name : str
        Unique: the module's path and the operator, e.g. ``"layer1.0.conv1/convolution"``.
    target : str
        Operator without overload: ``"aten.convolution"``, ``"aten.add_"``; one that is unknown
        keeps its own name (``"mylib.op"``). Views are nodes too: they cost host time, no kernel.
    inputs, outputs : tuple of str
        Tensor names in the order of the operator's schema, lists flattened.
    attributes : mapping
        Arguments that are no tensors, by schema name, as JSON values; non-finite numbers are the
        strings ``"inf"``, ``"-inf"``, ``"nan"``.
    phase : str
        ``forward``, ``backward`` or ``optimizer``.
    module : str
        Path of the module whose forward called it; a backward node has its forward node's.
    source : str
        ``"file.py:123"``, the user's line.
    frees : tuple of int
        Storages that die after this node.
    """

    name: str
    target: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    phase: str
    module: str = ""
    source: str = ""
    frees: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Program:
    """One step of a model.

    Attributes
    ----------
    name : str
    tensors : tuple of Tensor
    nodes : tuple of Node
        In the order of the host's calls.
    inputs, outputs : tuple of str
        Tensors that the caller passes, and gets.
    origin : str
        What made it, with versions: ``"torch.record (torch 2.13.0)"``.
    module_calls : int
        How many ``Module.__call__`` ran.
    python_calls : int
        How many Python functions forward and backward called; 0 where nobody counted.
    outside_calls : int or None
        How many of these are no part of PyTorch; None where nobody counted.
    storages : tuple of int
        Size of each storage [B].
    assumptions : tuple of str
        What the importer had to assume, one sentence each (balanced routing, say).
    again : callable, optional
        Records the step once more as it runs captured (``"graph"``) or ``"compiled"``: of a traced
        module that asked whether it is; no part of files.

    Raises
    ------
    WorkloadError
        If names repeat or are unknown, or a storage is out of range.
    """

    name: str
    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origin: str
    module_calls: int
    storages: tuple[int, ...]
    assumptions: tuple[str, ...] = ()
    python_calls: int = 0
    outside_calls: int | None = None
    again: Any = field(default=None, repr=False, compare=False)
    _index: Mapping[str, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {tensor.name: tensor for tensor in self.tensors})
        _check(self)

    def __repr__(self) -> str:
        """A line: every node of a large model would be megabytes."""
        return (
            f"<Program {self.name}: {self.parameters:,} parameters, {len(self.nodes):,} operators,"
            f" {len(self.tensors):,} tensors ({self.origin})>"
        )

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises
        ------
        WorkloadError
            If there is none.
        """
        try:
            return self._index[name]
        except KeyError:
            raise _unknown_tensor(self, f"program {self.name}", name) from None

    @property
    def parameters(self) -> int:
        """Number of distinct parameters: tied ones count once."""
        first: dict[int, int] = {}
        for tensor in self.tensors:
            if tensor.role == "parameter":
                first.setdefault(tensor.storage, tensor.numel)
        return sum(first.values())

    @property
    def resident(self) -> tuple[int, ...]:
        """Storages that exist before the first node: no node makes them; host memory left out."""
        made: set[int] = set()
        held: dict[int, None] = {}
        for node in self.nodes:
            for name in node.inputs:
                if self._index[name].storage not in made:
                    held[self._index[name].storage] = None
            made.update(self._index[name].storage for name in node.outputs)
        for tensor in self.tensors:
            if tensor.storage not in made:
                held[tensor.storage] = None
        host = {tensor.storage for tensor in self.tensors if tensor.host}
        return tuple(sorted(number for number in held if number not in host))

    def phase_nodes(self, phase: str) -> tuple[Node, ...]:
        """The nodes of one phase, in order."""
        return tuple(node for node in self.nodes if node.phase == phase)

    def estimate(
        self,
        on: Any,
        *,
        stack: Any = "torch-eager",
        host_pace: float | None = None,
        backward_pace: float | None = None,
    ) -> ProgramEstimate:
        """Step time and memory on a device: :func:`perfmodel.estimate_program`.

        Parameters
        ----------
        on : str, Path, Accelerator or Cluster
            The device.
        stack : str or Stack
            How it is run: ``"torch-eager"``, ``"cuda-graph"``, ``"torch-compile"``.
        host_pace : float, optional
            How much longer the host takes for a call than the reference
            (:func:`perfmodel.host_pace_of`).
        backward_pace : float, optional
            The same of the thread that runs the backward pass of a training step.
        """
        import perfmodel  # the facade: nothing of this layer looks upwards

        return perfmodel.estimate_program(
            self.launched(stack), on, stack=stack, host_pace=host_pace, backward_pace=backward_pace
        )

    def launched(self, stack: Any) -> Program:
        """The program that a stack runs: a module may run other operators captured or compiled.

        Parameters
        ----------
        stack : str or Stack
            As for :meth:`estimate`.
        """
        if self.again is None or self.again.nodes is not self.nodes:
            return self
        from perfmodel.workload.stack import stack_of

        chosen = stack_of(stack)
        how = "compiled" if chosen.mode == "compile" else "graph" if chosen.graph else ""
        found: Program = self.again(how) if how else self
        return found

    def live_bytes(self) -> tuple[int, ...]:
        """Bytes of device memory alive during each node, its outputs included [B].

        The sum of storages, unrounded: what an allocator reserves on top is priced elsewhere.
        """
        host = {tensor.storage for tensor in self.tensors if tensor.host}
        alive = set(self.resident)
        total = sum(self.storages[number] for number in alive)
        series = []
        for node in self.nodes:
            for name in node.outputs:
                number = self._index[name].storage
                if number not in alive and number not in host:
                    alive.add(number)
                    total += self.storages[number]
            series.append(total)
            for number in node.frees:
                if number in alive:
                    alive.remove(number)
                    total -= self.storages[number]
        return tuple(series)

    def to_dict(self) -> dict[str, Any]:
        """The graph JSON, as ``docs/importing.md`` documents it; defaults are left out."""
        from perfmodel.workload.program_file import to_dict

        return to_dict(self)

    @staticmethod
    def from_dict(data: Any, *, where: str = "program") -> Program:
        """A program from graph JSON.

        Raises
        ------
        WorkloadError
            If it does not follow the schema.
        """
        from perfmodel.workload.program_file import from_dict

        return from_dict(data, where=where)


def save_program(program: Program, path: str | Path) -> None:
    """Write graph JSON, compressed where the name ends in ``.gz``."""
    from perfmodel.workload.program_file import save

    save(program, Path(path))


def load_program(path: str | Path) -> Program:
    """Read graph JSON (``.json`` or ``.json.gz``).

    Raises
    ------
    WorkloadError
        If the file is missing, is no JSON or does not follow the schema.
    """
    from perfmodel.workload.program_file import load

    return load(Path(path))


def _check(program: Program) -> None:
    where = f"program {program.name}"
    if len(program._index) != len(program.tensors):
        name, _ = Counter(tensor.name for tensor in program.tensors).most_common(1)[0]
        raise WorkloadError(
            f"{where}: tensors", name, "unique names", repair="rename one of the two tensors"
        )
    for tensor in program.tensors:
        if not 0 <= tensor.storage < len(program.storages):
            raise _bad_storage(program, f"{where}: tensor {tensor.name}: storage", tensor.storage)
    known = program._index
    for index, node in enumerate(program.nodes):
        for name in (*node.inputs, *node.outputs):
            if name not in known:
                raise _unknown_tensor(program, f"{where}: node {index} ({node.name})", name)
        for number in node.frees:
            if not 0 <= number < len(program.storages):
                raise _bad_storage(program, f"{where}: node {index} ({node.name}): frees", number)
    for name in (*program.inputs, *program.outputs):
        if name not in known:
            raise _unknown_tensor(program, f"{where}: inputs and outputs", name)


def _unknown_tensor(program: Program, where: str, name: object) -> WorkloadError:
    return WorkloadError(
        where,
        name,
        "the name of a tensor of the program",
        nearest=nearest_name(name, program._index),
        repair="list the tensor under tensors, or correct the name",
    )


def _bad_storage(program: Program, where: str, number: int) -> WorkloadError:
    return WorkloadError(
        where,
        number,
        f"an index into storages, 0 to {len(program.storages) - 1}",
        repair="append the size of the storage to storages, or correct the number",
    )
