"""Calls that know nothing of each other, shared out among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from perfmodel.calibrate.spread import Spread, in_turn

T = TypeVar("T")


def processes(jobs: int | None = None) -> Spread:
    """What makes calls in so many processes at once; by default one for each processor.

    One process is this one. The others do their linear algebra in one thread each: the matrices
    are small, and threads that wait for each other take ten times as long.
    """
    import joblib

    count = joblib.cpu_count() if jobs is None else jobs
    return in_turn if count == 1 else partial(_shared_out, count)


def _shared_out(
    jobs: int, work: Callable[..., T], calls: Iterable[tuple[Any, ...]], /
) -> Iterable[T]:
    import joblib

    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator", batch_size=1)
        answers: Iterable[T] = parallel(joblib.delayed(work)(*call) for call in calls)
    return answers
