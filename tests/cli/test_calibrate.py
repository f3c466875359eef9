"""`perfmodel calibrate` with a sibling's measurements beside the chip's own."""

import json
import shutil
import tomllib

import typer
from typer.testing import CliRunner

from perfmodel.cli.calibrate import register
from perfmodel.cost.efficiency import efficiency_folder
from tests.calibrate.conftest import fill, seal


def _siblings(tmp_path):
    """Tables of an H100, and the same as if an H200 had given them."""
    own = fill(tmp_path / "h100-sxm5-80gb")
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


def test_a_sibling_named_on_the_command_line_teaches(tmp_path):
    own, other, out = _siblings(tmp_path)
    result = _run(own, "--device", own.name, "--support", other, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["device"] == own.name
    about = tomllib.loads((out / own.name / "device.toml").read_text())
    assert other.name in (out / own.name / "device.toml").read_text()
    assert about["rows"] == 80


def test_a_folder_that_no_chip_is_named_after_supports_nothing(tmp_path):
    own, other, out = _siblings(tmp_path)
    unknown = other.rename(tmp_path / "some-chip")
    result = _run(own, "--device", own.name, "--support", unknown, "--out", out)
    assert result.exit_code != 0
    assert "some-chip" in str(result.exception)
    assert not (out / own.name).exists()
