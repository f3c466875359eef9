"""Plans of cuDNN that run: built from what its heuristics propose, executed, captured in a graph.

The calls are those of the C interfaces of cuDNN (cudnn_graph.h) and of the driver (cuda.h).
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from typing import Any, Final

from validate.bench import ops
from validate.bench.proposals import HOPPER, TRIED, Descriptor, Heuristics

#: Identities of input, output and filter in :meth:`Heuristics.graph`.
X, Y, W = 120, 121, 119
_RELAXED: Final = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_NODES: Final = {0: "kernel", 1: "memcpy", 2: "memset"}

Kernel = tuple[str, tuple[int, ...], tuple[int, ...], int]


class Plan:
    """A built plan of an operator, and the workspace that it needs [bytes]."""

    def __init__(self, name: str, made: Descriptor) -> None:
        self.name, self.made = name, made
        self.workspace = int(made.get(402, "int")[0])


class Runs(Heuristics):
    """Builds and executes plans on the stream of a handle; without a device it only builds."""

    def __init__(self, stream: int | None) -> None:
        self.dry = stream is None
        super().__init__(HOPPER if self.dry else None)
        self.library.cudnnBackendExecute.argtypes = [c.c_void_p] * 3
        if stream is not None:
            self.library.cudnnSetStream.argtypes = [c.c_void_p] * 2
            status = self.library.cudnnSetStream(self.handle, stream)
            if status:
                raise OSError(f"cudnnSetStream: {self._word(status)}")

    def _word(self, status: int) -> str:
        return str(self.library.cudnnGetErrorString(status).decode())

    def built(
        self, op: ops.Op, most: int = TRIED, only: str | None = None
    ) -> tuple[list[Plan], list[tuple[str, str]]]:
        """The first plans that can be built, in order; of others before them, name and reason.

        With ``only``, the first of that name alone.
        """
        plans: list[Plan] = []
        failed: list[tuple[str, str]] = []
        for name, configuration in self.configurations(op, 2 * most):
            if only is not None and name != only:
                continue
            try:
                made = Descriptor(self.library, 5)
                if self.device is None:
                    made.set(400, "handle", self.handle)
                else:
                    made.set(407, "descriptor", self.device)
                plans.append(Plan(name, made.set(401, "descriptor", configuration).finish()))
            except OSError as error:
                failed.append((name, str(error)))
            if len(plans) >= (most if only is None else 1):
                break
        return plans, failed

    def operands(self, x: int, w: int, y: int, workspace: int) -> Descriptor:
        """Addresses of input, filter, output and workspace, for :meth:`execute`."""
        pack = Descriptor(self.library, 16).set(1001, "pointer", x, w, y)
        pack.set(1000, "int", X, W, Y)
        return pack.set(1003, "pointer", workspace or None).finish()

    def execute(self, plan: Plan, operands: Descriptor) -> None:
        """Put one call on the stream.

        Raises
        ------
        OSError
            With what the library says.
        """
        if self.dry:
            return
        status = self.library.cudnnBackendExecute(self.handle, plan.made.pointer, operands.pointer)
        if status:
            raise OSError(f"execute: {self._word(status)}")


class _KernelNode(c.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = [
        ("func", c.c_void_p),
        ("grid", c.c_uint * 3),
        ("block", c.c_uint * 3),
        ("shared", c.c_uint),
        ("parameters", c.c_void_p),
        ("extra", c.c_void_p),
        ("kernel", c.c_void_p),
        ("context", c.c_void_p),
    ]


class Graph:
    """A captured graph, ready to be launched; :meth:`drop` lets it go."""

    def __init__(self, driver: Driver, graph: c.c_void_p) -> None:
        self.driver, self.graph, self.ready = driver, graph, c.c_void_p()
        instantiate = driver.library.cuGraphInstantiateWithFlags
        driver.check("cuGraphInstantiate", instantiate(c.byref(self.ready), graph, 0))

    def launch(self, stream: int) -> None:
        """Put the whole graph on the stream."""
        self.driver.check("cuGraphLaunch", self.driver.library.cuGraphLaunch(self.ready, stream))

    def kernels(self, calls: int) -> list[Kernel]:
        """What one of so many equal calls launches: name, grid, block, dynamic shared memory."""
        library, count = self.driver.library, c.c_size_t()
        self.driver.check("nodes", library.cuGraphGetNodes(self.graph, None, c.byref(count)))
        nodes = (c.c_void_p * count.value)()
        self.driver.check("nodes", library.cuGraphGetNodes(self.graph, nodes, c.byref(count)))
        return [self._kernel(c.c_void_p(node)) for node in list(nodes)[: count.value // calls]]

    def _kernel(self, node: c.c_void_p) -> Kernel:
        library, kind = self.driver.library, c.c_int()
        self.driver.check("type", library.cuGraphNodeGetType(node, c.byref(kind)))
        if kind.value != 0:
            return (_NODES.get(kind.value, f"node {kind.value}"), (), (), 0)
        found, name = _KernelNode(), c.c_char_p()
        self.driver.check("params", library.cuGraphKernelNodeGetParams_v2(node, c.byref(found)))
        if found.func:
            status = library.cuFuncGetName(c.byref(name), c.c_void_p(found.func))
        else:
            status = library.cuKernelGetName(c.byref(name), c.c_void_p(found.kernel))
        known = name.value.decode(errors="replace")[:240] if not status and name.value else "?"
        return (known, tuple(found.grid), tuple(found.block), int(found.shared))

    def drop(self) -> None:
        """Let the graph go."""
        self.driver.library.cuGraphExecDestroy(self.ready)
        self.driver.library.cuGraphDestroy(self.graph)


class Driver:
    """Capture and launch of graphs through the driver, on the context of the thread."""

    def __init__(self) -> None:
        self.library = c.CDLL("libcuda.so.1")
        pointer = c.c_void_p
        for name, arguments in {
            "cuStreamBeginCapture_v2": [pointer, c.c_int],
            "cuStreamEndCapture": [pointer, c.POINTER(pointer)],
            "cuGraphInstantiateWithFlags": [c.POINTER(pointer), pointer, c.c_ulonglong],
            "cuGraphLaunch": [pointer, pointer],
            "cuGraphExecDestroy": [pointer],
            "cuGraphDestroy": [pointer],
            "cuGraphGetNodes": [pointer, pointer, c.POINTER(c.c_size_t)],
            "cuGraphNodeGetType": [pointer, c.POINTER(c.c_int)],
            "cuGraphKernelNodeGetParams_v2": [pointer, c.POINTER(_KernelNode)],
            "cuFuncGetName": [c.POINTER(c.c_char_p), pointer],
            "cuKernelGetName": [c.POINTER(c.c_char_p), pointer],
        }.items():
            getattr(self.library, name).argtypes = arguments

    def check(self, what: str, status: int) -> None:
        """Raise what went wrong."""
        if status:
            raise OSError(f"{what}: CUDA error {status}")

    def capture(
        self, runs: Runs, stream: int, plan: Plan, operands: Sequence[Descriptor], calls: int
    ) -> Graph:
        """A graph of so many calls of a plan, over its sets of operands in turn."""
        begun = self.library.cuStreamBeginCapture_v2(stream, _RELAXED)
        self.check("cuStreamBeginCapture", begun)
        graph, failed = c.c_void_p(), ""
        try:
            for i in range(calls):
                runs.execute(plan, operands[i % len(operands)])
        except OSError as error:
            failed = str(error)
        status = self.library.cuStreamEndCapture(stream, c.byref(graph))
        if failed or status or not graph:
            if graph:
                self.library.cuGraphDestroy(graph)
            raise OSError(f"capture: {failed or f'CUDA error {status}'}")
        return Graph(self, graph)


def shown(kernels: Sequence[Kernel]) -> list[Any]:
    """Kernels as they stand in a row."""
    return [[name, list(grid), list(block), shared] for name, grid, block, shared in kernels]
