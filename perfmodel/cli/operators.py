"""``perfmodel ops``: the latency of every operator of a file."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated, Any

import typer

from perfmodel.cli.output import Json, emit, plain, table
from perfmodel.errors import WorkloadError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("ops")(ops)


def ops(
    file: Annotated[
        Path, typer.Argument(help='Lines like {"op": "gemm", "m": 1, "n": 1, "k": 1}.')
    ],
    on: Annotated[str, typer.Option(help="Accelerator, or node for collectives: name or TOML.")],
    out: Annotated[Path | None, typer.Option(help="Write JSON lines here.")] = None,
    json: Json = False,
) -> None:
    """Price every operator of a JSON-lines file on one device."""
    from perfmodel.files import write_text
    from perfmodel.study.operators import MEASURED_KEYS, price_records
    from perfmodel.workload.op import records_from_jsonl

    records = list(records_from_jsonl(file))
    if not records:
        raise WorkloadError(
            str(file), "<no operator>", "one JSON object a line", repair="write at least one line"
        )
    rows = price_records(records, on, ignored=MEASURED_KEYS)
    if out is not None:
        write_text(out, "".join(codec.dumps(plain(row)) + "\n" for row in rows))
    if json:
        emit(rows)
    elif out is None:
        table(
            [
                "operator",
                "latency",
                "lower bound",
                "90 % interval",
                "bound",
                "power",
                "energy",
                "calibrated",
                "fits",
            ],
            [_line(row, MEASURED_KEYS) for row in rows],
        )
    else:
        typer.echo(f"{len(rows)} operators priced on {on}: {out}")
    too_large = [i for i, row in enumerate(rows) if not row.get("fits", True)]
    if too_large:
        if not json:
            _complain(records, rows, too_large, on)
        raise typer.Exit(3)


def _complain(
    records: list[tuple[str, Any]], rows: list[dict[str, Any]], too_large: list[int], on: str
) -> None:
    """Name the largest operator that has no room, and what helps."""
    from perfmodel.hardware import accelerator_of
    from perfmodel.units import format_bytes

    worst = max(too_large, key=lambda i: rows[i]["held_bytes"])
    has = format_bytes(accelerator_of(on).memory_capacity)
    typer.echo(
        f"{len(too_large)} of {len(rows)} do not fit; the largest, {records[worst][0]}, needs "
        f"{format_bytes(rows[worst]['held_bytes'])}, has {has}: split it over devices or calls",
        err=True,
    )


def _line(row: dict[str, Any], unread: frozenset[str]) -> list[str]:
    prices = {
        "latency_us", "lower_us", "low_us", "high_us", "bound", "calibrated", "board_w",
        "energy_mj", "board_calibrated", "held_bytes", "fits",
    }  # fmt: skip
    about = "" if row.get("board_calibrated") else "~"
    sizes = " ".join(
        f"{key}={value}" for key, value in row.items() if key not in prices | unread and key != "op"
    )
    return [
        f"{row['op']} {sizes}",
        f"{row['latency_us']:.2f} us",
        f"{row['lower_us']:.2f} us",
        f"{row['low_us']:.2f} .. {row['high_us']:.2f}",
        row["bound"],
        f"{about}{row['board_w']:.0f} W" if "board_w" in row else "",
        f"{about}{row['energy_mj']:.4g} mJ" if "board_w" in row else "",
        "yes" if row["calibrated"] else "no",
        "" if "fits" not in row else "yes" if row["fits"] else "no",
    ]
