"""Jobs that arrive at a cluster: traces from CSV, and seeded generators.

A trace is a table of arrays. CSV files may use the column names of published traces; each of our
columns has a list of names under which it may appear.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError, nearest_name

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_JOBS: Final = 5_000_000

# Ours first, then Philly, Helios and Alibaba PAI (or common conversions of them to CSV).
ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "job_id": ("job_id", "jobid", "job_name", "id"),
    "submit_s": ("submit_s", "submit_time", "submitted_time", "arrival_time", "start_time"),
    "duration_s": ("duration_s", "duration", "run_time", "runtime"),
    "end_s": ("end_s", "end_time", "finished_time"),
    "devices": ("devices", "gpu_num", "num_gpus", "gpus", "num_gpu"),
    "gpu_percent": ("plan_gpu",),
    "instances": ("inst_num",),
    "user": ("user", "vc", "group"),
    "priority": ("priority",),
    "estimate_s": ("estimate_s", "time_limit"),
}


@dataclass(frozen=True, slots=True)
class JobTrace:
    """Jobs in order of submission.

    Parameters
    ----------
    submit : float array
        When each is submitted [s].
    seconds : float array
        How long each runs, once its devices are together [s].
    devices : int array
        How many devices each needs, all at once.
    priority : int array
        Larger goes first where the policy looks at it.
    estimate : float array
        The run time its user announced, for backfill [s].
    user : int array
        Index into ``users``.
    users, names : tuple of str
        Names of users, and of jobs.
    """

    submit: Floats
    seconds: Floats
    devices: Ints
    priority: Ints
    estimate: Floats
    user: Ints
    users: tuple[str, ...] = ("user",)
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.submit)

    def name(self, job: int) -> str:
        """The name of a job, or its number."""
        return self.names[job] if self.names else f"job {job}"


def make_trace(
    submit: ArrayLike,
    seconds: ArrayLike,
    devices: ArrayLike = 1,
    *,
    priority: ArrayLike = 0,
    estimate: ArrayLike | None = None,
    user: Sequence[str] | None = None,
    names: Sequence[str] = (),
) -> JobTrace:
    """A checked trace from columns, sorted by submission.

    Raises
    ------
    ScenarioError
        Naming the first job with a value that cannot be.
    """
    start = np.asarray(submit, dtype=np.float64).reshape(-1)
    count = len(start)
    if not 1 <= count <= MOST_JOBS:
        raise ScenarioError("jobs", count, f"1 to {MOST_JOBS:,} jobs", repair="give another trace")
    columns = {}
    for what, values in (
        ("seconds", seconds),
        ("devices", devices),
        ("priority", priority),
        ("estimate", seconds if estimate is None else estimate),
    ):
        given = np.asarray(values, dtype=np.float64)
        if given.shape not in ((), (count,)):
            raise ScenarioError(
                f"jobs: {what}", given.shape, f"one value, or {count}", repair=f"correct {what}"
            )
        columns[what] = np.array(np.broadcast_to(given, (count,)))
    least = {"seconds": 0.0, "devices": 1.0, "estimate": 0.0, "priority": -1e9}
    for what, values in (*columns.items(), ("submit", start)):
        bad = ~np.isfinite(values) | (values < least.get(what, 0.0))
        if what == "devices":
            bad |= values != np.floor(values)
        if np.any(bad):
            job = int(np.flatnonzero(bad)[0])
            raise ScenarioError(
                f"jobs: {names[job] if names else f'job {job}'}, {what}",
                float(values[job]),
                "a whole number of at least 1"
                if what == "devices"
                else "a finite number that is not negative",
                repair="correct or drop the job",
            )
    order = np.argsort(start, kind="stable")
    known = sorted(set(user)) if user is not None else ["user"]
    index = {name: k for k, name in enumerate(known)}
    who = np.zeros(count, dtype=np.int64)
    if user is not None:
        who = np.array([index[name] for name in user], dtype=np.int64)
    return JobTrace(
        submit=start[order],
        seconds=columns["seconds"][order],
        devices=columns["devices"][order].astype(np.int64),
        priority=columns["priority"][order].astype(np.int64),
        estimate=columns["estimate"][order],
        user=who[order],
        users=tuple(known),
        names=tuple(names[k] for k in order) if names else (),
    )


def read_jobs(path: str | Path, *, limit: int | None = None) -> JobTrace:
    """Jobs from a CSV file with our columns or those of Philly, Helios or Alibaba PAI.

    Needed: a submission time (seconds or an ISO date), a duration or an end time, and devices (or
    PAI's ``plan_gpu`` percent times ``inst_num``). Rows without a device, or without a time because
    the job never ran, are left out. Times are shifted so that the first job comes at 0.

    Raises
    ------
    ScenarioError
        Naming the line and column at fault.
    """
    found: dict[str, list[float]] = {k: [] for k in ("submit", "seconds", "devices", "priority")}
    names: list[str] = []
    users: list[str] = []
    estimates: list[float] = []
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns = _columns(str(path), reader.fieldnames or ())
            for line, row in enumerate(reader, start=2):
                if limit is not None and len(names) >= limit:
                    break
                job = _job(f"{path}: line {line}", row, columns)
                if job is None:
                    continue
                for key, value in zip(
                    ("submit", "seconds", "devices", "priority"), job, strict=False
                ):
                    found[key].append(value)
                estimates.append(job[4])
                names.append(row.get(columns.get("job_id", ""), "") or f"job {line - 2}")
                users.append(row.get(columns.get("user", ""), "") or "user")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(
            str(path), f"<{error}>", "a readable CSV file", repair="check the path and its format"
        ) from None
    if not names:
        raise ScenarioError(
            str(path), 0, "at least one job that ran on devices", repair="give another trace"
        )
    first = min(found["submit"])
    return make_trace(
        [x - first for x in found["submit"]],
        found["seconds"],
        found["devices"],
        priority=found["priority"],
        estimate=estimates,
        user=users,
        names=names,
    )


def _columns(where: str, header: Sequence[str]) -> dict[str, str]:
    """Which of the file's columns plays which part."""
    lower = {name.strip().lower(): name for name in header}
    found = {
        ours: lower[alias]
        for ours, aliases in ALIASES.items()
        for alias in reversed(aliases)
        if alias in lower
    }
    for ours, instead in (("submit_s", None), ("duration_s", "end_s"), ("devices", "gpu_percent")):
        if ours not in found and (instead is None or instead not in found):
            raise ScenarioError(
                f"{where}: header",
                ",".join(header),
                f"a column for {ours}: {', '.join(ALIASES[ours])}",
                nearest=nearest_name(ours, lower),
                repair="name the column, or convert the trace",
            )
    return found


def _job(
    where: str, row: Mapping[str, str], columns: Mapping[str, str]
) -> tuple[float, float, float, float, float] | None:
    """(submit, seconds, devices, priority, estimate) of a line; ``None`` if it ran on no device."""

    def number(ours: str, default: float | None = None) -> float | None:
        text = (row.get(columns.get(ours, ""), "") or "").strip()
        if text in ("", "None", "null", "nan", "NaN"):
            return default
        try:
            return float(text)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise ScenarioError(
                f"{where}, {columns[ours]}",
                text,
                "a number, or a date such as 2017-10-09 07:01:30",
                repair="correct the line",
            ) from None

    submit, seconds = number("submit_s"), number("duration_s")
    if submit is not None and seconds is None:
        end = number("end_s")
        seconds = None if end is None else end - submit
    devices = number("devices")
    if "devices" not in columns:
        percent, instances = number("gpu_percent", 0.0), number("instances", 1.0)
        devices = float(np.ceil((percent or 0.0) / 100)) * (instances or 1.0)
    if submit is None or seconds is None or not devices:
        return None
    estimate = number("estimate_s", seconds)
    return submit, seconds, devices, number("priority", 0.0) or 0.0, estimate or seconds


def generate_jobs(
    count: int,
    *,
    arrival_rate: float,
    mean_seconds: float,
    spread: float = 2.0,
    sizes: Mapping[int, float] | None = None,
    users: int = 1,
    priorities: int = 1,
    distribution: str = "lognormal",
    seed: int = 0,
) -> JobTrace:
    """A seeded Poisson stream of jobs.

    Parameters
    ----------
    count : int
        How many.
    arrival_rate : float
        Submissions [1/s].
    mean_seconds : float
        Mean run time [s].
    spread : float
        Sigma of the logarithm of the run time (``lognormal``); Philly's is about 2.
    sizes : mapping
        Devices of a job -> weight; one device by default.
    users, priorities : int
        How many of each, equally likely.
    distribution : str
        ``"lognormal"``, ``"exponential"`` or ``"constant"`` run times.
    seed : int
        Of the generator.
    """
    known = ("lognormal", "exponential", "constant")
    if distribution not in known:
        raise ScenarioError(
            "jobs: distribution",
            distribution,
            ", ".join(known),
            nearest=nearest_name(distribution, known),
            repair="name one of these",
        )
    weights = dict(sizes or {1: 1.0})
    for what, value, low in (
        ("count", count, 1),
        ("arrival_rate", arrival_rate, 1e-300),
        ("mean_seconds", mean_seconds, 1e-300),
        ("spread", spread, 0),
        ("users", users, 1),
        ("priorities", priorities, 1),
        ("sizes", min(weights.values(), default=0), 1e-300),
    ):
        if not low <= value < float("inf"):
            raise ScenarioError(
                f"jobs: {what}", value, "a finite number above 0", repair=f"correct {what}"
            )
    if count > MOST_JOBS:
        raise ScenarioError(
            "jobs: count", count, f"at most {MOST_JOBS:,}", repair="generate fewer jobs"
        )
    rng = np.random.default_rng(seed)
    submit = np.cumsum(rng.exponential(1 / arrival_rate, count))
    seconds = np.full(count, mean_seconds)
    if distribution == "exponential":
        seconds = rng.exponential(mean_seconds, count)
    elif distribution == "lognormal":
        seconds = mean_seconds * rng.lognormal(-(spread**2) / 2, spread, count)
    share = np.array(list(weights.values()), dtype=np.float64)
    devices = rng.choice(np.array(list(weights)), size=count, p=share / share.sum())
    width = len(str(users - 1))
    return make_trace(
        submit,
        seconds,
        devices,
        priority=rng.integers(0, priorities, count),
        user=[f"user {u:0{width}d}" for u in rng.integers(0, users, count)],
    )
