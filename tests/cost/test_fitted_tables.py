"""TOML files of fitted values: what is damaged, negative or no number is refused by name."""

import shutil

import pytest

import perfmodel.cost.efficiency as of_kernels
import perfmodel.cost.program.coefficients as of_programs
from perfmodel.cost.efficiency import efficiency_folder, load_coefficients
from perfmodel.cost.power import POWER_FILE, SHARES, read_shares
from perfmodel.errors import CalibrationError
from perfmodel.files import fitted_table
from perfmodel.network.coefficients import _read as read_link
from perfmodel.network.interference import _read as read_beside
from perfmodel.optimize.grouped.files import read_library, read_packing, read_times

FOLDER = efficiency_folder()
READ = {
    "whatever": fitted_table,
    "kernels": of_kernels._read,
    "programs": of_programs._read,
    "power": read_shares,
    "link": lambda path: read_link(path, 0),
    "beside": lambda path: read_beside(path, 0),
    "packing": read_packing,
    "library": read_library,
    "times": read_times,
}


@pytest.mark.parametrize("named", READ)
@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"[gemm", b'a = "', None], ids=str)
def test_what_is_no_table_is_refused(tmp_path, named, data):
    path = tmp_path / "own.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CalibrationError) as caught:
        READ[named](path)
    assert "own.toml" in caught.value.where
    assert caught.value.repair


@pytest.mark.parametrize("value", ["nan", "-1.0", '"x"', "true"])
def test_a_coefficient_is_a_number_that_is_not_negative(tmp_path, value):
    shutil.copy(FOLDER / "default.toml", tmp_path)
    (tmp_path / "hopper.toml").write_text(f"[gemm]\ntile_half_intensity = {value}\n")
    with pytest.raises(CalibrationError, match=r"hopper.toml: gemm.tile_half_intensity"):
        load_coefficients("hopper", folder=tmp_path)
    programs = tmp_path / "programs.toml"
    programs.write_text(f"[scalars]\ncache_rate = {value}\n")
    with pytest.raises(CalibrationError, match=r"programs.toml: scalars.cache_rate"):
        of_programs._read(programs)
    power = tmp_path / POWER_FILE
    shares = "".join(f"{name} = {value}\n" for name in SHARES)
    power.write_text(f"[shares]\n{shares}")
    with pytest.raises(CalibrationError, match="shares"):
        read_shares(power)


def test_infinity_is_a_limit_that_never_binds(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[gemm]\nshared_bytes_per_second = inf\n")
    tables, _ = of_kernels._read(path)
    assert tables["gemm"]["shared_bytes_per_second"] == float("inf")
