"""``python3 -m validate.bench.models --out DIR --seconds N``: whole models on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Before torch: no device context in the parent, so that children can be forked with its imports.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PROTOCOL = (
    "random weights and inputs; 3 warm steps; step_us: groups of steps in a steady stream, events "
    "between groups, in pieces with a probe of the host around each (in both threads of a "
    "training step); woven_us: another stream with blocks of the probe between steps; wall_us: "
    "host clock over the pieces; "
    "latency_us and host_us: single steps from an idle device, to completion and to the return of "
    "the host; memory from an emptied cache over two settled steps; cudnn.benchmark on unless the "
    "case says otherwise; kernels: one step under torch.profiler; compiled: torch.compile default "
    "mode, dynamic=False, compiled in parallel, measured alone"
)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench.models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=560.0, help="wall-clock budget")
    parser.add_argument("--part", default="eager,compiled", help="eager, compiled, or both")
    parser.add_argument("--preset", choices=("full", "h200", "clean"), default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models: a dry run")
    parser.add_argument("--skip", type=Path, action="append", default=[], help="a cases.csv")
    parser.add_argument("--only", default="", help="substring of the keys to run")
    parser.add_argument("--keys", type=Path, help="measure these keys alone, a line each, in order")
    parser.add_argument("--no-profile", action="store_true", help="time alone, no kernels")
    parser.add_argument("--profile", action="store_true", help="profile each")
    parser.add_argument("--kineto", action="store_true", help="profile each, and keep its trace")
    parser.add_argument(
        "--then", action="append", default=[], metavar="PART:KEYS:OUT:SECONDS[:kineto|:profile]",
        help="another such run afterwards, in the same process, which has imported already",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=0, help="at most so many cases a part")
    parser.add_argument("--processes", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--list", action="store_true", help="print the keys and stop")
    return parser.parse_args(argv)


def _preload() -> dict[str, str]:
    """Import what the children share; versions."""
    import importlib

    versions = {}
    for name in ("torch", "numpy", "torchvision", "timm", "transformers", "triton"):
        try:
            module = importlib.import_module(name)
            versions[name] = str(getattr(module, "__version__", "unknown"))
        except Exception as error:
            versions[name] = f"missing: {type(error).__name__}"
    for name in ("torch._dynamo", "torch._inductor.compile_fx", "validate.bench.models.session"):
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"{name}: {error}", file=sys.stderr)
    for kind in ("bert", "gpt2", "t5", "whisper", "clip", "segformer", "mamba", "mixtral",
                 "qwen3_moe", "llama", "roberta", "distilbert", "gpt_neox", "opt",
                 "qwen2", "qwen3", "mistral", "bloom", "electra", "bart"):  # fmt: skip
        try:
            importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
        except Exception as error:
            print(f"{kind}: {error}", file=sys.stderr)
    versions["python"] = sys.version.split()[0]
    return versions


def main(argv: list[str] | None = None) -> int:
    """Measure; 0 when at least one case was."""
    begin = time.monotonic()
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["trace"]:
        from validate.bench.models import trace

        return trace.main(given[1:])
    runs = [_arguments(given)]
    runs += [_another(runs[0], one) for one in runs[0].then]
    plans = [_plan(one) for one in runs]
    if any(plan is None for plan in plans):
        return 2
    if runs[0].list:
        print("\n".join(c.key for plan in plans for part in plan or () for c in part))
        return 0
    versions = _preload()
    print(f"imports took {time.monotonic() - begin:.1f} s: {versions}", flush=True)
    from validate.bench.models import drive

    context = drive.context_for(runs[0].device)
    count = 0
    for options, plan in zip(runs, plans, strict=True):
        count += _measured(options, plan or ([], []), versions, context, given, begin)
        begin = time.monotonic()
    return 0 if count else 1


def _another(first: argparse.Namespace, words: str) -> argparse.Namespace:
    """Options of a run behind the first: ``compiled:list.keys:out/compiled:120``."""
    part, keys, out, seconds, *more = words.split(":")
    changes: dict[str, Any] = {
        "part": part, "keys": Path(keys), "out": Path(out), "seconds": float(seconds),
    }  # fmt: skip
    if more == ["kineto"]:
        changes |= {"no_profile": False, "kineto": True}
    if more == ["profile"]:
        changes |= {"no_profile": False, "profile": True}
    return argparse.Namespace(**(vars(first) | changes))


def _plan(options: argparse.Namespace) -> tuple[list[Any], list[Any]] | None:
    """Cases of a run, launched one by one and compiled; None where a key names none."""
    from validate.bench.models import cases, files, plans

    parts = options.part.split(",")
    plan = {"full": plans.every, "h200": cases.h200, "clean": cases.clean}[options.preset]()
    skipped: set[str] = set()
    for path in [*options.skip, options.out / files.CASES]:
        skipped |= files.done(path)
    plan = [c for c in plan if c.key not in skipped and options.only in c.key]
    if options.keys:
        named = {c.key: c for c in plan}
        wanted = options.keys.read_text(encoding="utf-8").split()
        strange = [k for k in wanted if k not in named and k not in skipped]
        if strange:
            print(f"no such case: {', '.join(strange)} (--list prints them)", file=sys.stderr)
            return None
        plan = [named[k] for k in wanted if k in named]
    serial = [c for c in plan if not c.mode.startswith("compiled") and "eager" in parts]
    compiled = [c for c in plan if c.mode.startswith("compiled") and "compiled" in parts]
    if options.no_profile:
        serial, compiled = (
            [replace(c, profile=False, kineto=False) for c in part] for part in (serial, compiled)
        )
    if options.kineto or options.profile:
        kept = options.kineto
        serial, compiled = (
            [replace(c, profile=True, kineto=kept) for c in part] for part in (serial, compiled)
        )
    if options.tiny:
        serial = _one_each([c for c in serial if c.mode == "eager" or options.device == "cuda"])
    if options.limit:
        serial, compiled = serial[: options.limit], compiled[: options.limit]
    return serial, compiled


def _measured(
    options: argparse.Namespace, plan: tuple[list[Any], list[Any]], versions: dict[str, str],
    context: Any, given: list[str], begin: float,
) -> int:  # fmt: skip
    """Take one run; cases done."""
    from validate.bench import nvml
    from validate.bench.models import drive, files

    serial, compiled = plan
    options.out.mkdir(parents=True, exist_ok=True)

    def left() -> float:
        return float(options.seconds - (time.monotonic() - begin))

    facts: dict[str, Any] = {
        "command": _command(given), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "budget_s": options.seconds, "protocol": PROTOCOL, "library": versions,
        "board": nvml.board_facts(), "cpu_count": os.cpu_count() or 0,
    }  # fmt: skip
    count = 0
    todo: list[tuple[str, Callable[[], int]]] = [
        (
            "eager",
            lambda: drive.serial(serial, options.out, left, options.device, options.tiny, context),
        ),
        (
            "compiled",
            lambda: drive.parallel(
                compiled,
                options.out,
                left,
                options.device,
                options.tiny,
                context,
                options.processes,
                2.0 if options.tiny else 25.0,
            ),
        ),
    ]
    for name, work in todo:
        if not (serial if name == "eager" else compiled):
            continue
        files.about(options.out, facts | {"state": f"running {name}"})
        count += work()
        facts |= {f"{name}_wall_s": round(time.monotonic() - begin, 1), "board_end": nvml.board_facts()}  # noqa: E501  # fmt: skip
        files.about(options.out, facts | {"cases": count})
    print(f"{options.out.name}: {count} cases in {time.monotonic() - begin:.0f} s", flush=True)
    return count


def _one_each(plan: list[Any]) -> list[Any]:
    """The first case of every kind, model and mode, and of every way to train."""
    first: dict[tuple[object, ...], Any] = {}
    for case in plan:
        way = (case.build[4:], case.layout) if case.kind == "train" else ()
        first.setdefault((case.kind, case.model, case.mode, way), case)
    return list(first.values())


def _command(given: list[str]) -> str:
    """The command line with folders reduced to their names."""
    words = [Path(w).name if "/" in w else w for w in given]
    return shlex.join(["python3", "-m", "validate.bench.models", *words])


if __name__ == "__main__":
    sys.exit(main())
