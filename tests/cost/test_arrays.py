"""Files of fits: what is cut short, damaged or holds NaN is refused, never priced with."""

from pathlib import Path

import numpy as np
import pytest

from perfmodel.cost.arrays import read_arrays
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.fitted import read_fitted
from perfmodel.cost.layers import read_pooled
from perfmodel.errors import CalibrationError

CHIP = efficiency_folder() / "h100-sxm5-80gb"
FITS = [(read_fitted, CHIP / "softmax.npz"), (read_pooled, CHIP / "networks.npz")]


@pytest.mark.parametrize(("read", "path"), FITS)
@pytest.mark.parametrize("keep", [0, 2, 1000, -30])
def test_a_fit_that_was_cut_short_is_refused(tmp_path, read, path, keep):
    short = tmp_path / path.name
    short.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CalibrationError, match="run `perfmodel calibrate` again"):
        read(short)


def _changed(path: Path, out: Path, name: str, change) -> Path:
    with np.load(path, allow_pickle=False) as held:
        arrays = {one: held[one] for one in held}
    arrays[name] = change(arrays[name].copy())
    np.savez(out / path.name, **arrays)
    return out / path.name


def _spoilt(array):
    array.reshape(-1)[-1] = np.nan
    return array


def _far(array):
    array.reshape(-1)[0] = 10**6
    return array


@pytest.mark.parametrize(
    ("fit", "name", "change"),
    [
        (0, "trees_leaves", _spoilt),
        (0, "smooth_weights", _spoilt),
        (0, "spread", _spoilt),
        (0, "coefficient_values", _spoilt),
        (0, "trees_leaves", lambda x: x[:, :-1]),
        (0, "trees_limits", lambda x: x[1:]),
        (0, "trees_asked", _far),
        (0, "smooth_columns", _far),
        (0, "smooth_points", lambda x: x[1:]),
        (0, "size_edges", lambda x: x[1:]),
        (1, "weight_0_1", _spoilt),
        (1, "scale", _spoilt),
        (1, "center", lambda x: x[1:]),
        (1, "weight_0_0", lambda x: x[1:]),
        (1, "bias_0_1", lambda x: x[1:]),
    ],
)
def test_a_fit_whose_parts_do_not_fit_is_refused(tmp_path, fit, name, change):
    read, path = FITS[fit]
    with pytest.raises(CalibrationError, match="run `perfmodel calibrate` again") as caught:
        read(_changed(path, tmp_path, name, change))
    assert caught.value.where.endswith(path.name)


def test_places_without_a_number_are_told_and_others_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, sound=np.arange(3.0), spoilt=np.array([1.0, np.nan]), word=np.array("no"))
    assert read_arrays(path, "x", sorted) == ["sound", "spoilt", "word"]
    assert read_arrays(path, "x", lambda held: ("spoilt" in held, len(held))) == (True, 3)
    with pytest.raises(CalibrationError, match="NaN in spoilt"):
        read_arrays(path, "x", lambda held: held["spoilt"])
