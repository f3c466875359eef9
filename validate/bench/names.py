"""Names of the kernels that run: one profiled call an operator, in a process of its own."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from validate.bench import ops, search_log, store
from validate.bench.runner import Worker, WorkerDied, about_run, note_failure, working

KERNEL_KEYS = ("call", "position", "name", "grid", "block", "registers", "shared", "duration_us")
COLUMNS = (*ops.OP_KEYS, *KERNEL_KEYS)
FIRST, CHUNK, CHUNK_S = 16, 256, 4.0  # operators of one profile, and the seconds it may take
CHUNK_LIMIT_S = 120.0
_NO_KERNEL = {"host", "memcpy"}
PROTOCOL = (
    "one eager call under torch.profiler after a call outside it; of a convolution also the first "
    "call (call = search), in which cudnn.benchmark runs each plan twice"
)


def choose(planned: list[ops.Op], measured: Path | None, only: list[str] | None) -> list[ops.Op]:
    """Operators of plans and of measured tables, each once, ordered by ``only`` and then by a hash.

    So ordered, any part of the list covers the sizes of an operator alike.
    """
    found = list(planned)
    for path in sorted(measured.glob("*.csv")) if measured is not None else []:
        found += [store.op_of(row) for row in store.read_any(path) if row["op"] not in _NO_KERNEL]
    rank = {name: place for place, name in enumerate(only or [])}
    chosen = {ops.key(op): op for op in found if only is None or op["op"] in rank}
    order = sorted(
        chosen,
        key=lambda k: (rank.get(chosen[k]["op"], 0), hashlib.sha256(k.encode()).hexdigest()),
    )
    return [chosen[k] for k in order]


@dataclass(slots=True)
class _Chunks:
    """Operators still to be profiled, in chunks of a few seconds; halved where a process dies."""

    rest: list[ops.Op]
    halves: list[list[ops.Op]] = field(default_factory=list)
    size: int = FIRST

    def __bool__(self) -> bool:
        return bool(self.halves or self.rest)

    def take(self) -> list[ops.Op]:
        """The next chunk."""
        if self.halves:
            return self.halves.pop(0)
        chunk, self.rest = self.rest[: self.size], self.rest[self.size :]
        return chunk

    def halve(self, chunk: list[ops.Op]) -> None:
        """Put both halves of a chunk in front."""
        half = len(chunk) // 2
        self.halves[:0] = [chunk[:half], chunk[half:]]

    def pace(self, count: int, spent: float, left: float) -> None:
        """Set the size of further chunks from what one took [s]."""
        # Searches of convolutions take a hundred times as long as a product's call.
        fits = count * min(CHUNK_S, 0.8 * max(left, 0.1)) / max(spent, 1e-3)
        self.size = int(min(CHUNK, 4 * self.size, max(1, fits)))


def name_kernels(
    chosen: list[ops.Op],
    out: Path,
    *,
    seconds: float,
    device: str = "cuda",
    limit_bytes: float = 16e9,
    worker_command: list[str] | None = None,
) -> dict[str, int]:
    """Profile one call of each operator into ``out/kernels.csv.gz``.

    Operators that ``out`` holds are skipped. A chunk whose process dies is halved until the
    operator that kills it is found and noted in ``failures.jsonl``.
    """
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    table = _open(out)
    done = _done(table) | _failed(out / "failures.jsonl")
    todo = [op for op in chosen if ops.key(op) not in done]
    todo = list({ops.key(op): op for op in todo if sum(ops.traffic(op)) <= limit_bytes}.values())
    tally = {"named": 0, "kernels": 0, "failed": 0, "restarts": 0, "left": 0}
    command = worker_command or [
        sys.executable, "-m", "validate.bench", "names-worker", "--device", device,
    ]  # fmt: skip
    worker = Worker(device, out / "worker.log", command=command)
    about: dict[str, Any] = dict(about_run(seconds, PROTOCOL))
    chunks = _Chunks(todo)
    try:
        with working(worker):
            worker.start()
            about["library"] = worker.facts
            while chunks and (left := begin + seconds - time.monotonic()) >= 1.0:
                _profile(chunks, worker, table, left, tally)
    finally:
        tally["left"] = len(todo) - tally["named"] - tally["failed"]
        _close(out, table, about | {"wall_s": round(time.monotonic() - begin, 1)})
    print(json.dumps({"names": tally}))
    return tally


def _profile(
    chunks: _Chunks, worker: Worker, table: Path, left: float, tally: dict[str, int]
) -> None:
    """Profile the next chunk within the seconds that are left; where its process dies, halve it."""
    chunk, start = chunks.take(), time.monotonic()
    try:
        answer = worker.request({"ops": chunk}, min(CHUNK_LIMIT_S, left))
    except WorkerDied as died:
        if time.monotonic() - start > left - 0.5:
            return  # no fault of the chunk's
        worker.stop()
        tally["restarts"] += 1
        worker.start()
        if len(chunk) > 1:
            chunks.halve(chunk)
        else:
            note_failure(table.parent, chunk[0], f"WorkerDied: {died}")
            tally["failed"] += 1
        return
    spent = time.monotonic() - start
    chunks.pace(len(chunk), spent, left - spent)
    _keep(table, chunk, answer, table.parent, tally)


def _open(out: Path) -> Path:
    """The table while it grows: plain CSV, holding what an earlier run packed."""
    table, packed = out / "kernels.csv", out / "kernels.csv.gz"
    if not table.exists() and packed.exists():
        store.write_atomic(table, gzip.decompress(packed.read_bytes()))
    store.trim(table)
    if not table.exists() or table.stat().st_size == 0:
        table.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    return table


def read(path: Path) -> Iterator[tuple[ops.Op, dict[str, str]]]:
    """Operator and kernel of every line of a table, packed or not; no kernel is an empty name."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    for cells in csv.DictReader(text.splitlines()):
        yield store.op_of(cells), {key: cells[key] for key in KERNEL_KEYS}


def _done(table: Path) -> set[str]:
    return {ops.key(op) for op, _ in read(table)}


def _failed(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return {ops.key(json.loads(line)["op"]) for line in lines if line.endswith("}")}


def _keep(
    table: Path, chunk: list[ops.Op], answer: dict[str, Any], out: Path, tally: dict[str, int]
) -> None:
    lines = []
    for op, kernels in zip(chunk, answer["kernels"], strict=True):
        if isinstance(kernels, str):
            note_failure(out, op, kernels)
            tally["failed"] += 1
            continue
        tally["named"] += 1
        tally["kernels"] += len(kernels)
        for position, kernel in enumerate(kernels or [{"name": ""}]):
            lines.append(store.line({**op, "position": position, **kernel}, COLUMNS))
    for index, plans in answer.get("plans", []):
        search_log.append(out, chunk[index], plans)
    with table.open("a", encoding="utf-8") as handle:
        handle.write("".join(lines))


def _close(out: Path, table: Path, about: dict[str, Any]) -> None:
    """Pack the table, with a sidecar; the plain one goes."""
    data = table.read_bytes()
    packed = out / "kernels.csv.gz"
    store.write_atomic(packed, gzip.compress(data, mtime=0))
    store.sidecar(packed, about, data.count(b"\n") - 1)
    table.unlink()
    log = out / "worker.log"
    if log.exists() and log.stat().st_size == 0:
        log.unlink()
