"""The protobuf wire format, as much of it as execution traces need.

Varints, fixed 32- and 64-bit values and length-delimited fields: enough to read and write messages
whose field numbers are known, without the protobuf package (which would bring a compiler step and a
version to agree on for 60 lines of work).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from perfmodel.errors import ScenarioError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED: Final = {FIXED64: 8, FIXED32: 4}


def varint(value: int) -> bytes:
    """Encode an integer, seven bits a byte; negative ones as 64-bit two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """The integer at an offset, and the offset behind it."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _broken(where, at, "a whole varint")


def field(number: int, value: int | float | bytes | str) -> bytes:
    """One field: integers as varints, floats as doubles, bytes and text with their length."""
    if isinstance(value, float):
        return varint(number << 3 | FIXED64) + struct.pack("<d", value)
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | LENGTH) + varint(len(data)) + data


def packed(number: int, values: list[int]) -> bytes:
    """A packed repeated integer field; nothing where it is empty."""
    return field(number, b"".join(varint(v) for v in values)) if values else b""


def delimited(message: bytes) -> bytes:
    """A message with its length before it."""
    return varint(len(message)) + message


def messages(data: bytes, where: str) -> Iterator[bytes]:
    """The messages of a file in which each has its length before it."""
    at = 0
    while at < len(data):
        length, at = read_varint(data, at, where)
        if at + length > len(data):
            raise _broken(where, at, f"{length} more bytes")
        yield data[at : at + length]
        at += length


def fields(message: bytes, where: str) -> Iterator[tuple[int, int, int | bytes]]:
    """The (number, wire type, value) of every field; fixed values come as their bytes."""
    at = 0
    while at < len(message):
        key, at = read_varint(message, at, where)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = read_varint(message, at, where)
            yield number, wire, value
            continue
        if wire == LENGTH:
            length, at = read_varint(message, at, where)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise _broken(where, at, "a wire type of 0, 1, 2 or 5")
        if at + length > len(message):
            raise _broken(where, at, f"{length} more bytes")
        yield number, wire, message[at : at + length]
        at += length


def integers(wire: int, value: int | bytes, where: str) -> list[int]:
    """A repeated integer field, packed or not."""
    if wire == VARINT and isinstance(value, int):
        return [value]
    found, at = [], 0
    data = value if isinstance(value, bytes) else b""
    while at < len(data):
        one, at = read_varint(data, at, where)
        found.append(one)
    return found


def signed(value: int) -> int:
    """A 64-bit varint as a signed integer."""
    return value - (1 << 64) if value >> 63 else value


def double(value: bytes) -> float:
    """A fixed 64-bit field as a double."""
    return float(struct.unpack("<d", value)[0])


def single(value: bytes) -> float:
    """A fixed 32-bit field as a float."""
    return float(struct.unpack("<f", value)[0])


def _broken(where: str, at: int, accepted: str) -> ScenarioError:
    return ScenarioError(
        f"{where}: byte {at}",
        "<the end of the data, or a broken field>",
        accepted,
        repair="write the trace again; it may have been cut off",
    )
