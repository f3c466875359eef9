"""Products to ask a library for its kernels by the million, whose rows start beside 16 bytes.

``python3 -m validate.bench.uneven --count 1700000 --seed 1 --parts 16 --out FOLDER`` writes them as
JSON lines, ``0.jsonl.gz`` and so on, for :mod:`validate.bench.chosen`; with ``--even`` others of
them instead, in TF32 and fp32 alone, with ``--batches 1`` nothing but batches.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.tasks import odd_rows
from validate.bench import draws_layers as layers
from validate.bench import store

Whole = NDArray[np.int64]
_DTYPES: Final = ("bf16", "fp16", "tf32", "fp32")
_SHARES: Final = (0.36, 0.2, 0.22, 0.22)
_EVEN_SHARES: Final = (0.0, 0.0, 0.5, 0.5)
_STEPS: Final = (1, 2, 4, 8, 16, 64)
_STEP_SHARES: Final = (0.5, 0.1, 0.12, 0.13, 0.05, 0.1)
_BATCHES: Final = 0.42
_POWERS: Final = 0.12  # of sizes that are powers of two
_TRANS: Final = ("tn", "nn", "nt")
_MOST_FLOPS, _MOST_BYTES = 1.2e13, 1.6e10
_WIDTHS: Final = np.array(layers.HIDDEN)
_OUTPUTS: Final = np.array((*layers.ODD_VOCABS, *layers.CLASSES, *layers.CLASSES))
_LENGTHS: Final = np.array((*layers.LENGTHS, *layers.HEAD_DIMS))


def _sizes(rng: np.random.Generator, count: int, low: float, high: float) -> Whole:
    """Sizes spread evenly in their logarithm: any, multiples of a step, or powers of two."""
    value = np.exp(rng.uniform(np.log(low), np.log(high), count))
    step = rng.choice(_STEPS, count, p=_STEP_SHARES)
    whole = np.maximum(1, np.rint(value / step) * step)
    powers = rng.random(count) < _POWERS
    return np.where(powers, 2.0 ** np.rint(np.log2(value)), whole).astype(np.int64)


def _some(rng: np.random.Generator, sizes: Whole, share: float, values: NDArray[Any]) -> Whole:
    """The same, a ``share`` of them taken from a list instead."""
    listed = rng.choice(values, sizes.size)
    return np.where(rng.random(sizes.size) < share, listed, sizes)


def drawn(
    count: int, rng: np.random.Generator, even: bool = False, batches: float = _BATCHES
) -> list[dict[str, Any]]:
    """Of ``count`` products those that fit, a share of them batches, in layouts of training.

    Rows start beside 16 bytes, or where ``even`` asks for it on them, in TF32 and fp32 alone.
    """
    many = rng.random(count) < batches
    m = _sizes(rng, count, 1, 16384)
    n = _some(rng, _some(rng, _sizes(rng, count, 2, 32768), 0.15, _WIDTHS), 0.2, _OUTPUTS)
    k = _some(rng, _some(rng, _sizes(rng, count, 2, 32768), 0.25, _WIDTHS), 0.05, _OUTPUTS)
    small = [_some(rng, _sizes(rng, count, 1, 6000), 0.25, _LENGTHS) for _ in range(3)]
    m, n, k = (np.where(many, one, size) for one, size in zip(small, (m, n, k), strict=True))
    batch = np.where(many, np.maximum(2, _sizes(rng, count, 2, 1024)), 1)
    dtype = rng.choice(len(_DTYPES), count, p=_EVEN_SHARES if even else _SHARES)
    layout = np.where(
        many, rng.choice(3, count, p=(0.2, 0.6, 0.2)), rng.choice(3, count, p=(0.6, 0.2, 0.2))
    )
    odd = np.zeros(count, dtype=bool)
    for laid, kind in itertools.product(range(len(_TRANS)), range(len(_DTYPES))):
        here = (layout == laid) & (dtype == kind)
        sizes = {"m": m[here], "n": n[here], "k": k[here], "batch": batch[here]}
        odd[here] = odd_rows(sizes, {"trans": _TRANS[laid]}, _DTYPES[kind])
    moved = batch * (m * k + n * k + m * n) * np.where(dtype < 2, 2, 4)
    fits = (odd != even) & (2.0 * m * n * k * batch < _MOST_FLOPS) & (moved < _MOST_BYTES)
    table = np.unique(np.stack([dtype, layout, batch, m, n, k])[:, fits], axis=1)
    return [_op(*row) for row in rng.permutation(table.T).tolist()]


def _op(dtype: int, layout: int, batch: int, m: int, n: int, k: int) -> dict[str, Any]:
    op: dict[str, Any] = {"op": "gemm", "m": m, "n": n, "k": k, "dtype": _DTYPES[dtype]}
    op |= {"batch": batch} if batch > 1 else {}
    usual = "nn" if batch > 1 else "tn"
    return op if _TRANS[layout] == usual else op | {"trans": _TRANS[layout]}


def main() -> int:
    """Write a list in parts."""
    name = "python3 -m validate.bench.uneven"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=960_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--even", action="store_true", help="rows that start on 16 bytes")
    parser.add_argument("--batches", type=float, default=_BATCHES, help="their share")
    parser.add_argument("--parts", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    ops = drawn(args.count, np.random.default_rng(args.seed), args.even, args.batches)
    args.out.mkdir(parents=True, exist_ok=True)
    for part in range(args.parts):
        text = "".join(f"{json.dumps(op)}\n" for op in ops[part :: args.parts])
        packed = gzip.compress(text.encode(), compresslevel=5, mtime=0)
        store.write_atomic(args.out / f"{part}.jsonl.gz", packed)
    print(f"{len(ops)} products")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
