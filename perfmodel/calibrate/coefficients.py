"""Fit a mechanism's named coefficients to measured times.

Robust least squares on the logarithm of the time, within bounds that physics allows, from the
architecture's values: relative errors count alike from microseconds to milliseconds, and a few rows
where a library chose badly do not bend the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.cost.device import Device
from perfmodel.cost.mechanism import mechanism
from perfmodel.cost.parts import Floats
from perfmodel.cost.tasks import Task

# Where a coefficient may lie; what is not named here is not fitted.
LIMITS = {
    # A peak is stated at the boost clock; a cool chip with little to do runs a tenth faster.
    "compute_efficiency": (0.02, 1.1),
    "tile_half_intensity": (0.1, 120.0),
    "tile_overhead_cycles": (50.0, 4e4),
    "operand_bytes_per_clock": (4.0, 300.0),
    "bandwidth_efficiency": (0.05, 1.1),
    "write_in_cache": (0.01, 1.2),
    "joules_per_flop": (2e-14, 1e-10),
    "joules_per_byte": (1e-12, 2e-10),
    "store_bytes_per_clock": (2.0, 2e3),
    "shared_bytes_per_second": (1e11, 1e14),
    "queue_seconds": (1e-8, 1e-5),
    "split_bytes_per_second": (1e11, 1e14),
    "latency_seconds": (1e-8, 1e-5),
    "reuse_room": (0.05, 3.0),
    "cache_bytes_per_clock": (4.0, 128.0),
    "split_overhead_seconds": (1e-7, 1e-4),
    "single_rate": (0.1, 1.0),
    "wide_single_rate": (0.1, 1.0),
    "widest_efficiency": (0.1, 1.5),
    "turn_seconds": (1e-8, 3e-5),
    "thin_floor_seconds": (3e-7, 2e-5),
    "thin_wait_cycles": (0.5, 100.0),
    "thin_step_cycles": (0.2, 50.0),
    "thin_rows": (1.0, 16.0),
    "thin_block_cycles": (5.0, 500.0),
    "thin_block_turn_cycles": (0.5, 100.0),
    "thin_turn_seconds": (1e-8, 1e-6),
    "thin_bandwidth_efficiency": (0.2, 1.0),
    "floor_seconds": (3e-7, 1e-4),
    "overlap_exponent": (1.0, 12.0),
    "block_overhead_cycles": (50.0, 1e5),
    "step_overhead_cycles": (1.0, 2e4),
    "step_wait_cycles": (1.0, 400.0),
    "wave_blur": (0.01, 1.0),
    "query_passes": (0.05, 8.0),
    "shared_passes": (0.05, 8.0),
    "shared_seconds": (1e-7, 1e-5),
    "group_seconds": (1e-9, 2e-6),
    "wide_efficiency": (0.1, 1.5),
    "blocks_per_unit": (0.5, 8.0),
    "short_share": (0.05, 4.0),
    "head_cycles": (1.0, 1e5),
    "combine_seconds": (1e-7, 2e-5),
    "head_padding": (0.05, 1.5),
    "unit_bytes_per_clock": (4.0, 120.0),
    "row_cycles": (1.0, 2e5),
    "row_bytes_per_clock": (0.2, 200.0),
    "rows_per_unit": (0.5, 64.0),
    "load_cycles": (50.0, 6000.0),
    "short_cycles": (50.0, 2e4),
    "held_cycles": (50.0, 2e4),
    "single_cycles": (1.0, 3e3),
    "sum_cycles": (1.0, 5e3),
    "join_cycles": (1.0, 1e3),
    "row_sum_cycles": (1.0, 5e3),
    "held_work": (0.1, 1e3),
    "single_work": (0.1, 2e3),
    "operation_share": (0.01, 8.0),
    "last_bytes_per_second": (1e11, 1e14),
    "split_seconds": (1e-7, 2e-5),
    "warp_cycles": (5.0, 5e3),
    "sort_cycles": (5.0, 5e3),
    "warp_seconds": (1e-8, 2e-5),
    "loop_seconds": (1e-8, 2e-5),
    "shared_floor_seconds": (1e-6, 1e-4),
    "pass_seconds": (1e-7, 4e-5),
    "select_cycles": (0.01, 10.0),
    "softmax_seconds": (1e-8, 1e-5),
    "single_share": (0.2, 1.0),
    "far_cycles": (5.0, 6000.0),
    "first_cycles": (5.0, 1e4),
    "back_cycles": (5.0, 6000.0),
    "full_load_share": (0.3, 3.0),
    "full_round_share": (0.1, 2.0),
    "full_left_share": (0.3, 4.0),
    "full_far_share": (0.05, 4.0),
    "unit_room": (3e4, 1e6),
    "start_cycles": (1.0, 2e4),
    "work_cycles": (0.5, 4e3),
    "again_passes": (0.01, 4.0),
    "rows_in_flight": (1.0, 64.0),
    "round_cycles": (50.0, 5e3),
    "scalar_floor_seconds": (3e-7, 1e-5),
    "scalar_cost": (1.0, 60.0),
    "through_bytes_per_clock": (20.0, 40.0),
    "odd_start": (1.0, 3.0),
    "copy_bytes_per_clock": (2.0, 200.0),
    "transpose_floor_seconds": (1e-7, 5e-5),
    "pad_floor_seconds": (1e-6, 5e-5),
    "pad_efficiency": (0.02, 1.0),
    "launch_seconds": (1e-6, 2e-5),
    "slice_floor_seconds": (5e-7, 1e-4),
    "slice_efficiency": (0.05, 1.1),
    "direct_bandwidth_share": (0.03, 1.1),
    "direct_lead": (0.5, 8.0),
    "generic_lead": (0.5, 30.0),
    "search_scatter": (0.02, 1.0),
    "unaligned_efficiency": (0.02, 1.0),
    "unaligned_bandwidth_share": (0.1, 1.0),
    "point_bandwidth_share": (0.1, 1.1),
    "point_floor_seconds": (5e-7, 2e-5),
    "generic_efficiency": (1e-3, 0.2),
    "generic_place_cycles": (0.05, 200.0),
    "generic_floor_seconds": (5e-7, 2e-5),
    "generic_wait_cycles": (1.0, 3e3),
    "generic_loop_taps": (0.01, 20.0),
    "generic_last_share": (0.05, 1.5),
    "vector_efficiency": (0.1, 1.1),
    "packed_gain": (1.0, 6.0),
    "packed_floor_seconds": (1e-8, 2e-5),
    "search_lead_seconds": (1e-7, 2e-5),
    "search_spread_seconds": (3e-7, 1e-5),
    "direct_step_cycles": (32.0, 4000.0),
    "direct_floor_seconds": (1e-6, 2e-5),
    "direct_small_share": (0.25, 1.0),
    "extra_passes": (0.01, 30.0),
    "transpose_passes": (0.01, 8.0),
    "weight_passes": (0.01, 50.0),
    "uneven_weight_passes": (0.1, 100.0),
    "gather_efficiency": (0.1, 1.0),
    "eighth_rate": (0.2, 1.0),
    "many_taps_efficiency": (0.1, 1.0),
    "winograd_gain": (1.0, 4.0),
    "spectrum_passes": (0.3, 20.0),
    "spectrum_floor_seconds": (5e-6, 1e-4),
    "spectrum_efficiency": (0.1, 1.1),
    "atomics_per_clock": (0.01, 16.0),
    "line_cycles": (1.0, 200.0),
    "word_cycles": (0.2, 40.0),
    "sectors_per_clock": (0.01, 8.0),
    "turn_cycles": (20.0, 5000.0),
    "try_cycles": (1e-4, 10.0),
    "value_seconds": (1e-9, 2e-6),
    "pass_bytes_per_clock": (4.0, 64.0),
    "loss_seconds": (1e-8, 3e-6),
    "mixed_passes": (0.5, 4.0),
    "prime_passes": (0.1, 8.0),
    "chirp_passes": (0.5, 3.0),
    "persist_seconds": (5e-8, 1e-5),
    "persist_matrix_seconds": (1e-9, 1e-5),
    "persist_bytes_per_second": (1e10, 1e13),
    "persist_room": (3e4, 4e5),
    "spill_bytes_per_second": (3e9, 1e12),
    "spill_all_bytes_per_second": (1e11, 1e15),
    "depth_bytes_per_second": (1e8, 1e13),
    "step_seconds": (5e-7, 5e-5),
    "cache_bytes_per_second": (1e11, 5e13),
    "gate_bytes_per_second": (1e10, 5e13),
    "side_share": (0.01, 3.0),
    "odd_share": (1e-3, 3.0),
    "sum_seconds": (1e-11, 5e-8),
    "copy_seconds": (1e-7, 1e-5),
    "product_seconds": (5e-7, 5e-5),
    "kernel_seconds": (2e-7, 1e-5),
    "mixed_seconds": (1e-8, 5e-6),
    "doubling_seconds": (1e-9, 1e-6),
    "host_bytes_per_second": (1e9, 6.4e10),
}
# Plain streams come to 0.91 of an H100's peak and to 0.92 of an H200's. A kernel that comes to less
# waits for something else, of which the next chip has no more; called memory it would be priced too
# fast where that grows. Streams load while they work, so that their parts overlap.
# Weights of groups stream as those of other products do: what they lack of it is their own.
MOST_DELIVERED, LEAST_DELIVERED = 0.94, 0.9
STREAMED = {"bandwidth_efficiency": (0.85, MOST_DELIVERED), "overlap_exponent": (2.0, 12.0)}
# Passes that are counted in PyTorch's code and not fitted: they look like a slower memory. And the
# rate of element-wise arithmetic: kernels of whole models count what they wait for in operations.
COUNTED = {
    "rope": ("extra_passes",),
    "embedding": ("extra_passes",),
    "cross_entropy": ("extra_passes",),
    "elementwise": ("compute_efficiency",),
}
# A coefficient that the rows say nothing about stays where it was: a row's worth a factor of e.
PULL = 0.1
_LARGEST_SAMPLE = 600


def fit_coefficients(
    blocks: tuple[tuple[Task, Device], ...],
    seconds: Floats,
    start: Mapping[str, float],
    rng: np.random.Generator,
    *,
    starts: int = 2,
    steps: int = 18,
    held: Collection[str] = (),
    one_chip: bool = True,
) -> dict[str, float]:
    """Coefficients that bring the mechanism closest to ``seconds`` of shape (N,).

    Parameters
    ----------
    blocks : tuple of (Task, Device)
        N operators in all.
    seconds : array
        Measured times; NaN marks rows that are held out.
    start : mapping
        Where to begin, and the values of what is not fitted.
    rng : numpy.random.Generator
        Draws the other starting points.
    starts, steps : int
        Beginnings tried, and iterations from each.
    held : collection of str
        Coefficients that stay as they are in ``start``.
    one_chip : bool
        Whether all rows are of a chip whose memory delivers what its maker says.
    """
    blocks, seconds = _thinned(blocks, seconds, rng)
    limits = limits_of(blocks[0][0]) if one_chip else LIMITS
    free = [name for name in start if name in limits and name not in held]
    names = [name for name in free if _matters(name, blocks, start)]
    low, high = (np.log([limits[name][side] for name in names]) for side in (0, 1))
    first = np.clip(
        np.log(np.maximum([start[name] for name in names], 1e-9)), low + 1e-3, high - 1e-3
    )
    target = np.log(seconds)

    def distance(theta: Floats) -> Floats:
        apart = log_mechanism(blocks, dict(start) | named(theta)) - target
        return np.append(apart, PULL * (theta - first))

    def named(theta: Floats) -> dict[str, float]:
        return dict(zip(names, (float(value) for value in np.exp(theta)), strict=True))

    best, cost = first, np.inf
    for number in range(starts):
        jump = rng.normal(0.0, 0.5, len(names)) if number else np.zeros(len(names))
        found = least_squares(
            distance,
            np.clip(first + jump, low + 1e-3, high - 1e-3),
            bounds=(low, high),
            loss="soft_l1",
            f_scale=0.1,
            diff_step=[1e-2] * len(names),
            max_nfev=steps,
        )
        if found.cost < cost:
            best, cost = found.x, found.cost
    return dict(start) | named(best)


def limits_of(task: Task) -> dict[str, tuple[float, float]]:
    """Where the coefficients of a kernel may lie; what is not named is not fitted."""
    if task.base == "gemm_grouped":
        return LIMITS | {"bandwidth_efficiency": (LEAST_DELIVERED, MOST_DELIVERED)}
    if task.base.startswith("attention"):
        least = LIMITS["bandwidth_efficiency"][0]
        return LIMITS | {"bandwidth_efficiency": (least, MOST_DELIVERED)}
    if task.base.startswith("scatter_add"):
        return LIMITS | {"overlap_exponent": STREAMED["overlap_exponent"]}
    if task.base.startswith("fourier"):
        return LIMITS | {"bandwidth_efficiency": (LEAST_DELIVERED, MOST_DELIVERED)}
    if not task.streams:
        return LIMITS
    counted = COUNTED.get(task.base, ())
    return {name: span for name, span in (LIMITS | STREAMED).items() if name not in counted}


def log_mechanism(blocks: tuple[tuple[Task, Device], ...], values: Mapping[str, float]) -> Floats:
    """Logarithm of the mechanism's times, blocks one after another; shape (N,)."""
    return np.concatenate(
        [np.log(mechanism(task, device, values).seconds) for task, device in blocks]
    )


def select(task: Task, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Task:
    """Some of a task's operators."""
    sizes = {name: value[keep] for name, value in task.sizes.items()}
    count = len(next(iter(sizes.values())))
    return Task(task.kernel, sizes, task.dtype, task.words, np.arange(count))


def _thinned(
    blocks: tuple[tuple[Task, Device], ...], seconds: Floats, rng: np.random.Generator
) -> tuple[tuple[tuple[Task, Device], ...], Floats]:
    """Without the held-out rows, and not more than are needed for a dozen numbers."""
    known = np.flatnonzero(np.isfinite(seconds))
    if known.size > _LARGEST_SAMPLE:
        known = np.sort(rng.choice(known, _LARGEST_SAMPLE, replace=False))
    kept: list[tuple[Task, Device]] = []
    start = 0
    for task, device in blocks:
        count = task.places.size
        mine = known[(known >= start) & (known < start + count)] - start
        if mine.size:
            kept.append((select(task, mine), device))
        start += count
    return tuple(kept), seconds[known]


def _matters(
    name: str, blocks: tuple[tuple[Task, Device], ...], start: Mapping[str, float]
) -> bool:
    """Whether the times depend on a coefficient at all."""
    here = log_mechanism(blocks, start)
    value = max(start[name], 1e-9)
    low, high = LIMITS[name]
    for other in (min(value * 1.5, high), max(value / 1.5, low), (low * high) ** 0.5):
        if np.any(np.abs(log_mechanism(blocks, dict(start) | {name: other}) - here) > 1e-6):
            return True
    return False
