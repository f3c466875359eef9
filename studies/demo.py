"""Plan Llama-3-70B on 64 nodes of DGX H100: the plan, its reasons, its picture.

``python -m studies.demo --out out`` is what ``make demo`` runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perfmodel as pm
from perfmodel.report.plans import front_figure, memory_figure, step_figure
from perfmodel.report.style import save


def main() -> None:
    """Plan, explain, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    out: Path = parser.parse_args().out

    cluster = pm.load("dgx-h100", nodes=64)
    model = pm.load_model("llama-3-70b")
    best = pm.plan(model, cluster, global_batch_size=1024, seq_len=8192)

    print(best.explain())
    title = "Llama-3-70B on 512 H100"
    for name, drawn in (
        ("plans-step", step_figure(best.plans, title)),
        ("plans-memory", memory_figure(best.plans, title)),
        ("plans-front", front_figure(best, title)),
    ):
        print(f"drawn: {save(drawn, out / f'{name}.svg')}")


if __name__ == "__main__":
    main()
