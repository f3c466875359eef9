"""What cuDNN's heuristics propose: the strides of a tensor, and the library where it is."""

import importlib.util

import pytest

from validate.bench import proposals


@pytest.mark.parametrize(("last", "expected"), [(False, [60, 20, 5, 1]), (True, [60, 1, 15, 3])])
def test_strides_of_a_dense_tensor(last, expected):
    assert proposals.strides((2, 3, 4, 5), last) == expected


@pytest.mark.skipif(
    importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.cudnn") is None,
    reason="no nvidia-cudnn package",
)
def test_an_absent_chip_is_asked_of_the_library():
    op = {"op": "conv2d", "n": 32, "c_in": 64, "h": 56, "w": 56, "c_out": 128, "kernel": 3,
          "stride": 1, "padding": 1, "pass": "fwd", "layout": "nhwc", "dtype": "bf16"}  # fmt: skip
    found = proposals.Heuristics(proposals.HOPPER).proposed(op)
    assert len(found) == proposals.TRIED
    assert all(name.startswith("eng") for name, _ in found)
