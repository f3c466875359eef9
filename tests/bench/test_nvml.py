"""Which board is read, where several are there."""

import pytest

from validate.bench import nvml


@pytest.mark.parametrize(
    ("visible", "number"), [(None, 0), ("", 0), ("2", 2), ("3,1", 3), ("GPU-8f", 0)]
)
def test_the_board_is_the_one_that_cuda_calls_zero(monkeypatch, visible, number):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml.first_visible() == number
