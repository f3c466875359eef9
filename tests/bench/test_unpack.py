"""Splitting a run into tables keeps repeats apart; files are whole or not there."""

import json
import shutil

import numpy as np
import pytest

from validate.bench import store


def test_unpacking_with_a_suffix_keeps_repeats_apart(tmp_path):
    run, out = tmp_path / "run", tmp_path / "measured"
    run.mkdir()
    about = {"device": "NVIDIA H100 80GB HBM3", "latency_us": 9.0, "mode": "graph"}
    for m in (1, 2, 3):
        op = {"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": "bf16"}
        store.append(run / "ops.csv", {"family": "gemm", **op, **about})
    store.sidecar(run / "ops.csv", {"date": "2026-01-01"}, 3)
    assert store.unpack(run, out) == {"gemm": 3}
    shutil.copy(run / "ops.csv", run / "before.csv")
    op = {"op": "gemm", "m": 4, "n": 64, "k": 64, "dtype": "bf16"}
    store.append(run / "ops.csv", {"family": "gemm", **op, **about})
    assert store.unpack(run, out, suffix="-2") == {"gemm": 1, "again/gemm": 3}
    rows = store.read_any(out / "h100-sxm5-80gb" / "gemm-2.csv")
    assert [json.loads(r["m"]) for r in rows] == [4]


def test_arrays_are_written_under_their_very_name_or_not_at_all(tmp_path):
    held = {"a": np.arange(3), "b": np.ones((2, 2), np.float32)}
    path = tmp_path / "trees.of.kinds"
    assert store.write_arrays(path, held) == path.read_bytes()
    with np.load(path, allow_pickle=False) as found:
        assert set(found) == set(held)
        assert all(np.array_equal(found[name], held[name]) for name in held)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        store.write_arrays(folder, held)
    assert sorted(tmp_path.iterdir()) == [folder, path]
