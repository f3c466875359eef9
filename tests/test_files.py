"""Files are whole or not there."""

import pytest

from perfmodel.errors import FileError
from perfmodel.files import replacing, write_bytes, write_text


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    path = write_text(tmp_path / "a" / "b.md", "µs")
    assert path.read_text(encoding="utf-8") == "µs"
    write_bytes(path, b"again")
    assert path.read_bytes() == b"again"
    assert [each.name for each in path.parent.iterdir()] == ["b.md"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = write_text(tmp_path / "plot.svg", "before")

    def broken():
        with replacing(path) as draft:
            assert draft.suffix == ".svg"
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    blocker = write_text(tmp_path / "file", "not a folder")
    with pytest.raises(FileError) as caught:
        write_text(blocker / "below.md", "")
    assert caught.value.where == str(blocker / "below.md")
    assert all((caught.value.got, caught.value.accepted, caught.value.repair))
    assert blocker.read_text() == "not a folder"


@pytest.mark.parametrize("name", [".", "..", "/", "held"])
def test_a_folder_is_no_file(tmp_path, monkeypatch, name):
    (tmp_path / "held").mkdir()
    (tmp_path / "within").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"Is a directory|busy") as caught:
        write_text(name, "text")
    assert caught.value.where == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held", "within"]
