"""What every operator shares: checked integer sizes, and exact products of them.

A size is a Python integer or an integer NumPy array, so one object can describe a whole grid of
operators; arrays must broadcast. Counts of scalar operators are exact Python integers; counts of
array operators are float64, exact below 2**53 and never wrapped around.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.dtype import bytes_per_element, canonical_dtype

Size: TypeAlias = "int | npt.NDArray[Any]"
Flag: TypeAlias = "bool | npt.NDArray[np.bool_]"
Count: TypeAlias = "int | npt.NDArray[np.float64]"

LARGEST_SIZE: Final = 2**53


class Op:
    """One operator on one device.

    Counting conventions
    --------------------
    A multiply-add is 2 FLOP. Every operand is read once and every result written once, whatever a
    kernel does with caches: ``bytes_moved`` is the traffic that no implementation can avoid when
    operands come from device memory.
    """

    __slots__ = ()

    family: ClassVar[str] = ""
    may_be_zero: ClassVar[frozenset[str]] = frozenset()
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    in_place: ClassVar[bool] = True
    """Whether results may take the place of operands; products' and convolutions' may not."""

    def __post_init__(self) -> None:
        shapes = []
        for name, kind in _kinds(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            where = f"{self.family}: {json_key(name)}"
            if kind == "Size" or (kind == "Size | None" and value is not None):
                value = checked_size(value, where, zero=name in self.may_be_zero)
                object.__setattr__(self, name, value)
                if not isinstance(value, int):
                    shapes.append(value.shape)
            elif kind == "Flag":
                value = _checked_flag(value, where)
                object.__setattr__(self, name, value)
                if not isinstance(value, bool):
                    shapes.append(value.shape)
            elif name in self.choices and not (value is None and kind.endswith("None")):
                check_choice(value, self.choices[name], where)
            elif name.endswith("dtype") and not _as_default(type(self), name, value):
                object.__setattr__(self, name, canonical_dtype(value, where=where))
        if len(shapes) > 1:
            self._check_broadcast(shapes)

    def _check_broadcast(self, shapes: list[tuple[int, ...]]) -> None:
        try:
            np.broadcast_shapes(*shapes)
        except ValueError:
            raise WorkloadError(
                f"{self.family}: array sizes",
                shapes,
                "arrays whose shapes broadcast together",
                repair="reshape the arrays, e.g. one axis for each quantity that varies",
            ) from None

    @property
    def flops(self) -> Count:
        """Floating-point operations [FLOP]."""
        raise NotImplementedError

    @property
    def bytes_read(self) -> Count:
        """Operands, each read once [B]."""
        raise NotImplementedError

    @property
    def bytes_written(self) -> Count:
        """Results, each written once [B]."""
        raise NotImplementedError

    @property
    def bytes_moved(self) -> Count:
        """Operands plus results [B]."""
        return self.bytes_read + self.bytes_written

    @property
    def bytes_held(self) -> Count:
        """What device memory holds at once, at the least [B]: in place, the larger side only."""
        if not self.in_place:
            return self.bytes_moved
        read, written = self.bytes_read, self.bytes_written
        if isinstance(read, int) and isinstance(written, int):
            return max(read, written)
        return np.maximum(read, written)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the operator; arrays become lists, sizes left open stay out."""
        record: dict[str, Any] = {"op": self.family}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None:
                continue
            key = json_key(field.name)
            record[key] = value.tolist() if isinstance(value, np.ndarray) else value
        return record


def json_key(name: str) -> str:
    """What JSON calls a field: ``pass`` is a word of Python's own."""
    return "pass" if name == "direction" else name


@cache
def _kinds(cls: type[Op]) -> tuple[tuple[str, str], ...]:
    return tuple((field.name, str(field.type)) for field in fields(cls))  # type: ignore[arg-type]


def exact(size: Size) -> Count:
    """A size ready for long products: Python integers stay, arrays become float64."""
    return size if isinstance(size, int) else size.astype(np.float64)


def product(*sizes: Size) -> Count:
    """Product of sizes without integer wrap-around."""
    result: Any = 1
    for size in sizes:
        result = result * exact(size)
    return result  # type: ignore[no-any-return]


def storage(dtype: str, count: Count) -> Count:
    """Bytes of ``count`` elements [B]; 4-bit elements are packed in pairs, rounded up."""
    width = bytes_per_element(dtype)
    if width >= 1:
        return count * int(width)
    return -(-count // 2)


def checked_size(value: Any, where: str, *, zero: bool = False) -> Size:
    """``value`` as an int or integer array of at least 1 (0 where ``zero``)."""
    least = 0 if zero else 1
    if type(value) is int:
        if least <= value <= LARGEST_SIZE:
            return value
    elif isinstance(value, np.integer):
        return checked_size(int(value), where, zero=zero)
    elif isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.integer):
        if value.ndim == 0:
            return checked_size(int(value), where, zero=zero)
        if value.size and least <= value.min() and value.max() <= LARGEST_SIZE:
            return value
        value = f"an array from {value.min()} to {value.max()}" if value.size else "an empty array"
    raise WorkloadError(
        where,
        value,
        f"an integer from {least} to 2**53, or an integer NumPy array of them",
        repair="give the size in elements as a whole number, without quotes or a decimal point",
    )


def _checked_flag(value: Any, where: str) -> Flag:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray) and value.dtype == np.bool_:
        return bool(value) if value.ndim == 0 else value
    raise WorkloadError(
        where, value, "true or false, or a boolean NumPy array", repair="write true or false"
    )


def _as_default(family: type[Any], name: str, value: Any) -> bool:
    """Whether it is "", where that is what the field holds unless it is given."""
    return isinstance(value, str) and value == "" == family.__dataclass_fields__[name].default


def check_choice(value: Any, accepted: tuple[str, ...], where: str) -> None:
    """Raise unless ``value`` is one of the accepted words."""
    if not isinstance(value, str) or value not in accepted:
        raise WorkloadError(
            where,
            value,
            ", ".join(accepted),
            nearest=nearest_name(value, accepted),
            repair="use one of the accepted words",
        )
