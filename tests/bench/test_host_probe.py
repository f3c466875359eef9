"""The probe of a host, as a command that needs PyTorch alone."""

import json

import pytest

from perfmodel import host_pace_of
from validate.bench import host_probe

pytest.importorskip("torch")


def test_the_probe_prints_times_and_the_pace(capsys):
    assert host_probe.main(["--device", "cpu", "--rounds", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.0 < found["probe_call_p10_us"] <= found["probe_call_us"] <= found["probe_call_p90_us"]
    assert found["probe_add_ns"] > 0.0
    # The block decides: twice as long means half the pace.
    half = host_pace_of(1e-5, "h100-sxm5-80gb", block=0.5e-6 * found["probe_block_us"])
    assert found["host_pace"] == pytest.approx(2.0 * half, rel=1e-3)
    ratio = found["probe_backward_block_us"] / found["probe_block_us"]
    assert found["backward_pace"] == pytest.approx(ratio * found["host_pace"], rel=1e-2)


def test_a_stream_is_cut_into_pieces_of_about_one_size():
    from validate.bench.models.measure import CHUNKS, pieces

    for groups in range(1, 30):
        sizes = pieces(groups)
        assert sum(sizes) == groups
        assert len(sizes) == min(CHUNKS, groups)
        assert max(sizes) - min(sizes) <= 1
