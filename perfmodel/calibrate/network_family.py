"""What several generations of a link have in common: the coefficients of one that nobody measured.

Generations differ in how long a collective takes to start and a step to pass, for reasons that no
datasheet states, so each has its own two factors, found together with what all share; their
geometric mean stands for the next generation. Start-up has nothing to do with the wire: cards on
other links say as much about it. Starting values are constants of NCCL's source, no measured row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.calibrate.network_fit import Shape, build_link, predict_rows
from perfmodel.calibrate.network_rows import Rows
from perfmodel.network.coefficients import LinkCoefficients
from perfmodel.network.placement import Reach

Floats = NDArray[np.float64]
_PULL: Final = 0.15

# src/graph/tuning.cc: base latency 6.6, 14 and 8.4 us, a step 0.6, 1.9 and 3.4 us; LL128 carries
# 120 of 128 bytes; the switch 8.4 + 25 us and 0.65 of the wire (its formula on 8 H100). A small
# message has one channel: 20 GB/s, half of it flags. Blocks of 512 KiB hide latency; a rank's own
# part is copied at about half the memory's rate; 16 channels of 20 GB/s serve one peer.
SOURCE_START: Final[dict[str, tuple[float, float, float]]] = {
    "ll.base": (6.6e-6, 5e-7, 5e-5),
    "ll.step": (6e-7, 5e-8, 2e-5),
    "ll.share": (0.022, 0.002, 0.6),
    "ll128.base": (7.4e-6, 1e-8, 5e-5),
    "ll128.step": (1.3e-6, 1e-9, 2e-5),
    "ll128.share": (0.9, 0.02, 0.95),
    "simple.base": (1e-6, 1e-8, 3e-4),
    "simple.step": (1.5e-6, 1e-9, 1e-4),
    "simple.share": (0.95, 0.05, 1.0),
    "simple.saturation": (5e5, 1.0, 1e8),
    "ll.copy": (0.044, 0.005, 50.0),
    "ll128.copy": (0.9, 0.05, 50.0),
    "simple.copy": (3.5, 0.2, 50.0),
    "direct_ll.base": (6.6e-6, 5e-7, 5e-5),
    "direct_ll.step": (2e-7, 1e-9, 2e-5),
    "direct_ll.share": (0.022, 0.002, 0.9),
    "direct.base": (1.8e-6, 1e-8, 5e-5),
    "direct.step": (2e-7, 1e-9, 2e-5),
    "direct.share": (0.95, 0.05, 1.0),
    "direct.saturation": (5e5, 1.0, 1e8),
    "direct.peer_rate": (320e9, 1e9, 1e13),
    "in_network.base": (33.4e-6, 1e-6, 3e-4),
    "in_network.share": (0.65, 0.2, 1.0),
    "in_network.saturation": (5e5, 1.0, 1e9),
}
_RINGS: Final = ("ll", "ll128", "simple")


def fit_common(
    key: str,
    rows: Rows,
    reach: Reach,
    generations: NDArray[np.str_],
    start_ups: Mapping[str, Sequence[float]],
    sources: tuple[str, ...],
    in_network_from: int | None,
) -> LinkCoefficients:
    """Coefficients of a link of the same family that no row is about.

    Parameters
    ----------
    rows, reach : Rows, Reach
        Measured groups, and what each can send at the datasheet's rate.
    generations : array
        The generation of every row; each counts alike.
    start_ups : mapping of str to sequence of float
        Start-up times [s] of further cards, by generation, on whatever link.
    in_network_from : int or None
        Fewest ranks for which the library lets the switch add.

    Returns
    -------
    LinkCoefficients
        Not fitted: no residual, and the spread of the generations as its own.
    """
    names, which, counts = np.unique(generations, return_inverse=True, return_counts=True)
    weights = np.sqrt(len(rows) / (len(names) * counts[which]))
    parts = [(rows.where(which == i), _some(reach, which == i)) for i in range(len(names))]
    shape = Shape(SOURCE_START, in_network_from)
    keys = list(shape.start)
    start, low, high = (np.log([shape.start[name][i] for name in keys]) for i in range(3))
    size, own = len(keys), 2 * len(names)

    def build(theta: Floats) -> LinkCoefficients:
        values = dict(zip(keys, np.exp(theta[:size]), strict=True))
        return build_link(key, values, theta, shape, sources)

    def misses(link: LinkCoefficients, factors: Floats) -> Floats:
        out = np.empty(len(rows))
        for i, (mine, there) in enumerate(parts):
            adapted = adapt(link, float(factors[i]), float(factors[len(names) + i]))
            out[which == i] = np.log(predict_rows(mine, there, adapted, None) / mine.seconds)
        return out

    def residuals(theta: Floats) -> Floats:
        offsets = theta[size:]
        sums = 10.0 * np.array([offsets[: len(names)].sum(), offsets[len(names) :].sum()])
        pulls = _PULL * np.concatenate([theta[:size] - start, offsets])
        return np.concatenate([weights * misses(build(theta), np.exp(offsets)), pulls, sums])

    bounds = (np.append(low, np.full(own, -1.5)), np.append(high, np.full(own, 1.5)))
    best = None
    for shift in (0.0, 0.5, -0.5):
        first = np.append(start + shift, np.zeros(own))
        first = np.clip(first, bounds[0] + 1e-6, bounds[1] - 1e-6)
        found = least_squares(
            residuals, first, bounds=bounds, loss="soft_l1", f_scale=0.05, max_nfev=60
        )
        if best is None or found.cost < best.cost:
            best = found
    if best is None:  # the loop always runs
        raise RuntimeError(key)
    link = build(best.x)
    by_generation = {
        str(name): [link.ways["ll"].base * float(np.exp(best.x[size + i]))]
        for i, name in enumerate(names)
    }
    for name, more in start_ups.items():
        by_generation.setdefault(name, []).extend(more)
    pooled = np.mean([np.mean(np.log(each)) for each in by_generation.values()])
    link = adapt(link, float(np.exp(pooled)) / link.ways["ll"].base, 1.0)
    spread = float(np.sqrt(np.mean(misses(link, np.ones(own)) ** 2)))
    return replace(link, spread=spread, fitted=False)


def adapt(link: LinkCoefficients, start_up: float, step: float) -> LinkCoefficients:
    """The link with start-up and steps of its quickest protocol so many times as long.

    What the costlier protocols add to it stays.
    """
    ways = dict(link.ways)
    for name, way in link.ways.items():
        if name == "in_network":
            continue
        least = link.ways["ll" if name in _RINGS else "direct_ll"]
        ways[name] = replace(
            way,
            base=way.base + least.base * (start_up - 1.0),
            step=way.step + least.step * (step - 1.0),
        )
    return replace(link, ways=ways)


def _some(reach: Reach, mask: NDArray[np.bool_]) -> Reach:
    return replace(
        reach,
        bandwidth_in=reach.bandwidth_in[mask],
        bandwidth_out=reach.bandwidth_out[mask],
    )
