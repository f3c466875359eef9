"""A ResNeXt layer after channel pruning on an H100: groups of unequal size on the slots of a GPU.

Taken in the order of the groups, tiles of long groups meet on a few slots, which then decide when
the layer ends. The scheduler chooses a tile shape per group and deals tiles so that slots end
together, and proves how far it can be from the best. A second picture compares predictions with
what a real H100 measured on schedules of layers that no coefficient saw.

``python -m studies.study_grouped_conv --out out``
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from perfmodel.hardware.load import load_accelerator
from perfmodel.optimize.grouped.candidates import Candidate
from perfmodel.optimize.grouped_conv import (
    GroupedConv,
    contiguous_groups,
    schedule,
)
from perfmodel.report.figures import predicted_against_measured
from perfmodel.report.grouped import schedule_picture
from perfmodel.report.style import save


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """Predicted and measured times of schedules of layers that no coefficient saw [s]."""

    predicted: npt.NDArray[np.float64]
    measured: npt.NDArray[np.float64]
    family: tuple[str, ...]


def layer() -> GroupedConv:
    """ResNeXt-50 32x16d, 14 x 14 pixels, batch 8; groups keep 16 to 64 channels, in eights."""
    rng = np.random.default_rng(5)
    kept = (8 * rng.integers(2, 9, 32)).tolist()
    made = (8 * rng.integers(2, 9, 32)).tolist()
    groups = contiguous_groups(kept, made)
    return GroupedConv(8, 14, 14, sum(kept), groups, name="pruned-resnext-32-14x14-b8")


def unseen() -> Unseen:
    """From the committed runs, half of the layers that the fit left out."""
    from validate.grouped_conv.dataset import load_fresh, load_run, together
    from validate.grouped_conv.dealing import dealing_of
    from validate.grouped_conv.refit import fit_all
    from validate.grouped_conv.scores import schedule_table

    first = load_run()
    run = together(first, load_fresh())
    rows = schedule_table(run, fit_all(run, dealing_of(first)))
    rows = rows[~rows.tune & (rows.placement == "knapsack+lpt")]
    family = run.layers.drop_duplicates("layer").set_index("layer").family
    return Unseen(
        rows.predicted.to_numpy(), rows.measured.to_numpy(), tuple(family[rows.layer].tolist())
    )


def in_order_seconds(chosen: Candidate) -> float:
    """The same tiles, dealt in the order of the groups as a grouped GEMM kernel does [s]."""
    from perfmodel.optimize.grouped.heuristics import makespan, round_robin

    counts = round_robin(chosen.kinds.seconds, chosen.kinds.number, chosen.slots)
    return makespan(counts, chosen.kinds.seconds) + chosen.times.begin


def main(argv: list[str] | None = None) -> None:
    """Schedule, draw, and check the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    found = schedule(layer(), load_accelerator("h100-sxm5-80gb"), time_limit_s=10, gap=5e-3)
    print(found.explain())
    ordered = in_order_seconds(found.chosen)
    print(f"in order {ordered * 1e6:.1f} us, scheduled {found.chosen.makespan * 1e6:.1f} us")
    drawn = schedule_picture(found)
    real = unseen()
    error = np.abs(real.predicted / real.measured - 1)
    print(f"{len(error)} unseen layers: mean error {error.mean():.1%}, worst {error.max():.0%}")
    family = np.array(real.family)
    scatter = predicted_against_measured(
        f"Grouped convolutions on an H100: {len(error)} unseen layers",
        {str(name): real.measured[family == name] for name in np.unique(family)},
        {str(name): real.predicted[family == name] for name in np.unique(family)},
        unit="us",
        scale=1e6,
    )
    for name, figure in (("schedule", drawn), ("measured", scatter)):
        print(f"drawn: {save(figure, out / f'grouped-conv-{name}.svg')}")
    assert found.placement_gap <= 0.01, "the placement is proven within 1 %"
    assert found.chosen.makespan < 0.97 * ordered, "order of groups costs time"
    assert error.mean() <= 0.15, "layers unseen by the fit are within 15 %"


if __name__ == "__main__":
    main()
