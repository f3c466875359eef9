"""Operators: one frozen value each, with exact FLOPs and bytes, and their JSON form.

Every family of operator has a class here; its fields are the keys of the JSON object, except that
the key ``pass`` is the field ``direction``. Counting conventions stand at
:class:`~perfmodel.workload.ops.base.Op`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.files import unique_keys
from perfmodel.workload.ops.base import Count, Flag, Op, Size, json_key
from perfmodel.workload.ops.conv import Conv2d, Conv3d
from perfmodel.workload.ops.dense import Attention, Gemm, GroupedGemm, Spmm, attention_pairs
from perfmodel.workload.ops.recurrent import Recurrent
from perfmodel.workload.ops.rowwise import (
    CrossEntropy,
    Embedding,
    LayerNorm,
    Permute,
    RmsNorm,
    Rope,
    ScatterAdd,
    Softmax,
    TopK,
)
from perfmodel.workload.ops.streams import (
    COLLECTIVES,
    AdamW,
    Collective,
    Copy,
    Elementwise,
    Fft,
    Fused,
    Sgd,
)

__all__ = [
    "COLLECTIVES",
    "FAMILIES",
    "LARGEST_FILE",
    "AdamW",
    "Attention",
    "Collective",
    "Conv2d",
    "Conv3d",
    "Copy",
    "Count",
    "CrossEntropy",
    "Elementwise",
    "Embedding",
    "Fft",
    "Flag",
    "Fused",
    "Gemm",
    "GroupedGemm",
    "LayerNorm",
    "Op",
    "Permute",
    "Recurrent",
    "RmsNorm",
    "Rope",
    "ScatterAdd",
    "Sgd",
    "Size",
    "Softmax",
    "Spmm",
    "TopK",
    "attention_pairs",
    "op_from_dict",
    "ops_from_jsonl",
]

_CLASSES: Final[tuple[type[Op], ...]] = (
    Gemm,
    GroupedGemm,
    Conv2d,
    Conv3d,
    Attention,
    RmsNorm,
    LayerNorm,
    Softmax,
    Elementwise,
    Fused,
    Embedding,
    CrossEntropy,
    Rope,
    TopK,
    Permute,
    ScatterAdd,
    Recurrent,
    AdamW,
    Sgd,
    Copy,
    Fft,
    Spmm,
)
FAMILIES: Final = MappingProxyType({cls.family: cls for cls in _CLASSES})
"""Every family except the collectives, whose names are :data:`COLLECTIVES`."""

LARGEST_FILE: Final = 512 * 2**20
"""An operator file above this is refused unread [B]."""


def op_from_dict(record: Any, *, where: str = "operator") -> Op:
    """The operator that a JSON object describes.

    Parameters
    ----------
    record : dict
        ``{"op": family, ...}`` with the fields of that family; lists become arrays. Attention
        without ``aligned`` is ``scaled_dot_product_attention``: a causal mask of unequal lengths
        begins at the first key; a single query decodes and sees all keys.
    where : str
        Named in the error.

    Raises
    ------
    WorkloadError
        For an unknown family or key, a missing key, or a size or word that is not accepted.

    Examples
    --------
    >>> op_from_dict({"op": "gemm", "m": 4096, "n": 4096, "k": 1024, "dtype": "bf16"}).flops
    34359738368
    """
    if not isinstance(record, dict):
        raise WorkloadError(
            where,
            record,
            'a JSON object such as {"op": "gemm", "m": 1, "n": 1, "k": 1}',
            repair="write one object with the key op on each line",
        )
    names = (*FAMILIES, *COLLECTIVES)
    family = record.get("op")
    if not isinstance(family, str) or family not in names:
        raise WorkloadError(
            f"{where}: op",
            family if "op" in record else "<no key op>",
            ", ".join(names),
            nearest=nearest_name(family, names),
            repair="set op to one of the accepted families",
        )
    is_collective = family in COLLECTIVES
    cls: type[Op] = Collective if is_collective else FAMILIES[family]
    values = {key: _array(value) for key, value in record.items() if key != "op"}
    if is_collective:
        values["op"] = family
    _check_keys(cls, family, values, where)
    if "pass" in values:
        values["direction"] = values.pop("pass")
    try:
        op = cls(**values)
        if isinstance(op, Attention) and "aligned" not in values:
            return op.as_measured()
        return op
    except WorkloadError as error:
        raise error.inside(where) from None


def _array(value: Any) -> Any:
    if isinstance(value, list) and value and all(type(item) in (int, bool) for item in value):
        try:
            return np.asarray(value)
        except OverflowError:
            return value
    return value


def _check_keys(cls: type[Op], family: str, values: dict[str, Any], where: str) -> None:
    required, known = [], []
    for field in fields(cls):  # type: ignore[arg-type]
        key = json_key(field.name)
        known.append(key)
        if field.default is MISSING and key not in values:
            required.append(key)
    shown = [key for key in known if key != "op"]
    for key in values:
        if key not in known:
            raise WorkloadError(
                f"{where}: {family}: {key}",
                f"<the key {key!r}>",
                f"the keys {', '.join(shown)}",
                nearest=nearest_name(str(key), shown),
                repair="correct the spelling of the key, or remove it",
            )
    if required:
        raise WorkloadError(
            f"{where}: {family}",
            f"<no {', '.join(required)}>",
            f"the keys {', '.join(shown)}",
            repair=f"add {', '.join(required)}",
        )


def ops_from_jsonl(path: str | Path) -> Iterator[Op]:
    """The operators of a file with one JSON object a line; blank lines are skipped.

    Raises
    ------
    WorkloadError
        If the file is missing, too large or not text, or a line does not describe an operator; the
        error names the line.
    """
    for where, record in records_from_jsonl(path):
        yield op_from_dict(record, where=where)


def records_from_jsonl(path: str | Path) -> Iterator[tuple[str, Any]]:
    """``("file:line", object)`` for every line that is not blank."""
    for where, line in lines_of_jsonl(path):
        yield where, record_of_line(where, line)


def lines_of_jsonl(path: str | Path) -> Iterator[tuple[str, str]]:
    """``("file:line", text)`` for every line that is not blank."""
    path = Path(path)
    if not path.is_file():
        raise WorkloadError(
            str(path),
            "<no file, but a folder>" if path.is_dir() else "<no such file>",
            "a file with one JSON object a line",
            repair="check the path",
        )
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise WorkloadError(
            str(path),
            f"<{size} bytes>",
            f"at most {LARGEST_FILE} bytes",
            repair="split the file",
        )
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path.name}:{number}", line
        except UnicodeDecodeError:
            raise WorkloadError(
                path.name,
                "<not UTF-8 text>",
                "a file in UTF-8 with one JSON object a line",
                repair="save it as UTF-8 text",
            ) from None


def record_of_line(where: str, line: str) -> Any:
    """What a line of JSON says; an error that names the line where it is none."""
    try:
        return json.loads(line, parse_constant=_no_constant, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(
            where,
            f"<{error}>",
            "one JSON object on the line, every key once",
            repair="write the line as a JSON object; NaN and Infinity are not JSON",
        ) from None


def _no_constant(name: str) -> Any:
    message = f"{name} is not a size"
    raise ValueError(message)
