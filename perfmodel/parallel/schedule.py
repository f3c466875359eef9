"""Closed forms of pipeline schedules: idle time and micro-batches in flight.

``p`` stages, ``v`` chunks a device, ``m`` micro-batches. A stage works ``f`` forward and ``b``
backward on a micro-batch, of which ``w`` is the weight-gradient half.

References
----------
Huang et al. 2019 (GPipe); Narayanan et al. 2021, section 2.2 (1F1B and its interleaved form);
Korthikanti et al. 2022, appendix C (interleaved memory); Qi et al. 2023, table 2 (ZB-H1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fill_and_drain(
    schedule: str, all_stages: Any, slowest: Any, stages: Any, chunks: Any, weight: Any = 0.0
) -> Floats:
    """Idle time of the slowest device while the pipeline fills and drains [s].

    Parameters
    ----------
    schedule : str
        ``"gpipe"``, ``"1f1b"`` (interleaved where ``chunks`` is above 1) or ``"zb-h1"``.
    all_stages : array
        Forward plus backward of one micro-batch, summed over the devices [s].
    slowest : array
        The same of the slowest device [s].
    stages, chunks : array
        Devices in the pipeline, chunks a device.
    weight : array
        Weight-gradient half of the slowest device [s]; ZB-H1 fills the bubble with it, up to two
        of them for each stage crossed.

    Returns
    -------
    array
        ``(p - 1)(f + b) / v`` for equal stages; ``(p - 1)(f + b - 2w)`` for ZB-H1.
    """
    idle = (all_stages - slowest) / chunks
    if schedule == "zb-h1":
        idle = np.maximum(idle - 2.0 * weight * (stages - 1), 0.0)
    return np.asarray(np.maximum(idle, 0.0), dtype=np.float64)


def in_flight(schedule: str, stage: Any, stages: Any, chunks: Any, micro_batches: Any) -> Floats:
    """Micro-batches whose activations device ``stage`` holds at its worst moment.

    In units of the activations of the device's whole share of the model: 1F1B holds
    ``min(p - i, m)``; interleaving holds ``(v - 1) p + 2 (p - i - 1) + 1`` chunks of 1/v each;
    GPipe holds all.

    Examples
    --------
    >>> float(in_flight("1f1b", 0, 8, 1, 64)), float(in_flight("1f1b", 0, 8, 1, 4))
    (8.0, 4.0)
    >>> float(in_flight("1f1b", 0, 8, 4, 64))  # 8 x (1 + 7 / 32)
    9.75
    """
    if schedule == "gpipe":
        return np.asarray(micro_batches, dtype=np.float64) + 0.0 * np.asarray(stage)
    plain = stages - stage
    warm = (chunks - 1) * stages + 2 * (stages - stage - 1) + 1
    held = np.where(np.asarray(chunks) > 1, warm / chunks, plain)
    return np.asarray(np.minimum(held, micro_batches), dtype=np.float64)
