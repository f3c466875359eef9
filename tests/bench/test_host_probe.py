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
