"""Where the host's time of a step goes, by the profiler of the host."""

import json

import pytest

from validate.bench.models import host_side
from validate.bench.models.host_side import BLOCK, Event, between_blocks, outermost, summed


def line(names, start=0, each=10, gap=2):
    """Operators one after another."""
    return [Event(name, start + k * (each + gap), each) for k, name in enumerate(names)]


def test_pieces_lie_between_blocks_and_gaps_between_operators():
    names = ["aten::mm", "aten::add"]
    events = line([*BLOCK, *names, *BLOCK, *BLOCK, *names, "aten::relu", *BLOCK])
    events += [Event("aten::t", events[len(BLOCK)].begin + 1, 3)]  # inside the first product
    pieces = between_blocks(outermost(events))
    assert [[one.name for one in piece] for piece in pieces] == [names, [*names, "aten::relu"]]
    assert pieces[0][0].nested == 1
    found = summed(pieces)
    assert found["operators"] == 2.5
    assert found["nested"] == 0.5
    assert found["gaps_us"] == pytest.approx(2.5 * 2e-3)
    assert found["by_operator"]["aten::relu"] == [0.5, 0.002, 0.01]


def test_the_shipped_profile_has_a_row_a_case():
    path = host_side.Path(host_side.__file__).parents[2] / "measurements/h100-sxm5-80gb"
    kept = json.loads((path / "host_profile.json").read_text(encoding="utf-8"))
    rows = kept["steps"]
    assert len({row["case"] for row in rows}) == len(rows) == 44
    for row in rows:
        assert row["profiled_us"] > row["step_us"]
        assert 0.0 < row["forward_gaps_us"] < row["profiled_us"]


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_a_dry_run_on_the_processor(tmp_path):
    pytest.importorskip("torch")
    keys = tmp_path / "keys"
    keys.write_text("train/gpt_124m/eager/b4/s512/bf16/nchw/amp/adamw/fused\n")
    out = tmp_path / "found.json"
    given = ["--keys", str(keys), "--out", str(out), "--device", "cpu", "--tiny"]
    assert host_side.main(given) == 0
    (row,) = json.loads(out.read_text())["steps"]
    assert row["operators"] > 20
    assert row["plain_us"] > 0.0
