"""Tables of processes that ran no convolutions are read as the others would have timed them."""

import hashlib

import pytest

from perfmodel.calibrate.measurements import load_measurements
from perfmodel.calibrate.process import START, WHOLE_FROM, start_after_convolutions
from perfmodel.errors import CalibrationError

TABLE = (
    "op,dtype,m,n,k,device,latency_us,p10_us,p90_us\n"
    "gemm,bf16,8,512,512,NVIDIA H100 80GB HBM3,2.5,2.4,2.6\n"
    "gemm,bf16,4096,4096,4096,NVIDIA H100 80GB HBM3,200.0,199.0,201.0\n"
)


def write(folder, said):
    (folder / "gemm.csv").write_text(TABLE)
    digest = hashlib.sha256(TABLE.encode()).hexdigest()
    (folder / "gemm.toml").write_text(f'rows = 2\nsha256 = "{digest}"\n{said}\n')
    return folder


def rows_of(folder):
    rows = load_measurements(folder, "h100-sxm5-80gb").rows
    return sorted(rows, key=lambda row: row.seconds)


def test_short_kernels_start_later_by_less_than_long_ones():
    assert start_after_convolutions(WHOLE_FROM / 2) == pytest.approx(START / 2)
    assert start_after_convolutions(2 * WHOLE_FROM) == start_after_convolutions(1.0) == START
    sooner = start_after_convolutions(2e-6, "elementwise")
    assert start_after_convolutions(2e-6) < sooner < START
    assert start_after_convolutions(1.0, "elementwise") == START
    assert start_after_convolutions(1.0, "softmax") < START


def test_a_fresh_process_is_read_as_any_other(tmp_path):
    plain = rows_of(write(tmp_path, ""))
    fresh = rows_of(write(tmp_path, "fresh = 1.0"))
    half = rows_of(write(tmp_path, "fresh = 0.5"))
    assert plain[0].seconds == pytest.approx(2.5e-6)
    for bare, some, whole in zip(plain, half, fresh, strict=True):
        more = start_after_convolutions(bare.seconds)
        assert whole.seconds == pytest.approx(bare.seconds + more)
        assert some.seconds == pytest.approx(bare.seconds + more / 2)
        assert whole.slowest - whole.fastest == pytest.approx(bare.slowest - bare.fastest)
    assert fresh[1].seconds / plain[1].seconds < 1.003


@pytest.mark.parametrize("said", ["1.5", "-0.1", "true", '"yes"', "nan"])
def test_a_share_that_is_none_is_told(tmp_path, said):
    with pytest.raises(CalibrationError, match="fresh"):
        rows_of(write(tmp_path, f"fresh = {said}"))
