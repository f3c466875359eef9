r"""A small network over many kernels: what they have in common, learned once.

Trees of one kernel know its rows alone. Kernels of one kind (forward and backward, either layout,
any format) share tiles, waves and caches; a network that reads the features of all of them, and the
words of the kernel's name, learns that from all their rows:

.. math::

    h_0 = \mathrm{clip}((x - c) / s, \pm 4), \quad
    h_{i+1} = \sigma(h_i W_i + b_i + w V_i), \quad o = h_n W_n + b_n + w V_n, \\
    \sigma(z) = \frac{z}{2} \left( 1 + \frac{z}{1 + |z|} \right), \quad
    f = -\tau \log \sum_j e^{-o_j / \tau}

The answers ``o`` are as of several kernels, of which a library runs the fastest: ``f`` is their
soft minimum. The mean of a few such networks, begun differently, is closer than each. Words ``w``
(0 or 1 each) are constant within a kernel, so that they join every bias.

What all kernels share is the beginning: those that differ in arithmetic alone have networks of
their own, taught further on their rows. They cost a price no more than the shared ones, and hold
more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.arrays import Arrays, read_arrays
from perfmodel.cost.parts import Floats
from perfmodel.errors import CalibrationError

Singles = NDArray[np.float32]
FARTHEST = 4.0
"""Standard deviations beyond which a feature counts no more: nothing is extrapolated."""
POOLED_FILE = "networks.npz"
FORMAT = 4
_READ = (2, 3, FORMAT)  # 2 is of networks with one answer, 3 of shared ones alone
SHARPNESS = 0.15
"""``tau`` of the soft minimum, in logarithms of time."""
_CHUNK = 1024


def words_of(kernel: str) -> tuple[str, ...]:
    """``"conv_fwd_nhwc-half"`` -> ``("conv", "fwd", "nhwc", "half")``."""
    return tuple(kernel.replace("-", "_").split("_"))


def kind_of(kernel: str) -> str:
    """What kernels that differ in arithmetic alone have in common: ``"conv_fwd_nhwc"``."""
    return kernel.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Net:
    """One network: a matrix and a vector a layer, the last as wide as there are answers."""

    weights: tuple[Singles, ...]
    biases: tuple[Singles, ...]

    def __call__(self, x: Singles) -> Singles:
        """Its answer at inputs of shape (N, F); shape (N,)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = bent(x @ weight + bias)
        return least(x @ self.weights[-1] + self.biases[-1])[0]


@dataclass(frozen=True, slots=True)
class Layers:
    """The networks as one kernel asks them.

    Parameters
    ----------
    center, scale : array, shape (F,)
        Mean and standard deviation of each feature.
    nets : tuple of Net
        Whose mean is the answer.
    """

    center: Singles
    scale: Singles
    nets: tuple[Net, ...]

    def __call__(self, features: Floats | Singles) -> Floats:
        """The answer at ``features`` of shape (N, F); shape (N,)."""
        if len(features) > _CHUNK:  # a quarter of the features of one kind of convolution are alike
            varied = np.any(features != features[:1], axis=0)
            if not varied.all():
                return self._where(varied, features[:1])(features.T[varied].T)
        answer = np.zeros(features.shape[0])
        for start in range(0, features.shape[0], _CHUNK):
            x = standard(features[start : start + _CHUNK], self.center, self.scale)
            for net in self.nets:
                answer[start : start + _CHUNK] += net(x)
        return answer / len(self.nets)

    def check(self, features: int) -> None:
        """See that the networks fit together, and so many features.

        Raises
        ------
        ValueError
            If they do not.
        """
        if self.center.shape != (features,) or self.scale.shape != (features,):
            raise ValueError("networks that do not fit their inputs")
        _check(self.nets, features, 0)

    def _where(self, varied: NDArray[np.bool_], first: Floats | Singles) -> Layers:
        """The networks of the ``varied`` features; the others are as in the row ``first``."""
        x = standard(first, self.center, self.scale)[:, ~varied]
        nets = [
            Net(
                (net.weights[0][varied], *net.weights[1:]),
                (net.biases[0] + (x @ net.weights[0][~varied])[0], *net.biases[1:]),
            )
            for net in self.nets
        ]
        return Layers(self.center[varied], self.scale[varied], tuple(nets))


@dataclass(frozen=True, slots=True)
class Pooled:
    """The networks of all kernels of a kind.

    Parameters
    ----------
    inputs, words : tuple of str
        Features, in the order of the rows of the first matrices, and words of kernels' names, in
        that of the last rows of every matrix.
    center, scale : array, shape (F,)
        As in :class:`Layers`.
    nets : tuple of Net
        As in :class:`Layers`; their matrices have a row more for each word, below the others.
    own : mapping of str to tuple of Net
        Kind of kernels (:func:`kind_of`) -> networks taught further, which are asked instead.
    """

    inputs: tuple[str, ...]
    words: tuple[str, ...]
    center: Singles
    scale: Singles
    nets: tuple[Net, ...]
    own: Mapping[str, tuple[Net, ...]] = field(default_factory=dict)

    def of(self, kernel: str, names: Sequence[str]) -> Layers:
        """The networks for a kernel whose features are ``names``; others are as in the mean.

        Raises
        ------
        CalibrationError
            If a feature is none of the inputs.
        """
        unknown = [name for name in names if name not in self.inputs]
        if unknown:
            raise CalibrationError(
                f"networks of {kernel}",
                unknown[0],
                f"one of their {len(self.inputs)} inputs",
                repair="run `perfmodel calibrate` again: networks and kernels are of one fit",
            )
        mine = words_of(kernel)
        rows = np.array([self.inputs.index(name) for name in names], dtype=np.intp)
        said = np.array([word in mine for word in self.words])
        count = len(self.words)
        nets = []
        for net in self.own.get(kind_of(kernel), self.nets):
            # Words are the last rows of every matrix, and join its bias.
            biases = tuple(
                bias + weight[weight.shape[0] - count :][said].sum(axis=0)
                for weight, bias in zip(net.weights, net.biases, strict=True)
            )
            first, *others = (weight[: weight.shape[0] - count] for weight in net.weights)
            nets.append(Net((np.ascontiguousarray(first[rows]), *others), biases))
        return Layers(self.center[rows], self.scale[rows], tuple(nets))


def bent(x: Singles) -> Singles:
    """``x/2 (1 + x / (1 + |x|))``, in place: a rectifier with a round corner."""
    share = np.abs(x)
    share += np.float32(1.0)
    np.divide(x, share, out=share)
    share += np.float32(1.0)
    share *= np.float32(0.5)
    x *= share
    return x


def least(x: Singles) -> tuple[Singles, Singles]:
    """Soft minimum of ``x`` (N, K) along its rows, and its slopes: shape (N,) and (N, K)."""
    lowest = x.min(axis=1, keepdims=True)
    share = np.exp((lowest - x) / np.float32(SHARPNESS))
    whole = share.sum(axis=1, keepdims=True)
    found = lowest - np.float32(SHARPNESS) * np.log(whole)
    return np.asarray(found[:, 0]), np.asarray(share / whole)


def standard(features: Floats | Singles, center: Singles, scale: Singles) -> Singles:
    """Features in standard deviations from their mean, at most :data:`FARTHEST`."""
    x = features.astype(np.float32)
    x -= center
    x /= scale
    return np.clip(x, np.float32(-FARTHEST), np.float32(FARTHEST), out=x)


def arrays_of(nets: Sequence[Net], key: str) -> dict[str, Singles | NDArray[np.float16]]:
    """Arrays of networks as files hold them, named ``{key}weight_0_0`` and so on.

    Weights have half precision there, as ``teach`` leaves them.
    """
    found: dict[str, Singles | NDArray[np.float16]] = {}
    for one, net in enumerate(nets):
        for at, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            found[f"{key}weight_{one}_{at}"] = weight.astype(np.float16)
            found[f"{key}bias_{one}_{at}"] = bias
    return found


def nets_of(data: Arrays, key: str) -> tuple[Net, ...]:
    """Networks of what :func:`arrays_of` gave.

    Raises
    ------
    KeyError
        If an array is missing.
    """
    layers = sum(name.startswith(f"{key}weight_0_") for name in data)
    count = sum(name.startswith(f"{key}weight_") for name in data) // max(layers, 1)
    return tuple(
        Net(
            tuple(data[f"{key}weight_{one}_{at}"].astype(np.float32) for at in range(layers)),
            tuple(data[f"{key}bias_{one}_{at}"] for at in range(layers)),
        )
        for one in range(count)
    )


def _check(nets: Sequence[Net], features: int, words: int) -> None:
    for net in nets:
        width = features
        for weight, bias in zip(net.weights, net.biases, strict=True):
            if weight.shape != (width + words, bias.size):
                raise ValueError("networks that do not fit together")
            width = bias.size


def write_pooled(path: Path, pooled: Pooled) -> None:
    """Write networks as a plain ``.npz``.

    Weights have half precision there, as ``teach`` leaves them.
    """
    arrays: dict[str, object] = {
        "format": np.int64(FORMAT),
        "inputs": np.array(pooled.inputs),
        "words": np.array(pooled.words),
        "center": pooled.center,
        "scale": pooled.scale,
    }
    for kind, nets in {"": pooled.nets, **pooled.own}.items():
        arrays |= arrays_of(nets, kind)
    with path.open("wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]


def read_pooled(path: Path) -> Pooled:
    """Read what :func:`write_pooled` wrote.

    Raises
    ------
    CalibrationError
        If the file is missing, damaged or of another format.
    """
    return read_arrays(
        path,
        f"a network of format {FORMAT}",
        _pooled,
        repair="run `perfmodel calibrate` again, or restore the file",
    )


def _pooled(data: Arrays) -> Pooled:
    """Networks, once their parts fit together.

    Raises
    ------
    KeyError, ValueError
        If they do not.
    """
    if int(data["format"]) not in _READ:
        raise ValueError(f"format {int(data['format'])}")
    first = "weight_0_0"
    kinds = [name.removesuffix(first) for name in data if name.endswith(first)]
    nets = {kind: nets_of(data, kind) for kind in kinds}
    inputs, words = (tuple(str(name) for name in data[of]) for of in ("inputs", "words"))
    for several in nets.values():
        _check(several, len(inputs), len(words))
    center, scale = data["center"], data["scale"]
    if center.shape != (len(inputs),) or scale.shape != center.shape:
        raise ValueError("networks that do not fit their inputs")
    return Pooled(inputs, words, center, scale, nets.pop(""), nets)
