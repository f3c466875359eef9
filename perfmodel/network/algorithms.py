"""What each collective algorithm puts on the wire: steps taken one after another, bytes sent.

An algorithm on ``p`` ranks is three numbers for its busiest rank: how many messages follow one
another (each pays a latency), how many bytes that rank sends in one direction (each pays the
inverse bandwidth), and how many bytes it adds up. Every textbook cost is then
``steps * alpha + wire * beta + reduced * gamma``.

Sizes follow nccl-tests: ``n`` is the larger of a rank's two buffers, so an all-gather counts its
output, a reduce-scatter its input, an all-to-all one rank's buffer.

References
----------
.. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations
   in MPICH", IJHPCA 19(1), 2005.
.. [2] P. Sanders, J. Speck, J. Larsson Träff, "Two-tree algorithms for full bandwidth broadcast,
   reduction and scan", Parallel Computing 35(12), 2009.
.. [3] J. Bruck et al., "Efficient algorithms for all-to-all communications in multiport
   message-passing systems", IEEE TPDS 8(11), 1997.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import NetworkError, nearest_name
from perfmodel.workload.op import COLLECTIVES

Floats = NDArray[np.float64]

OPS: Final = COLLECTIVES

# Which algorithms exist for which operation; the first is the plain choice for large messages.
ALGORITHMS: Final[dict[str, tuple[str, ...]]] = {
    "all_reduce": (
        "ring",
        "tree",
        "halving_doubling",
        "recursive_doubling",
        "direct",
        "in_network",
    ),
    "all_gather": ("ring", "recursive_doubling", "bruck", "direct", "in_network"),
    "reduce_scatter": ("ring", "recursive_halving", "direct", "in_network"),
    "all_to_all": ("direct", "bruck", "ring"),
    "broadcast": ("ring", "tree", "scatter_gather", "in_network"),
    "reduce": ("ring", "tree", "in_network"),
    "gather": ("direct", "binomial"),
    "scatter": ("direct", "binomial"),
    "p2p": ("direct",),
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one collective asks of its busiest rank; all fields broadcast together.

    Parameters
    ----------
    steps : array
        Messages that must follow one another.
    wire : array
        Bytes sent by the busiest rank, one direction [B].
    reduced : array
        Bytes that the busiest rank adds up [B].
    """

    steps: Floats
    wire: Floats
    reduced: Floats

    def seconds(self, alpha: ArrayLike, beta: ArrayLike, gamma: ArrayLike = 0.0) -> Floats:
        """``steps * alpha + wire * beta + reduced * gamma``  [s].

        Parameters
        ----------
        alpha : array_like
            Latency of one step [s].
        beta : array_like
            Inverse bandwidth, per direction [s/B].
        gamma : array_like
            Time to add one byte [s/B].
        """
        total = (
            self.steps * np.asarray(alpha, float)
            + self.wire * np.asarray(beta, float)
            + self.reduced * np.asarray(gamma, float)
        )
        return np.asarray(total, dtype=np.float64)

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.steps + other.steps, self.wire + other.wire, self.reduced + other.reduced
        )


def check_op(op: str) -> None:
    """Raise :class:`NetworkError` unless ``op`` is one of :data:`OPS`."""
    if not isinstance(op, str) or op not in OPS:
        raise NetworkError(
            "collective: op",
            op,
            ", ".join(OPS),
            nearest=nearest_name(op, OPS),
            repair="name one of the accepted operations",
        )


def traffic(op: str, algorithm: str, size: ArrayLike, ranks: ArrayLike) -> Traffic:
    """Steps and bytes of one flat algorithm.

    Parameters
    ----------
    op : str
        One of :data:`OPS`.
    algorithm : str
        One of ``ALGORITHMS[op]``.
    size : array_like
        Bytes of the larger buffer, nccl-tests' convention [B].
    ranks : array_like
        Members of the group; need not be a power of two. One rank costs exactly nothing.

    Returns
    -------
    Traffic
        Arrays of the broadcast shape.

    Raises
    ------
    NetworkError
        If the operation or the algorithm is unknown.
    """
    check_op(op)
    if algorithm not in ALGORITHMS[op]:
        raise NetworkError(
            f"collective {op}: algorithm",
            algorithm,
            ", ".join(ALGORITHMS[op]),
            nearest=nearest_name(algorithm, ALGORITHMS[op]),
            repair="choose an algorithm that exists for this operation, or leave it out",
        )
    n, p = np.broadcast_arrays(np.asarray(size, float), np.asarray(ranks, float))
    many = p > 1
    steps, wire, reduced = _profile(op, algorithm, n, np.where(many, p, 2.0))
    zero = np.zeros_like(n)
    return Traffic(
        *(np.where(many, np.asarray(part, float), zero) for part in (steps, wire, reduced))
    )


Profile = tuple[Floats, Floats, Floats]


def _profile(op: str, algorithm: str, n: Floats, p: Floats) -> Profile:
    """(steps, wire, reduced) for p >= 2."""
    if op == "all_reduce":
        return _all_reduce(algorithm, n, p)
    if op in ("all_gather", "reduce_scatter"):
        none = np.zeros_like(n)
        reduced = none if op == "all_gather" else (p - 1.0) / p * n
        return _half_of_all_reduce(algorithm, n, p, reduced)
    if op in ("broadcast", "reduce"):
        return _one_with_all(algorithm, n, p, np.zeros_like(n) if op == "broadcast" else n)
    return _personal(op, algorithm, n, p)


def _one_with_all(algorithm: str, n: Floats, p: Floats, reduced: Floats) -> Profile:
    none = np.zeros_like(n)
    if algorithm == "tree":  # two trees carry half each: full rate, depth lg p
        return _log2(p), n, reduced
    if algorithm == "scatter_gather":
        return _log2(p) + p - 1.0, 2.0 * (p - 1.0) / p * n, reduced
    if algorithm == "in_network":
        return none + 1.0, n, none
    return p - 1.0, n, reduced  # pipelined chain, filled


def _personal(op: str, algorithm: str, n: Floats, p: Floats) -> Profile:
    """Every rank's block is its own: all-to-all, gather, scatter, point-to-point."""
    none = np.zeros_like(n)
    if op == "p2p":
        return none + 1.0, n, none
    if algorithm == "bruck":
        return _log2(p), n / 2.0 * _log2(p), none
    if algorithm == "ring":  # a block for the rank d hops away crosses d links
        return p - 1.0, n * (p - 1.0) / 2.0, none
    if algorithm == "binomial":
        return _log2(p), n * (p - 1.0) / p, none
    return p - 1.0, n * (p - 1.0) / p, none


def _all_reduce(algorithm: str, n: Floats, p: Floats) -> Profile:
    share = (p - 1.0) / p
    none = np.zeros_like(n)
    if algorithm == "ring":  # reduce-scatter, then all-gather [1]
        return 2.0 * (p - 1.0), 2.0 * share * n, share * n
    if algorithm == "tree":  # up and down two trees of half the data each [2]
        return 2.0 * _log2(p), np.where(p > 2, 2.0 * n, n), n + none
    if algorithm == "halving_doubling":  # Rabenseifner; one fold and one unfold off a power of two
        fold = _fold(p)
        q = 2.0 ** np.floor(np.log2(p))
        inner = (q - 1.0) / q
        return 2.0 * np.log2(q) + 2.0 * fold, (2.0 * inner + fold) * n, (inner + fold) * n
    if algorithm == "recursive_doubling":
        fold = _fold(p)
        rounds = np.floor(np.log2(p))
        return rounds + 2.0 * fold, (rounds + fold) * n, (rounds + fold) * n
    if algorithm == "direct":  # every rank sends its blocks straight to their owners, twice
        return 2.0 + none, 2.0 * share * n, share * n
    # in the switch: n up, n down at once; the switch adds
    return 2.0 + none, n + none, none


def _half_of_all_reduce(algorithm: str, n: Floats, p: Floats, reduced: Floats) -> Profile:
    share = (p - 1.0) / p
    none = np.zeros_like(n)
    if algorithm == "ring":
        return p - 1.0, share * n, reduced
    if algorithm in ("recursive_doubling", "recursive_halving"):
        fold = _fold(p)
        q = 2.0 ** np.floor(np.log2(p))
        return np.log2(q) + fold, ((q - 1.0) / q + fold) * n, reduced
    if algorithm == "bruck":
        return _log2(p), share * n, reduced
    if algorithm == "direct":
        return none + 1.0, share * n, reduced
    # in_network: an all-gather is p multicasts of n/p, a reduce-scatter p reductions of n/p
    return none + 1.0, share * n, none


def _log2(p: Floats) -> Floats:
    return np.asarray(np.ceil(np.log2(p) - 1e-12), dtype=np.float64)


def _fold(p: Floats) -> Floats:
    """1 where p is not a power of two: the surplus ranks fold onto others first."""
    return (np.log2(p) % 1.0 > 1e-12).astype(np.float64)


def bus_factor(op: str, ranks: ArrayLike) -> Floats:
    """Busbw / algbw as nccl-tests defines it.

    2(p-1)/p for all-reduce, (p-1)/p for all-gather, reduce-scatter and all-to-all, (p-1)/p for
    gather and scatter, 1 for broadcast, reduce and point-to-point.

    Reference: NVIDIA/nccl-tests, doc/PERFORMANCE.md.
    """
    check_op(op)
    p = np.asarray(ranks, float)
    share = np.where(p > 1, (p - 1.0) / np.maximum(p, 1.0), 1.0)
    if op == "all_reduce":
        return np.where(p > 1, 2.0 * share, 1.0)
    if op in ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"):
        return np.asarray(share, float)
    return np.ones_like(p)


def algbw(size: ArrayLike, seconds: ArrayLike) -> Floats:
    """Algorithm bandwidth, size / time [B/s]."""
    return np.asarray(np.asarray(size, float) / np.asarray(seconds, float), dtype=np.float64)


def busbw(op: str, size: ArrayLike, ranks: ArrayLike, seconds: ArrayLike) -> Floats:
    """Bus bandwidth, comparable with the wire whatever the rank count [B/s]."""
    return np.asarray(algbw(size, seconds) * bus_factor(op, ranks), dtype=np.float64)
