"""Names of aten operators by the rule that lowers them, from ``operators.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources


@cache
def groups() -> dict[str, str]:
    """Operator name (without ``aten.``) -> name of its group."""
    path = resources.files("perfmodel.workload.lowering.eager") / "operators.toml"
    listed = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: group for group, names in listed.items() for name in names.split()}


def base_name(name: str) -> str:
    """The operator without the underscore of its in-place form."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def group_of(name: str) -> str:
    """The group of an operator or of its out-of-place form; empty where none lists it."""
    found = groups()
    return found.get(name) or found.get(base_name(name), "")


def operations(name: str) -> int:
    """FLOP an element that the group's name states; 1 where it states none."""
    count = group_of(name).rpartition("_")[2]
    return int(count) if count.isdigit() else 1
