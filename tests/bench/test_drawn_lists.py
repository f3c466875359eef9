"""Answers of cuDNN, asked of drawn convolutions and added to what trees are grown from."""

import gzip
import json
import tomllib

import numpy as np
import pytest

from perfmodel.errors import CalibrationError
from validate import convolutions, drawn_lists
from validate.bench import proposals
from validate.convolutions import Drawn

PLANS = ["", "eng1_k2=4", "eng2_k2=8"]


class Library:
    """Answers what channels say; has no answer to three-dimensional ones."""

    version = 91900

    def __init__(self, described=None):
        self.described = described

    def proposed(self, op, most=10):
        if op["op"] == "conv3d":
            raise OSError("not supported")
        if op["c_in"] == 5:
            return [("eng99_k2=1", 0)]
        return [("eng1_k2=4_k18=1", 0), ("eng2_k2=8", 64)][: 1 + (op["c_in"] > 100)]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The answers to some drawn convolutions, by the command."""
    monkeypatch.setattr(proposals, "Heuristics", Library)
    path = tmp_path / "1.jsonl.gz"
    assert proposals.main(["--drawn", "300", "--seed", "1", "--out", str(path)]) == 0
    return path


def _answers(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _held(count=1):
    sizes = np.tile(np.array([[8, 64, 64, 9, 9, 0, 3, 1, 1, 1]]), (count, 1))
    sizes[:, 0] += np.arange(count)
    lists = np.zeros((count, 10), np.int64)
    lists[:, 0] = 1
    tiles = np.zeros((3, 3, 3), np.int64)
    return Drawn(sizes, np.zeros(count, np.int64), lists, PLANS, tiles)


def test_a_seed_draws_the_same_convolutions_of_every_kind(asked, tmp_path):
    again = tmp_path / "2.jsonl.gz"
    proposals.main(["--drawn", "300", "--seed", "1", "--out", str(again)])
    first = _answers(asked)
    assert _answers(again) == first
    kinds = {(one["op"]["op"], one["op"].get("pass"), one["op"].get("layout")) for one in first}
    assert {("conv2d", "wgrad", "nchw"), ("conv3d", "fwd", "nhwc")} <= kinds
    proposals.main(["--drawn", "300", "--seed", "2", "--out", str(again)])
    assert _answers(again) != first
    assert tomllib.loads((tmp_path / "1.toml").read_text())["library"] == {"cudnn": "91900"}


def test_a_plan_and_a_draw_exclude_each_other(tmp_path, capsys):
    for words in ([], ["--plan", "a.jsonl", "--drawn", "3"]):
        with pytest.raises(SystemExit):
            proposals.main([*words, "--out", str(tmp_path / "a.jsonl.gz")])
    assert "--drawn" in capsys.readouterr().err


def test_every_answer_is_added_once_or_counted(asked):
    answers = _answers(asked)
    none = np.zeros((0, 11), np.int64)
    found, counts = drawn_lists.joined(_held(), [*answers, *answers[:7]], none)
    assert sum(counts.values()) == len(answers) + 7
    assert counts["added"] == len(found.cells) - 1 > 100
    assert counts["no answer"] == sum("error" in one for one in [*answers, *answers[:7]]) > 0
    assert counts["known"] > 0
    said = {convolutions.identity(one["op"]): len(one.get("proposed") or ()) for one in answers}
    for sizes, cell, plans in zip(found.sizes, found.cells, found.lists, strict=True):
        key = (*sizes.tolist(), int(cell))
        if key in said:
            assert plans[: said[key]].tolist() == [2, 1][-said[key] :]
            assert not plans[said[key] :].any()
    # Asked again, nothing is new.
    _, twice = drawn_lists.joined(found, answers, none)
    assert twice["added"] == 0


def test_what_was_taught_or_judges_stays_out(asked):
    answers = _answers(asked)
    flat = [one["op"] for one in answers if one["op"]["op"] == "conv2d"]
    apart = np.array([convolutions.identity(op) for op in flat])
    found, counts = drawn_lists.joined(_held(), answers, apart)
    assert counts["added"] == 0
    assert counts["taught or judged"] > 100
    assert len(found.cells) == 1


def test_what_is_written_is_read(asked, tmp_path):
    found, _ = drawn_lists.joined(_held(3), _answers(asked), np.zeros((0, 11), np.int64))
    drawn_lists.write(tmp_path / "drawn.npz", found)
    read = convolutions.read(tmp_path / "drawn.npz")
    for name in ("sizes", "cells", "lists", "tiles"):
        assert np.array_equal(getattr(read, name), getattr(found, name))
    assert read.plans == PLANS


def test_the_command_adds_answers_of_one_version_alone(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drawn_lists, "left_out", lambda: np.zeros((0, 11), np.int64))
    old, new = tmp_path / "old.npz", tmp_path / "new.npz"
    drawn_lists.write(old, _held())
    old.with_suffix(".toml").write_text('command = "before"\n[library]\n"cudnn" = "91900"\n')
    words = [str(asked), "--drawn", str(old), "--out", str(new)]
    assert drawn_lists.main(words) == 0
    assert "added" in capsys.readouterr().out
    about = tomllib.loads(new.with_suffix(".toml").read_text())
    assert about["rows"] == len(convolutions.read(new).cells)
    assert about["library"]["cudnn"] == "91900"
    new.unlink()
    old.with_suffix(".toml").write_text('[library]\n"cudnn" = "92000"\n')
    with pytest.raises(CalibrationError, match="cudnn"):
        drawn_lists.main(words)
    asked.write_bytes(b"")
    with pytest.raises(CalibrationError, match="sidecar"):
        drawn_lists.main(words)
    assert not new.exists()
