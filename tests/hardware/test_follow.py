"""Peaks that follow the units and clocks of a file that extends another."""

import pytest

from perfmodel.hardware import load_accelerator

H100 = load_accelerator("h100-sxm5-80gb")


def chip(path, *lines):
    path.write_text("\n".join(('extends = "h100-sxm5-80gb"', 'name = "X"', *lines)) + "\n")
    return load_accelerator(path)


def same(values, share):
    return list(values) == pytest.approx([share] * len(values), rel=1e-8)


def ratios(found):
    return {
        f"{table}.{dtype}": peak / getattr(H100.peaks, table)[dtype]
        for table in ("matrix", "vector", "matrix_sparse")
        for dtype, peak in getattr(found.peaks, table).items()
    }


def test_peaks_follow_the_units(tmp_path):
    found = chip(tmp_path / "a.toml", "units = 66")
    assert same(ratios(found).values(), 0.5)
    assert found.clock == H100.clock
    assert "in proportion" in found.sources["peak.matrix.bf16"]
    assert chip(tmp_path / "b.toml", "units = 132").peaks == H100.peaks


def test_peaks_and_the_matrix_clock_follow_the_boost_clock(tmp_path):
    found = chip(tmp_path / "a.toml", 'clock.boost = "990 MHz"')
    assert same(ratios(found).values(), 0.5)
    assert found.clock.matrix == pytest.approx(H100.clock.matrix / 2)


def test_the_matrix_clock_alone_moves_the_peaks_behind_which_it_is(tmp_path):
    found = ratios(chip(tmp_path / "a.toml", 'clock.matrix = "915 MHz"'))
    assert found["matrix.bf16"] == found["matrix_sparse.fp8_e4m3"] == pytest.approx(0.5)
    assert found["matrix.fp64"] == found["vector.fp32"] == 1.0


def test_what_the_file_states_stays(tmp_path):
    found = chip(
        tmp_path / "a.toml", "units = 66", 'peak.matrix.bf16 = "600 TFLOP/s"',
        "per_clock.matrix.fp16 = 8192",
    )  # fmt: skip
    assert found.peaks.matrix["bf16"] == 600e12
    assert found.peaks.matrix["fp16"] == pytest.approx(H100.peaks.matrix["fp16"])
    assert found.peaks.matrix["tf32"] == pytest.approx(H100.peaks.matrix["tf32"] / 2)


def test_a_file_that_extends_such_a_file_follows_on(tmp_path):
    chip(tmp_path / "a.toml", "units = 66")
    (tmp_path / "b.toml").write_text('extends = "a.toml"\nname = "Y"\nunits = 33\n')
    assert same(ratios(load_accelerator(tmp_path / "b.toml")).values(), 0.25)


@pytest.mark.parametrize("line", ['units = "many"', 'clock.boost = "fast"', "clock.boost = 3"])
def test_what_cannot_be_read_is_told_by_the_checks(tmp_path, line):
    with pytest.raises(Exception, match="Repair") as caught:
        chip(tmp_path / "a.toml", line)
    assert line.split(" =")[0] in caught.value.where
