"""Files of what libraries answered: whatever is damaged is told in one way."""

import pytest

from perfmodel.cost import choice, choice_rank, proposed
from perfmodel.cost.answers import answers_of
from perfmodel.errors import CalibrationError
from perfmodel.hardware.load import spec_folders


@pytest.mark.parametrize(
    ("loaded", "file"),
    [
        (choice.rules, choice.FILE),
        (choice_rank.ranks, choice_rank.FILE),
        (proposed.proposals, proposed.FILE),
    ],
)
def test_a_file_that_was_cut_short_or_is_gone_is_an_error(tmp_path, loaded, file):
    whole = (spec_folders()[-1] / "efficiency" / file).read_bytes()
    path = tmp_path / "answers.npz"
    for keep in (None, 0, 2, 1000, len(whole) // 2, -30):
        if keep is not None:
            path.write_bytes(whole[:keep])
        with pytest.raises(CalibrationError, match="restore the file"):
            loaded(path)


def test_a_damaged_array_is_an_error(tmp_path):
    data = bytearray((spec_folders()[-1] / "efficiency" / choice_rank.FILE).read_bytes())
    data[200:400] = bytes(200)
    path = tmp_path / "answers.npz"
    path.write_bytes(data)
    with pytest.raises(CalibrationError, match="ranks of kernels"):
        choice_rank.ranks(path)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CalibrationError, match="kinds of wood") as caught:
        answers_of("trees.npz", "kinds of wood", dict, tmp_path / "trees.npz")
    assert str(tmp_path) in str(caught.value)
