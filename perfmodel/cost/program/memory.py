"""Memory of a program over time: its blocks, replayed through the caching allocator.

What lives before the step (weights, buffers, optimizer state, inputs) is taken first, one block a
storage, then the workspace of the matrix library at the first product of the thread that launches
it. The step is replayed twice: the second time the allocator has the segments that the first left,
as in training or serving for hours.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats
from perfmodel.cost.program.allocator import CachingAllocator, rounded_block
from perfmodel.hardware import Accelerator
from perfmodel.workload.lowering.kernel import Lowered

MIB: Final = 2**20
PRODUCTS: Final = ("gemm",)


@dataclass(frozen=True, slots=True)
class Memory:
    """Device memory of one step in a steady stream of steps.

    Parameters
    ----------
    call : int array, shape (E,)
        Host call at which memory changes.
    allocated, reserved : array, shape (E,)
        After the change [B].
    peak_allocated, peak_reserved : int
        Largest values [B].
    resident : int
        Before the step begins [B].
    at_peak : dict
        Bytes in use at the peak by role [B].
    retries : int
        How often cached segments had to go back to the driver: each costs milliseconds.
    """

    call: NDArray[np.intp]
    allocated: Floats
    reserved: Floats
    peak_allocated: int
    peak_reserved: int
    resident: int
    at_peak: dict[str, int]
    retries: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the course over time."""
        return {
            "peak_allocated_bytes": self.peak_allocated,
            "peak_reserved_bytes": self.peak_reserved,
            "resident_bytes": self.resident,
            "at_peak_bytes": dict(self.at_peak),
            "allocator_retries": self.retries,
        }


def library_workspace(accelerator: Accelerator) -> int:
    """Workspace that PyTorch gives to one cuBLAS handle on one stream [B].

    Reference
    ---------
    PyTorch, aten/src/ATen/cuda/CublasHandlePool.cpp, ``parseChosenWorkspaceSize``; NVIDIA, cuBLAS
    API reference, ``cublasSetWorkspace`` (32 MiB recommended on Hopper).
    """
    if accelerator.vendor.upper() != "NVIDIA":
        return 0
    if accelerator.family in ("hopper", "blackwell"):
        return 32 * MIB
    return 4096 * 2 * 1024 + 16 * 8 * 1024


def replay(
    lowered: Lowered,
    *,
    workspace: int = 0,
    capacity: float = math.inf,
    steps: int = 2,
) -> Memory:
    """Replay a program's blocks.

    Parameters
    ----------
    lowered : Lowered
        The program on a stack.
    workspace : int
        Of the matrix library, for each thread that launches products [B].
    capacity : float
        Bytes of the device that segments may take [B].
    steps : int
        How often the step runs; the last is reported.

    Raises
    ------
    Infeasible
        If a block does not fit.
    """
    pool = CachingAllocator(capacity)
    roles = {one.storage: one.role for one in lowered.resident}
    for one in lowered.resident:
        pool.allocate(one.bytes)
    resident = pool.allocated
    in_use = Counter[str]()
    for one in lowered.resident:
        in_use[one.role] += rounded_block(one.bytes) if one.bytes else 0
    threads = _product_calls(lowered) if workspace else {}
    rows: list[tuple[int, int, int]] = []
    at_peak: dict[str, int] = {}
    for step in range(steps):
        pool.reset_peaks()
        rows, at_peak = [(0, pool.allocated, pool.reserved)], dict(in_use)
        live: dict[int, tuple[int, int, str]] = {}
        highest = pool.allocated
        for event in lowered.events:
            if step == 0:
                for thread in [name for name, call in threads.items() if call <= event.call]:
                    pool.allocate(workspace)
                    in_use["workspace"] += workspace
                    del threads[thread]
            if event.allocate:
                role = _role(event.kind, roles.get(event.storage))
                before = pool.allocated
                live[event.storage] = (pool.allocate(event.bytes), pool.allocated - before, role)
                in_use[role] += pool.allocated - before
            elif event.storage in live:
                address, size, role = live.pop(event.storage)
                pool.free(address)
                in_use[role] -= size
            if pool.allocated > highest:
                highest, at_peak = pool.allocated, dict(in_use)
            rows.append((event.call, pool.allocated, pool.reserved))
        for thread in tuple(threads):
            pool.allocate(workspace)
            in_use["workspace"] += workspace
            del threads[thread]
        for address, size, role in live.values():
            pool.free(address)
            in_use[role] -= size
    table = np.array(rows, dtype=float).reshape(-1, 3)
    return Memory(
        call=table[:, 0].astype(np.intp),
        allocated=table[:, 1],
        reserved=table[:, 2],
        peak_allocated=pool.peak_allocated,
        peak_reserved=pool.peak_reserved,
        resident=resident,
        at_peak={role: size for role, size in sorted(at_peak.items()) if size},
        retries=pool.retries,
    )


def _role(kind: str, role: str | None) -> str:
    return "activation" if kind == "tensor" and role is None else (role or kind)


def _product_calls(lowered: Lowered) -> dict[str, int]:
    """First host call with a matrix product of each thread: the caller's, and autograd's."""
    found: dict[str, int] = {}
    for number, call in enumerate(lowered.calls):
        for k in call.kernels:
            kernel = lowered.kernels[k]
            if kernel.kind in PRODUCTS:
                found.setdefault("autograd" if kernel.phase == "backward" else "caller", number)
    return found
