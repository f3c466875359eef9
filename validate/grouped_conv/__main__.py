"""Commands: measure (and compile, which measure starts)."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit status 0, or 1 when nothing was measured."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.grouped_conv", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("measure", help="fit on solo shapes, then predict and run layers")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--seconds", type=float, default=255.0, help="wall-clock budget")
    part = commands.add_parser("compile", help="compile a share of the kernels; used by measure")
    part.add_argument("--part", type=int, default=0)
    part.add_argument("--of", type=int, default=1)
    args = parser.parse_args(argv)
    from validate.grouped_conv import measure

    if args.command == "measure":
        return measure.measure(args.out, args.seconds)
    measure.compile_part(args.part, args.of)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
