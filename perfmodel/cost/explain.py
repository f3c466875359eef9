"""One operator's price as a tree: bound, mechanism and correction, each visible."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np

from perfmodel.cost.bound import lower_bound
from perfmodel.cost.efficiency import (
    Efficiency,
    chain_of,
    efficiency_folder,
    efficiency_on,
)
from perfmodel.cost.fitted import Fitted
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.price import price
from perfmodel.cost.tasks import tasks_of
from perfmodel.errors import WorkloadError
from perfmodel.estimate import Estimate, leaf
from perfmodel.hardware import Accelerator, Hardware, accelerator_of
from perfmodel.hardware.sources import citation_keys, source_of
from perfmodel.units import format_bytes
from perfmodel.workload.op import Op

_TURNS_ON: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "compute": ("compute_efficiency", "tile_overhead_cycles", "wave_blur"),
        "memory": ("bandwidth_efficiency", "reuse_room"),
        "power": ("joules_per_flop", "joules_per_byte"),
        "launch": ("floor_seconds", "latency_seconds"),
    }
)
"""What a part of the mechanism is made of first; all of it: docs/models/kernels.md."""


def estimate(op: Op, accelerator: Hardware, *, efficiency: Efficiency | None = None) -> Estimate:
    """The price of a single operator with its reasons.

    Parameters
    ----------
    op : Op
        An operator whose sizes are single numbers.
    accelerator : Accelerator, Cluster, str or Path
        As for :func:`perfmodel.cost.price`.
    efficiency : Efficiency, optional
        As for :func:`perfmodel.cost.price`.

    Raises
    ------
    WorkloadError
        If the sizes are arrays.
    """
    accelerator = accelerator_of(accelerator)
    efficiency = efficiency_on(accelerator, efficiency)
    shape, tasks = tasks_of(op)
    if shape != () or len(tasks) != 1:
        raise WorkloadError(
            "cost.estimate: op",
            f"<{op.family} with sizes of shape {shape}>",
            "an operator whose sizes are single numbers",
            repair="use perfmodel.cost.price for arrays",
        )
    task = tasks[0]
    device = task_device(task, accelerator)
    coefficients = efficiency.of(task.kernel)
    answer = price(op, accelerator, efficiency=efficiency)
    parts = mechanism(task, device, coefficients)
    arithmetic, memory = (float(value[0]) for value in lower_bound(task, device))
    seconds, plain = float(answer.seconds), float(answer.mechanism)
    known = bool(answer.calibrated)
    given = efficiency.sources_of(task.kernel) or (_file_of(task.kernel, accelerator.family),)
    datasheet = (
        source_of(path, accelerator.sources) or "" for path in ("peak.matrix", "memory.bandwidth")
    )
    citations = tuple(
        dict.fromkeys((*given, *(key for one in datasheet for key in citation_keys(one))))
    )

    bound = leaf(
        "bound",
        max(arithmetic, memory),
        bound="compute" if arithmetic >= memory else "memory",
        note=f"arithmetic {arithmetic * 1e6:.4g} us, device memory {memory * 1e6:.4g} us",
    )
    pieces = tuple(
        leaf(name, float(value[0]), bound=kind, note=_values(kind, name, coefficients))
        for name, value, kind in (
            ("arithmetic in tiles and waves", parts.compute, "compute"),
            ("memory traffic", parts.memory, "memory"),
            ("power limit", parts.power, "compute"),
            ("floor of a kernel", parts.floor, "launch"),
        )
        if float(value[0]) > 0.0
    )
    whole = leaf(
        "mechanism", plain, bound=str(answer.bound), note=f"kernel {task.kernel}, {given[0]}"
    )
    whole = Estimate(
        **{name: getattr(whole, name) for name in ("name", "seconds", "lower", "low", "high")},
        bound=whole.bound,
        parts=pieces,
        relation="detail",
        note=whole.note,
    )
    factor = seconds / plain if plain > 0.0 else 1.0
    correction = leaf(
        "correction",
        abs(seconds - plain),
        bound="none",
        calibrated=known,
        note=(f"mechanism x {factor:.4f}" if known else f"x {factor:.4f}, not measured here")
        + _taught_by(efficiency.fitted.get(task.kernel)),
    )
    return Estimate(
        name=_title(op),
        seconds=seconds,
        lower=float(answer.lower),
        low=float(answer.low),
        high=float(answer.high),
        bound=str(answer.bound),
        calibrated=known,
        parts=(bound, whole, correction),
        relation="detail",
        citations=citations,
        note=f"on {accelerator.name}{_room(op, accelerator)}",
    )


def _room(op: Op, accelerator: Accelerator) -> str:
    held, has = float(op.bytes_held), accelerator.memory_capacity
    if held <= has:
        return ""
    return f", which it does not fit: needs {format_bytes(held)}, has {format_bytes(has)}"


def _file_of(kernel: str, family: str) -> str:
    """The most particular file that has coefficients of a kernel that nobody measured."""
    own = any(name in _tables(family) for name in chain_of(kernel))
    return f"efficiency/{family if own else 'default'}.toml"


@lru_cache(maxsize=32)
def _tables(family: str) -> frozenset[str]:
    path = efficiency_folder() / f"{family}.toml"
    return frozenset(tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else ())


def _values(kind: str, name: str, coefficients: Mapping[str, float]) -> str:
    """The coefficients that a part of the mechanism turns on, those that the kernel has."""
    names = _TURNS_ON["power" if name == "power limit" else kind]
    return ", ".join(
        f"{one} {coefficients[one]:.4g}" for one in names if coefficients.get(one) is not None
    )


def _taught_by(fitted: Fitted | None) -> str:
    """Whose rows taught a correction that is shared with other kernels."""
    if fitted is None or fitted.pooled is None:
        return ""
    return (
        f"; {fitted.pooled_share:.0%} of its logarithm from networks taught by the rows of all"
        " convolutions, the rest by those of this kernel"
    )


def _title(op: Op) -> str:
    """The operator in one line: its family and what is not a default."""
    record = op.to_dict()
    words = [
        f"{key}={value}"
        for key, value in record.items()
        if key != "op" and not isinstance(value, (list, np.ndarray))
    ]
    return f"{op.family} {' '.join(words)}"
