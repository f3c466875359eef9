"""Number formats: the bytes of one element, and the format that a matrix product of it yields."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from perfmodel.errors import WorkloadError, nearest_name

BYTES_PER_ELEMENT: Final = MappingProxyType(
    {
        "fp64": 8.0,
        "fp32": 4.0,
        "tf32": 4.0,
        "bf16": 2.0,
        "fp16": 2.0,
        "fp8_e4m3": 1.0,
        "fp8_e5m2": 1.0,
        "int8": 1.0,
        "fp4": 0.5,
        "int4": 0.5,
        "int32": 4.0,
        "int64": 8.0,
        "bool": 1.0,
    }
)
"""Storage of one element [B]; tf32 is a way of multiplying fp32 storage."""

_OUTPUT: Final = MappingProxyType(
    {"fp8_e4m3": "bf16", "fp8_e5m2": "bf16", "fp4": "bf16", "int4": "bf16", "int8": "int32"}
)
_ALIASES: Final = MappingProxyType(
    {
        "float64": "fp64",
        "float32": "fp32",
        "bfloat16": "bf16",
        "float16": "fp16",
        "half": "fp16",
        "fp8": "fp8_e4m3",
        "float8_e4m3fn": "fp8_e4m3",
        "float8_e5m2": "fp8_e5m2",
    }
)


def bytes_per_element(dtype: str, *, where: str = "dtype") -> float:
    """Storage of one element [B]; half a byte for the 4-bit formats.

    Raises
    ------
    WorkloadError
        If the format is not known.

    Examples
    --------
    >>> bytes_per_element("bf16")
    2.0
    """
    try:
        return BYTES_PER_ELEMENT[dtype]
    except (KeyError, TypeError):
        pass
    raise WorkloadError(
        where,
        dtype,
        ", ".join(BYTES_PER_ELEMENT),
        nearest=_ALIASES.get(dtype, nearest_name(dtype, BYTES_PER_ELEMENT))
        if isinstance(dtype, str)
        else None,
        repair="use the short name of the number format",
    )


def output_dtype(dtype: str) -> str:
    """What a matrix product, convolution or attention of ``dtype`` operands writes.

    8-bit and 4-bit floats write bf16, int8 writes int32, all others their own format.
    """
    bytes_per_element(dtype)
    return _OUTPUT.get(dtype, dtype)


def canonical_dtype(name: str, *, where: str = "dtype") -> str:
    """The short name for a framework's name (``"bfloat16"`` -> ``"bf16"``)."""
    short = short_name(name)
    bytes_per_element(short, where=where)
    return short


def short_name(word: str) -> str:
    """The format that a framework's word means; any other value as it is, to be refused by name."""
    if not isinstance(word, str):
        return word
    bare = word.removeprefix("torch.")
    return _ALIASES.get(bare, bare)
