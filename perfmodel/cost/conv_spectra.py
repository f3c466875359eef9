r"""Full-precision convolutions by transforms: spectra of whole maps, or Winograd's tiles.

Forward, cuDNN may transform whole maps (padded to powers of two :math:`L_h \times L_w`) and
filters, multiply, and transform back; for weight gradients it cuts maps into tiles of
:math:`4 \times 4` (Winograd). Either way every map and every filter becomes ``v`` values a channel

.. math::

    v = L_h (L_w / 2 + 1), \qquad\text{or}\qquad
    v = (3 + r)^2 \lceil p/4 \rceil \lceil q/4 \rceil

(complex; real, and without the number of tiles for a filter), which are streamed
``spectrum_passes`` times. The multiplications are those of a product a value: :math:`8 n c_i c_o v`
or :math:`2 n c_i c_o v` operations. It starts late (``spectrum_floor_seconds``: several kernels)
and pays where channels and images share a transform.

References
----------
Mathieu et al., "Fast training of convolutional networks through FFTs", 2014. Lavin and Gray, "Fast
algorithms for convolutional neural networks", 2016.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS = {
    "spectrum_passes": "times that the transformed maps and filters are streamed",
    "spectrum_floor_seconds": "start and end of the kernels of a transformed convolution [s]",
    "spectrum_efficiency": "share of the peak at which transformed values are multiplied",
}
_TILE = 4.0


def is_spectral(sizes: Mapping[str, Floats], direction: str) -> NDArray[np.bool_]:
    """Where a library transforms: step 1 and more than one tap, forward and weight gradients."""
    wide = (sizes["steps"] == 1.0) & (sizes["taps"] > 1.0) & (sizes["groups"] == 1.0)
    return np.asarray(wide & (direction != "dgrad"))


def spectral_parts(
    sizes: Mapping[str, Floats], direction: str, device: Device, c: Mapping[str, float]
) -> Parts:
    """Time of the transformed convolution, arrays of shape (N,) [s]."""
    s = sizes
    pairs = s["c_in"] * s["c_out"]
    maps = s["n"] * (s["c_in"] + s["c_out"])
    if direction == "fwd":
        high, wide = (2.0 ** np.ceil(np.log2(s[side] + 2.0 * s["pad"])) for side in ("h", "w"))
        values = high * (wide / 2.0 + 1.0)
        moved = 8.0 * values * (maps + pairs)
        flops = 8.0 * values * s["n"] * pairs
    else:
        out = np.sqrt(s["outputs"] / (s["h"] * s["w"]))
        tiles = np.ceil(s["h"] * out / _TILE) * np.ceil(s["w"] * out / _TILE)
        values = (_TILE - 1.0 + s["side"]) ** 2
        moved = 4.0 * values * (tiles * maps + pairs)
        flops = 2.0 * values * tiles * s["n"] * pairs
    return combine(
        flops / (device.peak * c["spectrum_efficiency"]),
        moved * c["spectrum_passes"] / device.bandwidth,
        np.zeros_like(moved),
        np.full_like(moved, c["spectrum_floor_seconds"]),
        1.0,
    )
