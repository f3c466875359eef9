r"""What a call finds in the cache when the calls before it used the same memory.

A stream of calls that comes back to its operands after :math:`b_\text{cycle}` bytes finds them in a
last-level cache of capacity :math:`C` where these fit. Of a kernel's bytes the share

.. math::

    \omega = \frac{1}{1 + (C / (c\,b_\text{cycle}))^8}

comes from device memory, the rest at so many bytes a clock and unit from the cache. Operators as
they are priced come from device memory; published tables that time one call again and again, or
go round a few copies of the weights, do not: such rows carry ``cycle`` among their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats
from perfmodel.cost.tasks import Task

COEFFICIENTS = {
    "cache_bytes_per_clock": "bytes a clock at which a unit takes in what the cache holds",
}
CYCLE = "cycle"


def from_memory(cycle: Floats, device: Device) -> Floats:
    """Share of the bytes that device memory delivers; 1 where there is no cache."""
    room = device.cache / device.cache_copies
    return np.asarray(1.0 / (1.0 + (room / cycle) ** 8))


def warmed(task: Task, device: Device, coefficients: Mapping[str, float]) -> Task:
    """``task`` with the bytes that take as long from memory as its own do from both."""
    if CYCLE not in task.sizes:
        return task
    outside = from_memory(task.sizes[CYCLE], device)
    rate = coefficients["cache_bytes_per_clock"] * device.units * device.clock
    share = outside + (1.0 - outside) * min(device.bandwidth / rate, 1.0)
    moved = {name: task.sizes[name] * share for name in ("read", "written")}
    return replace(task, sizes=task.sizes | moved)
