"""What a lowered program is: kernels on the device, calls on the host, blocks of memory.

The three lists describe one step in the order in which the host goes through it. A host call
launches no kernel (a view), one, or several; a memory event happens at a host call, since the
allocator of PyTorch lives on the host and does not wait for the device.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from perfmodel.workload.op import Op

Traffic = tuple[tuple[int, int], ...]
"""``(storage, bytes)`` for each storage that a kernel touches [B]."""

HOST_CLASSES: Final = (
    "view",
    "inner",
    "cast",
    "alias",
    "allocate",
    "pointwise",
    "reduction",
    "norm",
    "gemm",
    "conv",
    "attention",
    "index",
    "copy",
    "sort",
    "fft",
    "foreach",
    "optimizer",
    "composite",
    "sync",
    "unknown",
    "host_tensor",
    "compiled_call",
    "triton",
    "extern",
    "graph_replay",
)
"""What a host call is paid as.

Eager classes, for one dispatched aten operator: ``view`` touches metadata only; ``inner`` is a
view that C++ code takes without Python (the weight's transpose in a linear layer), ``cast`` a copy
in another format that it makes by itself (autocast); ``alias`` makes
a new handle (detach), which PyTorch mostly does without a dispatch; ``allocate`` takes
a block without a kernel; ``pointwise`` to ``fft`` launch kernels of that sort; ``foreach`` and
``optimizer`` walk a list of tensors (:attr:`HostCall.tensors` of them); ``composite`` launches
several kernels (normalisations' gradients, sorted embedding gradients); ``sync`` waits until the
device has caught up; ``unknown`` is an operator that the tables do not know; ``host_tensor``
computes on tensors in host memory (an optimizer's step counters) and launches nothing.
Compiled classes: ``compiled_call`` enters one compiled graph (guards, arguments), ``triton``
launches one generated kernel, ``extern`` calls a library from the generated wrapper.
``graph_replay`` launches a captured graph.
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One piece of device work that the host launches at once.

    Parameters
    ----------
    name : str
        For the reader: the aten name, or the steps of a fused kernel joined by ``+``.
    kind : str
        What sort of kernel: gemm conv attention pointwise reduction norm softmax copy index
        scatter sort fft optimizer pool fill random spmm scan unknown.
    ops : tuple of Op
        What is priced: the sum of these operators' kernel times.
    reads, writes : tuple of (storage, bytes)
        Unique traffic by storage [B]; negative storages are temporaries of the lowering.
    nodes : tuple of int
        Indices of the program's nodes that it runs.
    phase : str
        forward, backward or optimizer.
    host : str
        The host class of the call that launches it, of :data:`HOST_CLASSES`.
    launches : int
        Device kernels that it stands for (gaps between them are paid that often).
    known : bool
        False for an operator that no table knows; then ``ops`` is the lower estimate.
    upper : tuple of Op
        The upper estimate of an unknown operator; empty where known.
    note : str
        What the price leaves open, e.g. ``"strided reads"``.
    turns, casts : float
        Elements that a thread takes one after another beyond its first, where each waits for its
        operands: because it works out their places; and because it asks for their formats, times
        the pairs of operand and result that it asks.
    """

    name: str
    kind: str
    ops: tuple[Op, ...]
    reads: Traffic
    writes: Traffic
    nodes: tuple[int, ...]
    phase: str
    host: str
    launches: int = 1
    known: bool = True
    upper: tuple[Op, ...] = ()
    note: str = ""
    turns: float = 0.0
    casts: float = 0.0

    @property
    def bytes_read(self) -> int:
        """Unique bytes in [B]."""
        return sum(size for _, size in self.reads)

    @property
    def bytes_written(self) -> int:
        """Unique bytes out [B]."""
        return sum(size for _, size in self.writes)

    @property
    def flops(self) -> float:
        """Floating-point operations [FLOP]."""
        return float(sum(op.flops for op in self.ops))


@dataclass(frozen=True, slots=True)
class HostCall:
    """One thing that the host does.

    Parameters
    ----------
    kind : str
        Of :data:`HOST_CLASSES`.
    node : int
        Index of the program's node, or -1 for a call that belongs to no single node.
    kernels : tuple of int
        Indices into :attr:`Lowered.kernels`, launched in this order.
    phase : str
        forward, backward or optimizer; what checkpointing computes again is called as forward.
    tensors : int
        Tensors among inputs and outputs, which the host wraps and checks.
    """

    kind: str
    node: int
    kernels: tuple[int, ...]
    phase: str
    tensors: int = 0


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """A block taken from or given back to the allocator.

    Parameters
    ----------
    call : int
        Index into :attr:`Lowered.calls`; within one call events stand in order, and blocks taken
        stand before the blocks given back.
    storage : int
        The program's storage, or a negative number for a temporary.
    bytes : int
        Size asked for, before rounding [B].
    allocate : bool
        True where the block is taken, False where it is given back.
    kind : str
        ``"tensor"``, ``"temporary"`` (lives inside one call) or ``"workspace"`` (library scratch).
    """

    call: int
    storage: int
    bytes: int
    allocate: bool
    kind: str = "tensor"


@dataclass(frozen=True, slots=True)
class Resident:
    """A storage that is in memory before the step begins: weight, buffer, state, input."""

    storage: int
    bytes: int
    role: str


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program on a stack.

    Parameters
    ----------
    program, stack : str
        Their names.
    mode : str
        ``"eager"`` or ``"compile"``.
    graph : bool
        Whether the step is captured and replayed: one ``graph_replay`` call launches all kernels,
        and memory events keep the order of the capture.
    kernels, calls, events, resident
        As described at their classes.
    module_calls : int
        Python module calls in front of the host calls; 0 where compiled or replayed.
    python_calls : int
        Calls of Python functions; 0 where compiled or replayed, or where nobody counted.
    outside_calls : int or None
        Those of functions that are no part of PyTorch; None where nobody counted.
    notes : tuple of str
        What the lowering assumed.
    """

    program: str
    stack: str
    mode: str
    graph: bool
    kernels: tuple[Kernel, ...]
    calls: tuple[HostCall, ...]
    events: tuple[MemoryEvent, ...]
    resident: tuple[Resident, ...]
    module_calls: int = 0
    notes: tuple[str, ...] = ()
    python_calls: int = 0
    outside_calls: int | None = None

    @property
    def launches(self) -> int:
        """Device kernels launched in the step."""
        return sum(kernel.launches for kernel in self.kernels)

    @property
    def unknown(self) -> dict[str, int]:
        """Operators that no table knows, with how often each occurs."""
        return dict(Counter(kernel.name for kernel in self.kernels if not kernel.known))
