"""What measurements gave for one kernel on one chip, and its file.

A plain ``.npz`` (no pickles) holds the learned arrays; beside it a TOML of the same name tells a
reader the coefficients, the measured range, the residuals and the hash of the data. The arrays are
complete on their own: the TOML is for people, the npz for the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perfmodel.cost.arrays import Arrays, read_arrays
from perfmodel.cost.correction import Smooth, Trees
from perfmodel.cost.layers import Layers, arrays_of, nets_of
from perfmodel.cost.parts import Floats

FORMAT = 1
_FADE_OCTAVES = 0.75
EVEN_SHARES = (0.5, 0.5)
_NETWORK, _MOMENTS = "network_", ("center", "scale")


@dataclass(frozen=True, slots=True)
class Fitted:
    """One kernel's fit.

    Parameters
    ----------
    kernel, device : str
        What was fitted, and on which chip.
    coefficients : dict
        Of the mechanism.
    features : tuple of str
        Names of the columns that the learners were taught on.
    trees, smooth : Trees, Smooth or None
        The two learners; ``None`` where too few points were measured to teach one.
    shares : (float, float)
        What part of the trees' and of the process's answer counts; where one of them is missing the
        other stands for it.
    extent : dict of (low, high)
        Measured range of every size, base-2 logarithms.
    size_edges : array, shape (E,)
        Times that part the size classes [s].
    spread : array, shape (E + 1,)
        Half-width of the 90 % interval in each class, in the logarithm of time.
    spread_outside : float
        The same for the mechanism alone.
    pooled_share : float
        What part of the whole answer networks give.
    pooled : Layers or None
        Networks that the kernel shares with others, which have a file of their own.
    network : Layers or None
        Networks of the kernel's own, which answer in place of those.
    """

    kernel: str
    device: str
    coefficients: dict[str, float]
    features: tuple[str, ...]
    trees: Trees | None
    smooth: Smooth | None
    shares: tuple[float, float]
    extent: dict[str, tuple[float, float]]
    size_edges: Floats
    spread: Floats
    spread_outside: float
    pooled_share: float = 0.0
    pooled: Layers | None = None
    network: Layers | None = None

    def log_factor(self, values: Floats) -> Floats:
        """Learned ``log(measured / mechanism)`` at features of shape (N, F)."""
        network = self.network or self.pooled
        if network is None or self.pooled_share <= 0.0:
            return self._own(values)
        said = self.pooled_share * network(values)
        if self.pooled_share < 1.0:
            said += (1.0 - self.pooled_share) * self._own(values)
        return said

    def _own(self, values: Floats) -> Floats:
        """What trees and process say, which the kernel's own rows taught."""
        answer = np.zeros(values.shape[0])
        alone = self.trees or self.smooth
        if alone is not None and (self.trees is None or self.smooth is None):
            return np.asarray(sum(self.shares) * alone(values))
        for share, learner in zip(self.shares, (self.trees, self.smooth), strict=True):
            if learner is not None and share > 0.0:
                answer += share * learner(values)
        return answer

    def inside(self, sizes: dict[str, Floats]) -> Floats:
        """1 inside the measured range, fading to 0 within a few octaves of it; shape (N,)."""
        outside = np.zeros_like(next(iter(sizes.values())))
        for name, (low, high) in self.extent.items():
            over = np.maximum(sizes[name] - high, low - sizes[name])
            outside = np.maximum(outside, over)
        # A hundredth of an octave is rounding, not extrapolation.
        return np.asarray(np.exp(-((np.maximum(outside - 0.01, 0.0) / _FADE_OCTAVES) ** 2)))

    def half_width(self, seconds: Floats, inside: Floats) -> Floats:
        """Half-width of the interval in the logarithm of time, shape (N,)."""
        near = self.spread[np.searchsorted(self.size_edges, seconds)]
        return np.asarray(inside * near + (1.0 - inside) * np.maximum(near, self.spread_outside))


def write_arrays(path: Path, fitted: Fitted) -> None:
    """Write the ``.npz`` of a fit."""
    arrays: dict[str, object] = {
        "format": np.int64(FORMAT),
        "kernel": np.array(fitted.kernel),
        "device": np.array(fitted.device),
        "coefficient_names": np.array(list(fitted.coefficients)),
        "coefficient_values": np.array(list(fitted.coefficients.values())),
        "features": np.array(fitted.features),
        "extent_names": np.array(list(fitted.extent)),
        "extent_values": np.array(list(fitted.extent.values())).reshape(-1, 2),
        "shares": np.array(fitted.shares),
        "size_edges": fitted.size_edges,
        "spread": fitted.spread,
        "spread_outside": np.float64(fitted.spread_outside),
        "pooled_share": np.float64(fitted.pooled_share),
    }
    if fitted.trees is not None:
        for name in ("asked", "limits", "leaves", "base"):
            arrays[f"trees_{name}"] = getattr(fitted.trees, name)
        # A two-thousandth of a leaf is far below what hundreds of trees are off by.
        arrays["trees_leaves"] = fitted.trees.leaves.astype(np.float16)
    if fitted.smooth is not None:
        for name in ("columns", "points", "weights", "scales", "mean"):
            arrays[f"smooth_{name}"] = getattr(fitted.smooth, name)
    if fitted.network is not None:
        arrays |= {f"{_NETWORK}{name}": getattr(fitted.network, name) for name in _MOMENTS}
        arrays |= arrays_of(fitted.network.nets, _NETWORK)
    with path.open("wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]


def read_fitted(path: Path) -> Fitted:
    """Read what :func:`write_arrays` wrote.

    Raises
    ------
    CalibrationError
        If the file is damaged or of another format.
    """
    return read_arrays(
        path,
        f"an efficiency file of format {FORMAT}",
        _fitted,
        repair="run `perfmodel calibrate` again, or restore the file",
    )


def _fitted(data: Arrays) -> Fitted:
    """A fit, once its parts fit together.

    Raises
    ------
    KeyError, ValueError
        If they do not.
    """
    if int(data["format"]) != FORMAT:
        raise ValueError(f"format {int(data['format'])}")
    trees = smooth = None
    if "trees_asked" in data:
        trees = Trees(
            data["trees_asked"],
            data["trees_limits"],
            data["trees_leaves"].astype(np.float32),
            data["trees_base"],
        )
    if "smooth_points" in data:
        names = ("columns", "points", "weights", "scales", "mean")
        smooth = Smooth(*(data[f"smooth_{name}"] for name in names))
    network = None
    if f"{_NETWORK}center" in data:
        center, scale = (data[f"{_NETWORK}{name}"] for name in _MOMENTS)
        network = Layers(center, scale, nets_of(data, _NETWORK))
    features = tuple(str(name) for name in data["features"])
    for part in (trees, smooth, network):
        if part is not None:
            part.check(len(features))
    low_high = data["extent_values"]
    shares = data["shares"] if "shares" in data else np.array(EVEN_SHARES)
    edges, spread = data["size_edges"], data["spread"]
    if spread.shape != (edges.size + 1,):
        raise ValueError(f"spread of shape {spread.shape} for {edges.size} edges")
    return Fitted(
        str(data["kernel"]),
        str(data["device"]),
        {
            str(name): float(value)
            for name, value in zip(
                data["coefficient_names"], data["coefficient_values"], strict=True
            )
        },
        features,
        trees,
        smooth,
        (float(shares[0]), float(shares[1])),
        {
            str(name): (float(pair[0]), float(pair[1]))
            for name, pair in zip(data["extent_names"], low_high, strict=True)
        },
        edges,
        spread,
        float(data["spread_outside"]),
        float(data["pooled_share"]) if "pooled_share" in data else 0.0,
        network=network,
    )
