"""What each stage of a pipeline takes: the input of a simulated step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageCosts:
    """What each stage of a schedule takes; arrays of shape ``[stages]`` (or one value for all).

    Parameters
    ----------
    forward, backward_input, backward_weight : array
        Times of one micro-batch [s]. A whole backward takes the sum of the last two.
    recompute : array
        Forward work repeated before the backward [s].
    inline_forward, inline_backward : array
        Exposed collectives inside a stage (TP, CP, EP), added to forward and input backward [s].
    send_forward, send_backward : array
        To bring a stage's output to the next stage, or its gradient to the one before [s]; nothing
        where both are on one device.
    launch : array
        Host time to launch one row's kernels [s]; 0 means the host never limits.
    gradient_buckets : sequence of sequences
        Per stage: the times of its gradient reductions [s], in the order in which they get ready.
    optimizer : array
        After the last bucket of a stage [s].
    parameter_gather : array
        After the optimizer (sharded optimizer states) [s].
    activation_bytes : array
        Held from the start of a forward until its backward (its weight part, if split) ends [B].
    static_bytes : array
        Held all the time [B].
    """

    forward: ArrayLike
    backward_input: ArrayLike
    backward_weight: ArrayLike
    recompute: ArrayLike = 0.0
    inline_forward: ArrayLike = 0.0
    inline_backward: ArrayLike = 0.0
    send_forward: ArrayLike = 0.0
    send_backward: ArrayLike = 0.0
    launch: ArrayLike = 0.0
    gradient_buckets: Sequence[Sequence[float]] = ()
    optimizer: ArrayLike = 0.0
    parameter_gather: ArrayLike = 0.0
    activation_bytes: ArrayLike = 0.0
    static_bytes: ArrayLike = 0.0

    def column(self, name: str, stages: int) -> Floats:
        """One of the arrays, checked, shape ``[stages]``."""
        given = np.asarray(getattr(self, name), dtype=np.float64)
        if given.shape not in ((), (stages,)):
            raise ScenarioError(
                f"stage costs: {name}",
                given.shape,
                f"one value, or {stages} (one for each stage)",
                repair="give a value for every stage of the schedule",
            )
        if not np.all(np.isfinite(given)) or np.any(given < 0):
            raise ScenarioError(
                f"stage costs: {name}",
                getattr(self, name),
                "finite values that are not negative",
                repair="check where these costs come from",
            )
        return np.array(np.broadcast_to(given, (stages,)))
