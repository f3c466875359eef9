r"""A library that picks between two kernels by one trial each.

``cudnn.benchmark`` runs every plan once, with the launch on the clock, and keeps the shortest. A
depth-wise convolution has a kernel made for it and a generic one, which does a fixed number of
operations a second but starts sooner: where both are short, chance decides. With the times
:math:`t_s` of the special and :math:`t_g` of the generic kernel,

.. math::

    p = \frac{1}{1 + e^{(t_g - t_s - \Delta) / \sigma}}, \qquad t = t_s^{1 - p} \, t_g^{\,p}

is the median-like time of what the search keeps: :math:`\Delta` is how much earlier the generic
kernel starts, :math:`\sigma` the scatter of a single trial.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats, Parts

COEFFICIENTS = {
    "packed_gain": "how much faster a kernel takes its operands that works on pairs of channels",
    "packed_floor_seconds": "how much later that kernel is done, however little there is to do [s]",
    "search_lead_seconds": "how much sooner the generic kernel starts when it is tried [s]",
    "search_spread_seconds": "scatter of the time of one trial [s]",
}


def searched(
    special: Parts,
    serves: NDArray[np.bool_],
    generic: Floats,
    c: Mapping[str, float],
) -> Parts:
    """What the search keeps; the time that chance adds counts to the floor.

    Parameters
    ----------
    special : Parts
        Of the kernel made for the operator, arrays of shape (N,).
    serves : array of bool
        Where there is such a kernel; the generic one runs elsewhere.
    generic : array
        Time of the generic kernel [s].
    c : mapping
        Values of :data:`COEFFICIENTS`.
    """
    ahead = (generic - special.seconds - c["search_lead_seconds"]) / c["search_spread_seconds"]
    share = np.where(serves, 1.0 / (1.0 + np.exp(np.clip(ahead, -50.0, 50.0))), 1.0)
    seconds = special.seconds ** (1.0 - share) * generic**share
    return Parts(
        seconds,
        special.compute,
        special.memory,
        special.power,
        np.maximum(special.floor + seconds - special.seconds, 0.0),
        share,
    )
