"""What the importer knows of a tensor while it walks a graph, and how PyTorch would stride it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.errors import WorkloadError

Shape = tuple[int, ...]
Array = npt.NDArray[Any]

CONSTANT_ROLES: Final = frozenset({"parameter", "buffer", "constant"})
LARGEST_TENSOR: Final = 2**50
"""More elements than this in one tensor is a damaged file, not a model."""

DTYPES: Final = MappingProxyType(
    {
        1: "fp32",
        2: "uint8",
        3: "int8",
        4: "int16",
        5: "int16",
        6: "int32",
        7: "int64",
        9: "bool",
        10: "fp16",
        11: "fp64",
        12: "int32",
        13: "int64",
        14: "complex64",
        15: "complex128",
        16: "bf16",
        17: "fp8_e4m3",
        18: "fp8_e4m3",
        19: "fp8_e5m2",
        20: "fp8_e5m2",
        21: "int4",
        22: "int4",
        23: "fp4",
    }
)
"""``TensorProto.DataType`` -> our short name; unsigned formats without a name of their own take
that of the signed one of the same size. Strings (8) are no numbers."""

ELEMENT_TYPES: Final = MappingProxyType(
    {name: code for code, name in sorted(DTYPES.items(), reverse=True)}
    | {"int16": 5, "int32": 6, "int64": 7}
)


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and format of a tensor that is about to exist."""

    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the graph: where it lives, how it is strided, and its content where known."""

    name: str
    shape: Shape
    dtype: str
    role: str
    storage: int
    strides: Shape
    array: Array | None = None

    @property
    def constant(self) -> bool:
        """Whether it is the same in every call."""
        return self.role in CONSTANT_ROLES

    @property
    def numel(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def rank(self) -> int:
        """Dimensions."""
        return len(self.shape)

    @property
    def scalar(self) -> float | int | bool | None:
        """The one number it holds, if that is known."""
        if self.array is None or self.array.size != 1 or self.array.dtype.kind not in "biuf":
            return None
        number = self.array.reshape(-1)[0].item()
        return number if isinstance(number, bool | int) or np.isfinite(number) else None

    @property
    def layout(self) -> str:
        """``contiguous``, ``channels_last`` or ``strided``."""
        if matches(self.shape, self.strides, contiguous(self.shape)):
            return "contiguous"
        if self.rank == 4 and matches(self.shape, self.strides, channels_last(self.shape)):
            return "channels_last"
        return "strided"


def contiguous(shape: Sequence[int]) -> Shape:
    """Row-major strides, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def channels_last(shape: Sequence[int]) -> Shape:
    """Strides of an (n, c, h, w) tensor that is stored as n, h, w, c."""
    _, c, h, w = shape
    return (max(c * h * w, 1), 1, max(w * c, 1), max(c, 1))


def matches(shape: Shape, strides: Shape, wanted: Shape) -> bool:
    """Whether two stridings place every element alike; axes of size 1 do not count."""
    return all(
        size <= 1 or have == want for size, have, want in zip(shape, strides, wanted, strict=True)
    )


def dense(shape: Shape, strides: Shape) -> bool:
    """Whether the elements fill a block of memory without holes or overlap."""
    order = sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1)
    step = 1
    for stride, size in order:
        if stride != step:
            return False
        step *= size
    return True


def view_strides(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides of a reshape that needs no copy, or ``None`` if one is needed.

    The rule of ``torch.Tensor.view``: axes merge only where the outer stride is the inner stride
    times the inner size.
    """
    if prod(shape) == 0:
        return contiguous(new)
    kept = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    blocks: list[list[int]] = []  # [elements, innermost stride]
    for size, stride in kept:
        if blocks and blocks[-1][1] == stride * size:
            blocks[-1] = [blocks[-1][0] * size, stride]
        else:
            blocks.append([size, stride])
    result: list[int] = []
    wanted = list(reversed(new))
    for elements, stride in reversed(blocks):
        taken, step = 1, stride
        while taken < elements and wanted:
            size = wanted.pop(0)
            result.append(step)
            taken, step = taken * size, step * size
        if taken != elements:
            return None
    while wanted:
        if wanted.pop(0) != 1:
            return None
        result.append(result[-1] if result else 1)
    return tuple(reversed(result))


def broadcast(*shapes: Shape, where: str = "broadcast") -> Shape:
    """The shape that NumPy's rule gives.

    Raises
    ------
    WorkloadError
        If the shapes do not broadcast.
    """
    try:
        return tuple(int(size) for size in np.broadcast_shapes(*shapes))
    except ValueError:
        raise WorkloadError(
            where,
            f"<{' and '.join(map(str, shapes))}>",
            "shapes that broadcast",
            repair="check the sizes given for the dynamic dimensions of the file",
        ) from None


def kept_format(shape: Shape, like: Value | None) -> Shape | None:
    """Strides of an output that keeps the memory format of ``like``."""
    if like is None or like.rank != len(shape):
        return None
    if like.layout == "channels_last":
        return channels_last(shape)
    if like.layout == "strided" and like.shape == shape and dense(shape, like.strides):
        return like.strides
    return None


def integers(array: Array) -> list[int]:
    """The entries of a known integer tensor, flat."""
    return [int(entry) for entry in np.asarray(array).reshape(-1)]
