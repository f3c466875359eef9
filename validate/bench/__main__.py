"""Commands: plan, measure, unpack (and worker, which measure starts)."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="write a sampling plan as JSON lines")
    plan.add_argument("--out", type=Path, required=True)
    plan.add_argument("--seed", type=int, default=1)
    plan.add_argument("--families", nargs="*", help="only these families")
    plan.add_argument(
        "--counts", nargs="*", metavar="FAMILY=N", help="points of each family, instead of a preset"
    )
    plan.add_argument("--convs", type=int, help="about so many convolutions, and nothing else")
    plan.add_argument("--weak", action="store_true", help="convolutions of kinds little known")
    plan.add_argument("--wide", action="store_true", help="convolutions of every kind and network")
    plan.add_argument("--split", action="store_true", help="depth-wise and grouped ones most")
    plan.add_argument("--likely", action="store_true", help="convolutions as strangers draw them")
    plan.add_argument("--aimed", action="store_true", help="the same, where they are priced worst")
    plan.add_argument("--even", action="store_true", help="every kind, whatever its error")
    plan.add_argument("--scans", action="store_true", help="convolutions along one size at a time")
    plan.add_argument("--again", type=Path, help="folder of measured tables to draw repeats from")
    plan.add_argument("--again-points", type=int, default=100, help="repeats that are drawn")
    plan.add_argument(
        "--without", type=Path, nargs="*", default=[], help="folders whose operators stay out"
    )
    plan.add_argument(
        "--disturbed", type=Path, help="products of its tables that a clock coming back made slow"
    )
    plan.add_argument("--light-first", action="store_true", help="in the order of power drawn")
    plan.add_argument("--points", type=int, help="scale the plan to about so many operators")
    plan.add_argument("--preset", choices=("h100", "h200", "smoke"), default="h100")
    measure = commands.add_parser("measure", help="measure a plan in file order")
    measure.add_argument("--plan", type=Path, required=True)
    measure.add_argument("--out", type=Path, required=True)
    measure.add_argument("--seconds", type=float, default=560.0, help="hard budget, start included")
    measure.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    measure.add_argument("--op-limit", type=float, default=25.0, help="seconds for one operator")
    measure.add_argument("--limit-bytes", type=float, default=16e9)
    measure.add_argument(
        "--processes", type=int, default=1, help="workers that load kernels together, time in turn"
    )
    measure.add_argument(
        "--relay", action="store_true", help="the workers have the device in turn (needs cc)"
    )
    names = commands.add_parser("names", help="names of the kernels of one call, by the profiler")
    names.add_argument("--plan", type=Path, nargs="*", default=[])
    names.add_argument("--measured", type=Path, help="folder of tables; their operators follow")
    names.add_argument("--only", nargs="*", help="these operators, in this order")
    names.add_argument("--out", type=Path, required=True)
    names.add_argument("--seconds", type=float, default=120.0, help="hard budget, start included")
    names.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    unpack = commands.add_parser("unpack", help="split a run into one CSV and sidecar a family")
    unpack.add_argument("run", type=Path)
    unpack.add_argument("--out", type=Path, default=Path("validate/measurements"))
    unpack.add_argument("--suffix", default="", help="of the tables' names, such as -3")
    unpack.add_argument("--name", help="folder of the device; default from its name")
    profiler = commands.add_parser("names-worker", help="profiling process; started by names")
    profiler.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    worker = commands.add_parser("worker", help="measuring process; started by measure")
    worker.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    worker.add_argument("--processes", type=int, default=1, help="that share the device in all")
    return parser


def _count(text: str) -> tuple[str, int]:
    """``gemm_fp8=120`` as a pair."""
    name, _, number = text.partition("=")
    if not number.isdigit():
        raise SystemExit(f"--counts: {text!r} is not FAMILY=N, for example gemm_fp8=120")
    return name, int(number)


def _plan(args: argparse.Namespace) -> None:
    """Write a plan and say what it costs."""
    from validate.bench import conv_draws, conv_scans, plan

    if args.scans:
        entries = conv_scans.build(args.seed)
    elif args.convs:
        strata = conv_draws.STRATA
        for asked, others in (
            (args.weak, conv_draws.WEAK),
            (args.wide, conv_draws.WIDE),
            (args.split, conv_draws.SPLIT),
            (args.likely, conv_draws.LIKELY),
            (args.aimed, conv_draws.AIMED),
            (args.even, conv_draws.EVEN),
        ):
            strata = others if asked else strata
        entries = conv_draws.build(args.convs, args.seed, strata)
    else:
        entries = plan.build(
            args.preset,
            args.seed,
            points=args.points,
            families=args.families,
            counts=dict(_count(text) for text in args.counts or ()),
        )
    if args.again is not None:
        draw = conv_draws.repeats if args.convs else plan.again
        repeats = draw(args.again, args.again_points, args.seed)
        entries = plan.merge([plan.without(entries, args.again), repeats])
    for folder in args.without:
        entries = plan.without(entries, folder)
    if args.disturbed is not None:
        entries = plan.merge([entries, plan.disturbed(args.disturbed)])
    if args.light_first:
        entries = plan.light_first(entries)
    plan.write(args.out, entries)
    print(plan.describe(entries))


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit status 0, or 1 when nothing was measured."""
    args = _parser().parse_args(argv)
    if args.command == "plan":
        _plan(args)
        return 0
    if args.command == "measure":
        from validate.bench import relay, runner, turns

        measured = runner.run
        if args.processes > 1:
            shared = relay.run if args.relay else turns.run
            measured = functools.partial(shared, processes=args.processes)
        tally = measured(
            runner.load_plan(args.plan),
            args.out,
            seconds=args.seconds,
            device=args.device,
            op_limit_s=args.op_limit,
            limit_bytes=args.limit_bytes,
        )
        return 0 if tally.measured or tally.skipped else 1
    if args.command == "names":
        from validate.bench import names, runner

        chosen = names.choose(
            [entry["op"] for path in args.plan for entry in runner.load_plan(path)],
            args.measured,
            args.only,
        )
        named = names.name_kernels(chosen, args.out, seconds=args.seconds, device=args.device)
        return 0 if named["named"] or not named["left"] else 1
    if args.command == "names-worker":
        from validate.bench import names_worker

        names_worker.serve(args.device)
        return 0
    if args.command == "unpack":
        from validate.bench import store

        tables = store.unpack(args.run, args.out, args.name, suffix=args.suffix)
        for name, count in tables.items():
            print(f"{name}: {count}")
        return 0
    from validate.bench import worker

    worker.serve(args.device, args.processes)
    return 0


def _told() -> int:
    """`main`, with what is wrong with the input as one line and exit status 2."""
    try:
        return main()
    except (OSError, ValueError) as error:
        print(f"validate.bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(_told())
