"""`perfmodel calibrate` with a sibling's measurements beside the chip's own."""

import json
import shutil
import tomllib

import pytest
import typer
from typer.testing import CliRunner

from perfmodel.cli.calibrate import register
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.fitted import read_fitted
from perfmodel.errors import CalibrationError
from tests.calibrate.conftest import fill, seal


def _siblings(tmp_path):
    """Tables of an H100, and the same as if an H200 had given them.

    Norms are too few for trees, which take most of the time; products have them where no fold is
    left out.
    """
    own = fill(tmp_path / "h100-sxm5-80gb", norms=12, products=22)
    other = tmp_path / "h200-sxm-141gb"
    shutil.copytree(own, other)
    for path in sorted(other.glob("*.csv")):
        path.write_text(path.read_text().replace("H100 80GB HBM3", "H200"))
        seal(path)
    out = tmp_path / "efficiency"
    out.mkdir()
    for path in efficiency_folder().glob("*.toml"):
        shutil.copy(path, out)
    return own, other, out


def _run(*arguments):
    app = typer.Typer()
    register(app)
    app.command("nothing")(lambda: None)
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A calibration in one process with a sibling beside it: chip, sibling, files, answer."""
    own, other, out = _siblings(tmp_path_factory.mktemp("taught"))
    given = (own, "--device", own.name, "--support", other)
    return given, out, _run(*given, "--out", out, "--jobs", 1, "--json")


def test_a_sibling_named_on_the_command_line_teaches(taught):
    (own, *_, other), out, result = taught
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["device"] == own.name
    about = tomllib.loads((out / own.name / "device.toml").read_text())
    assert other.name in (out / own.name / "device.toml").read_text()
    assert about["rows"] == 34


def test_a_folder_that_no_chip_is_named_after_supports_nothing(tmp_path):
    own, other, out = _siblings(tmp_path)
    unknown = other.rename(tmp_path / "some-chip")
    result = _run(own, "--device", own.name, "--support", unknown, "--out", out)
    assert result.exit_code != 0
    assert "some-chip" in str(result.exception)
    assert not (out / own.name).exists()


def test_processes_at_once_give_the_same_files_and_tell_what_is_done(taught, tmp_path):
    given, out, alone = taught
    for path in out.glob("*.toml"):
        shutil.copy(path, tmp_path)
    shared = _run(*given, "--out", tmp_path, "--jobs", 2)
    assert shared.exit_code == 0, shared.output
    assert "fitted 2 of 2" in alone.stderr
    assert "fitted 2 of 2" in shared.stderr
    name = given[0].name
    files = sorted(path.name for path in (out / name).iterdir())
    assert read_fitted(out / name / "gemm-half.npz").trees is not None
    assert files == sorted(path.name for path in (tmp_path / name).iterdir())
    for file in files:
        assert (out / name / file).read_bytes() == (tmp_path / name / file).read_bytes()


def test_the_plan_is_commands_for_a_script():
    result = _run("--device", "a100-sxm4-80gb", "--plan", "--json")
    document = json.loads(result.stdout)
    first, *_, last = document["commands"]
    assert first.startswith("python3 -m validate.bench plan")
    assert last.startswith("perfmodel validate --ops")
    assert all(command in document["plan"] for command in document["commands"])


def test_no_processes_are_refused(tmp_path):
    result = _run(tmp_path, "--device", "h100-sxm5-80gb", "--jobs", "0")
    assert isinstance(result.exception, CalibrationError)
    assert result.exception.where == "--jobs"


def test_a_sibling_beyond_physics_teaches_nothing(tmp_path):
    own, other, out = _siblings(tmp_path)
    table = other / "gemm.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    places = [lines[0].index(name) for name in ("latency_us", "p10_us", "p90_us")]
    for cells in lines[1:]:
        for place in places:
            cells[place] = str(float(cells[place]) / 1000)
    table.write_text("\n".join(",".join(cells) for cells in lines) + "\n")
    seal(table)
    result = _run(own, "--device", own.name, "--support", other, "--out", out)
    assert isinstance(result.exception, CalibrationError)
    assert "datasheet" in str(result.exception)
    assert not (out / own.name).exists()
