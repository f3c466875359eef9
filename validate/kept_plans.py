"""The plan that a search would keep, of those whose steady times are known.

``torch.backends.cudnn.benchmark`` keeps the plan with the least single trial, which counts the
launch beside the kernels; the least steady plan is another one for every second convolution. Where
searches were logged and all plans timed steadily too, trials teach what launching adds:

    trial = steady + launch(engine, layout, pass, kernels, workspace, place in the list, bytes)

linear in its features, with weights that fall with the steady time and with the residual. The plan
of the least sum is kept. ``python3 -m validate.kept_plans`` says how near that comes on searches it
did not see, and writes ``plans/kept.csv.gz`` beside the measurements: the steady time of that plan,
for every convolution whose plans were timed and which no table holds.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from validate.bench import ops, plan_rows, search_log, store
from validate.search_report import latencies

MEASUREMENTS: Final = Path(__file__).with_name("measurements")
FOLDS: Final = 5
_FEWEST: Final = 15  # trials of an engine that give it a launch of its own
_RIDGE: Final = 2.0
_WARM_BYTES: Final = 60e6  # what the cache may hold of the only operands of a trial
Floats = NDArray[np.float64]


class Timed(NamedTuple):
    """A plan with its steady time [us], and what launching it may depend on."""

    op: str
    place: int
    steady_us: float
    words: tuple[str, ...]
    sizes: tuple[float, ...]


class Trial(NamedTuple):
    """A plan that a search tried: its single trial [us]."""

    plan: Timed
    trial_us: float


class Launch(NamedTuple):
    """Coefficients of the launch, and the words that have one."""

    words: tuple[str, ...]
    weights: Floats

    def us(self, plans: Sequence[Timed]) -> Floats:
        """Launch of every plan [us], shape (N,)."""
        return np.asarray(_table(plans, self.words) @ self.weights)


def timed(row: dict[str, Any]) -> list[Timed]:
    """Plans of a row of plan times that have a time."""
    op, found = row["op"], []
    whole, moved = ops.key(op), sum(ops.traffic(op))
    layout, which = op.get("layout", "nhwc"), op.get("pass") or "fwd"
    half = "half" if op["dtype"] in ("bf16", "fp16") else "full"
    for place, plan in enumerate(row["plans"]):
        if "us" not in plan:
            continue
        engine, kernels, us = plan["name"].split("_")[0], len(plan["kernels"]), plan["us"]
        words = (engine, f"{engine} {layout} {which}", op["op"], half)
        sizes = (
            min(moved, _WARM_BYTES) / 1e8, np.log(us), min(us, 100.0) / 100.0,
            float(place == 0), place / 10, min(kernels, 8), kernels > 1, plan["ws"] > 0,
        )  # fmt: skip
        found.append(Timed(whole, place, us, words, tuple(map(float, sizes))))
    return found


def trials(row: dict[str, Any], tried: Sequence[search_log.Plan]) -> list[Trial]:
    """Trials of a search whose plans have steady times: the same name the same time in turn."""
    plans = {plan.place: plan for plan in timed(row)}
    places: dict[str, list[int]] = {}
    for place, plan in enumerate(row["plans"]):
        if place in plans:
            places.setdefault(plan["name"], []).append(place)
    found, met = [], Counter[str]()
    for name, milliseconds in tried:
        mine = places.get(name.split("_", 1)[1], [])
        if mine:
            at = mine[min(met[name], len(mine) - 1)]
            found.append(Trial(plans[at], milliseconds * 1e3))
        met[name] += 1
    return found


def _table(plans: Sequence[Timed], words: Sequence[str]) -> Floats:
    at = {word: i for i, word in enumerate(words)}
    hot = np.zeros((len(plans), len(words)))
    for i, plan in enumerate(plans):
        hot[i, [at[word] for word in plan.words if word in at]] = 1.0
    sizes = np.array([plan.sizes for plan in plans])
    return np.hstack([np.ones((len(plans), 1)), sizes, hot])


def fit(known: Sequence[Trial]) -> Launch:
    """Launches that explain trials, by least squares that heed what is far off less."""
    plans = [one.plan for one in known]
    counts = Counter(word for plan in plans for word in plan.words)
    words = tuple(word for word, count in counts.items() if count >= _FEWEST)
    steady = np.array([plan.steady_us for plan in plans])
    over = np.array([one.trial_us for one in known]) - steady
    table = _table(plans, words)
    first = 1.0 / (1.0 + steady / 30.0)
    weights, fitted = first, np.zeros(table.shape[1])
    for _ in range(8):
        weighted = table * weights[:, None]
        ridge = _RIDGE * np.eye(table.shape[1])
        fitted = np.linalg.solve(weighted.T @ table + ridge, weighted.T @ over)
        off = np.abs(over - table @ fitted)
        weights = first / np.maximum(1.0, off / (3.0 + 0.02 * steady))
    return Launch(words, fitted)


def kept(plans: Sequence[Timed], launch: Launch) -> Timed:
    """The plan whose trial would be least."""
    sums = launch.us(plans) + [plan.steady_us for plan in plans]
    return plans[int(np.argmin(sums))]


def fold(op: str) -> int:
    """Which of the folds an operator's searches are in."""
    return int(hashlib.sha256(f"fold/{op}".encode()).hexdigest()[:8], 16) % FOLDS


def searched(folder: Path) -> Iterator[tuple[list[Timed], list[Trial], float]]:
    """Operators of a device with plan times, a logged search and what PyTorch took [us]."""
    found = latencies(folder)
    logs = {
        ops.key(op): tried
        for path in sorted((folder / "search").glob("plans*.jsonl.gz"))
        for op, tried in search_log.read(path)
    }
    for row in _rows(folder):
        key = ops.key(row["op"])
        if key in found and key in logs and (plans := timed(row)):
            yield plans, trials(row, logs[key]), found[key]


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "search").glob("plan-times*.jsonl.gz")):
        yield from plan_rows.read(path)


def report(known: Sequence[tuple[list[Timed], list[Trial], float]]) -> str:
    """How far the steady time of the plan thought kept is from what PyTorch took, held out."""
    least, chosen = [], []
    for held in range(FOLDS):
        launch = fit([t for plans, ts, _ in known if fold(plans[0].op) != held for t in ts])
        for plans, _, us in known:
            if fold(plans[0].op) == held:
                least.append(min(plan.steady_us for plan in plans) / us - 1.0)
                chosen.append(kept(plans, launch).steady_us / us - 1.0)
    return "\n".join(
        f"{name}: {100 * np.abs(off).mean():.2f} % off in the mean, "
        f"{100 * np.median(np.abs(off)):.2f} in the median, {100 * np.mean(off):+.2f} biased"
        for name, off in (("least steady plan", least), ("plan thought kept", chosen))
    )


def write(folder: Path, launch: Launch) -> int:
    """Write ``plans/kept.csv.gz`` of a device; how many operators it holds."""
    known = latencies(folder)
    columns = (*ops.OP_KEYS, "latency_us")
    lines = {}
    for row in _rows(folder):
        plans = timed(row)
        if plans and ops.key(row["op"]) not in known:
            us = kept(plans, launch).steady_us
            lines[ops.key(row["op"])] = store.line(row["op"] | {"latency_us": us}, columns)
    if not lines:
        return 0
    out = folder / "plans"
    out.mkdir(exist_ok=True)
    text = ",".join(columns) + "\n" + "".join(lines.values())
    path = out / "kept.csv.gz"
    store.write_atomic(path, gzip.compress(text.encode(), 9, mtime=0))
    source = next(iter(sorted((folder / "search").glob("plan-times*.toml"))))
    about = tomllib.loads(source.read_text(encoding="utf-8"))
    device = about["library"]["device"]
    quantity = "steady time of the plan that a search would keep, by validate/kept_plans.py"
    store.sidecar(path, {"quantity": quantity, "library": {"device": device}}, len(lines))
    return len(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Say how near the choice comes, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--measurements", type=Path, default=MEASUREMENTS)
    folder = parser.parse_args(argv).measurements
    devices = sorted({path.parents[1] for path in folder.glob("*/search/plan-times*.jsonl.gz")})
    known = [one for device in devices for one in searched(device)]
    print(f"{len(known)} searches whose plans have steady times")
    print(report(known))
    launch = fit([trial for _, ts, _ in known for trial in ts])
    for device in devices:
        print(f"{device.name}: {write(device, launch)} operators")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
