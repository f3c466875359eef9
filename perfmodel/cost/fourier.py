r"""Fourier transforms: passes over memory, and blocks of threads that hold a line each.

.. math::

    t = t_0 + (K - 1)\, t_k + M\, t_m + \left( \left(\frac{P B - C}{\eta_b W}\right)^p +
        \left(\frac{P' B}{\beta_p U f} + \sum_a \max\left(1, \frac{l_a}{U R}\right)
        \frac{c_\text{line} + 16 h_a / \beta}{f}\right)^p \right)^{1/p}

with :math:`B` the unique bytes, :math:`P` the passes that the library makes over them, :math:`P'`
the same with what lengths that are no powers of two take longer in the units (on an H200 most
transforms take 0.85 to 0.97 of their time on an H100, whose memory is 0.7 as fast), :math:`C` what
the last-level cache keeps between two passes, and, for each transformed axis, :math:`l_a`
lines of which a block holds :math:`h_a` complex values at a time; :math:`M` of the lengths are no
powers of two.

A line that fits one block is read and written once. A longer one is taken as a matrix, its columns
first and then its rows: two passes. A real line of even length ``n`` is a complex one of ``n / 2``
values with a step before or after, which costs a pass of its own where the line is long; one of odd
length has no such short form. A prime of 19 to 127 among the factors takes a kernel and a pass
more, those from 37 on longer ones (alone, too); a larger one makes the line a convolution with a
chirp of at least twice its length (Bluestein), two transforms of which follow each other. PyTorch
copies the spectrum before it goes back to real values, since the library overwrites it, and scales
in a kernel of its own.

Reference
---------
Van Loan, "Computational Frameworks for the Fast Fourier Transform", 1992; Bluestein, "A linear
filtering approach to the computation of discrete Fourier transform", 1970; cuFFT library
documentation, "Accuracy and performance"; PyTorch, ATen/native/cuda/SpectralOps.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.memory_bound import cached_writes
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS: Final = {
    "bandwidth_efficiency": "share of the memory peak that a pass reaches",
    "write_in_cache": "share of the last-level cache that keeps a result for the next pass",
    "row_cycles": "clocks that a line takes beyond its values",
    "row_bytes_per_clock": "bytes a clock that the block of one line works through",
    "rows_per_unit": "lines that one unit works on at a time",
    "pass_bytes_per_clock": "bytes a clock that a unit moves in a pass, reads and writes",
    "mixed_passes": "passes of a length that is no power of two, in the units",
    "prime_passes": "passes of a length with a prime of 37 to 127",
    "chirp_passes": "passes of the convolution with a chirp, a transform of it counted as one",
    "floor_seconds": "start and end of one kernel in a stream [s]",
    "kernel_seconds": "the same for each further kernel of the transform [s]",
    "mixed_seconds": "what a length that is no power of two adds to its kernel [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
# Terms that older fits leave out.
_WITHOUT: Final = {"pass_bytes_per_clock": 1e3, "mixed_passes": 1.0}
PRIMES: Final = tuple(p for p in range(2, 128) if all(p % q for q in range(2, p)))
"""Factors that the library has kernels for."""
SMALL, MEDIUM = 17.0, 31.0
"""Largest factors that stay in one kernel, and whose kernels are no slower."""
ONE_BLOCK: Final = 8192
"""Longest complex line that one block holds in its shared memory (64 KiB)."""
ONE_KERNEL: Final = 16384
"""Longest one that a block holds at all (128 KiB)."""
NEAR: Final = 32768
TIGHT_PASSES: Final = 1.5
"""Passes of lines up to ``NEAR``, of which few fit a unit at once."""
CHIRP: Final = 2.1
"""Length of the chirp's transform over that of the line, the next one without large factors."""
_VALUE = 16.0


class Lines(NamedTuple):
    """Complex lines along one axis: passes, kernels, values that a block holds, and three flags.

    ``mixed`` is 1 where the length is no power of two, ``uneven`` where the largest of several
    factors is above ``SMALL``, ``prime`` where it is above ``MEDIUM``, ``chirp`` where one that the
    library has no kernel for is left.
    """

    passes: Floats
    kernels: Floats
    held: Floats
    mixed: Floats
    uneven: Floats
    prime: Floats
    chirp: Floats


def factors(length: Floats) -> tuple[Floats, Floats]:
    """The largest prime factor up to 127, and what is left when all of those are divided out."""
    lengths, places = np.unique(np.asarray(length, dtype=np.float64), return_inverse=True)
    left, largest = lengths.copy(), np.ones_like(lengths)
    for prime in PRIMES:
        quotient = left / prime
        divided = np.flatnonzero(quotient == np.floor(quotient))
        largest[divided] = prime
        while divided.size:
            left[divided] /= prime
            divided = divided[left[divided] % prime == 0.0]
    return largest[places], left[places]


def lines(length: Floats) -> Lines:
    """How complex lines of ``length`` values are transformed; passes are over the line itself."""
    largest, left = factors(length)
    chirp = left > 1.0
    # A prime alone has a kernel of its own; beside other factors it takes one more.
    uneven = ~chirp & (largest > SMALL) & (length > largest)
    passes, kernels, held = _smooth(length)
    longer = _smooth(CHIRP * length)
    # Short chirps are multiplied on the way; long ones in passes of their own.
    apart = longer[1] > 1.0
    return Lines(
        np.where(chirp, CHIRP * (2.0 * longer[0] + 2.0 * apart), passes + uneven),
        np.where(chirp, 2.0 * longer[1] + 2.0 * apart, kernels + uneven),
        np.where(chirp, 2.0 * longer[2], held),
        np.asarray((largest > 2.0) | chirp, dtype=np.float64),
        np.asarray(uneven, dtype=np.float64),
        np.asarray(~chirp & (largest > MEDIUM), dtype=np.float64),
        np.asarray(chirp, dtype=np.float64),
    )


def _smooth(length: Floats) -> tuple[Floats, Floats, Floats]:
    """Passes, kernels and values a block of a length that has small factors alone."""
    whole = length <= ONE_KERNEL
    passes = np.where(length <= ONE_BLOCK, 1.0, np.where(length <= NEAR, TIGHT_PASSES, 2.0))
    return passes, np.where(whole, 1.0, 2.0), np.where(whole, length, 2.0 * np.sqrt(length))


def steps(kind: str, n: Floats, rows: Floats, scaled: Floats) -> tuple[Lines, Lines, Floats]:
    """Lines of the last axis and of the one before it; kernels beside them, of a pass each."""
    real = kind != "fft"
    even = (n % 2.0 == 0.0) & (n > 1.0)
    last = lines(np.where(even, n / 2.0, n) if real else n)
    hard = last.chirp + last.uneven > 0.0
    long = n > np.where(last.mixed > 0.0, ONE_BLOCK, NEAR)
    apart = real & (long | (even & hard))
    # Odd real lines are filled up to complex ones of twice the bytes.
    odd = real & ~even
    last = last._replace(
        passes=last.passes * np.where(odd & ~hard, 2.0, 1.0),
        kernels=last.kernels + 2.0 * (odd & hard),
    )
    across = lines(rows)
    both = rows > 1.0
    across = Lines(*(value * both for value in across))
    copied = 1.0 if kind == "irfft" else 0.0
    beside = apart + copied + scaled
    return last, across, np.asarray(beside)


def fourier_parts(
    kind: str,
    sizes: Mapping[str, Floats],
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """Time of transforms and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    kind : str
        ``"fft"``, ``"rfft"`` or ``"irfft"``.
    sizes : mapping of array
        ``batch n rows scaled read written`` of the operator.
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    """
    c, s = _WITHOUT | dict(coefficients), sizes
    last, across, beside = steps(kind, s["n"], s["rows"], s["scaled"])
    unique = s["read"] + s["written"]
    passes, slow = beside, beside
    for axis in (last, across):
        passes = passes + axis.passes
        slow = slow + (
            axis.passes
            * (1.0 + (c["mixed_passes"] - 1.0) * axis.mixed)
            * (1.0 + (c["prime_passes"] - 1.0) * axis.prime)
            * (1.0 + (c["chirp_passes"] - 1.0) * axis.chirp)
        )
    through = slow * unique / (device.units * device.clock * c["pass_bytes_per_clock"])
    kept = cached_writes(unique, device.cache, c["write_in_cache"])
    traffic = passes * unique - np.maximum(passes - 0.5, 0.0) * kept
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"])
    width = s["n"] if kind == "fft" else np.floor(s["n"] / 2.0) + 1.0
    work = through
    for axis, count in ((last, s["batch"] * s["rows"]), (across, s["batch"] * width)):
        turns = np.maximum(1.0, count / (device.units * c["rows_per_unit"]))
        each = c["row_cycles"] + _VALUE * axis.held / c["row_bytes_per_clock"]
        work = work + (axis.held > 0.0) * turns * each / device.clock
    kernels = last.kernels + across.kernels + beside
    floor = (
        c["floor_seconds"]
        + (kernels - 1.0) * c["kernel_seconds"]
        + (last.mixed + across.mixed) * c["mixed_seconds"]
    )
    return combine(work, memory, np.zeros_like(memory), floor, c["overlap_exponent"])
