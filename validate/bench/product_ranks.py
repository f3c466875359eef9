"""Teach the ranks of half-precision kernels from lists of a library's answers.

``python3 -m validate.bench.product_ranks CHIP=LIST.csv.gz... --out FILE.npz`` (torch is needed)
learns what :mod:`perfmodel.cost.choice_rank` holds from products that no table of measurements
holds; ``--check`` tells how often the shipped ranks are right on measured ones. Lists are those of
:mod:`validate.bench.chosen`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.answers import UNITS
from perfmodel.cost.choice_rank import (
    DEPTH,
    Ranks,
    Singles,
    asked_of_blocks,
    asked_of_parts,
    ranks,
    ranks_of,
    shown,
)
from validate.bench import store
from validate.products import Kernel, Table, arguments, flat, measured, tables

HIDDEN: Final = 96
BATCH: Final = 512
RATE: Final = 5e-3
LEAST: Final = 60
"""Answers that a kernel has at least; rarer ones are not told apart."""
_PARTS_COUNT: Final = 0.3  # answers that no price asks for, but that teach of kernels too
_GROWN: Final = {
    "min_samples_leaf": 2, "max_depth": DEPTH, "max_features": 0.6, "random_state": 0
}  # fmt: skip
_WALKED: Final = ("asked", "limits", "below")
_CUT: Final = 0.02  # of a kernel's answers, from which on its parts are asked for
_NEWER_COUNT: Final = 2.0  # its lists are shorter
_NEWER_RATE: Final = 4e12  # between an H100's memory and an H200's [B/s]
_FILLED: Final = 4.0  # of the second term, so that its coefficients are of the others' size


def taken(kernel: Kernel) -> Kernel:
    """What is ranked of a kernel: maker, tile and the mark of its instruction."""
    return (*kernel[:3], *[0.0] * 6, kernel[9])


def seen(table: Table) -> tuple[NDArray[np.float64], Singles]:
    """Sizes m, n, k, batch (N, 4) and what the network is shown (N, F)."""
    m, n, k, batch, layout, rate = table.columns[:, :6].T.astype(np.float64)
    columns = shown(m, n, k, batch, layout, rate > _NEWER_RATE, table.columns[:, -1])
    return np.stack([m, n, k, batch], axis=1), columns


def kernels_of(table: Table) -> tuple[list[Kernel], Singles]:
    """Kernels that are ranked, those with tiles first, and their numbers (C, 10).

    The step of ``k``, which few tiles have several of, is that of most answers; the blocks that
    work together are told by a tree (:func:`taught_blocks`).
    """
    held: dict[Kernel, list[Kernel]] = {}
    for kernel in table.kernels:
        held.setdefault(taken(kernel), []).append(kernel)
    names = sorted(
        (name for name, all_of in held.items() if len(all_of) >= LEAST),
        key=lambda name: (name[1] <= 0.0, name),
    )
    rows = np.array(names, dtype=np.float32)
    for row, name in zip(rows, names, strict=True):
        pairs = [(kernel[3], kernel[8]) for kernel in held[name]]
        row[3], row[8] = max(set(pairs), key=pairs.count)
        row[5:7] = 1.0 if name[1] > 0.0 else 0.0
    return names, rows


def taught(table: Table, epochs: float) -> dict[str, Singles]:
    """Arrays of :class:`~perfmodel.cost.choice_rank.Ranks`, by Adam on the answers' likelihood."""
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    names, kernels = kernels_of(table)
    place = {name: at for at, name in enumerate(names)}
    label = np.array([place.get(taken(kernel), -1) for kernel in table.kernels])
    sizes, columns = seen(table)
    mean, spread = columns.mean(axis=0), columns.std(axis=0) + 1e-6
    tensor = torch.as_tensor
    inputs, whole = tensor((columns - mean) / spread), tensor(sizes.astype(np.float32))
    wanted, depth = tensor(label), tensor(np.log2(table.parts).astype(np.float32))
    weight = tensor(np.where(table.columns[:, 5] > _NEWER_RATE, _NEWER_COUNT, 1.0))
    tiles = int((kernels[:, 1] > 0.0).sum())
    high, wide = tensor(kernels[:tiles, 1]), tensor(kernels[:tiles, 2])
    linear, hold = torch.nn.Linear, torch.nn.Parameter
    first, second = linear(inputs.shape[1], HIDDEN), linear(HIDDEN, HIDDEN)
    last, shared, parts = linear(HIDDEN, len(names)), linear(HIDDEN, 3), linear(HIDDEN, 1)
    own, slope = hold(torch.zeros(3, tiles)), hold(torch.ones(len(names)))
    base = hold(torch.zeros(len(names)))
    layers = (first, second, last, shared, parts)
    held = [one for layer in layers for one in layer.parameters()] + [own, slope, base]
    adam = torch.optim.AdamW(held, lr=RATE, weight_decay=1e-3)
    rows = torch.nonzero(wanted >= 0)[:, 0]
    steps = int(epochs * len(rows) / BATCH)
    order = torch.randperm(len(rows))
    per_epoch = len(rows) // BATCH
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(rows))
        for group in adam.param_groups:
            group["lr"] = RATE * min(1.0, step / 300.0) * max(0.004, 1.0 - step / steps)
        start = step % per_epoch * BATCH
        some = rows[order[start : start + BATCH]]
        inner = torch.relu(second(torch.relu(first(inputs[some]))))
        score, slopes = last(inner), shared(inner)
        m, n, _, batch = (whole[some, side : side + 1] for side in range(4))
        waves = torch.ceil(n / high) * torch.ceil(m / wide) * (batch / UNITS)
        terms = (
            torch.log(torch.ceil(waves)),
            _FILLED * torch.log(waves * high * wide / (m * n * batch / UNITS)),
            (waves <= 1.0).float(),
        )
        told = sum(term * (slopes[:, at : at + 1] + own[at]) for at, term in enumerate(terms))
        score = torch.cat([score[:, :tiles] + told, score[:, tiles:]], dim=1)
        found = parts(inner)[:, 0] * slope[wanted[some]] + base[wanted[some]]
        loss = torch.nn.functional.cross_entropy(score, wanted[some], reduction="none")
        loss = (weight[some] * (loss + _PARTS_COUNT * (found - depth[some]) ** 2)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    numbers = [one.detach().numpy() for one in held]
    scale = np.array([[1.0], [_FILLED], [1.0]], dtype=np.float32)
    return {
        "mean": mean, "scale": 1.0 / spread, "first": numbers[0], "first_bias": numbers[1][:, None],
        "second": numbers[2], "second_bias": numbers[3][:, None],
        "last": numbers[4], "last_bias": numbers[5][:, None],
        "shared": numbers[6] * scale, "shared_bias": numbers[7][:, None] * scale,
        "own": (numbers[10] * scale)[..., None], "kernels": kernels,
        **taught_trees(table, kernels),
    }  # fmt: skip


def taught_trees(table: Table, kernels: Singles) -> dict[str, Singles]:
    """Arrays of the trees of parts and blocks, grown from even products.

    They are told the kernel that was taken as ranks tell of it: one of ``kernels`` (C, 10).
    """
    place = {taken(tuple(row)): at for at, row in enumerate(kernels.tolist())}
    label = np.array([place.get(taken(kernel), -1) for kernel in table.kernels])
    even = (label >= 0) & np.all(table.columns[:, 1:3] % 8 == 0, axis=1)
    return taught_parts(table, kernels, label, even) | taught_blocks(table, kernels, label, even)


def taught_parts(
    table: Table, kernels: Singles, label: NDArray[np.int64], even: NDArray[np.bool_]
) -> dict[str, Singles]:
    """Arrays of the tree that tells parts of ``k``, and which kernels it is asked of."""
    known, several = label >= 0, table.parts > 1.0
    share = np.bincount(label[known], several[known], minlength=len(kernels))
    cut = share > _CUT * np.bincount(label[known], minlength=len(kernels))
    rows = np.flatnonzero(even & cut[label])
    if not rows.size:
        leaf = {"asked": np.zeros(1), "limits": np.full(1, np.inf), "below": np.zeros(1)}
        return _singles(leaf, "") | {
            name: np.zeros(len(of), np.float32)
            for name, of in (("cut", cut), ("logs", leaf["asked"]))
        }
    trees = importlib.import_module("sklearn.tree")
    tree = trees.DecisionTreeRegressor(**_GROWN)
    tree.fit(asked_of_parts(kernels[label[rows]], *_of(table, rows)), np.log2(table.parts[rows]))
    arrays, at = flat(tree.tree_)
    logs = np.empty(len(at))
    logs[at] = tree.tree_.value[:, 0, 0]
    return _singles(arrays, "") | {"cut": cut.astype(np.float32), "logs": logs.astype(np.float32)}


def taught_blocks(
    table: Table, kernels: Singles, label: NDArray[np.int64], even: NDArray[np.bool_]
) -> dict[str, Singles]:
    """Arrays of the tree that tells the blocks along and across that work together."""
    rows = np.flatnonzero(even & (kernels[label, 1] > 0.0))
    sides = np.array(table.kernels)[rows, 5:7]
    pairs, which = np.unique(sides, axis=0, return_inverse=True)
    trees = importlib.import_module("sklearn.tree")
    tree = trees.DecisionTreeClassifier(**_GROWN)
    asked = asked_of_blocks(kernels[label[rows]], table.parts[rows], *_of(table, rows))
    arrays, at = flat(tree.fit(asked, which.reshape(-1)).tree_)
    told = np.empty((len(at), 2), dtype=np.float32)
    told[at] = pairs[tree.tree_.value[:, 0].argmax(axis=1)]
    return _singles(arrays, "blocks_") | {"blocks_sides": told}


def _of(table: Table, rows: NDArray[np.int64]) -> tuple[Any, Any, Any, Any]:
    """Sizes, layout, chip and dtype of some rows, as trees are asked of them."""
    m, n, k, batch, layout, rate = table.columns[rows, :6].T.astype(np.float64)
    return (m, n, k, batch), layout, rate > _NEWER_RATE, table.columns[rows, -1]


def _singles(arrays: dict[str, Any], key: str) -> dict[str, Singles]:
    """What a walk needs of a tree, named for the file."""
    return {f"{key}{name}": arrays[name].astype(np.float32) for name in _WALKED}


def right(held: Ranks, table: Table) -> NDArray[np.bool_]:
    """Whether maker, tile and instruction are right, shape (N,)."""
    sizes, columns = seen(table)
    best = held(columns, sizes[:, 0], sizes[:, 1], sizes[:, 3])
    said = held.held["kernels"][best]
    true = np.array(table.kernels)
    same = np.all(said[:, :3] == true[:, :3], axis=1) & (said[:, 9] == true[:, 9])
    return np.asarray(same, dtype=np.bool_)


def main(argv: Sequence[str] | None = None) -> int:
    """Teach ranks, or check those that are shipped."""
    parser = arguments(__doc__)
    parser.add_argument("--trees", action="store_true", help="keep the network that is shipped")
    parser.add_argument("--epochs", type=float, default=16.0, help="turns through the answers")
    args = parser.parse_args(argv)
    known = measured()
    held = None
    if args.out is not None:
        table = tables(args.lists, known, inside=False)["half"]
        if args.trees:
            arrays = dict(ranks().held)
            arrays |= taught_trees(table, arrays["kernels"])
        else:
            arrays = taught(table, args.epochs)
        store.write_arrays(args.out, arrays)
        held = ranks_of(arrays)
    if args.check:
        same = right(held or ranks(), tables(args.lists, known, inside=True)["half"])
        sys.stdout.write(f"half: {same.size} products, maker and tile right in {same.mean():.1%}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
