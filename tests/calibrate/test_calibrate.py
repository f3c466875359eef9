"""Calibration end to end on synthetic rows, and the rows it must refuse."""

import csv
import gzip
import hashlib
import shutil

import numpy as np
import pytest

from perfmodel.calibrate import calibrate, load_measurements, measurement_plan, score_operators
from perfmodel.calibrate.store import HELD_OUT, read_records, write_records
from perfmodel.cost import efficiency_of, load_efficiency, price
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from perfmodel.study.accuracy import data_folder
from perfmodel.workload.op import Gemm
from tests.calibrate.conftest import HEADER, TRUE_FLOOR, seal, write_rows

NAME = "h100-sxm5-80gb"
H100 = load_accelerator(NAME)


@pytest.fixture
def out(tmp_path):
    where = tmp_path / "efficiency"
    where.mkdir()
    for path in efficiency_folder().glob("*.toml"):
        shutil.copy(path, where)
    return where


def _rows(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_calibration_finds_the_coefficients_and_keeps_them(calibrated):
    out, result = calibrated
    before = load_efficiency(NAME, "hopper", folder=out, measured=False)
    assert set(result.learned) == {"gemm-half", "rmsnorm"}
    errors = [abs(record.error) for record in result.records]
    assert np.mean(errors) < 0.03
    for one in result.learned.values():
        assert one.fitted.coefficients["floor_seconds"] == pytest.approx(TRUE_FLOOR, rel=0.1)
    after = load_efficiency(NAME, "hopper", folder=out)
    assert after.own
    inside = price(Gemm(1024, 1024, 1024), H100, efficiency=after)
    assert inside.calibrated
    assert inside.seconds > price(Gemm(1024, 1024, 1024), H100, efficiency=before).seconds
    outside = price(Gemm(1 << 20, 1024, 1024), H100, efficiency=after)
    assert not outside.calibrated
    assert outside.seconds == pytest.approx(float(outside.mechanism), rel=1e-3)
    assert outside.high / outside.seconds > inside.high / inside.seconds
    stored = read_records(out / NAME / HELD_OUT)
    assert len(stored) == len(result.records) == 80
    covered = np.mean([record.covered for record in stored])
    assert covered >= 0.85


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_kernel_fitted_anew_leaves_the_others_as_a_fit_of_all_gives_them(
    calibrated, folder, tmp_path
):
    done, _ = calibrated
    again = tmp_path / "efficiency"
    shutil.copytree(done, again)
    (again / NAME / "rmsnorm.npz").unlink()
    found = calibrate(folder, NAME, out=again, kernels=["rms"])
    assert set(found.learned) == {"rmsnorm"}
    assert _files(again / NAME) == _files(done / NAME)

    with pytest.raises(CalibrationError, match=r"Nearest: rmsnorm\.") as caught:
        calibrate(folder, NAME, out=again, kernels=["rmsnrom"])
    assert "gemm-half" in caught.value.accepted
    with pytest.raises(CalibrationError, match="<nothing>"):
        calibrate(folder, NAME, out=again, kernels=[""])
    about = again / NAME / "device.toml"
    about.write_text(
        about.read_text().replace('measurements_sha256 = "', 'measurements_sha256 = "0')
    )
    before = _files(again / NAME)
    with pytest.raises(CalibrationError, match="fit all kernels"):
        calibrate(folder, NAME, out=again, kernels=["rms"])
    assert _files(again / NAME) == before


def test_fused_chains_judge_and_are_no_kernel_that_is_fitted(folder, out):
    tables = data_folder() / "measurements" / NAME
    rows = (tables / "chain-4.csv").read_text().splitlines(keepends=True)
    (folder / "chain.csv").write_text("".join([rows[0], *(r for r in rows if "silu_mul" in r)]))
    seal(folder / "chain.csv")
    assert set(calibrate(folder, NAME, out=out).learned) == {"gemm-half", "rmsnorm"}
    with pytest.raises(CalibrationError, match="calibrate: kernels"):
        calibrate(folder, NAME, out=out, kernels=["fused"])


def test_records_are_the_same_bytes_packed_or_plain(calibrated, tmp_path):
    _, result = calibrated
    plain, packed, again = (tmp_path / name for name in ("a.csv", "b.csv.gz", "c.csv.gz"))
    for path in (plain, packed, again):
        write_records(path, result.records)
    assert packed.read_bytes() == again.read_bytes()
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert read_records(packed) == read_records(plain)
    assert len(read_records(packed)) == len(result.records)


def test_fits_in_a_folder_of_the_users_own_are_found(calibrated, monkeypatch):
    out, _ = calibrated
    gemm = Gemm(1024, 1024, 1024)
    written = price(gemm, H100, efficiency=load_efficiency(NAME, "hopper", folder=out)).seconds
    assert price(gemm, H100).seconds != written
    monkeypatch.setenv("PERFMODEL_SPECS", str(out.parent))
    assert price(gemm, H100).seconds == written
    assert price(gemm, H100).calibrated


def test_a_sibling_is_priced_from_it_but_not_called_calibrated(calibrated):
    out, _ = calibrated
    sibling = load_efficiency("h200-sxm-141gb", "hopper", folder=out)
    assert not sibling.own
    answer = price(Gemm(64, 4096, 4096), load_accelerator("h200-sxm-141gb"), efficiency=sibling)
    assert not answer.calibrated
    faster = price(Gemm(64, 4096, 4096), H100, efficiency=sibling)
    assert answer.seconds < faster.seconds


def test_order_of_rows_and_columns_means_nothing(calibrated, folder, tmp_path):
    _, first = calibrated
    rng = np.random.default_rng(1)
    rows = _rows(folder / "gemm.csv")
    header = [HEADER[i] for i in rng.permutation(len(HEADER))]
    with (folder / "gemm.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[i] for i in rng.permutation(len(rows)))
    seal(folder / "gemm.csv")
    (tmp_path / "other" / NAME).mkdir(parents=True)
    models = tmp_path / "other" / NAME / "program.toml"
    models.write_text("rows = 1\n")
    (models.parent / "gone.npz").write_bytes(b"of an earlier fit")
    second = calibrate(folder, NAME, out=tmp_path / "other")
    assert models.read_text() == "rows = 1\n"
    assert not (models.parent / "gone.npz").exists()
    for kernel, one in first.learned.items():
        assert one.fitted.coefficients == second.learned[kernel].fitted.coefficients


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def _truncate_and_seal(path):
    _truncate(path)
    seal(path)


def _reorder_only(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")


def _change(**values):
    def change(path):
        rows = _rows(path)
        rows[3] |= values
        write_rows(path, rows)

    return change


def _duplicate(path):
    rows = _rows(path)
    write_rows(path, [*rows, rows[5]])


def _milliseconds(path):
    rows = _rows(path)
    for row in rows:
        for name in ("latency_us", "p10_us", "p90_us"):
            row[name] = str(float(row[name]) * 1000)
    write_rows(path, rows)


def _no_header(path):
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    seal(path)


def _no_sidecar(path):
    path.with_suffix(".toml").unlink()


def _bare_header(*renamed):
    def damage(path):
        head, _, rest = path.read_text().partition("\n")
        for one, other in renamed:
            head = head.replace(one, other)
        path.write_text(f"{head}\n{rest}")
        seal(path)

    return damage


def _header_again(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], lines[0], *lines[5:]]) + "\n")
    seal(path)


def _header_alone(path):
    path.write_text(path.read_text().partition("\n")[0] + "\n")
    seal(path)


def _table_lost(path):
    path.with_name("lost.toml").write_text(path.with_suffix(".toml").read_text())


def _sidecar_of_another(path):
    path.with_suffix(".toml").write_text('rows = 3\nsha256 = "00"\n')


def _utf16(path):
    data = path.read_text().encode("utf-16")
    path.write_bytes(data)
    path.with_suffix(".toml").write_text(f'sha256 = "{hashlib.sha256(data).hexdigest()}"\n')


@pytest.mark.parametrize(
    "damage",
    [
        _truncate, _truncate_and_seal, _reorder_only, _duplicate, _milliseconds, _no_header,
        _no_sidecar, _change(latency_us="nan"), _change(latency_us="-1"), _change(m="nan"),
        _change(latency_us="0.001", p10_us="0.001", p90_us="0.001"), _change(latency_us=""),
        _change(device="NVIDIA A100-SXM4-80GB"), _change(dtype="bf61"), _change(m="0"),
        _change(p10_us="1e9"), _header_again, _sidecar_of_another, _utf16, _change(dtype=""),
        _change(op="gem"), _change(op=""), _change(latency_us="5 us"),
        _bare_header(("dtype", "mood")),
        _bare_header(("op,", "operator,")), _bare_header(("latency_us", "latency_ms")),
        _bare_header((",m,", ",rows_of_a,")), _change(device="NVIDIA H100 PCIe"),
        _bare_header(("op,", "operator,"), ("latency_us", "time")),
        _bare_header(("op,", "operator,"), ("device", "gpu")),
        _header_alone, _table_lost, _change(mode="grahp"),
        _change(m="1_024"), _change(m="\uff15\uff11\uff12"), _change(op="softmax"),
    ],
)  # fmt: skip
def test_damage_is_an_error_and_changes_nothing(folder, out, damage):
    (out / NAME).mkdir()
    (out / NAME / "device.toml").write_text('device = "kept"\n')
    damage(folder / "gemm.csv")
    with pytest.raises(Exception, match="Repair") as caught:
        calibrate(folder, NAME, out=out)
    assert caught.value.repair
    assert caught.value.accepted
    assert [path.name for path in (out / NAME).iterdir()] == ["device.toml"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_power_of_no_board_is_refused(folder, out):
    path = folder / "gemm.csv"
    rows = [row | {"power_w": "650"} for row in _rows(path)]
    for watts, fine in (("650", True), ("650000", False), ("nan", False), ("-1", False)):
        rows[2]["power_w"] = watts
        with path.open("w", newline="") as handle:
            table = csv.DictWriter(handle, [*HEADER, "power_w"], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        seal(path)
        if fine:
            assert load_measurements(folder, NAME).rows
        else:
            with pytest.raises(CalibrationError, match="power_w"):
                load_measurements(folder, NAME)


def test_rows_of_another_chip_or_folder_are_refused(folder, out):
    with pytest.raises(CalibrationError, match="chip that is being calibrated"):
        calibrate(folder, "a100-sxm4-80gb", out=out)
    with pytest.raises(CalibrationError, match="no such folder"):
        calibrate(folder / "nothing", NAME, out=out)


def test_a_folder_to_come_is_not_made_for_what_cannot_be_fitted(folder, tmp_path):
    target = tmp_path / "new"
    with pytest.raises(CalibrationError, match="calibrate: kernels"):
        calibrate(folder, NAME, out=target, kernels=("gemn",))
    write_rows(folder / "gemm.csv", _rows(folder / "gemm.csv")[:3])
    for path in folder.glob("*.csv"):
        if path.stem != "gemm":
            path.unlink()
            path.with_suffix(".toml").unlink()
    with pytest.raises(CalibrationError, match="at least 8 rows of one kernel"):
        calibrate(folder, NAME, out=target)
    assert not target.exists()


def test_tables_of_other_things_are_named_and_left_alone(folder):
    other = folder / "layers.csv"
    other.write_text("layer,latency_us\nfirst,1.0\n")
    seal(other)
    found = load_measurements(folder, NAME)
    assert ("layers.csv", "a table of something other than operators") in found.refused


def test_the_split_depends_on_the_operator_alone(folder):
    rows = load_measurements(folder, NAME).rows
    folds = {row.key: row.fold(5) for row in rows}
    assert set(folds.values()) == {0, 1, 2, 3, 4}
    again = {row.key: row.fold(5) for row in reversed(load_measurements(folder, NAME).rows)}
    assert folds == again


def test_a_users_rows_are_scored():
    rows = [("x:1", {"op": "gemm", "m": 4096, "n": 4096, "k": 4096, "latency_us": 200.0})]
    (record,) = score_operators(rows, H100, efficiency=efficiency_of(H100))
    assert record.measured_s == pytest.approx(200e-6)
    assert 0.3 < record.predicted_s / record.measured_s < 3
    with pytest.raises(CalibrationError, match="latency_us"):
        score_operators([("x:1", {"op": "adamw", "numel": 5})], H100)


def test_the_plan_names_the_commands():
    assert "perfmodel calibrate validate/measurements/h100-sxm5-80gb" in measurement_plan(H100)
    own = measurement_plan(H100.model_copy(update={"name": "My H100"}), "my chip.toml")
    assert "measurements/my-h100 --device 'my chip.toml'" in own
    assert "unpack run --name my-h100" in own
    for name in ("tpu-v4", "gaudi2", "intel-max-1550", "xeon-8480plus", "epyc-9654"):
        assert "cuda" in measurement_plan(load_accelerator(name)), name
