"""Fit the coefficients of a communication library on a link, and the residual that remains.

The mechanism's coefficients keep their meanings (start-up, step, share of the wire, saturation);
they are found by least squares on log(time), so that a small and a large message count alike. What
is left becomes a Gaussian process over operation, ranks and size (:mod:`network_residual`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, least_squares

from perfmodel.calibrate.network_residual import Points, tabulate
from perfmodel.calibrate.network_rows import Rows
from perfmodel.network.coefficients import LinkCoefficients, Way
from perfmodel.network.collectives import price
from perfmodel.network.placement import Reach

Floats = NDArray[np.float64]
_PULL: Final = 0.15  # a coefficient off by a factor e weighs like a miss of 15 %
OPS: Final = (
    *("all_reduce", "all_gather", "reduce_scatter", "all_to_all"),
    *("broadcast", "reduce", "gather", "scatter", "p2p"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which coefficients a link has, where to start and how far they may go.

    ``start`` maps ``"way.field"`` to (start, lowest, highest). Start-up and
    step of ``ll128`` are what it adds to ``ll``, those of ``simple`` what it adds to ``ll128``.
    """

    start: dict[str, tuple[float, float, float]]
    in_network_from: int | None = None
    ranks_share: tuple[int, ...] = ()


def domain_shape(in_network_from: int | None = None, *, tree: bool = False) -> Shape:
    """Coefficients inside a node; ``tree`` for PCIe, whose rate falls with the group."""
    start = {
        "ll.base": (6e-6, 5e-7, 5e-5),
        "ll.step": (1e-6, 5e-8, 2e-5),
        "ll.share": (0.035, 0.002, 0.6),
        "ll128.base": (1.2e-6, 1e-8, 5e-5),
        "ll128.step": (1e-7, 1e-9, 2e-5),
        "ll128.share": (0.42, 0.02, 0.95),
        "simple.base": (8e-6, 1e-8, 3e-4),
        "simple.step": (2e-6, 1e-9, 1e-4),
        "simple.share": (0.8, 0.05, 1.0),
        "simple.saturation": (1e5, 1.0, 1e8),
        "ll.copy": (0.1, 0.005, 50.0),
        "ll128.copy": (0.3, 0.05, 50.0),
        "simple.copy": (2.0, 0.2, 50.0),
        "direct_ll.base": (8e-6, 5e-7, 5e-5),
        "direct_ll.step": (2e-7, 1e-9, 2e-5),
        "direct_ll.share": (0.02, 0.002, 0.9),
        "direct.base": (2e-6, 1e-8, 5e-5),
        "direct.step": (2e-7, 1e-9, 2e-5),
        "direct.share": (0.75, 0.05, 1.0),
        "direct.saturation": (1e6, 1.0, 1e8),
        "direct.peer": (0.6, 0.05, 1.0),
    }
    if in_network_from is not None:
        start |= {
            "in_network.base": (2e-5, 1e-6, 3e-4),
            "in_network.share": (0.6, 0.2, 1.0),
            "in_network.saturation": (1e6, 1.0, 1e9),
        }
    return Shape(start, in_network_from, (2, 4, 8) if tree else ())


def fabric_shape() -> Shape:
    """Coefficients between nodes; start-up is what the fabric adds to that inside."""
    start = {
        "ll.base": (1e-5, 1e-7, 4e-4),
        "ll.step": (5e-6, 5e-7, 1e-4),
        "ll.share": (0.1, 0.002, 0.6),
        "ll128.base": (2e-5, 1e-8, 6e-4),
        "ll128.step": (2e-6, 1e-9, 1e-4),
        "ll128.share": (0.4, 0.02, 0.95),
        "simple.base": (4e-5, 1e-8, 2e-3),
        "simple.step": (5e-6, 1e-9, 5e-4),
        "simple.share": (0.85, 0.1, 1.0),
        "simple.saturation": (1e6, 1.0, 1e9),
        "direct.base": (2e-5, 1e-7, 4e-4),
        "direct.step": (1e-6, 1e-8, 1e-4),
        "direct.share": (0.8, 0.05, 1.0),
        "direct.saturation": (1e5, 1.0, 1e9),
    }
    return Shape(start)


def fit_domain(
    key: str, rows: Rows, reach: Reach, shape: Shape, sources: tuple[str, ...]
) -> LinkCoefficients:
    """Fit a domain's coefficients and residual to groups that stay inside it.

    Parameters
    ----------
    key : str
        Name of the result.
    rows : Rows
        What may be fitted on.
    reach : Reach
        What each row's group can send at the datasheet's rate.
    shape : Shape
        Which coefficients there are.
    sources : tuple of str
        Citation keys.
    """

    def predict(link: LinkCoefficients) -> Floats:
        return predict_rows(rows, with_share(reach, link, rows.ranks), link, None)

    link = _solve(key, rows, shape, sources, predict)
    ops = tuple(op for op in OPS if (rows.op == op).any())
    link = _corrected(link, rows, predict(link), rows.ranks, ops)
    return never_faster_with_size(link, domain_mechanism(link, float(reach.bandwidth_in.max())))


def fit_fabric(
    key: str,
    rows: Rows,
    reach: Reach,
    inside: LinkCoefficients,
    shape: Shape,
    sources: tuple[str, ...],
) -> LinkCoefficients:
    """Fit what lies between nodes, the inside being known already."""

    def predict(link: LinkCoefficients) -> Floats:
        return predict_rows(rows, reach, inside, link)

    link = _solve(key, rows, shape, sources, predict)
    ops = tuple(op for op in OPS if (rows.op == op).sum() > 3)
    if not ops:
        return link
    some = np.isin(rows.op, ops)
    link = _corrected(link, rows.where(some), predict(link)[some], rows.groups[some], ops)
    # Larger groups are bound by latency up to larger sizes: there only the residual has a slope.
    return never_faster_with_size(link, lambda _op, size, _count: np.ones_like(size))


def fit_direct(
    link: LinkCoefficients, rows: Rows, reach: Reach, inside: LinkCoefficients
) -> LinkCoefficients:
    """A fabric with its way of sending blocks to chosen peers fitted to an all-to-all's rows."""
    start = {name: each for name, each in fabric_shape().start.items() if "direct" in name}

    def predict(found: LinkCoefficients) -> Floats:
        return predict_rows(rows, reach, inside, replace(link, ways={**link.ways, **found.ways}))

    found = _solve(link.key, rows, Shape(start), link.sources, predict)
    doubt = {**link.doubt, **found.doubt}
    return replace(link, ways={**link.ways, **found.ways}, doubt=doubt)


def predict_rows(
    rows: Rows, reach: Reach, inside: LinkCoefficients, outside: LinkCoefficients | None
) -> Floats:
    """Predicted seconds of measured rows, with whatever residual the coefficients carry."""
    seconds = np.empty(len(rows))
    for op in np.unique(rows.op):
        for forced in np.unique(rows.forced):
            mask = (rows.op == op) & (rows.forced == forced)
            if not mask.any():
                continue
            part = Reach(
                reach.bandwidth_in[mask],
                reach.bandwidth_out[mask],
                np.broadcast_to(reach.share_in, mask.shape)[mask],
                reach.dims,
                reach.wraps,
                reach.link_bandwidth,
            )
            seconds[mask] = price(
                str(op),
                rows.size[mask],
                rows.ranks[mask],
                np.minimum(rows.local, rows.ranks)[mask],
                part,
                inside,
                outside,
                algorithm=str(forced) or None,
            ).seconds
    return seconds


def with_share(reach: Reach, link: LinkCoefficients, ranks: Floats) -> Reach:
    """The reach of groups that see only a share of the wire (PCIe)."""
    return replace(reach, share_in=link.group_share(ranks))


def _solve(
    key: str,
    rows: Rows,
    shape: Shape,
    sources: tuple[str, ...],
    predict: Callable[[LinkCoefficients], Floats],
) -> LinkCoefficients:
    names = list(shape.start)
    start, low, high = (np.log([shape.start[name][i] for name in names]) for i in range(3))
    extra = len(shape.ranks_share) - 1 if shape.ranks_share else 0
    start = np.concatenate([start, np.full(extra, -0.7)])
    low = np.concatenate([low, np.full(extra, -4.0)])
    high = np.concatenate([high, np.zeros(extra)])

    def build(theta: Floats) -> LinkCoefficients:
        return build_link(key, dict(zip(names, np.exp(theta), strict=False)), theta, shape, sources)

    def residuals(theta: Floats) -> Floats:
        misses = np.log(predict(build(theta)) / rows.seconds)
        return np.concatenate([misses, _PULL * (theta - start)])

    best = None
    for shift in (0.0, 0.5, -0.5):
        first = np.clip(start + shift, low + 1e-6, high - 1e-6)
        found = least_squares(
            residuals, first, bounds=(low, high), loss="soft_l1", f_scale=0.05, max_nfev=60
        )
        if best is None or found.cost < best.cost:
            best = found
    if best is None:  # the loop always runs
        raise RuntimeError(key)
    link = build(best.x)
    misses = np.log(predict(link) / rows.seconds)
    spread = max(float(np.std(misses)), 0.02)
    # Around the optimum log(time) is about linear: covariance = variance * (J'J)^-1; the pull
    # towards the family is part of J, so that nothing is less certain than its family.
    slopes: Floats = np.array(best.jac, dtype=np.float64)
    errors = spread * np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)))
    doubt = {name.replace(".", "_"): float(e) for name, e in zip(names, errors, strict=False)}
    return replace(link, spread=spread, doubt=doubt)


def build_link(
    key: str, values: dict[str, float], theta: Floats, shape: Shape, sources: tuple[str, ...]
) -> LinkCoefficients:
    """Coefficients from the values of a shape's names; later ones of ``theta`` are of the group."""
    ways: dict[str, Way] = {}
    for name, under in (
        ("ll", None), ("ll128", "ll"), ("simple", "ll128"), ("direct_ll", None),
        ("direct", "direct_ll"), ("in_network", None),
    ):  # fmt: skip
        if f"{name}.share" in values:
            below = ways.get(under) if under else None
            ways[name] = Way(
                float(values[f"{name}.base"]) + (below.base if below else 0.0),
                float(values.get(f"{name}.step", 0.0)) + (below.step if below else 0.0),
                float(values[f"{name}.share"]),
                float(values.get(f"{name}.saturation", 0.0)),
                copy=float(values.get(f"{name}.copy", np.inf)),
                peer=float(values.get(f"{name}.peer", np.inf)),
                peer_rate=float(values.get(f"{name}.peer_rate", np.inf)),
            )
    shares: tuple[tuple[int, float], ...] = ()
    if shape.ranks_share:
        falls = np.cumprod([1.0, *np.exp(theta[len(shape.start) :])])
        shares = tuple((r, float(s)) for r, s in zip(shape.ranks_share, falls, strict=True))
    return LinkCoefficients(
        key,
        ways,
        in_network_from=shape.in_network_from,
        ranks_share=shares,
        fitted=True,
        sources=sources,
    )


def _corrected(
    link: LinkCoefficients, rows: Rows, predicted: Floats, counts: Floats, ops: tuple[str, ...]
) -> LinkCoefficients:
    """The coefficients with the table of what they leave over."""
    plain = rows.forced == ""
    residual = np.log(rows.seconds / predicted)[plain]
    known = Points(rows.op[plain], counts[plain], rows.size[plain])
    ranks = tuple(int(count) for count in np.unique(known.ranks))
    return replace(link, correction=tabulate(known, residual, ops, ranks))


def never_faster_with_size(
    link: LinkCoefficients, mechanism: Callable[[str, Floats, int], Floats]
) -> LinkCoefficients:
    """The residual bent where noise would make a larger message the faster one (isotonic fit).

    Parameters
    ----------
    mechanism : callable
        (operation, sizes, ranks) -> seconds without residual.
    """
    table = link.correction
    if table is None:
        return link
    tables = {}
    for op, each in table.tables.items():
        columns = each.values.shape[1]
        size: Floats = np.exp2(table.first + table.step * np.arange(columns, dtype=np.float64))
        rows = []
        for count, values, spread in zip(each.ranks, each.values, each.spread, strict=True):
            base = np.log(mechanism(op, size, count))
            rows.append(isotonic_regression(base + values, weights=spread**-2.0).x - base)
        tables[op] = replace(each, values=np.array(rows))
    return replace(link, correction=replace(table, tables=tables))


def domain_mechanism(
    link: LinkCoefficients, bandwidth: float
) -> Callable[[str, Floats, int], Floats]:
    """Seconds of groups inside one domain at ``bandwidth``, without the residual."""
    bare = replace(link, correction=None)

    def seconds(op: str, size: Floats, count: int) -> Floats:
        ranks = np.full(size.shape, float(count))
        links = Reach(
            np.full(size.shape, bandwidth), np.full(size.shape, np.inf), link.group_share(ranks)
        )
        return price(op, size, ranks, ranks, links, bare, None).seconds

    return seconds
