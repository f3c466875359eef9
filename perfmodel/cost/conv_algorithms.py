r"""The algorithms that compute a convolution, as passes with exact FLOPs, bytes and workspace.

With output :math:`p \times q`, kernel :math:`k`, step 1 where it matters, element size :math:`e`:

=================  ==========================================================================
direct             implicit matrix product, nothing but operands and result
im2col             patches :math:`e\,n\,p\,q\,c_i k^2` written, then one product
kn2row             product at every input position for all taps, :math:`e\,n\,h\,w\,c_o k^2`, then
                   shifted additions; the accumulating variant keeps one tap's maps only
scalar-matrix      :math:`c_i c_o k^2` scaled shifted maps added up; no product, no workspace
winograd           :math:`t^2 = (m + 2)^2` products for :math:`9 m^2`, between three transforms
fft                pointwise complex products between transforms of overlapping tiles
=================  ==========================================================================

The input gradient of a step-1 convolution is the forward convolution of the output gradient with
channels exchanged and padding :math:`k - 1 - p`; the weight gradient has passes of its own.
Bytes that cross device memory are the operands and results, plus those intermediate buffers that do
not fit a cache of a given size (0: all cross; infinite: none do).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.cost.conv_passes import (
    Built,
    Pass,
    direct,
    im2col,
    kn2row,
    kn2row_accumulating,
    scalar_matrix,
)
from perfmodel.cost.conv_transform_passes import FFT_TILES, fft, winograd
from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.winograd import F2, F4


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A way to compute one convolution.

    Parameters
    ----------
    name : str
        One of :data:`ALGORITHMS`.
    passes : tuple of Pass
        In order.
    workspace : int
        Intermediate buffers that are alive together [B].
    """

    name: str
    passes: tuple[Pass, ...]
    workspace: int

    @property
    def flops(self) -> int:
        """Arithmetic of all passes [FLOP]."""
        return sum(one.flops for one in self.passes)

    def traffic(self, cache: float = 0.0) -> float:
        """Bytes of all passes across device memory [B]."""
        return sum(one.traffic(cache) for one in self.passes)

    def intensity(self, cache: float = 0.0) -> float:
        """FLOP for each byte across device memory."""
        return self.flops / self.traffic(cache)


def algorithm(name: str, op: Conv2d) -> Algorithm:
    """The passes of an algorithm for one convolution, forward or gradient.

    Raises
    ------
    WorkloadError
        If the algorithm is unknown or cannot compute this convolution (see :func:`obstacle`).

    Examples
    --------
    >>> op = Conv2d(1, 64, 56, 56, 64, kernel=3, padding=1, dtype="fp32")
    >>> [algorithm(name, op).workspace // 2**20 for name in ("direct", "im2col")]
    [0, 6]
    """
    if name not in ALGORITHMS:
        raise WorkloadError(
            "convolution algorithm",
            name,
            ", ".join(ALGORITHMS),
            nearest=nearest_name(name, ALGORITHMS),
            repair="use one of the algorithms",
        )
    reason = obstacle(name, op)
    if reason:
        raise WorkloadError(
            f"convolution algorithm: {name}",
            op.to_dict(),
            reason,
            repair="use direct or im2col, which compute every convolution",
        )
    return Algorithm(name, *_BUILD[name](op))


def obstacle(name: str, op: Conv2d) -> str:
    """Why an algorithm cannot compute a convolution; empty if it can."""
    sizes = (
        "n", "c_in", "h", "w", "c_out", "kernel", "stride", "padding", "groups", "h_out", "w_out"
    )  # fmt: skip
    checks = (
        (any(not isinstance(getattr(op, size), int) for size in sizes), "one convolution"),
        (name in ("direct", "im2col"), ""),
        (not is_square(op), "a square kernel without dilation, padded alike on all sides"),
        (op.stride != 1, "a step of 1"),
        (
            op.direction == "dgrad" and np.any(op.padding > op.kernel - 1),
            "a padding below the kernel, for the gradient to be a convolution",
        ),
        (name.startswith("winograd") and op.kernel != 3, "a 3 x 3 kernel"),
        (
            name == "fft" and np.any(2 * op.kernel > FFT_TILES[-1]),
            f"a kernel of at most {FFT_TILES[-1] // 2}",
        ),
    )
    return next((reason for applies, reason in checks if applies), "")


def is_square(op: Conv2d) -> bool:
    """Whether both axes are alike, undilated and padded on both ends."""
    down, across = op.axes
    alike = (down.kernel, down.stride, down.before) == (across.kernel, across.stride, across.before)
    return alike and all(a.dilation == 1 and a.before == a.after for a in (down, across))


def applicable(op: Conv2d) -> tuple[str, ...]:
    """Names of the algorithms that can compute a convolution."""
    return tuple(name for name in ALGORITHMS if not obstacle(name, op))


_BUILD: Final[dict[str, Callable[[Conv2d], Built]]] = {
    "direct": direct,
    "im2col": im2col,
    "kn2row": kn2row,
    "kn2row-accumulating": kn2row_accumulating,
    "scalar-matrix": scalar_matrix,
    "winograd-2x2": winograd(F2),
    "winograd-4x4": winograd(F4),
    "fft": fft,
}
ALGORITHMS: Final = tuple(_BUILD)
"""Names that :func:`algorithm` knows."""
