r"""The matrices of Winograd's minimal filtering, and what applying them costs.

A tile of :math:`m \times m` outputs of a 3 x 3 convolution is
:math:`Y = A^T [(G g G^T) \odot (B^T d B)] A` with :math:`t = m + 2`: ``t * t`` multiplications
instead of ``9 m * m``. Counts here share no subexpressions and flip signs for free; kernels that do
share need about half of the additions.

Reference
---------
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, sections 4.1 to 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Winograd:
    """F(m x m, 3 x 3).

    Parameters
    ----------
    m : int
        Side of an output tile.
    data, filter, output : (t, t), (t, 3), (m, t) array
        :math:`B^T`, :math:`G` and :math:`A^T`.
    """

    m: int
    data: Floats
    filter: Floats
    output: Floats

    @property
    def t(self) -> int:
        """Side of a transformed tile."""
        return self.m + 2


F2: Final = Winograd(
    2,
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=float),
    np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=float),
)
F4: Final = Winograd(
    4,
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        dtype=float,
    ),
    np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
        dtype=float,
    ),
)


def transform_flops(matrix: Floats) -> int:
    """Operations of ``matrix @ tile @ matrix.T``: additions, and products by other than +-1."""
    present = matrix != 0.0
    one_vector = int(present.sum() - len(matrix) + (present & (np.abs(matrix) != 1.0)).sum())
    rows, columns = matrix.shape
    return one_vector * int(rows + columns)
