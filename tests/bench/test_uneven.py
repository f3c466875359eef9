"""Lists of products to ask a library about."""

import gzip
import json
import sys

import numpy as np
import pytest

from perfmodel.cost.choice import CLASSES
from perfmodel.cost.tasks import tasks_of
from perfmodel.workload.op import op_from_dict
from validate.bench import ops, uneven


@pytest.mark.parametrize("even", [False, True])
def test_drawn_products_are_sound_distinct_and_of_the_kind_asked_for(even):
    drawn = uneven.drawn(3000, np.random.default_rng(3), even)
    assert len(drawn) > 500
    assert len({ops.key(op) for op in drawn}) == len(drawn)
    for op in drawn:
        ops.check(op)
        _, (task,) = tasks_of(op_from_dict(op))
        assert ("odd" in task.kernel) != even
    assert {op["dtype"] for op in drawn} == ({"tf32", "fp32"} if even else set(CLASSES))


def test_batches_alone_are_drawn_where_they_are_asked_for():
    drawn = uneven.drawn(500, np.random.default_rng(3), batches=1.0)
    assert len(drawn) > 100
    assert all(op["batch"] > 1 for op in drawn)


def test_parts_hold_every_product_once(tmp_path, monkeypatch, capsys):
    out = tmp_path / "asked"
    command = ["uneven", "--count", "500", "--seed", "4", "--parts", "3", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    assert uneven.main() == 0
    held = [
        json.loads(line)
        for part in range(3)
        for line in gzip.decompress((out / f"{part}.jsonl.gz").read_bytes()).splitlines()
    ]
    drawn = uneven.drawn(500, np.random.default_rng(4))
    assert sorted(map(ops.key, held)) == sorted(map(ops.key, drawn))
    assert f"{len(held)} products" in capsys.readouterr().out
