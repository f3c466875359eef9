"""Input data: can storage, decoding and the prefetch queue keep up with the steps?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import ScenarioError
from perfmodel.sim.perturb import draw

Floats = NDArray[np.float64]
MOST_BATCHES = 5_000_000


@dataclass(frozen=True, slots=True)
class DataLoader:
    """One node's loader: workers that read a batch from shared storage, decode it, and queue it.

    Parameters
    ----------
    batch_bytes : float
        Read for one batch of one node [B].
    storage_bandwidth : float
        Of the shared storage, over all nodes [B/s].
    nodes : int
        Nodes that read at once, each with an equal share.
    decode_seconds : float
        Processor time of a worker for one batch [s].
    workers : int
        Batches in preparation at once.
    prefetch : int
        Batches that may be ready or in preparation ahead of the one in use; at least 1.
    latency : float
        Of a streaming read before the first byte [s].
    decode_jitter : float
        Coefficient of variation of the decode time (lognormal).
    node_bandwidth : float
        Most one node can read [B/s].
    seed : int
        Seed of the jitter.
    """

    batch_bytes: float
    storage_bandwidth: float
    nodes: int = 1
    decode_seconds: float = 0.0
    workers: int = 1
    prefetch: int = 2
    latency: float = 0.0
    decode_jitter: float = 0.0
    node_bandwidth: float = float("inf")
    seed: int = 0

    def __post_init__(self) -> None:
        for what, low in (
            ("batch_bytes", 0.0), ("storage_bandwidth", 1e-9), ("nodes", 1),
            ("decode_seconds", 0.0), ("workers", 1), ("prefetch", 1), ("latency", 0.0),
            ("decode_jitter", 0.0), ("node_bandwidth", 1e-9),
        ):  # fmt: skip
            value = getattr(self, what)
            if not value >= low or (np.isinf(value) and "bandwidth" not in what):
                raise ScenarioError(
                    f"data loader: {what}",
                    value,
                    "a positive number" if low else "a number that is not negative",
                    repair=f"correct {what}",
                )

    @property
    def bandwidth(self) -> float:
        """Of one node when all read [B/s]."""
        return min(self.node_bandwidth, self.storage_bandwidth / self.nodes)

    @property
    def batch_period(self) -> float:
        """Least time between batches in the long run: the slower of reading and decoding [s].

        Workers read at once but share the node's bandwidth, so reading takes ``bytes / bandwidth``
        a batch however many there are, while latency and decoding are divided among them.
        """
        shared = self.batch_bytes / self.bandwidth
        return max(shared, (shared + self.latency + self.decode_seconds) / self.workers)


@dataclass(frozen=True, slots=True)
class LoaderResult:
    """When batches were ready and how long steps waited for them.

    Parameters
    ----------
    ready : float array
        When each batch lay in the queue, shape ``[steps]`` [s].
    begin : float array
        When each step began [s].
    stall : float array
        How long each step waited [s].
    """

    ready: Floats
    begin: Floats
    stall: Floats

    @property
    def stall_fraction(self) -> float:
        """Share of the steady time (after the first batch) spent waiting."""
        span = self.begin[-1] - self.begin[0]
        return float(self.stall[1:].sum() / span) if span > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {
            "steps": len(self.begin),
            "first_batch_s": float(self.ready[0]),
            "stall_s": float(self.stall.sum()),
            "stall_fraction": self.stall_fraction,
        }


def run_loader(loader: DataLoader, step_seconds: Floats | float, steps: int) -> LoaderResult:
    """Batches against steps: a recurrence over batches, not an event for each read.

    Reads of a node pass through its share of the storage one after another (each at full share:
    the same total as sharing it); decoding runs on the worker that read the batch; a worker takes
    the next batch when it is free and the queue has room.

    Parameters
    ----------
    step_seconds : float or array
        Time of a step [s], one value or shape ``[steps]``.
    steps : int
        How many.
    """
    if not 1 <= steps <= MOST_BATCHES:
        raise ScenarioError(
            "data loader: steps", steps, f"1 to {MOST_BATCHES:,}", repair="simulate fewer steps"
        )
    length = np.broadcast_to(np.asarray(step_seconds, dtype=np.float64), (steps,))
    if np.any(length < 0) or not np.all(np.isfinite(length)):
        raise ScenarioError(
            "data loader: step_seconds",
            step_seconds,
            "finite times that are not negative",
            repair="give the time of a step",
        )
    decode = np.full(steps, loader.decode_seconds)
    if loader.decode_jitter > 0:
        rng = np.random.default_rng(loader.seed)
        decode = decode * draw(rng, "lognormal", loader.decode_jitter, (steps,))
    read = loader.batch_bytes / loader.bandwidth
    free = [0.0] * loader.workers
    storage_free = clock = 0.0
    ready, begin, stall = [0.0] * steps, [0.0] * steps, [0.0] * steps
    decode_list, length_list = decode.tolist(), length.tolist()
    for batch in range(steps):
        worker = batch % loader.workers  # batches are dealt in turn, as torch's DataLoader does
        room = begin[batch - loader.prefetch] if batch >= loader.prefetch else 0.0
        start = max(free[worker], room) + loader.latency
        storage_free = max(storage_free, start) + read
        free[worker] = storage_free + decode_list[batch]
        ready[batch] = max(free[worker], ready[batch - 1] if batch else 0.0)
        begin[batch] = max(clock, ready[batch])
        stall[batch] = begin[batch] - clock
        clock = begin[batch] + length_list[batch]
    return LoaderResult(np.array(ready), np.array(begin), np.array(stall))
