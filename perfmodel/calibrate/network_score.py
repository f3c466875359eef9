"""How far collectives are from measurement: on the half that no fit saw, and a generation left out.

``python -m perfmodel.calibrate.network_score TABLE.csv --write`` fits the published table, writes
``hardware_specs/efficiency/network`` and prints the report; without ``--write`` it only reports.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.network_beside import (
    beside_rows,
    fit_beside,
    predict_beside,
    write_beside,
)
from perfmodel.calibrate.network_file import write_links
from perfmodel.calibrate.network_fit import predict_rows
from perfmodel.calibrate.network_measured import (
    KEY,
    fit_measured,
    measured_rows,
    predict_measured,
)
from perfmodel.calibrate.network_published import (
    ABROAD,
    FAMILY,
    GENERATIONS,
    TARGETS,
    cluster_of,
    fit_family,
    fit_published,
    situation,
)
from perfmodel.calibrate.network_rows import UNSEEN, Rows, published_rows
from perfmodel.errors import CalibrationError
from perfmodel.hardware.load import spec_folders
from perfmodel.network.algorithms import busbw
from perfmodel.network.coefficients import (
    LinkCoefficients,
    fitted,
    has_multicast,
    tier_coefficients,
)
from perfmodel.network.interference import Interference, interference
from perfmodel.network.placement import Reach, domain_tier

Floats = NDArray[np.float64]
_NVLINKS = {"ampere": "nvlink3", "hopper": "nvlink4", "blackwell": "nvlink5"}
SINGLE_NODE = ("A100-SXM4-80GB", "H100-SXM5-80GB", "H200-SXM", "B200-SXM")
SIZE_CLASSES = ((0.0, 2.0**16, "up to 64 KiB"), (2.0**16, 2.0**23, "to 8 MiB"),
                (2.0**23, np.inf, "above"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of one set of rows.

    Parameters
    ----------
    name : str
        What the set is.
    rows : int
        How many.
    mape, p90, worst : float
        Mean, 90th percentile and largest absolute error, as shares of the measured time.
    bias : float
        Mean of log(predicted / measured).
    """

    name: str
    rows: int
    mape: float
    p90: float
    worst: float
    bias: float


def score(name: str, predicted: Floats, measured: Floats) -> Score:
    """Errors of predictions against measurements."""
    error = np.abs(predicted / measured - 1.0)
    bias = float(np.mean(np.log(predicted / measured)))
    return Score(
        name, len(error), float(error.mean()), float(np.quantile(error, 0.9)), float(error.max()),
        bias,
    )  # fmt: skip


def predict_published(rows: Rows, links: Mapping[str, LinkCoefficients]) -> Floats:
    """Predictions for all rows that some target is about; NaN elsewhere."""
    predicted = np.full(len(rows), np.nan)
    for target in TARGETS:
        outside = rows.groups > 1
        wanted = np.isin(rows.hardware, target.hardware) & (rows.ranks > 1)
        mask = wanted & (outside if target.inside is not None else ~outside)
        if not mask.any():
            continue
        mine = rows.where(mask)
        if target.inside is None:
            predicted[mask] = _inside(mine, links[target.key])
        else:
            inside = links.get(target.inside, links["rccl-infinity-fabric"])
            predicted[mask] = predict_rows(mine, situation(mine), inside, links[target.key])
    for hardware, (fabric, inner) in ABROAD.items():
        mask = rows.hardware == hardware
        if mask.any():
            mine = rows.where(mask)
            predicted[mask] = predict_rows(mine, situation(mine), links[inner], links[fabric])
    rest = np.isnan(predicted) & (rows.groups == 1)
    for hardware in np.unique(rows.hardware[rest]):
        mask = rest & (rows.hardware == hardware)
        mine = rows.where(mask)
        cluster = cluster_of(str(mine.node[0]), 1, int(mine.ranks.max()))
        link = tier_coefficients(cluster, cluster.tiers[domain_tier(cluster)])
        predicted[mask] = predict_rows(mine, situation(mine), link, None)
    return predicted


def curves(
    rows: Rows, predicted: Floats
) -> Iterator[tuple[tuple[str, str, int], dict[str, Floats]]]:
    """Curves for pictures: (hardware, operation, ranks) and arrays sorted by size.

    The arrays are ``size`` [B], ``measured`` and ``predicted`` [s], the two as ``busbw`` [B/s] and
    ``predicted_busbw``, and ``held`` (whether no fit saw the point).
    """
    keys = sorted(set(zip(rows.hardware, rows.op, rows.ranks, strict=True)))
    for hardware, op, ranks in keys:
        mask = (rows.hardware == hardware) & (rows.op == op) & (rows.ranks == ranks)
        mask &= np.isfinite(predicted) & (rows.forced == "")
        part, there = rows.where(mask), predicted[mask]
        if len(part) < 3:
            continue
        order = np.argsort(part.size)
        size, measured, there = part.size[order], part.seconds[order], there[order]
        yield (
            (str(hardware), str(op), int(ranks)),
            {
                "size": size,
                "measured": measured,
                "predicted": there,
                "busbw": busbw(str(op), size, ranks, measured),
                "predicted_busbw": busbw(str(op), size, ranks, there),
                "held": part.held[order].astype(np.float64),
            },
        )


def _inside(rows: Rows, link: LinkCoefficients) -> Floats:
    links = situation(rows)
    links = Reach(links.bandwidth_in, links.bandwidth_out, link.group_share(rows.ranks))
    return predict_rows(rows, links, link, None)


def left_out(rows: Rows, cards: Mapping[str, LinkCoefficients]) -> Iterator[Score]:
    """Each generation predicted from the others alone, all and by class of size.

    Nothing of the generation is seen, on whatever link; starting values are constants of NCCL's
    source. A switch that cannot add (before NVLink 4) does not.
    """
    for generation in GENERATIONS:
        mine, there = left_out_rows(rows, cards, generation)
        yield score(f"{generation}, from the others", there, mine.seconds)
        for low, high, name in SIZE_CLASSES:
            some = (mine.size > low) & (mine.size <= high)
            yield score(f"{generation}, {name}", there[some], mine.seconds[some])


def left_out_rows(
    rows: Rows, cards: Mapping[str, LinkCoefficients], generation: str
) -> tuple[Rows, Floats]:
    """All rows of a generation, and what the others alone predict."""
    link = fit_family(rows.where(~rows.held), cards, without=generation)
    if not has_multicast(_NVLINKS[generation]):
        link = replace(link, in_network_from=None)
    mine = rows.where(
        np.isin(rows.hardware, GENERATIONS[generation]) & (rows.groups == 1) & (rows.ranks > 1)
    )
    return mine, _inside(mine, link)


def shipped_report(table: Path, measured: Path | None = None) -> list[tuple[str, list[Score]]]:
    """The report of the coefficients that are shipped, without fitting anything.

    Parameters
    ----------
    table : Path
        ``validate/published/collectives.csv``.
    measured : Path, optional
        The harness's own ``collectives.csv``.

    Raises
    ------
    CalibrationError
        If a shipped file is missing.
    """
    links = _all_shipped()
    rows, _ = published_rows(table)
    sections = report(rows, links, without_generation=False)
    if measured is not None:
        mine = measured_rows(measured)
        sections += measured_report(mine, _shipped(KEY), links["nccl-nvlink4"])
    return sections


def _all_shipped() -> dict[str, LinkCoefficients]:
    return {target.key: _shipped(target.key) for target in TARGETS}


def _shipped(key: str) -> LinkCoefficients:
    found = fitted(key)
    if found is None:
        raise CalibrationError(
            key, "no file", "a file of hardware_specs/efficiency/network",
            repair="run `python -m perfmodel.calibrate.network_score TABLE --write`",
        )  # fmt: skip
    return found


def report(
    rows: Rows, links: Mapping[str, LinkCoefficients], *, without_generation: bool = True
) -> list[tuple[str, list[Score]]]:
    """Sections of scores on held rows: by chip, operation, ranks, size; then what was left out."""
    held = rows.where(rows.held)
    predicted = predict_published(held, links)
    known = np.isfinite(predicted)
    held, predicted = held.where(known), predicted[known]
    single = (held.groups == 1) & np.isin(held.hardware, SINGLE_NODE)
    several = (held.groups > 1) & (held.hardware != "MI250X (GCD)")
    several &= ~np.isin(held.hardware, UNSEEN)
    rings = single & (held.op != "all_to_all")

    def scores(mask: NDArray[np.bool_], label: Callable[[Rows], NDArray[np.str_]]) -> list[Score]:
        part, there = held.where(mask), predicted[mask]
        names = label(part)
        return [
            score(str(name), there[names == name], part.seconds[names == name])
            for name in np.unique(names)
        ]

    def size_class(part: Rows) -> NDArray[np.str_]:
        edges = np.array([low for low, _, _ in SIZE_CLASSES])
        names = np.array([name for _, _, name in SIZE_CLASSES])
        return names[np.searchsorted(edges, part.size, side="left") - 1]

    def reach_of(part: Rows) -> NDArray[np.str_]:
        return np.where(part.groups > 1, "between nodes", "one node")

    def everything(name: str) -> Callable[[Rows], NDArray[np.str_]]:
        return lambda part: np.full(len(part), name)

    sections = [
        ("Single node: A100, H100, H200, B200", scores(single, everything("all operations"))
         + scores(rings, everything("without all-to-all"))),
        ("Between nodes (without LUMI)", scores(several, everything("all"))),
        ("Whole clusters that no fit saw", scores(np.isin(held.hardware, UNSEEN), reach_of)),
        ("By chip, single node", scores(held.groups == 1, lambda part: part.hardware)),
        ("By chip, between nodes", scores(held.groups > 1, lambda part: part.hardware)),
        ("By operation", scores(single, lambda part: part.op)),
        ("By ranks", scores(single, lambda part: np.char.mod("%d ranks", part.ranks))),
        ("By size", scores(single, size_class)),
    ]  # fmt: skip
    if without_generation:
        sections.append(("A generation left out", list(left_out(rows, links))))
    return sections


def measured_report(
    rows: Rows, own: LinkCoefficients, published: LinkCoefficients
) -> list[tuple[str, list[Score]]]:
    """Held rows of our own measurement: by its own fit, and by the published table's alone."""
    held = rows.where(rows.held)
    mine, theirs = predict_measured(held, own), predict_measured(held, published)
    names = np.char.add(np.char.add(held.op, " "), np.char.mod("%d", held.ranks))
    shared = np.isin(held.op, ("all_reduce", "all_gather", "reduce_scatter"))
    return [
        (
            "Own measurement, 2 to 4 H200, held half",
            [score("all operations", mine, held.seconds)]
            + [
                score(str(name), mine[names == name], held.seconds[names == name])
                for name in np.unique(names)
            ],
        ),
        (
            "Own measurement, by the published table's coefficients (no row of it fitted)",
            [
                score("all operations", theirs, held.seconds),
                score("rings", theirs[shared], held.seconds[shared]),
            ],
        ),
    ]


def drawn_report(
    path: Path, own: LinkCoefficients, factors: Interference
) -> list[tuple[str, list[Score]]]:
    """A later draw of sizes that no fit reads: alone, and among kernels."""
    rows = measured_rows(path)
    there = predict_measured(rows, own)
    rest = rows.op != "p2p"
    alone = [
        score("all operations", there, rows.seconds),
        score("without p2p", there[rest], rows.seconds[rest]),
    ]
    alone += [
        score(str(op), there[rows.op == op], rows.seconds[rows.op == op])
        for op in np.unique(rows.op)
    ]
    beside, _ = beside_rows([path])
    among = predict_beside(beside, factors)
    both = [
        score(f"collective among {kind} kernels{label}", among[mask], beside.both[mask])
        for kind in ("gemm", "copy")
        for label, part in (("", beside.op != ""), (", without p2p", beside.op != "p2p"))
        for mask in ((beside.kind == kind) & part,)
    ]
    return [("Sizes drawn later, 2 H200", alone), ("The same, beside compute", both)]


def shipped_drawn(path: Path) -> list[tuple[str, list[Score]]]:
    """:func:`drawn_report` with the coefficients that are shipped."""
    return drawn_report(path, _shipped(KEY), interference("nccl-nvlink4"))


def _source(table: Path) -> str:
    return f"validate/measurements/{table.parent.name}"


def markdown(sections: list[tuple[str, list[Score]]]) -> str:
    """The report as tables."""
    lines = []
    for title, scores in sections:
        lines += [f"### {title}", "", "| | rows | MAPE | p90 | worst | bias |",
                  "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        lines += [
            f"| {each.name} | {each.rows} | {each.mape:.1%} | {each.p90:.1%} "
            f"| {each.worst:.1%} | {np.expm1(each.bias):+.1%} |"
            for each in scores
        ]
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="perfmodel.calibrate.network_score")
    parser.add_argument("table", type=Path, help="validate/published/collectives.csv")
    parser.add_argument(
        "--measured", type=Path, help="validate/measurements/h200-sxm-141gb-x4/collectives.csv"
    )
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="further tables with work beside"
    )
    parser.add_argument(
        "--drawn", type=Path, help="validate/measurements/h200-sxm-141gb-x2/collectives-drawn.csv"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="write the fitted files")
    choice.add_argument("--shipped", action="store_true", help="judge the files as they are")
    parser.add_argument("--out", type=Path, default=None, help="folder of the fitted files")
    options = parser.parse_args(arguments)
    rows, refused = published_rows(options.table)
    links = _all_shipped() if options.shipped else fit_published(rows)
    folder = options.out or spec_folders()[-1] / "efficiency" / "network"
    sections = report(rows, links)
    if options.measured:
        mine = measured_rows(options.measured)
        own = _shipped(KEY) if options.shipped else fit_measured(mine, links["nccl-nvlink4"])
        links[own.key] = own
        sections += measured_report(mine, own, links["nccl-nvlink4"])
        tables = [options.measured, *options.beside]
        factors, counts = fit_beside(tables, tuple(_source(table) for table in tables))
        sys.stdout.write(f"Beside compute: {factors}; (rows, spread): {counts}\n\n")
        if options.write:
            write_beside(factors, folder / "beside-nccl-nvlink4.toml")
        if options.drawn:
            sections += drawn_report(options.drawn, own, factors)
    if options.write:
        write_links(links, folder)
    sys.stdout.write(markdown(sections))
    reasons = sorted({reason for _, reason in refused})
    for reason in reasons:
        count = sum(each == reason for _, each in refused)
        sys.stdout.write(f"- refused {count} rows: {reason}\n")
    sys.stdout.write(f"- the family of links: {FAMILY}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
