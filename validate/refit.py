"""``python3 -m validate.refit``: ``perfmodel calibrate`` where a device teaches the networks.

Convolutions share networks that learn from estimates of millions of them (``plans/taught.npz``):
hours of a processor, two minutes of a device. All else is as the shipped command does it. Needs
PyTorch (the ``torch`` extra), and a device that it sees::

    python3 -m validate.refit h100-sxm5-80gb --support h200-sxm-141gb --jobs 16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from perfmodel.calibrate import calibrate, markdown, summaries
from perfmodel.study.executor import processes
from validate.plan_law.descend import OWN, Teaching
from validate.plan_law.rows import MEASUREMENTS


def main(argv: Sequence[str] | None = None) -> int:
    """Fit a chip's kernels, and say how far off they are on rows that their folds did not see."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("chip", help="whose measurements are fitted")
    parser.add_argument("--support", help="a sibling whose measurements teach, too")
    parser.add_argument("--measurements", type=Path, default=MEASUREMENTS)
    parser.add_argument("--out", type=Path, help="efficiency folder; perfmodel's own by default")
    parser.add_argument("--kernels", action="append", default=[], help="beginning of their names")
    parser.add_argument("--jobs", type=int, help="processes; by default one a processor")
    parser.add_argument("--epochs", type=int, default=OWN.epochs, help="of each kind")
    args = parser.parse_args(argv)
    support = (args.measurements / args.support, args.support) if args.support else None
    result = calibrate(
        args.measurements / args.chip,
        args.chip,
        out=args.out,
        support=support,
        kernels=args.kernels,
        progress=lambda done: print(done, file=sys.stderr, flush=True),
        spread=processes(args.jobs),
        teaching=Teaching(own=replace(OWN, epochs=args.epochs)),
    )
    scores = summaries(result.records, lambda record: record.kernel)
    sys.stdout.write(markdown(scores, "held-out operators") + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
