"""The probe of a host, as a command that needs PyTorch alone."""

import json

import pytest

from validate.bench import host_probe

pytest.importorskip("torch")


def test_the_probe_prints_times_and_the_pace(capsys):
    assert host_probe.main(["--device", "cpu", "--rounds", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.0 < found["probe_call_p10_us"] <= found["probe_call_us"] <= found["probe_call_p90_us"]
    assert found["probe_add_ns"] > 0.0
    assert found["host_pace"] > 0.0


def test_a_stream_is_cut_into_pieces_of_about_one_size():
    from validate.bench.models.measure import pieces

    for groups in range(1, 30):
        sizes = pieces(groups)
        assert sum(sizes) == groups
        assert len(sizes) == min(5, groups)
        assert max(sizes) - min(sizes) <= 1
