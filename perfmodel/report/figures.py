"""The pictures: arrays in, a matplotlib figure out.

Every function takes plain arrays in SI units, so that a picture can be made of predictions,
measurements or both, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from perfmodel.report.style import COLOURS, figure

_MARKERS: Final = ("o", "^", "s", "D")
_BESIDE: Final = 8
"""A legend of more series than this stands beside the points, not on them."""


def roofline(
    title: str,
    peak: float,
    bandwidth: float,
    intensity: Mapping[str, ArrayLike],
    rate: Mapping[str, ArrayLike],
    colours: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """Achieved FLOP/s against arithmetic intensity, under the two roofs.

    Parameters
    ----------
    peak : float
        Dense peak [FLOP/s].
    bandwidth : float
        Memory bandwidth [B/s].
    intensity, rate : mapping of str to (n,) array
        FLOP/B and FLOP/s of the points of each series.
    colours : mapping of str to str, optional
        Of series that other pictures show too.
    """
    with figure() as (drawn, axes):
        everything = np.concatenate(
            [np.ones(1), *(np.asarray(x, float) for x in intensity.values())]
        )
        ridge = peak / bandwidth
        left = min(float(everything.min()) / 2, ridge / 8)
        right = max(float(everything.max()) * 2, ridge * 8)
        line = np.geomspace(left, right, 200)
        axes.plot(line, np.minimum(peak, bandwidth * line) / 1e12, color="#333333", lw=1.3)
        axes.axvline(ridge, color="#999999", lw=0.7, ls=":")
        axes.annotate(
            f"ridge {ridge:.0f} FLOP/B",
            (ridge, 0.02),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="bottom",
            color="#777777",
        )
        axes.annotate(f"{peak / 1e12:.0f} TFLOP/s", (right, peak / 1e12), ha="right", va="bottom")
        axes.annotate(
            f"{bandwidth / 1e12:.2f} TB/s",
            (left * 1.3, bandwidth * left * 1.3 / 1e12),
            ha="left",
            va="top",
            xytext=(8, -4),
            textcoords="offset points",
        )
        layers = _layers(intensity)
        for colour, (name, x) in zip(_cycle(), intensity.items(), strict=False):
            axes.scatter(
                x,
                np.asarray(rate[name], float) / 1e12,
                zorder=layers[name],
                s=9,
                color=colours.get(name, colour),
                label=name,
                alpha=0.6,
                lw=0,
                rasterized=True,
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="arithmetic intensity [FLOP/B]",
            ylabel="achieved [TFLOP/s]",
            title=title,
        )
        if intensity:
            axes.legend(loc="lower right", markerscale=2)
        return drawn


def predicted_against_measured(
    title: str,
    measured: Mapping[str, ArrayLike],
    predicted: Mapping[str, ArrayLike],
    *,
    unit: str = "s",
    scale: float = 1.0,
) -> Figure:
    """Predicted against measured, log-log, with the diagonal and a band of 10 %.

    Parameters
    ----------
    measured, predicted : mapping of str to (n,) array
        The points of each series, in SI.
    unit, scale : str, float
        What the axes show: values are multiplied by ``scale``.
    """
    many = len(measured) > _BESIDE
    with figure(8.2 if many else 5.6, 5.2) as (drawn, axes):
        both: list[NDArray[np.float64]] = []
        layers = _layers(measured)
        for place, (name, x) in enumerate(measured.items()):
            xs, ys = np.asarray(x, float) * scale, np.asarray(predicted[name], float) * scale
            both += [xs, ys]
            error = float(np.mean(np.abs(ys / xs - 1))) if xs.size else 0.0
            axes.scatter(
                xs,
                ys,
                zorder=layers[name],
                s=11,
                alpha=0.6,
                lw=0,
                rasterized=True,
                color=COLOURS[place % len(COLOURS)],
                marker=_MARKERS[place // len(COLOURS) % len(_MARKERS)],
                label=f"{name}: {xs.size:,} point{'s' * (xs.size != 1)}, MAPE {error:.1%}",
            )
        values = np.concatenate(both) if both else np.array([1.0])
        ends = np.array([values.min() / 1.5, values.max() * 1.5])
        axes.plot(ends, ends, color="#333333", lw=0.9)
        axes.fill_between(ends, ends * 0.9, ends * 1.1, color="#BBBBBB", alpha=0.35, lw=0)
        axes.set(
            xscale="log",
            yscale="log",
            xlim=ends,
            ylim=ends,
            xlabel=f"measured [{unit}]",
            ylabel=f"predicted [{unit}]",
            title=title,
        )
        corner: dict[str, Any] = {"bbox_to_anchor": (1.0, 1.0)} if many else {}
        axes.legend(loc="upper left", fontsize=7, **corner)
        return drawn


def error_against_size(
    title: str, size: Mapping[str, ArrayLike], error: Mapping[str, ArrayLike], *, xlabel: str
) -> Figure:
    """Predicted over measured against a size, one series a colour; a band of 10 % in grey.

    Parameters
    ----------
    size, error : mapping of str to (n,) array
        Of each series, what the points are told apart by, and predicted / measured - 1. Half and
        double stand equally far from the middle.
    """
    with figure() as (drawn, axes):
        layers = _layers(size)
        for colour, (name, x) in zip(_cycle(), size.items(), strict=False):
            axes.scatter(
                x,
                np.asarray(error[name], float) + 1.0,
                zorder=layers[name],
                s=8,
                alpha=0.5,
                lw=0,
                rasterized=True,
                color=colour,
                label=name,
            )
        axes.axhline(1.0, color="#333333", lw=0.8)
        axes.axhspan(0.9, 1.1, color="#BBBBBB", alpha=0.35, lw=0)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="predicted / measured")
        axes.set_title(title)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(_plain)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=7, markerscale=2, ncols=2)
        return drawn


def curves(
    title: str,
    size: Mapping[str, ArrayLike],
    value: Mapping[str, ArrayLike],
    *,
    measured: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Predicted lines with measured points of the same colour, log-log."""
    points = measured or {}
    with figure() as (drawn, axes):
        for colour, (name, x) in zip(_cycle(), size.items(), strict=False):
            axes.plot(x, value[name], color=colour, lw=1.4, label=name)
            if name in points:
                axes.scatter(*points[name], s=12, color=colour, lw=0)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
        axes.legend(fontsize=8)
        return drawn


def pareto(
    title: str, time: ArrayLike, memory: ArrayLike, front: ArrayLike, capacity: float
) -> Figure:
    """Every plan's step time against its peak memory, the Pareto front and the capacity.

    Parameters
    ----------
    time, memory : (n,) array
        Step time [s] and peak memory [B].
    front : (k,) integer array
        Indices of the plans that no other plan beats in both, fastest first.
    capacity : float
        Memory of the device [B].
    """
    seconds, size = np.asarray(time, float), np.asarray(memory, float) / 2**30
    chosen = np.asarray(front, int)
    with figure() as (drawn, axes):
        fits = size <= capacity / 2**30
        others = np.ones(size.shape, dtype=bool)
        others[chosen] = False
        for colour, label, group in (
            ("#D9B8A3", "does not fit", ~fits & others),
            ("#9BC3DE", "fits", fits & others),
        ):
            if group.any():
                axes.scatter(
                    size[group], seconds[group], s=5, color=colour, lw=0, label=label,
                    rasterized=True,
                )  # fmt: skip
        order = chosen[np.argsort(size[chosen])]
        axes.step(size[order], seconds[order], where="post", color=COLOURS[0], lw=1.4)
        axes.scatter(
            size[order], seconds[order], s=16, color=COLOURS[0], label="Pareto front", zorder=3
        )
        axes.axvline(capacity / 2**30, color=COLOURS[1], lw=1.0)
        axes.annotate(
            f"capacity {capacity / 2**30:.1f} GiB",
            (capacity / 2**30, 0.5),
            xycoords=("data", "axes fraction"),
            color=COLOURS[1],
            rotation=90,
            ha="right",
            va="center",
            xytext=(-2, 0),
            textcoords="offset points",
        )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="peak memory of a device [GiB]",
            ylabel="step time [s]",
            title=title,
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_plain)
            axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes.legend(loc="upper center", markerscale=1.5)
        return drawn


def _plain(value: float, _position: float) -> str:
    return f"{value:g}"


def stacked_bars(
    title: str,
    labels: Sequence[str],
    parts: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    limit: float | None = None,
    limit_label: str = "",
) -> Figure:
    """Horizontal bars made of named parts: a step's milliseconds, or a stage's gigabytes.

    Parameters
    ----------
    labels : sequence of n str
        One a bar, first on top.
    parts : mapping of str to (n,) array
        Length of each part in every bar.
    limit : float, optional
        A vertical line, such as the capacity of the device.
    """
    with figure(7.0, max(2.0, 0.42 * len(labels) + 1.3)) as (drawn, axes):
        rows = np.arange(len(labels))
        left = np.zeros(len(labels))
        for colour, (name, lengths) in zip(_cycle(), parts.items(), strict=False):
            values = np.asarray(lengths, float)
            if not np.any(values > 0):
                continue
            axes.barh(rows, values, left=left, color=colour, height=0.72, label=name)
            left += values
        if limit is not None:
            axes.axvline(limit, color="#333333", lw=1.0, ls="--")
            axes.annotate(
                limit_label,
                (limit, 0.5),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="left",
                va="center",
                xytext=(3, 0),
                textcoords="offset points",
            )
        axes.set_yticks(rows, labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=xlabel, title=title)
        axes.margins(y=0.02)
        drawn.legend(loc="outside lower center", ncols=4, fontsize=8)
        return drawn


def timeline(
    title: str,
    rows: Sequence[str],
    row: ArrayLike,
    start: ArrayLike,
    duration: ArrayLike,
    kind: Sequence[str],
    *,
    unit: str = "ms",
    scale: float = 1e3,
) -> Figure:
    """Spans on rows: ranks, streams or SMs over time, coloured by kind.

    Parameters
    ----------
    rows : sequence of str
        Row labels, first on top.
    row, start, duration : (n,) arrays
        Row index, start [s] and length [s] of each span.
    kind : sequence of n str
        What the span is; decides its colour.
    """
    index, begin = np.asarray(row, int), np.asarray(start, float) * scale
    length, what = np.asarray(duration, float) * scale, np.asarray(kind)
    with figure(9.0, max(1.8, 0.26 * len(rows) + 1.2)) as (drawn, axes):
        for colour, name in zip(_cycle(), dict.fromkeys(kind), strict=False):
            chosen = what == name
            axes.barh(
                index[chosen],
                length[chosen],
                left=begin[chosen],
                height=0.86,
                color=colour,
                edgecolor="white",
                linewidth=0.3,
                label=name,
            )
        axes.set_yticks(np.arange(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        if begin.size:
            axes.set_xlim(left=min(0.0, float(begin.min())))
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=f"time [{unit}]", title=title)
        drawn.legend(loc="outside lower center", ncols=8, fontsize=8)
        return drawn


def _layers(series: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Heights to draw at: the fewer points a series has, the higher, so that none is buried."""
    fewer = sorted(series, key=lambda name: -np.size(series[name]))
    return {name: 2.0 + place / 100.0 for place, name in enumerate(fewer)}


def _cycle() -> list[str]:
    """Colours for up to 48 series; they repeat after twelve."""
    return list(COLOURS) * 4
