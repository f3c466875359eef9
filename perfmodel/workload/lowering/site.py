"""Where a node stands in its program: its tensors, their sizes, and kernels built from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from perfmodel.workload.lowering.device import H100, Device
from perfmodel.workload.lowering.kernel import Kernel, Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfmodel.workload.op import Op
    from perfmodel.workload.program import Node, Program, Tensor
    from perfmodel.workload.stack import Stack

ITEM_BYTES: Final = MappingProxyType(
    {
        "fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1,
        "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "uint32": 4,
        "uint64": 8, "bool": 1, "complex32": 4, "complex64": 8, "complex128": 16,
    }
)  # fmt: skip
"""Bytes of one element of a program's tensor."""

_FLOATS: Final = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2")


def item_bytes(dtype: str) -> int:
    """Bytes of one element [B]; 4 for a format that is not listed."""
    return ITEM_BYTES.get(dtype, 4)


def numel(shape: Sequence[int]) -> int:
    """Elements of a shape; 1 for a scalar."""
    return math.prod(shape)


def arithmetic(dtype: str) -> str:
    """The floating format in which a kernel over ``dtype`` counts its operations."""
    if dtype.startswith("complex"):
        return "fp64" if dtype == "complex128" else "fp32"
    return dtype if dtype in _FLOATS else "fp32"


@dataclass(frozen=True, slots=True)
class Site:
    """A node with its tensors at hand.

    Parameters
    ----------
    node : Node
        The operator.
    index : int
        Its place in the program.
    inputs, outputs : tuple of Tensor
        In schema order.
    storages : mapping
        Bytes of every storage of the program [B].
    matmul, convolution : str
        What fp32 matrix products and convolutions are computed in: ``"fp32"`` or ``"tf32"``.
    device : Device
        The chip that kernels are launched for.
    turning : float
        Operations an element that it costs that operands run along different axes, 0 where they do
        not (:func:`perfmodel.workload.lowering.eager.strides.follow`).
    axes : tuple of int or None
        The axis along which the elements of each input follow each other, where it was followed.
    """

    node: Node
    index: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    storages: Mapping[int, int]
    matmul: str = "fp32"
    convolution: str = "tf32"
    device: Device = H100
    turning: float = 0.0
    axes: tuple[int | None, ...] = ()

    @property
    def name(self) -> str:
        """The operator's name without its library: ``addmm`` of ``aten.addmm``."""
        return self.node.target.removeprefix("aten.")

    def attribute(self, key: str, default: Any = None) -> Any:
        """A non-tensor argument, or ``default`` where it is absent or None."""
        value = self.node.attributes.get(key, default)
        return default if value is None else value

    def bytes(self, tensor: Tensor) -> int:
        """Unique bytes of a tensor: no more than its storage holds (an expanded tensor) [B]."""
        size = numel(tensor.shape) * item_bytes(tensor.dtype)
        return min(size, self.storages.get(tensor.storage, size))

    def traffic(self, tensors: Iterable[Tensor]) -> Traffic:
        """Unique bytes by storage of some tensors."""
        total: dict[int, int] = {}
        for tensor in tensors:
            found = total.get(tensor.storage, 0) + self.bytes(tensor)
            total[tensor.storage] = min(found, self.storages.get(tensor.storage, found))
        return tuple(total.items())

    def temporary(self, place: int = 0) -> int:
        """The number of this node's temporary storage at ``place`` (0 to 15)."""
        return -(self.index * 16 + place + 1)

    def kernel(
        self,
        kind: str,
        ops: Op | tuple[Op, ...],
        *,
        reads: Iterable[Tensor] | None = None,
        writes: Iterable[Tensor] | None = None,
        extra_reads: Traffic = (),
        extra_writes: Traffic = (),
        name: str = "",
        host: str = "",
        launches: int = 1,
        note: str = "",
        turns: float = 0.0,
        casts: float = 0.0,
    ) -> Kernel:
        """A kernel of this node; all inputs and all outputs unless told otherwise."""
        return Kernel(
            name=name or self.name,
            kind=kind,
            ops=ops if isinstance(ops, tuple) else (ops,),
            reads=self.traffic(self.inputs if reads is None else reads) + extra_reads,
            writes=self.traffic(self.outputs if writes is None else writes) + extra_writes,
            nodes=(self.index,),
            phase=self.node.phase,
            host=host or kind,
            launches=launches,
            note=note,
            turns=turns,
            casts=casts,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What one dispatched operator does: how the host pays for it, its kernels, its scratch.

    Parameters
    ----------
    host : str
        Host class of the call.
    kernels : tuple of Kernel
        In launch order.
    temporaries : tuple of (storage, bytes)
        Blocks taken from and given back to the allocator within the call [B].
    """

    host: str
    kernels: tuple[Kernel, ...] = ()
    temporaries: tuple[tuple[int, int], ...] = ()


def sites(program: Program, stack: Stack, device: Device | None = None) -> tuple[Site, ...]:
    """Every node with its tensors at hand."""
    storages = dict(enumerate(program.storages))
    chip = H100 if device is None else device
    return tuple(
        Site(
            node,
            index,
            tuple(program.tensor(name) for name in node.inputs),
            tuple(program.tensor(name) for name in node.outputs),
            storages,
            stack.matmul_fp32,
            stack.convolution_fp32,
            chip,
        )
        for index, node in enumerate(program.nodes)
    )
