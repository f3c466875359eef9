"""Measure collectives with torch.distributed on the GPUs of one host.

``python -m validate.bench.collectives --out DIR --seconds 330`` starts one process a GPU, measures
every operation over the sizes, in CUDA graphs and eager, alone and beside other work, on all GPUs
and on subsets, and writes ``collectives.csv`` (rows as they come) and ``collectives.toml``.
Sizes are those of the larger buffer. With ``--seed`` they are drawn at random and go to
``collectives-drawn.csv``, which no fit reads; what runs at once is added. The most useful cases
come first; what the time does not allow is left out. A case that hangs is ended, noted, and
passed over.

NVLink multicast stays off.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from validate.bench.collectives_cases import GIB, KIB, cases
from validate.bench.collectives_worker import COLUMNS, run

SAFE = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "NCCL_SOCKET_IFNAME": "lo",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "OMP_NUM_THREADS": "1",
}
RESTARTS = 8


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _options(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    tables = [out / "collectives.csv"]
    if options.seed is not None:
        tables.append(out / "collectives-drawn.csv")
    for table in tables:
        with table.open("w", newline="") as file:
            csv.DictWriter(file, COLUMNS).writeheader()
    os.environ.update(SAFE)
    begin = time.time()
    devices = options.devices or _count_devices()
    plan = [
        case.to_dict() for case in cases(devices, options.smallest, options.largest, options.seed)
    ]
    if options.limit:
        plan = plan[:: max(1, len(plan) // options.limit)]
    if devices < 2:
        print(f"needs at least 2 devices, found {devices}", file=sys.stderr)
        return 2
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        info = Path(scratch) / "info.json"
        job: dict[str, Any] = {
            "backend": options.backend,
            "cases": plan,
            "first": 0,
            "no_graph": [],
            "deadline": begin + options.seconds,
            "case_timeout": options.case_timeout,
            "csv": str(tables[0]),
            "drawn": str(tables[-1]),
            "info": str(info),
        }
        for _ in range(RESTARTS + 1):
            reached, finished = _round(devices, job, begin + options.seconds + 15)
            if finished or time.time() > job["deadline"] - 20 or reached >= len(plan) - 1:
                break
            stuck = plan[max(reached, 0)]
            named = (stuck[key] for key in ("op", "size", "label", "mode", "beside"))
            failures.append(" ".join(map(str, named)).strip())
            print("failed and passed over:", failures[-1], file=sys.stderr, flush=True)
            if stuck["mode"] == "graph" and not stuck["beside"]:
                job["no_graph"] = [*job["no_graph"], stuck["op"]]
            job["first"] = max(reached, 0) + 1
        details = json.loads(info.read_text()) if info.exists() else {}
    details |= _driver()
    for table in tables:
        _sidecar(table, details, options, begin, failures, len(plan))
    return 0


def _round(devices: int, job: dict[str, Any], end: float) -> tuple[int, bool]:
    """Start the ranks and watch them; (case reached, whether they came to the end)."""
    context = multiprocessing.get_context("spawn")
    beat = context.Array("d", [job["first"] - 1, time.time(), 0])
    ports = (_free_port(), _free_port())
    ranks = [
        context.Process(target=run, args=(rank, devices, ports, job, beat), daemon=True)
        for rank in range(devices)
    ]
    for process in ranks:
        process.start()
    while True:
        time.sleep(0.1)
        done = [process.exitcode for process in ranks]
        if all(code is not None for code in done):
            break
        patience = job["case_timeout"] + (100 if beat[0] < job["first"] else 5)
        failed = any(code not in (None, 0) for code in done)
        silent = time.time() - beat[1] > patience
        if failed or silent or time.time() > end:
            time.sleep(0.5)
            for process in ranks:
                if process.is_alive():
                    process.kill()
            for process in ranks:
                process.join(10)
            break
    return int(beat[0]), bool(beat[2])


def _sidecar(
    table: Path,
    details: dict[str, Any],
    options: argparse.Namespace,
    begin: float,
    failures: list[str],
    planned: int,
) -> None:
    content = table.read_bytes()
    fields: dict[str, Any] = {
        "what": "collectives by torch.distributed; time of one call, maximum over ranks, "
        "median over replays; p10 and p90 over replays",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m validate.bench.collectives --out OUT --seconds {options.seconds:g}"
        + (f" --seed {options.seed}" if options.seed is not None else ""),
        "backend": options.backend,
        "seconds": round(time.time() - begin, 1),
        "rows": content.count(b"\n") - 1,
        "cases_planned": planned,
        "failures": failures,
        "sha256": hashlib.sha256(content).hexdigest(),
        **details,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in fields.items()]
    lines += ["", "[environment]"] + [
        f'{key} = "{value}"'
        for key, value in sorted(os.environ.items())
        if key.startswith(("NCCL_", "TORCH_NCCL", "TORCH_SYMM", "NVSHMEM_"))
    ]
    part = table.with_suffix(".toml.part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(table.with_suffix(".toml"))
    print(
        f"{table.name}: {fields['rows']} rows, {len(failures)} failures, {fields['seconds']} s",
        flush=True,
    )


def _driver() -> dict[str, Any]:
    if shutil.which("nvidia-smi") is None:
        return {}
    keys = "driver_version,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit,pstate"
    found: dict[str, Any] = {}
    for name, command in {
        "gpu_state": ["nvidia-smi", f"--query-gpu={keys}", "--format=csv"],
        "topology": ["nvidia-smi", "topo", "-m"],
        "nvlink": ["nvidia-smi", "nvlink", "-s", "-i", "0"],
    }.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            found[name] = re.sub(r" \(UUID: [^)]*\)|\x1b\[\d*m", "", done.stdout.strip())
        except (OSError, subprocess.TimeoutExpired) as error:
            found[name] = f"unavailable: {error}"
    return found


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value))  # a JSON string is a TOML basic string


def _count_devices() -> int:
    """Counted in a process of its own, so that this one holds no device."""
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    return int(done.stdout.split()[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="validate.bench.collectives", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=330, help="time budget")
    parser.add_argument("--backend", choices=("nccl", "gloo"), default="nccl")
    parser.add_argument("--devices", type=int, default=0, help="ranks; default: every GPU")
    parser.add_argument("--smallest", type=int, default=KIB, help="smallest size [B]")
    parser.add_argument("--largest", type=int, default=2 * GIB, help="largest size [B]")
    parser.add_argument("--seed", type=int, help="draw sizes at random; add what runs at once")
    parser.add_argument("--limit", type=int, default=0, help="measure about so many cases only")
    parser.add_argument("--case-timeout", type=float, default=25, help="seconds before a kill")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
