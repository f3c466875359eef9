"""Labels of measured rows: which operator, in which words, on which chip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Final

from perfmodel.errors import CalibrationError, nearest_name
from perfmodel.workload.op import FAMILIES

ROUTED: Final = ("host", "chain", "memcpy")
"""Measured under names that are no family of operators."""
WORDS: Final[tuple[str, ...]] = ("dtype", "kind", "layout")
IMPLIED: Final = {("adamw", "dtype"), ("sgd", "dtype"), ("fft", "dtype")}
NEEDED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "attention": ("causal",),
        "conv2d": ("pass", "stride", "padding", "groups"),
        "conv3d": ("pass", "stride", "padding"),
        "chain": ("kind", "dtype"),
        "memcpy": ("kind", "bytes"),
        "spmm": ("kind", "density"),
    }
)
"""What a measured row says although an operator has a default for it."""
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "chain": r"[a-z][a-z0-9_]*",
        "memcpy": "d2d|h2d|d2h",
        "permute": "gather|scatter",
        "spmm": "csr|2:4",
    }
)
"""Words that no operator has and no operator therefore checks."""
PARTED: Final[Mapping[str, str]] = MappingProxyType(
    {"gemm": "batched_gemm", "attention": "attention_", "conv2d": "conv2d_"}
)
"""Operators whose tables are named after a part of them, ``attention_bwd``."""
_CHIP: Final = r"(?<![a-z0-9])[a-z]{1,3}\d{1,4}[a-z]{0,2}(?![a-z0-9])"
_MADE: Final = frozenset({"ti", "super", "ada", "laptop"})
"""Words that make another chip of the same number."""
_NO_CHIP: Final = r"sxm|hbm|gen|oam|nvl"
FORMS: Final = ("pcie", "sxm", "nvl", "oam")


def check_words(where: str, raw: Mapping[str, Any]) -> None:
    """A word that was lost would be read as its default: another format, another direction.

    Raises
    ------
    CalibrationError
        If no operator has that name.
    KeyError
        Which names the word that is missing.
    """
    op = str(raw.get("op", ""))
    known = FAMILIES.get(op)
    if known is None and op not in ROUTED:
        names = (*FAMILIES, *ROUTED)
        raise CalibrationError(
            f"{where}: op",
            op,
            ", ".join(names),
            nearest=nearest_name(op, names),
            repair="restore the name",
        )
    for word in _needed(op):
        if word not in raw:
            raise KeyError(word)
    kind = str(raw.get("kind", ""))
    if op == "memcpy" and kind != "d2d" and "pinned" not in raw:
        raise KeyError("pinned")
    if op in KINDS and not re.fullmatch(KINDS[op], kind):
        raise CalibrationError(
            f"{where}: kind",
            kind,
            "the name of a chain" if op == "chain" else KINDS[op].replace("|", ", "),
            repair="restore the word",
        )
    if op == "spmm" and not 0.0 < float(raw["density"]) <= 1.0:
        raise CalibrationError(
            f"{where}: density",
            raw["density"],
            "a share above 0 and up to 1",
            repair="restore the number",
        )


@cache
def _needed(op: str) -> tuple[str, ...]:
    """Words that no row of the operator may lack."""
    known = FAMILIES.get(op)
    held = [] if known is None else [field.name for field in fields(known)]  # type: ignore[arg-type]
    words = (*(word for word in WORDS if word in held), *NEEDED.get(op, ()))
    return tuple(word for word in words if (op, word) not in IMPLIED)


def check_table(table: str, where: str, raw: Mapping[str, Any]) -> None:
    """A table that is named after an operator, or a part of one, holds nothing else.

    A column that was lost (``pass``, ``groups``, ``batch``) or a file under another's name shows
    here: its rows are of another part than its name says. Tables of other names hold anything.

    Parameters
    ----------
    table : str
        Name of the file without its ending; ``-2`` at its end numbers a run.
    where : str
        Named in the error.
    raw : mapping
        The row's operator, as it was measured.

    Raises
    ------
    CalibrationError
        If the row is of another operator.
    """
    stem = re.sub(r"-\d+$", "", table)
    op = str(raw.get("op", ""))
    part = _part_of(op, raw)
    whole = stem in FAMILIES or stem in ROUTED
    parted = any(stem.startswith(prefix) for prefix in PARTED.values())
    if (whole and stem != op) or (parted and not whole and stem != part):
        raise CalibrationError(
            where,
            f"<a row of {part}>",
            f"rows of {stem}, after which the table is named",
            repair="restore the column that tells them apart (pass, groups, batch), or the name",
        )


def _part_of(op: str, raw: Mapping[str, Any]) -> str:
    if op == "gemm" and raw.get("batch", 1) > 1:
        return "batched_gemm"
    if op == "attention" and raw.get("pass", "fwd") == "fwd":
        return "attention_decode" if raw.get("q_len") == 1 else "attention_fwd"
    if op == "conv2d" and raw["groups"] > 1:
        return "conv2d_depthwise" if raw["groups"] == raw.get("c_in") else "conv2d_grouped"
    return f"{op}_{raw['pass']}" if op in ("attention", "conv2d") else op


@lru_cache(maxsize=256)
def same_chip(said: str, device: str) -> bool:
    """Whether a driver's device name and a description's name mean the same chip.

    They share its name, such as H100, and do not contradict one another in how it is mounted or how
    much memory it has; what one of them leaves unsaid (a driver calls an H100 SXM by no form)
    contradicts nothing.
    """
    words = said.lower().replace(" ", "-").split("-")
    known = device.lower().replace(" ", "-").split("-")
    if words == known:
        return True
    chips = [word for word in re.findall(_CHIP, "-".join(words)) if not re.match(_NO_CHIP, word)]
    chips += [word for word in words if re.fullmatch(r"\d{4}", word)]  # GeForce RTX 4090
    if _MADE & set(words) != _MADE & set(known):
        return False
    shared = [chip for chip in chips if chip in known]
    pairs = [(_form(words), _form(known))]
    if not any(chip.startswith(("gh", "gb")) for chip in shared):  # named after the host's memory
        pairs.append((_capacity(words), _capacity(known)))
    return bool(shared) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def _form(words: Iterable[str]) -> str | None:
    """``"sxm"`` of ``sxm5``, and so on."""
    return next((bare for word in words if (bare := word.rstrip("0123456789")) in FORMS), None)


def _capacity(words: Iterable[str]) -> str | None:
    return next((word for word in words if re.fullmatch(r"\d+gb", word)), None)
