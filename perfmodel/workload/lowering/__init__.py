"""From a program of aten operators to the kernels, host calls and allocations of a stack."""

from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, MemoryEvent, Resident
from perfmodel.workload.lowering.lower import lower

__all__ = ["HostCall", "Kernel", "Lowered", "MemoryEvent", "Resident", "lower"]
