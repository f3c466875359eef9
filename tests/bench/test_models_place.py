"""Places in Python's stack of frames: a call out of a frame at the end of a chunk costs a fault."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from validate.bench.models import place  # noqa: E402


def test_a_step_runs_at_the_depth_that_is_asked_for() -> None:
    import sys

    def depth() -> int:
        frame, count = sys._getframe(), 0
        while frame is not None:
            frame, count = frame.f_back, count + 1
        return count

    assert place.deeper(7, depth) == place.deeper(0, depth) + 7


def test_the_quietest_place_is_left_only_for_one_that_is_quieter_with_its_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(step: object, sync: object, places: list[int]) -> dict[str, object]:
        count = len(places)
        return {"levels": places, "spent": [1e-3] * count, "own": every, "all": every}

    monkeypatch.setattr(place, "tried", found)
    every = [300] * 5 + [0, 300, 0, 0, 0] + [300] * 6
    assert place.quietest(lambda: None, lambda: None, False)[0] == 8 * place.LEVELS
    every = [0] * 16
    assert place.quietest(lambda: None, lambda: None, False)[0] == 0
    every = [300] * 16
    levels, row = place.quietest(lambda: None, lambda: None, False)
    assert levels == 0
    assert row["place_faults"].split() == ["300"] * 16


def test_every_place_is_tried_once() -> None:
    seen: list[int] = []
    row = place.tried(lambda: seen.append(1), lambda: None, [0, 8])
    assert len(seen) == len(row["all"]) == len(row["own"]) == 2


def test_a_stream_is_loud_by_its_own_faults() -> None:
    row = {"place_faults": "3 250 2"}
    assert place.loud({"all_faults": 123.0}, row)
    assert not place.loud({"all_faults": 6.0}, row)
