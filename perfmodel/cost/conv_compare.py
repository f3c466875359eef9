"""Convolution algorithms timed on a device, with its cache, without one, or with an endless one.

Every pass is priced like any other operator; where a buffer stays in the cache, the price is scaled
by what the kernel's mechanism says about the smaller traffic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perfmodel.cost.conv_algorithms import Algorithm, algorithm, applicable
from perfmodel.cost.conv_passes import Pass
from perfmodel.cost.efficiency import Efficiency, efficiency_on
from perfmodel.cost.gemm import PRODUCT_SPLITS, gemm_parts
from perfmodel.cost.mechanism import product_sizes, task_device
from perfmodel.cost.memory_bound import memory_parts
from perfmodel.cost.price import price
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import Accelerator
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.ops.dense import Gemm


@dataclass(frozen=True, slots=True)
class AlgorithmCost:
    """An algorithm for one convolution on one device.

    Parameters
    ----------
    name : str
        The algorithm.
    seconds : float
        All its passes, one after another [s].
    flops, workspace : int
        Arithmetic [FLOP] and intermediate buffers [B].
    traffic : float
        Bytes across device memory with the given cache [B].
    parts : tuple of (str, float)
        Name and time of every pass [s].
    calibrated : bool
        Whether measurements of the device stand behind every pass.
    """

    name: str
    seconds: float
    flops: int
    workspace: int
    traffic: float
    parts: tuple[tuple[str, float], ...]
    calibrated: bool

    @property
    def intensity(self) -> float:
        """FLOP for each byte across device memory."""
        return self.flops / self.traffic

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        passes: dict[str, float] = {}
        for name, seconds in self.parts:
            passes[name] = passes.get(name, 0.0) + seconds
        return {
            "algorithm": self.name,
            "latency_us": self.seconds * 1e6,
            "flops": self.flops,
            "bytes": self.traffic,
            "workspace_bytes": self.workspace,
            "intensity": self.intensity,
            "calibrated": self.calibrated,
            "passes_us": {name: seconds * 1e6 for name, seconds in passes.items()},
        }


def cache_of(accelerator: Accelerator) -> float:
    """Bytes of the cache that all units share; 0 if there is none."""
    return float(accelerator.last_level_cache or accelerator.l2_capacity or 0.0)


def algorithm_cost(
    name: str,
    op: Conv2d,
    accelerator: Accelerator,
    *,
    cache: float | None = None,
    efficiency: Efficiency | None = None,
) -> AlgorithmCost:
    """Time of one algorithm.

    Parameters
    ----------
    name : str
        One of :data:`~perfmodel.cost.conv_algorithms.ALGORITHMS`.
    op : Conv2d
        One convolution, forward or gradient.
    accelerator : Accelerator
        The device.
    cache : float, optional
        Buffers up to this size never cross device memory [B]; the device's own by default, 0 for
        none, infinity for the best that any cache could do.
    efficiency : Efficiency, optional
        As for :func:`~perfmodel.cost.price.price`.

    Raises
    ------
    WorkloadError
        If the algorithm cannot compute the convolution.
    """
    room = cache_of(accelerator) if cache is None else cache
    coefficients = efficiency_on(accelerator, efficiency)
    chosen = algorithm(name, op)
    parts, calibrated = _parts(chosen, accelerator, room, coefficients)
    return AlgorithmCost(
        name,
        math.fsum(seconds for _, seconds in parts),
        chosen.flops,
        chosen.workspace,
        chosen.traffic(room),
        parts,
        calibrated,
    )


def compare(
    op: Conv2d,
    accelerator: Accelerator,
    *,
    cache: float | None = None,
    efficiency: Efficiency | None = None,
) -> tuple[AlgorithmCost, ...]:
    """All algorithms that can compute a convolution, fastest first.

    Examples
    --------
    >>> from perfmodel.hardware import load_accelerator
    >>> op = Conv2d(32, 64, 56, 56, 64, kernel=3, padding=1, dtype="fp16")
    >>> len(compare(op, load_accelerator("a100-sxm4-80gb")))
    8
    """
    costs = [
        algorithm_cost(name, op, accelerator, cache=cache, efficiency=efficiency)
        for name in applicable(op)
    ]
    return tuple(sorted(costs, key=lambda one: one.seconds))


def _parts(
    chosen: Algorithm, accelerator: Accelerator, cache: float, efficiency: Efficiency
) -> tuple[tuple[tuple[str, float], ...], bool]:
    # kn2row repeats one pass for every tap
    known: dict[tuple[object, float], tuple[float, bool]] = {}
    parts = []
    for one in chosen.passes:
        key = (one.op, one.traffic(cache))
        if key not in known:
            known[key] = _seconds(one, accelerator, cache, efficiency)
        parts.append((one.name, known[key][0]))
    return tuple(parts), all(calibrated for _, calibrated in known.values())


def _seconds(
    one: Pass, accelerator: Accelerator, cache: float, efficiency: Efficiency
) -> tuple[float, bool]:
    priced = price(one.op, accelerator, efficiency=efficiency)
    seconds, calibrated = float(priced.seconds), bool(priced.calibrated)
    traffic = one.traffic(cache)
    if not isinstance(one.op, Conv2d) and traffic != float(one.op.bytes_moved):
        seconds *= _with_traffic(one, traffic, accelerator, efficiency) / float(priced.mechanism)
    if one.operands:
        rate = efficiency.of("gemm")["operand_bytes_per_clock"]
        units = float(accelerator.require("units")) * accelerator.require("clock_boost")
        seconds = max(seconds, one.operands / (rate * units))
    return seconds, calibrated


def _with_traffic(
    one: Pass, traffic: float, accelerator: Accelerator, efficiency: Efficiency
) -> float:
    """The mechanism's time of a pass whose traffic is not that of its operator [s]."""
    _, (task,) = tasks_of(one.op)
    device = task_device(task, accelerator)
    coefficients = efficiency.of(task.kernel)
    moved = np.array([traffic])
    if isinstance(one.op, Gemm):
        parts = gemm_parts(
            *product_sizes(task), task.element, task.out_element, device, coefficients,
            traffic=moved, splits=PRODUCT_SPLITS,
        )  # fmt: skip
    else:
        none = np.zeros(1)
        flops = np.array([float(one.flops)])
        parts = memory_parts(moved, none, none, flops, device, coefficients)
    return float(parts.seconds[0])
