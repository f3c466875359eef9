"""Damaged tables of whole models are refused before any efficiency file is replaced."""

import csv
import gzip
import hashlib

import pytest
import typer
from typer.testing import CliRunner

from perfmodel.calibrate.programs.sound import check_models
from perfmodel.cli import calibrate as verb
from perfmodel.errors import CalibrationError

NAME = "h100-sxm5-80gb"
HEADER = ["case", "kind", "model", "mode", "batch", "seq", "dtype", "step_us", "latency_us"]
KERNELS = "case,first,kernel,op,outer,shapes,count,total_us\n"


def _row(model, mode="eager", step="100.5"):
    case = f"infer/{model}/{mode}/b1/s0/bf16/nhwc"
    return dict(zip(HEADER, [case, "infer", model, mode, "1", "0", "bf16", step, ""], strict=True))


def _seal(run, board="NVIDIA H100 80GB HBM3"):
    digests = "".join(
        f'"{path.name}" = "{hashlib.sha256(path.read_bytes()).hexdigest()}"\n'
        for path in sorted(run.glob("*.csv*"))
    )
    (run / "about.toml").write_text(f'[board]\nname = "{board}"\n\n[sha256]\n{digests}')


def _write(run, rows, header=HEADER):
    with (run / "cases.csv").open("w", newline="") as handle:
        table = csv.DictWriter(handle, header, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    _seal(run)


@pytest.fixture
def models(tmp_path):
    run = tmp_path / "models" / "eager"
    run.mkdir(parents=True)
    text = KERNELS + "infer/a/eager/b1/s0/bf16/nhwc,0,gemm,aten.mm,,8x8,1,12.5\n"
    (run / "kernels.csv.gz").write_bytes(gzip.compress(text.encode()))
    _write(run, [_row("a"), _row("b"), _row("c", step="")])
    return tmp_path / "models"


def test_what_the_harness_wrote_passes_in_any_order(models):
    check_models(models, NAME)
    _write(models / "eager", [_row("c", step=""), _row("b"), _row("a")], HEADER[::-1])
    check_models(models, NAME)


def _cut(run):
    path = run / "cases.csv"
    path.write_bytes(path.read_bytes()[:-25])


def _cut_and_seal(run):
    _cut(run)
    _seal(run)


def _rows(*rows):
    return lambda run: _write(run, rows)


def _kernels(data):
    def damage(run):
        (run / "kernels.csv.gz").write_bytes(data)
        _seal(run)

    return damage


def _relabel(run):
    path = run / "cases.csv"
    path.write_text(path.read_text().replace("step_us", "step"))
    _seal(run)


DAMAGES = [
    _cut, _cut_and_seal, _relabel, _rows(), _rows(_row("a"), _row("a")),
    _rows(_row("a", step="nan")), _rows(_row("a", step="-3")), _rows(_row("a", step="0")),
    _rows(_row("a", step="5 us")), _rows(_row("a", mode="graf")),
    _rows(_row("a") | {"batch": "x"}), _rows(_row("a") | {"latency_us": "inf"}),
    lambda run: _seal(run, "NVIDIA H200"),
    lambda run: (run / "about.toml").unlink(),
    lambda run: (run / "about.toml").write_text("[board\n"),
    lambda run: (run / "about.toml").write_text('board = "H100"\nsha256 = "00"\n'),
    _kernels(b"no gzip"), _kernels(gzip.compress(KERNELS.encode())[:-12]),
    _kernels(gzip.compress((KERNELS + "a,0,k,o,,s,1,nan\n").encode())),
    _kernels(gzip.compress(b"case,count\na,1\n")),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_five_parts(models, damage):
    damage(models / "eager")
    with pytest.raises(CalibrationError) as caught:
        check_models(models, NAME)
    error = caught.value
    assert error.where
    assert error.got
    assert error.accepted
    assert error.repair


def test_kernels_are_not_fitted_beside_damaged_models(models, monkeypatch):
    _cut(models / "eager")
    started = []
    monkeypatch.setattr("perfmodel.calibrate.calibrate", lambda *_, **__: started.append(1))
    app = typer.Typer()
    verb.register(app)
    app.command("nothing")(lambda: None)
    result = CliRunner().invoke(app, ["calibrate", str(models.parent), "--device", NAME])
    assert isinstance(result.exception, CalibrationError)
    assert "cases.csv" in str(result.exception)
    assert started == []
