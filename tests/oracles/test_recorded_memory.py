"""Oracle: recorded steps against what an H100 did in the same steps, eager mode.

Measured: the peak of allocated memory above what lies there between steps, and the number of
operators dispatched (``validate/measurements/h100-sxm5-80gb/models/eager``). Recorded: the programs
of the same cases (``validate/programs``), their storages in blocks of 512 bytes as the caching
allocator rounds them. What a recording cannot see is the workspace inside kernels, so it must never
be above the measurement, and seldom far below.
"""

import csv
from pathlib import Path

import pytest

from perfmodel.workload.program import load_program

ROOT = Path(__file__).parents[2] / "validate"
CASES = ROOT / "measurements" / "h100-sxm5-80gb" / "models" / "eager" / "cases.csv"
# mamba_130m is slow to read; t5_small was measured with another version, whose attention is unfused
LEFT_OUT = ("mamba", "t5_small")
CNNS = ("resnet", "mobilenet", "efficientnet", "densenet", "vgg", "shufflenet", "unet", "convnext")


def measured():
    with CASES.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["mode"] == "eager" and not row["error"] and row["model"] != "":
                name = row["case"].replace("/eager/", "/").replace("/", "-")
                path = ROOT / "programs" / f"{name}.json.gz"
                if path.exists() and not row["model"].startswith(LEFT_OUT):
                    yield row, path


def rounded_peak(program):
    blocks = [-(-size // 512) * 512 for size in program.storages]
    host = {tensor.storage for tensor in program.tensors if tensor.host}
    alive, total, peak = set(program.resident), 0, 0
    for node in program.nodes:
        for name in node.outputs:
            number = program.tensor(name).storage
            if number not in alive and number not in host:
                alive.add(number)
                total += blocks[number]
        peak = max(peak, total)
        for number in alive.intersection(node.frees):
            alive.remove(number)
            total -= blocks[number]
    return peak


@pytest.fixture(scope="module")
def compared():
    found = []
    for row, path in measured():
        program = load_program(path)
        real = int(float(row["peak_allocated"])) - int(float(row["before_allocated"]))
        told = (len(program.nodes), program.module_calls, program.parameters)
        found.append((row, told, rounded_peak(program), real))  # a hundred programs are large
    return found


def test_peak_of_allocated_memory(compared):
    assert len(compared) > 60
    far = []
    for row, _, recorded, real in compared:
        assert recorded <= real * 1.001, row["case"]
        if real - recorded > max(0.03 * real, 2 * 2**20):
            far.append(row["case"])
    assert len(far) <= 0.03 * len(compared), far
    exact = sum(abs(real - recorded) <= 1024 for _, _, recorded, real in compared)
    assert exact > 0.4 * len(compared)


def test_number_of_operators_of_convolutional_networks(compared):
    nets = [c for c in compared if c[0]["model"].startswith(CNNS) and c[0]["kind"] == "infer"]
    assert len(nets) > 20
    for row, (nodes, module_calls, _), _, _ in nets:
        assert nodes == int(row["aten_calls"]), row["case"]
        assert module_calls == int(row["module_calls"]), row["case"]


def test_parameters(compared):
    for row, (_, _, parameters), _, _ in compared:
        if row["kind"] != "decode":
            assert parameters == int(row["parameters"]), row["case"]
