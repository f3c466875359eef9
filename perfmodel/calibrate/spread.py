"""How the independent calls of a calibration are made: one after another, unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Spread(Protocol):
    """Makes calls that know nothing of each other, and answers in their order.

    What it is given can be pickled, so that other processes may do the work.
    """

    def __call__(self, work: Callable[..., T], calls: Iterable[tuple[Any, ...]], /) -> Iterable[T]:
        """Answers of ``work(*call)``, in the order of ``calls``."""
        ...


def in_turn(work: Callable[..., T], calls: Iterable[tuple[Any, ...]], /) -> Iterator[T]:
    """One call after another, here."""
    return (work(*call) for call in calls)


def told(
    what: str, names: Sequence[str], answers: Iterable[T], progress: Callable[[str], None] | None
) -> dict[str, T]:
    """Answers by name, each told of as it comes."""
    found: dict[str, T] = {}
    for name, answer in zip(names, answers, strict=True):
        found[name] = answer
        if progress is not None:
            progress(f"{what} {len(found)} of {len(names)}: {name}")
    return found
