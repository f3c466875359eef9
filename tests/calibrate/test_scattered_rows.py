"""Measured rows of transforms and scattered sums become the operators that ran."""

import pytest

from perfmodel.calibrate.harness import to_record
from perfmodel.workload.op import Fft, ScatterAdd, op_from_dict

FFT = {"op": "fft", "batch": 3, "n": 16}


@pytest.mark.parametrize(
    ("raw", "op"),
    [
        (FFT | {"kind": "fft"}, Fft(3, 16)),
        (FFT | {"kind": "rfft"}, Fft(3, 16, kind="rfft")),
        (FFT | {"kind": "irfft"}, Fft(3, 16, kind="irfft", scaled=True)),
        (FFT | {"kind": "irfft_unscaled"}, Fft(3, 16, kind="irfft")),
        (FFT | {"kind": "fft2", "rows": 8}, Fft(3, 16, rows=8)),
        (FFT | {"kind": "irfft2", "rows": 8}, Fft(3, 16, kind="irfft", rows=8, scaled=True)),
        (
            {"op": "permute", "kind": "scatter", "tokens": 5, "dim": 64, "top_k": 2,
             "dtype": "bf16"},
            ScatterAdd(10, 64, 5, "bf16"),
        ),
        (
            {"op": "scatter_add", "kind": "scatter_add", "rows": 9, "cols": 4, "targets": 5,
             "dtype": "fp16"},
            ScatterAdd(9, 4, 5, "fp16", "scatter_add"),
        ),
    ],
)  # fmt: skip
def test_rows_become_operators(raw, op):
    record, reason = to_record(raw)
    assert (op_from_dict(record), reason) == (op, "")


def test_a_chain_compiled_for_any_shape_is_no_operator():
    raw = {"op": "chain", "kind": "add_rmsnorm", "rows": 8, "cols": 64, "dtype": "bf16"}
    assert to_record(raw)[0]["rows"] == 8
    record, reason = to_record(raw | {"kind": "add_rmsnorm_dynamic"})
    assert record is None
    assert "any shape" in reason
