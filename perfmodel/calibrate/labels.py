"""Labels of measured rows: which operator, in which words, on which chip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from perfmodel.errors import CalibrationError, nearest_name
from perfmodel.workload.op import FAMILIES

ROUTED: Final = ("host", "chain", "memcpy")
"""Measured under names that are no family of operators."""
WORDS: Final[tuple[str, ...]] = ("dtype", "kind", "layout")
IMPLIED: Final = {("adamw", "dtype"), ("sgd", "dtype"), ("fft", "dtype")}
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
    held = [] if known is None else [field.name for field in fields(known)]  # type: ignore[arg-type]
    needed = [word for word in WORDS if word in held]
    needed += ["pass"] if op.startswith("conv") else []
    for word in needed:
        if word not in raw and (op, word) not in IMPLIED:
            raise KeyError(word)


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
    chips = re.findall(r"[a-z]{1,3}\d{2,4}[a-z]{0,2}", "-".join(words))
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
