"""What a collective and the compute beside it cost each other.

While both run, the collective's kernels hold a share of the compute units and of the memory
bandwidth, so compute takes longer by a factor; the collective moves bytes more slowly by another;
and it cannot begin before the kernel that fills the device ends. Factors are measured beside
matrix products (compute-bound) and copies (memory-bound).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import NetworkError
from perfmodel.files import fitted_table
from perfmodel.hardware.load import spec_folders

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interference:
    """Factors while a collective and a kernel run at once.

    Parameters
    ----------
    compute, memory : float
        A compute-bound, and a memory-bound, kernel takes so many times as long.
    collective_by_compute, collective_by_memory : float
        The collective's time on the wire, beside either.
    wait, wait_memory : float
        How long a collective waits to begin, as a share of the kernel that is running, beside
        either kind.
    entry : float
        What a compute-bound kernel takes longer besides, however short: some of its blocks wait for
        the units that the collective holds [s].
    fitted : bool
        Whether it was measured.
    sources : tuple of str
        Citation keys.
    """

    compute: float
    memory: float
    collective_by_compute: float
    collective_by_memory: float
    wait: float
    fitted: bool = True
    sources: tuple[str, ...] = ()
    wait_memory: float = 0.0
    entry: float = 0.0

    @property
    def unit_share(self) -> float:
        """Share of the compute units that the collective holds."""
        return 1.0 - 1.0 / self.compute


NONE = Interference(1.0, 1.0, 1.0, 1.0, 0.0, fitted=False)


def interference(key: str) -> Interference:
    """Read ``efficiency/network/beside-<key>.toml``; no interference where nothing was measured."""
    for folder in spec_folders():
        path = folder / "efficiency" / "network" / f"beside-{key}.toml"
        if path.is_file():
            return _read(path, path.stat().st_mtime_ns)
    return NONE


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> Interference:
    data = fitted_table(path)
    try:
        return Interference(
            data["compute"],
            data["memory"],
            data["collective_by_compute"],
            data["collective_by_memory"],
            data["wait"],
            True,
            tuple(data["sources"]),
            data["wait_memory"],
            data["entry_s"],
        )
    except KeyError as error:
        raise NetworkError(
            str(path), f"no {error}", "the factors that calibration writes", repair="fit it again"
        ) from error


def run_beside(
    compute: ArrayLike,
    collective: ArrayLike,
    factors: Interference,
    *,
    memory_bound: ArrayLike = 0.0,
) -> tuple[Floats, Floats]:
    """End times of compute and of a collective that start together [s].

    Parameters
    ----------
    compute, collective : array_like
        Times alone [s].
    factors : Interference
        What they do to each other while both run.
    memory_bound : array_like
        Share of the compute time that memory decides, 0 to 1.

    Returns
    -------
    (compute end, collective end) : arrays
        Whoever is left continues at full speed: with factors f and g and times a and b,
        the shorter of f a and g b ends first, at t; the other ends at t + (its rest).
    """
    a, b, share = np.broadcast_arrays(
        np.asarray(compute, float), np.asarray(collective, float), np.asarray(memory_bound, float)
    )
    slower = factors.compute + share * (factors.memory - factors.compute)
    held = factors.collective_by_compute + share * (
        factors.collective_by_memory - factors.collective_by_compute
    )
    together = np.minimum(slower * a, held * b)
    first = together + np.maximum(a - together / slower, 0.0)
    second = together + np.maximum(b - together / held, 0.0)
    return np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)


def among_kernels(
    collective: ArrayLike,
    kernel: ArrayLike,
    factors: Interference,
    *,
    memory_bound: ArrayLike = 0.0,
) -> tuple[Floats, Floats]:
    """A collective, and a kernel, while kernels of one kind follow each other all along [s].

    Parameters
    ----------
    collective, kernel : array_like
        Times alone [s].
    factors : Interference
        What they do to each other.
    memory_bound : array_like
        Share of the kernel's time that memory decides, 0 to 1.

    Returns
    -------
    (collective, kernel) : arrays
        A collective that is called when a kernel has just filled the device waits for (most of) it
        and then shares: ``wait * kernel + factor * collective``. A kernel beside which a collective
        runs all the time takes ``factor * kernel + entry``.
    """
    b, a, share = np.broadcast_arrays(
        np.asarray(collective, float), np.asarray(kernel, float), np.asarray(memory_bound, float)
    )

    def between(compute: float, memory: float) -> Floats:
        return np.asarray(compute + share * (memory - compute), dtype=np.float64)

    waits = between(factors.wait, factors.wait_memory) * a
    held = between(factors.collective_by_compute, factors.collective_by_memory) * b
    slowed = between(factors.compute, factors.memory) * a + between(factors.entry, 0.0)
    return (
        np.asarray(np.where(b > 0.0, waits + held, 0.0), dtype=np.float64),
        np.asarray(np.where((a > 0.0) & (b > 0.0), slowed, a), dtype=np.float64),
    )
