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
    # The block tells most of it, the call the rest.
    call, block = found["probe_call_us"] * 1e-6, found["probe_block_us"] * 1e-6
    half = host_pace_of(call, "h100-sxm5-80gb", block=0.5 * block)
    assert found["host_pace"] == pytest.approx(2.0**0.75 * half, rel=1e-3)
    slower = host_pace_of(1.2 * call, "h100-sxm5-80gb", block=block)
    assert 1.0 < slower / found["host_pace"] < 1.2
    # The call ran in the caller's thread: it says nothing of the other.
    behind = host_pace_of(call, "h100-sxm5-80gb", block=block, backward=True)
    ratio = found["probe_backward_block_us"] / found["probe_block_us"]
    assert found["backward_pace"] == pytest.approx(ratio * behind, rel=1e-2)


def test_a_stream_is_cut_into_pieces_of_about_one_size():
    from validate.bench.models.measure import CHUNKS, pieces

    for groups in range(1, 30):
        sizes = pieces(groups)
        assert sum(sizes) == groups
        assert len(sizes) == min(CHUNKS, groups)
        assert max(sizes) - min(sizes) <= 1
