r"""Which tile a library takes in half precision: scores by waves and a small network.

cuBLAS has 270 tiles for half-precision products and compares them by what they would cost, which
trees of sizes follow badly. Here each of them has a score

.. math::

    c_i = N_i(x) + (u_1(x) + v_{1i}) \ln \lceil w_i \rceil
        + 4 (u_2(x) + v_{2i}) \ln \frac{w_i a_i U}{m n b} + (u_3(x) + v_{3i}) [w_i \le 1], \quad
    w_i = \lceil n / r_i \rceil \lceil m / s_i \rceil \frac{b}{U}

for a tile of :math:`a_i = r_i s_i` on :math:`U` units, with a network of two layers that gives
:math:`N` and :math:`u` from sizes, evenness, layout, chip and dtype :math:`x`; the best score wins.
Kernels without tiles have :math:`N` alone. Taught by ``validate/bench/product_ranks.py`` with
answers to drawn products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.cost.parts import Floats
from perfmodel.errors import CalibrationError
from perfmodel.hardware.load import spec_folders

Singles = NDArray[np.float32]
FILE: Final = "cublas13-hopper-half.npz"
TILES: Final = ((64, 8), (64, 32), (192, 192), (256, 128), (128, 64), (128, 128), (320, 128),
                (64, 64))  # fmt: skip
"""Whose waves the network is shown."""
UNITS: Final = 132.0
_CHUNK: Final = 256
ARRAYS: Final = (
    "mean", "scale", "first", "first_bias", "second", "second_bias", "last", "last_bias",
    "shared", "shared_bias", "own", "parts", "parts_bias", "parts_slope", "parts_base", "kernels",
)  # fmt: skip


def shown(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    layout: Floats,
    newer: ArrayLike,
    fp16: ArrayLike,
) -> Singles:
    """What the network sees, shape (N, F).

    ``layout`` counts :data:`perfmodel.cost.choice.LAYOUTS`; ``newer`` is 1 for an H200, 0 for an
    H100; ``fp16`` tells that from bf16.
    """
    whole = [np.clip(size, 1.0, 2.0**40).astype(np.int64) for size in (m, n, k)]
    even = [np.log2(np.minimum(size & -size, 64)) for size in whole]
    log_m, log_n, log_k, log_batch = (np.log2(size) for size in (m, n, k, batch))
    columns = [
        log_m, log_n, log_k, log_batch, log_m + log_n + log_batch, log_m - log_n,
        log_k - (log_m + log_n) / 2.0, *even,
        *(np.minimum(size, 256.0) / 64.0 for size in (m, n, k)),
        np.full_like(m, newer), np.full_like(m, fp16), batch > 1.0, layout == 0.0, layout == 1.0,
    ]  # fmt: skip
    columns += [(size & (step - 1)) == 0 for step in (2, 8) for size in whole]
    for rows, cols in TILES:
        waves = np.ceil(n / rows) * np.ceil(m / cols) * batch / UNITS
        turns = np.ceil(waves)
        columns += [waves / turns, np.minimum(turns, 8.0)]
    return np.stack(columns, axis=1, dtype=np.float32, casting="unsafe")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The network and its kernels: arrays of :data:`ARRAYS`; kernels with tiles come first."""

    held: dict[str, Singles]
    rows: Singles
    cols: Singles
    row_of: NDArray[np.intp]
    col_of: NDArray[np.intp]
    area: Singles

    def __call__(
        self, columns: Singles, m: Floats, n: Floats, batch: Floats
    ) -> tuple[NDArray[np.intp], Floats]:
        """Place of the best kernel of every product, (N,), and the parts of ``k`` there."""
        best = np.empty(len(m), dtype=np.intp)
        parts = np.empty(len(m))
        room = np.empty((4, len(self.held["kernels"]) * min(_CHUNK, len(m))), dtype=np.float32)
        for start in range(0, len(m), _CHUNK):
            here = slice(start, start + _CHUNK)
            best[here], parts[here] = self._some(columns[here], m[here], n[here], batch[here], room)
        return best, parts

    def _some(
        self, columns: Singles, m: Floats, n: Floats, batch: Floats, room: Singles
    ) -> tuple[NDArray[np.intp], Floats]:
        """The same of a few, in memory that is used again."""
        held, own, count = self.held, self.held["own"], len(m)
        scores = room[0, : len(held["kernels"]) * count].reshape(-1, count)
        first, second, third = (
            one[: len(self.area) * count].reshape(-1, count) for one in room[1:]
        )
        inner = ((columns - held["mean"]) * held["scale"]).T
        inner = np.maximum(held["first"] @ inner + held["first_bias"], np.float32(0.0))
        inner = np.maximum(held["second"] @ inner + held["second_bias"], np.float32(0.0))
        np.matmul(held["last"], inner, out=scores)
        scores += held["last_bias"]
        shared = held["shared"] @ inner + held["shared_bias"]
        tiled = scores[: len(self.area)]
        high = np.ceil(n.astype(np.float32) / self.rows)
        wide = np.ceil(m.astype(np.float32) / self.cols) * (batch / UNITS).astype(np.float32)
        high.take(self.row_of, axis=0, out=first, mode="wrap")
        wide.take(self.col_of, axis=0, out=second, mode="wrap")
        first *= second
        np.ceil(first, out=first)
        np.subtract(np.float32(2.0), first, out=second)
        np.maximum(second, np.float32(0.0), out=second)  # 1 of one wave, 0 of more
        np.add(shared[2], own[2], out=third)
        second *= third
        tiled += second
        np.log(first, out=first)
        np.add(shared[0], own[0], out=third)
        first *= third
        tiled += first
        high = np.log(high)
        wide = np.log(wide)
        wide -= np.log(m * n * batch / UNITS).astype(np.float32)
        high.take(self.row_of, axis=0, out=first, mode="wrap")
        wide.take(self.col_of, axis=0, out=second, mode="wrap")
        first += second
        first += self.area
        np.add(shared[1], own[1], out=third)
        first *= third
        tiled += first
        best = scores.argmax(axis=0)
        depth = held["parts"] @ inner + held["parts_bias"]
        return best, np.asarray(
            depth * held["parts_slope"][best] + held["parts_base"][best], dtype=np.float64
        )


def ranks_of(held: dict[str, Singles]) -> Ranks:
    """Ranks of stored arrays."""
    tiled = held["kernels"][:, 1] > 0.0
    count = int(tiled.sum())
    if not tiled[:count].all():
        raise ValueError("kernels with tiles come first")
    sides = held["kernels"][:count, 1:3]
    rows, row_of = np.unique(sides[:, 0], return_inverse=True)
    cols, col_of = np.unique(sides[:, 1], return_inverse=True)
    area = np.log(sides[:, :1] * sides[:, 1:])
    return Ranks(held, rows[:, None], cols[:, None], row_of, col_of, area)


@lru_cache(maxsize=2)
def ranks(path: Path | None = None) -> Ranks:
    """The ranks of half precision.

    Raises
    ------
    CalibrationError
        If the file is damaged.
    """
    path = spec_folders()[-1] / "efficiency" / "products" / FILE if path is None else path
    try:
        with np.load(path, allow_pickle=False) as stored:
            return ranks_of({name: stored[name].astype(np.float32) for name in ARRAYS})
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise CalibrationError(
            str(path), f"<{error}>", "ranks of kernels", repair="restore the file"
        ) from None
