"""Commands: measure (and compile, which measure starts), fit, report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perfmodel.errors import FileError, PerfmodelError
from perfmodel.files import write_text


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit status 0, 1 when nothing was measured, 2 for what a user can mend."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.grouped_conv", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("measure", help="fit on solo shapes, then predict and run layers")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--seconds", type=float, default=255.0, help="wall-clock budget")
    part = commands.add_parser("compile", help="compile a share of the kernels; used by measure")
    part.add_argument("--part", type=int, default=0)
    part.add_argument("--of", type=int, default=1)
    fresh = commands.add_parser("fresh", help="run layers of no earlier run, as given and merged")
    fresh.add_argument("--out", type=Path, required=True)
    fresh.add_argument("--seconds", type=float, default=95.0, help="wall-clock budget")
    fresh.add_argument("--most", type=int, default=10_000, help="layers at most")
    shipped = commands.add_parser("fit", help="coefficients from the committed run")
    shipped.add_argument("--out", type=Path, required=True, help="the TOML to write")
    told = commands.add_parser("report", help="score the committed run; no GPU")
    told.add_argument("--out", type=Path, required=True, help="the Markdown to write")
    args = parser.parse_args(argv)
    if args.command in ("fit", "report"):
        try:
            return _analyse(args.command, args.out)
        except PerfmodelError as error:
            print(error, file=sys.stderr)
            return 2
    if args.command == "compile":
        from validate.grouped_conv.compiling import compile_part

        compile_part(args.part, args.of)
        return 0
    if args.command == "fresh":
        from validate.grouped_conv.fresh import measure_fresh

        return measure_fresh(args.out, args.seconds, args.most)
    from validate.grouped_conv.measure import measure

    return measure(args.out, args.seconds)


def _analyse(command: str, out: Path) -> int:
    if out.is_dir():  # told before the fit, which takes long
        name = "tiles.toml" if command == "fit" else "grouped.md"
        raise FileError(
            f"{command} --out",
            str(out),
            "the name of a file",
            nearest=str(out / name),
            repair="name the file in the folder",
        )

    from validate.grouped_conv.dataset import load_fresh, load_run, together
    from validate.grouped_conv.dealing import dealing_of
    from validate.grouped_conv.refit import fit_all
    from validate.grouped_conv.sidecar import write_coefficients

    first = load_run()
    run = together(first, load_fresh())
    fitted = fit_all(run, dealing_of(first))
    from perfmodel.hardware.load import load_accelerator

    chip = load_accelerator("h100-sxm5-80gb")
    if command == "fit":
        from validate.grouped_conv.baseline_times import fit_library, shipped

        library = shipped(fit_library(run.layers, run.convs, chip))
        write_coefficients(out, list(fitted.times.values()), fitted.packing, library)
        return 0
    from validate.grouped_conv.report import document

    write_text(out, document(run, fitted, chip))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
