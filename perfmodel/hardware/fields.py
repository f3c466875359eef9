"""Quantities of a hardware file: text with a unit, positive, never a bare number.

A bare ``2039`` for a bandwidth would be two kilobytes a second; a zero would be an unknown in
disguise. Both are refused here, before any formula sees them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from perfmodel.errors import UnitError
from perfmodel.units import parse

_EXAMPLES = {
    "bytes": ("80 GiB", r"B|b|bit"),
    "bytes per second": ("2039 GB/s", r"(B|b|bit)/s"),
    "operations per second": ("312 TFLOP/s", r"(FLOP|OP)/s"),
    "hertz": ("1410 MHz", "Hz"),
    "watts": ("400 W", "W"),
    "seconds": ("1.5 us", "s|min|h|day"),
    "dollars per second": ("2.5 USD/h", "USD/h"),
}


class QuantityFault(ValueError):
    """Carries a :class:`~perfmodel.errors.UnitError` through pydantic, which adds the path."""

    def __init__(self, fault: UnitError) -> None:
        self.fault = fault
        super().__init__(str(fault))


def _quantity(dimension: str) -> Any:
    example, unit = _EXAMPLES[dimension]

    def read(value: object) -> object:
        accepted = f'a number and a unit of {dimension}, such as "{example}"'
        if not isinstance(value, str):
            repair = f'write it as text with its unit, such as "{example}"'
            raise QuantityFault(UnitError("quantity", value, accepted, repair=repair))
        try:
            parsed = parse(value, dimension)
        except UnitError as fault:
            raise QuantityFault(fault) from None
        if parsed == 0.0:
            repair = "leave the field out: unknown is absent, never zero"
            raise QuantityFault(UnitError("quantity", value, accepted, repair=repair))
        return parsed

    schema = {
        "type": "string",
        "pattern": rf"^\s*[0-9_.]+([eE][-+]?[0-9]+)?\s*[a-zA-Zµ]*({unit})\s*$",
        "examples": [example],
        "description": dimension,
    }
    return BeforeValidator(read), WithJsonSchema(schema)


_BYTES, _BYTES_SCHEMA = _quantity("bytes")
_RATE, _RATE_SCHEMA = _quantity("bytes per second")
_OPS, _OPS_SCHEMA = _quantity("operations per second")
_HERTZ, _HERTZ_SCHEMA = _quantity("hertz")
_WATTS, _WATTS_SCHEMA = _quantity("watts")
_SECONDS, _SECONDS_SCHEMA = _quantity("seconds")
_PRICE, _PRICE_SCHEMA = _quantity("dollars per second")

Capacity = Annotated[float, _BYTES, _BYTES_SCHEMA]
Rate = Annotated[float, _RATE, _RATE_SCHEMA]
Peak = Annotated[float, _OPS, _OPS_SCHEMA]
Frequency = Annotated[float, _HERTZ, _HERTZ_SCHEMA]
Power = Annotated[float, _WATTS, _WATTS_SCHEMA]
Duration = Annotated[float, _SECONDS, _SECONDS_SCHEMA]
Price = Annotated[float, _PRICE, _PRICE_SCHEMA]
