"""A folder of synthetic measurements: the mechanism with other coefficients, and noise."""

import csv
import hashlib
import shutil

import numpy as np
import pytest

from perfmodel.calibrate import calibrate
from perfmodel.cost import load_coefficients
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

HEADER = ["op", "dtype", "m", "n", "k", "rows", "cols", "device", "latency_us", "p10_us",
          "p90_us", "mode"]  # fmt: skip
TRUE_FLOOR = 4.4e-6


def seal(path):
    """Write the sidecar of a CSV."""
    data = path.read_bytes()
    rows = len(data.decode().splitlines()) - 1
    path.with_suffix(".toml").write_text(
        f'rows = {rows}\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n'
    )


def write_rows(path, rows):
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    seal(path)


def measured(record, rng):
    """A row of the H100, with 1 % noise."""
    chip = load_accelerator("h100-sxm5-80gb")
    _, (task,) = tasks_of(op_from_dict(record))
    values = load_coefficients("hopper").of(task.kernel) | {"floor_seconds": TRUE_FLOOR}
    seconds = mechanism(task, task_device(task, chip), values).seconds[0]
    time = seconds * 1e6 * np.exp(rng.normal(0, 0.01))
    return record | {
        "device": "NVIDIA H100 80GB HBM3", "latency_us": f"{time:.5g}",
        "p10_us": f"{time * 0.99:.5g}", "p90_us": f"{time * 1.01:.5g}", "mode": "graph",
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "measurements")


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory):
    """A calibration that many tests read: its folder of efficiency files, and the answer."""
    place = tmp_path_factory.mktemp("calibrated")
    out = place / "efficiency"
    out.mkdir()
    for path in efficiency_folder().glob("*.toml"):
        shutil.copy(path, out)
    return out, calibrate(fill(place / "measurements"), "h100-sxm5-80gb", out=out)


def fill(where, norms=30, products=50):
    """Write the synthetic tables into a new folder: products and norms."""
    rng = np.random.default_rng(0)
    where.mkdir()
    gemms, rows_of = {}, {}
    while len(gemms) < products:
        m, n, k = (8 * int(v) for v in np.exp(rng.uniform(np.log(2), np.log(1024), 3)))
        gemms[m, n, k] = {"op": "gemm", "dtype": "bf16", "m": m, "n": n, "k": k}
    while len(rows_of) < norms:
        rows, cols = (4 * int(v) for v in np.exp(rng.uniform(np.log(4), np.log(2048), 2)))
        rows_of[rows, cols] = {"op": "rmsnorm", "dtype": "bf16", "rows": rows, "cols": cols}
    write_rows(where / "gemm.csv", [measured(record, rng) for record in gemms.values()])
    write_rows(where / "rmsnorm.csv", [measured(record, rng) for record in rows_of.values()])
    return where
