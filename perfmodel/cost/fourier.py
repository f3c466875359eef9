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

What runs is by the names of the kernels of 114 transforms on an H100. A line of small factors is
read and written once by one kernel: up to 16,384 values where they are a power of two (32,768 of
many lines), up to 24,576 where they are three times one, else up to 8,192; along the other axis up
to 1,024. A prime up to 127 alone is one kernel, and so are lines up to 1,024 with a prime of 13 to
31, but along the other axis only 13 and 17 times a power of two. Every other line is taken power of
a prime by power, a kernel and a pass each: 8,710 values in four, of 2, 5, 13 and 67. Kernels of
primes from 13 on take longer in the units, in proportion. A long power of two is a matrix, whose
columns come first in pieces of 64 bytes, which takes half a pass more. What has a larger prime
becomes a convolution with a chirp (Bluestein), of the next length from :math:`2 n - 1` on that has
no prime above 5: in one kernel up to 4,096 values, and otherwise in one for each power of a prime,
there and back. A square of small powers of two is one pass over both axes.

A real line of even length ``n`` is a complex one of ``n / 2`` values with a step before or after,
which is part of the kernel where the factors are small, and else a kernel of its own; one of odd
length is filled up to a complex one and cut again, unless one kernel holds it. PyTorch copies the
spectrum before it goes back to real values, since the library overwrites it, and scales in a kernel
of its own.

Reference
---------
Van Loan, "Computational Frameworks for the Fast Fourier Transform", 1992; Bluestein, "A linear
filtering approach to the computation of discrete Fourier transform", 1970; cuFFT library
documentation, "Accuracy and performance"; PyTorch, ATen/native/cuda/SpectralOps.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    "prime_passes": "passes that a kernel for a prime of 100 takes longer, in the units",
    "chirp_passes": "passes of the convolution with a chirp, a transform of it counted as one",
    "floor_seconds": "start and end of one kernel in a stream [s]",
    "kernel_seconds": "the same for each further kernel of the transform [s]",
    "mixed_seconds": "what a length that is no power of two adds to its kernel [s]",
    "doubling_seconds": "what a line takes longer for each doubling of its values [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
# Terms that older fits leave out.
_WITHOUT: Final = {"pass_bytes_per_clock": 1e3, "mixed_passes": 1.0, "doubling_seconds": 0.0}
PRIMES: Final = tuple(p for p in range(2, 128) if all(p % q for q in range(2, p)))
"""Factors that the library has kernels for."""
_TOGETHER: Final = {2: 10.0, 3: 6.0, 5: 3.0, 7: 3.0, 11: 2.0}
"""Powers of a prime that one kernel takes at once; of others one."""
SMALL, MEDIUM = 11.0, 31.0
"""Largest factors of lines that one kernel takes whole, and of those up to ``ONE_MEDIUM``."""
ONE_MEDIUM: Final = 1024.0
SLOW: Final = 11.0
"""Largest prime whose kernels are no slower than others."""
FUSED: Final = 32.0
"""Longest real line of any factors whose last step is part of its kernel."""
ONE_KERNEL, ONE_OF_MANY = 16384.0, 32768.0
"""Longest power of two that one kernel holds along the last axis, and where there are ``MANY``."""
MANY: Final = 64.0
ONE_TRIPLE, ONE_MIXED = 24576.0, 8192.0
ONE_ACROSS: Final = 1024.0
"""The same of three times such a power, of other lengths of small factors, and of any along the
other axis.
"""
ONE_REAL, ONE_ODD = 4096.0, 128.0
"""Longest real line of small factors, no power of two, whose last step is part of its kernel, and
longest odd one.
"""
PLAIN_PRIMES, FEW_ACROSS = (13.0, 17.0), 512.0
"""Times a power of two such a line along the other axis is one kernel; and how long it may be."""
HALF_LINES: Final = 0.5
"""Passes that longer ones take more, of which a block reads 64 bytes at once."""
NEAR: Final = 8192.0
TIGHT_PASSES: Final = 0.35
"""Passes that each doubling of a line beyond ``NEAR`` costs, since few fit a unit at once."""
COLUMNS_FIRST: Final = 0.5
"""Passes that the columns of a long power of two, in pieces of 64 bytes, take longer."""
ONE_PLANE: Final = 4096.0
"""Values of two equal axes, powers of two, that one kernel transforms."""
ONE_CHIRP: Final = 4096.0
"""Longest line whose convolution stays in one kernel."""
CHIRP_START: Final = 2.3
"""Plain kernels that take as long to start and end as that of a short one."""
CHIRP_SLOWER: Final = 1.7
"""The same of each kernel of a long one."""
SCATTERED: Final = 6.0
"""Passes of a short one along the other axis, whose values lie apart."""
_LONGEST: Final = 2.0**53
_VALUE, _HUNDRED, _THREE = 16.0, 100.0, 3.0


class Lines(NamedTuple):
    """Complex lines along one axis: passes, kernels, values that a block holds, and what slows.

    ``mixed`` is 1 where the length is no power of two, ``primes`` the sum of the primes that have
    kernels of their own, ``chirp`` 1 where a prime that has none is left.
    """

    passes: Floats
    kernels: Floats
    held: Floats
    mixed: Floats
    primes: Floats
    chirp: Floats


class Factors(NamedTuple):
    """Of a length.

    ``largest`` is its largest prime up to 127, ``left`` what there is without all of those and
    ``rest`` without twos; ``kernels`` take its powers of primes, and ``primes`` is the sum of those
    that are slow.
    """

    largest: Floats
    left: Floats
    rest: Floats
    kernels: Floats
    primes: Floats

    @property
    def power(self) -> NDArray[np.bool_]:
        """Where the length is a power of two, shape (N,)."""
        return np.asarray((self.largest <= 2.0) & (self.left == 1.0))


def factors(length: Floats) -> Factors:
    """How lengths fall into powers of primes that have a kernel each."""
    lengths, places = np.unique(np.asarray(length, dtype=np.float64), return_inverse=True)
    left, largest = lengths.copy(), np.ones_like(lengths)
    kernels, primes, rest = np.zeros_like(lengths), np.zeros_like(lengths), lengths
    for prime in PRIMES:
        quotient = left / prime
        divided = np.flatnonzero(quotient == np.floor(quotient))
        largest[divided] = prime
        times = np.zeros_like(lengths)
        while divided.size:
            left[divided] /= prime
            times[divided] += 1.0
            divided = divided[left[divided] % prime == 0.0]
        rest = left.copy() if prime == PRIMES[0] else rest
        kernels += np.ceil(times / _TOGETHER.get(prime, 1.0))
        primes += times * (prime if prime > SLOW else 0.0)
    return Factors(*(value[places] for value in (largest, left, rest, kernels, primes)))


@cache
def _smooth() -> Floats:
    """Numbers without primes above 5, in order."""
    found = [1.0]
    for prime in (2.0, 3.0, 5.0):
        found = [x * prime**e for x in found for e in range(54) if x * prime**e <= _LONGEST]
    return np.sort(np.asarray(found))


def chirp_length(length: Floats) -> Floats:
    """Values of the convolution that a line becomes: the least without primes above 5, (N,)."""
    known = _smooth()
    return np.asarray(known[np.minimum(known.searchsorted(2.0 * length - 1.0), known.size - 1)])


def lines(length: Floats, count: Floats, *, across: bool = False) -> Lines:
    """How so many complex lines are transformed, along the last axis or ``across``.

    Passes are over the lines themselves.
    """
    found = factors(length)
    chirp, power = found.left > 1.0, found.power
    held_whole = np.where(count < MANY, ONE_KERNEL, ONE_OF_MANY)
    longest = np.where(power, held_whole, np.where(found.rest <= _THREE, ONE_TRIPLE, ONE_MIXED))
    longest = np.minimum(longest, ONE_ACROSS) if across else longest
    alone = length == found.largest
    small = (found.largest <= SMALL) | alone
    if across:
        small |= np.isin(found.rest, PLAIN_PRIMES) & (length <= FEW_ACROSS)
    else:
        small |= (found.largest <= MEDIUM) & (length <= ONE_MEDIUM)
    whole = ~chirp & small & (length <= longest)
    blocked = chirp & (length <= ONE_CHIRP)
    tight: Floats = TIGHT_PASSES * np.log2(np.maximum(length / NEAR, 1.0))
    if across:
        tight = np.where(length > FEW_ACROSS, HALF_LINES, 0.0)
    columns_first = COLUMNS_FIRST * (power & (not across))
    passes = np.where(whole, 1.0 + tight, found.kernels + columns_first)
    kernels = np.where(whole, 1.0, found.kernels)
    padded = chirp_length(length)
    both_ways = 2.0 * factors(padded).kernels
    held = np.where(whole, length, 2.0 * np.sqrt(length))
    return Lines(
        np.where(
            blocked,
            SCATTERED if across else 1.0,
            np.where(chirp, both_ways * padded / length, passes),
        ),
        np.where(blocked, CHIRP_START, np.where(chirp, CHIRP_SLOWER * both_ways, kernels)),
        np.where(blocked, 2.0 * padded, held),
        np.asarray(~power, dtype=np.float64),
        np.where(chirp | (whole & ~alone), 0.0, found.primes),
        np.asarray(chirp, dtype=np.float64),
    )


def steps(
    kind: str, n: Floats, batch: Floats, rows: Floats, scaled: Floats
) -> tuple[Lines, Lines, Floats]:
    """Lines of the last axis and of the one before it; kernels beside them, of a pass each."""
    real = kind != "fft"
    even = (n % 2.0 == 0.0) & (n > 1.0)
    count = batch * rows
    last = lines(np.where(even, n / 2.0, n) if real else n, count)
    odd = real & ~even
    if real:
        whole = factors(n)
        easy = (whole.left == 1.0) & ((whole.largest <= SMALL) | (whole.largest == n))
        longest = 2.0 * np.where(count < MANY, ONE_KERNEL / 2.0, ONE_OF_MANY)
        longest = np.where(odd, ONE_ODD, np.where(whole.power, longest, ONE_REAL))
        fused = (easy & (n <= longest)) | (n <= FUSED)
    else:
        fused = np.ones(n.shape, dtype=bool)
    # Odd real lines are filled up to complex ones of twice the bytes.
    last = last._replace(passes=last.passes * np.where(odd & ~fused, 2.0, 1.0))
    across = lines(rows, batch * n, across=True)
    apart = ~fused * np.where(odd, 2.0, 1.0)
    across = Lines(*(value * (rows > 1.0) for value in across))
    plane = (n == rows) & (n * rows <= ONE_PLANE) & (last.mixed == 0.0) & (not real)
    across = across._replace(passes=across.passes * ~plane)
    copied = 1.0 if kind == "irfft" else 0.0
    return last, across, np.asarray(apart + copied + scaled)


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
    last, across, beside = steps(kind, s["n"], s["batch"], s["rows"], s["scaled"])
    unique = s["read"] + s["written"]
    passes, slow = beside, beside
    for axis in (last, across):
        passes = passes + axis.passes
        slow = slow + (
            (axis.passes + c["prime_passes"] * axis.primes / _HUNDRED)
            * (1.0 + (c["mixed_passes"] - 1.0) * axis.mixed)
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
    doublings = sum(np.log2(np.maximum(axis.held, 1.0)) for axis in (last, across))
    floor = (
        c["floor_seconds"]
        + (kernels - 1.0) * c["kernel_seconds"]
        + (last.mixed + across.mixed) * c["mixed_seconds"]
        + doublings * c["doubling_seconds"]
    )
    return combine(work, memory, np.zeros_like(memory), floor, c["overlap_exponent"])
