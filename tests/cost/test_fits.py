"""Fits of a chip: read when asked for, the chip's own before its sibling's, and what they say."""

import shutil

import pytest

from perfmodel.cost import fits
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.fits import Fits
from perfmodel.cost.layers import POOLED_FILE
from perfmodel.errors import CalibrationError

H100, H200 = (efficiency_folder() / name for name in ("h100-sxm5-80gb", "h200-sxm-141gb"))


def test_only_what_is_asked_for_is_read_and_only_once(monkeypatch):
    read = []
    monkeypatch.setattr(
        fits, "read_fitted", lambda path, to=fits.read_fitted: read.append(path.stem) or to(path)
    )
    found = Fits(H200, H100)
    assert "softmax" in found
    assert POOLED_FILE.removesuffix(".npz") not in found
    assert len(found) == len(list(found)) > 50
    assert not read
    assert found["softmax"] is found["softmax"]
    assert found["softmax"].device == "h100-sxm5-80gb"
    assert found.get("no-such-kernel") is None
    assert read == ["softmax"]


def test_what_the_last_folder_lacks_is_of_the_one_before(tmp_path):
    shutil.copy(H100 / "softmax.npz", tmp_path)
    found = Fits(H200, tmp_path)
    assert found["softmax"].device == "h100-sxm5-80gb"
    assert found["topk"].device == "h200-sxm-141gb"


def test_networks_are_of_the_folder_of_the_fit():
    shared = next(one for one in Fits(H100).values() if one.pooled is not None)
    assert shared.pooled_share > 0.0


def test_a_fit_under_the_name_of_another_kernel_is_refused(tmp_path):
    shutil.copy(H100 / "softmax.npz", tmp_path / "topk.npz")
    with pytest.raises(CalibrationError, match=r"topk\.npz: got <a fit of softmax>"):
        Fits(tmp_path)["topk"]


def test_a_fit_whose_networks_are_gone_is_refused(tmp_path):
    shared = next(name for name, one in Fits(H100).items() if one.pooled is not None)
    shutil.copy(H100 / f"{shared}.npz", tmp_path)
    with pytest.raises(CalibrationError, match=POOLED_FILE):
        Fits(tmp_path)[shared]
