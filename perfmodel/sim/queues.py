"""Who is next: the waiting jobs in the order of a policy."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from itertools import islice
from typing import Final, Protocol

from perfmodel.sim.jobs import JobTrace

POLICIES: Final = ("fifo", "priority", "fair")


class Queue(Protocol):
    """Waiting jobs."""

    def add(self, job: int) -> None:
        """A job joins (again)."""

    def remove(self, job: int) -> None:
        """A job leaves."""

    def first(self, count: int) -> list[int]:
        """The next ``count`` jobs in order."""

    def charge(self, job: int, seconds: float) -> None:
        """A job is about to use its devices for ``seconds``."""

    def __len__(self) -> int: ...


class Ordered:
    """First come first served, within priorities if they count."""

    def __init__(self, trace: JobTrace, priorities: bool) -> None:
        rank = (-trace.priority if priorities else 0 * trace.priority).tolist()
        # Traces are sorted by submission, so a job's number is its place in line.
        self.key = [(r, job) for job, r in enumerate(rank)]
        self.line: list[tuple[int, int]] = []

    def add(self, job: int) -> None:
        """A job joins (again)."""
        insort(self.line, self.key[job])

    def remove(self, job: int) -> None:
        """A job leaves."""
        del self.line[bisect_left(self.line, self.key[job])]

    def first(self, count: int) -> list[int]:
        """The next jobs in order."""
        return [job for _, job in self.line[:count]]

    def charge(self, job: int, seconds: float) -> None:
        """Device time counts against the user, where the policy looks at it."""

    def __len__(self) -> int:
        return len(self.line)


class Fair:
    """The user who has had the least device time goes first (start-time fair queueing)."""

    def __init__(self, trace: JobTrace) -> None:
        self.user = trace.user.tolist()
        self.devices = trace.devices.tolist()
        self.lines: list[deque[int]] = [deque() for _ in trace.users]
        self.used = [0.0] * len(trace.users)
        self.floor = 0.0
        self.count = 0

    def add(self, job: int) -> None:
        """A job joins (again)."""
        user = self.user[job]
        if not self.lines[user]:
            # A user who was away does not come back with a store of unused share.
            self.used[user] = max(self.used[user], self.floor)
        self.lines[user].append(job)
        self.count += 1

    def remove(self, job: int) -> None:
        """A job leaves."""
        self.lines[self.user[job]].remove(job)
        self.count -= 1

    def first(self, count: int) -> list[int]:
        """The next jobs in order."""
        waiting = [user for user, line in enumerate(self.lines) if line]
        waiting.sort(key=lambda user: (self.used[user], user))
        found: list[int] = []
        for user in waiting:
            found += islice(self.lines[user], count - len(found))
            if len(found) >= count:
                break
        return found

    def charge(self, job: int, seconds: float) -> None:
        """Device time counts against the user, where the policy looks at it."""
        user = self.user[job]
        self.floor = max(self.floor, self.used[user])
        self.used[user] += self.devices[job] * seconds

    def __len__(self) -> int:
        return self.count


def make_queue(policy: str, trace: JobTrace) -> Queue:
    """The queue of one of :data:`POLICIES`."""
    return Fair(trace) if policy == "fair" else Ordered(trace, policy == "priority")
