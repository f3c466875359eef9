"""Bad input: every complaint names the place, the value, what is accepted, and the repair."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfmodelError, SpecError, UnitError
from perfmodel.hardware import load, load_accelerator, load_cluster
from perfmodel.hardware.load import load_cluster_file
from perfmodel.hardware.read import MAX_FILE_BYTES

CHIP = """name = "Mine"
vendor = "Me"
family = "hopper"
units = 100

[memory]
kind = "HBM3"
capacity = "100 GiB"
bandwidth = "5 TB/s"

[peak.matrix]
bf16 = "1 PFLOP/s"
"""


def fault_of(tmp_path: Path, text: str | bytes) -> PerfmodelError:
    path = tmp_path / "chip.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PerfmodelError) as caught:
        load(path)
    fault = caught.value
    assert fault.where
    assert fault.got
    assert fault.accepted
    assert fault.repair
    assert "chip.toml" in fault.where
    return fault


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("h100-smx5-80gb", "h100-sxm5-80gb"),
        ("dgx-h10", "dgx-h100"),
        ("selenee", "selene"),
        ("nvlink44", "nvlink4"),
        ("clusters/fronteir", "frontier"),
    ],
)
def test_a_typo_in_a_name_gets_the_nearest(typo, nearest):
    with pytest.raises(SpecError) as caught:
        load(typo)
    assert caught.value.nearest == nearest


@pytest.mark.parametrize("name", ["", " ", "a\0b", "no-such-file.toml", "./none", "../x/y.toml"])
def test_names_and_paths_that_lead_nowhere(name):
    with pytest.raises(SpecError):
        load(name)


@pytest.mark.parametrize(
    ("old", "new", "where", "nearest"),
    [
        ("bandwidth", "bandwith", "memory.bandwith", "bandwidth"),
        ("units", "unit", "unit", "units"),
        ("[peak.matrix]", "[peak.matrx]", "peak.matrx", "matrix"),
        ("bf16", "bf61", "peak.matrix.bf61", "bf16"),
        ('family = "hopper"', 'family = "hopper"\nkind = "gpuu"', "kind", "gpu"),
    ],
)
def test_a_misspelt_field_gets_the_nearest(tmp_path, old, new, where, nearest):
    fault = fault_of(tmp_path, CHIP.replace(old, new))
    assert fault.where.endswith(f": {where}")
    assert fault.nearest == nearest


@pytest.mark.parametrize("value", ['"5 TB"', '"5 TBs"', '"5"', "5e12", '"-5 TB/s"', '"nan TB/s"',
                                   "nan", "inf", '"0 TB/s"', '"1e999 TB/s"', "true", "[1]",
                                   '"fast"', '""'])  # fmt: skip
def test_a_bandwidth_that_is_none(tmp_path, value):
    fault = fault_of(tmp_path, CHIP.replace('"5 TB/s"', value))
    assert isinstance(fault, UnitError)
    assert fault.where.endswith(": memory.bandwidth")
    assert "bytes per second" in fault.accepted


@pytest.mark.parametrize("value", ["0", "-1", "1.5", '"100"', "true", "nan"])
def test_a_count_that_is_none(tmp_path, value):
    fault = fault_of(tmp_path, CHIP.replace("units = 100", f"units = {value}"))
    assert fault.where.endswith(": units")


@pytest.mark.parametrize("line", ['capacity = "100 GiB"\n', 'kind = "HBM3"\n', 'name = "Mine"\n'])
def test_a_missing_field_is_named(tmp_path, line):
    fault = fault_of(tmp_path, CHIP.replace(line, ""))
    assert "required" in fault.accepted
    assert line.split(" ")[0] in fault.accepted


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CHIP.replace("units = 100", "units = 100\nunits = 101"), "line 5"),
        (CHIP.replace("units = 100", "units = "), "line 4"),
        (CHIP + "\n[memory]\n", "line 15"),
    ],
)
def test_broken_toml_names_the_line(tmp_path, text, line):
    fault = fault_of(tmp_path, text)
    assert "TOML" in fault.accepted
    assert line in fault.got or "memory" in fault.got


def test_bytes_that_are_no_text(tmp_path):
    assert "UTF-8" in fault_of(tmp_path, bytes(range(256)) * 4).accepted


def test_an_empty_file_and_one_of_another_kind(tmp_path):
    assert "accelerator" in fault_of(tmp_path, "").accepted
    assert fault_of(tmp_path, 'memroy = 1\nname = "x"').nearest == "memory"


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "units = " + "9" * 5000,
        "a." * 3000 + "b = 1",
        CHIP.replace("100", "9" * 30, 1),
    ],
    ids=["deep", "long", "dotted", "vast"],
)
def test_pathological_toml(tmp_path, text):
    fault_of(tmp_path, text)


@pytest.mark.parametrize("empty", ["[peak]\n", "[peak.matrix]\n"])
def test_a_chip_needs_a_peak(tmp_path, empty):
    assert "dtype" in fault_of(tmp_path, CHIP.split("[peak", maxsplit=1)[0] + empty).accepted


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(CHIP)), st.integers(0, 20), st.text(max_size=12))
def test_any_edit_loads_or_is_explained(tmp_path_factory, start, removed, added):
    path = tmp_path_factory.mktemp("fuzz") / "chip.toml"
    path.write_bytes((CHIP[:start] + added + CHIP[start + removed :]).encode("utf-8", "replace"))
    complaint = None
    try:
        assert load(path).name
    except PerfmodelError as fault:
        complaint = fault.to_dict()
    assert complaint is None or all(complaint[p] for p in ("where", "got", "accepted", "repair"))


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(2_000_000_000)
    with pytest.raises(SpecError, match=f"{MAX_FILE_BYTES} bytes"):
        load(path)


def test_a_directory_is_no_file(tmp_path):
    folder = tmp_path / "dir.toml"
    folder.mkdir()
    with pytest.raises(SpecError, match="regular file"):
        load(folder)


def test_extends_in_a_circle_or_into_nothing(tmp_path):
    path = tmp_path / "loop.toml"
    path.write_text('extends = "loop.toml"\nname = "x"\nmemory = {}\n')
    with pytest.raises(SpecError, match="circle"):
        load(path)
    path.write_text('extends = "loop.toml"\nname = "x"\n')
    with pytest.raises(SpecError, match="circle"):
        load(path)
    path.write_text('extends = "h100"\nname = "x"\n')
    with pytest.raises(SpecError, match="Nearest"):
        load(path)
    path.write_text('extends = 3\nname = "x"\nmemory = {}\n')
    with pytest.raises(SpecError, match="extends"):
        load(path)


DOMAIN = '[[domains]]\ntopology = "{}"\nlink = "{}"\n'
NODE = 'extends = "dgx-h100"\nname = "N"\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (NODE + "devices = 0\n", "devices"),
        (NODE + 'accelerator = "h1000-sxm5-80gb"\n', "h100-sxm5-80gb"),
        (NODE + 'accelerator = "ndr400"\n', "an accelerator"),
        (NODE + 'scale_out.link = "ndr40"\n', "ndr400"),
        (NODE + "scale_out.oversubscription = 0.5\n", "greater than or equal to 1"),
        (NODE + "scale_out.affinity = [[0, 9]]\n", "affinity"),
        (NODE + "scale_out.affinity = [[0]]\n", "nics_per_node"),
        (NODE + 'scale_out.topology = "fat-treee"\n', "fat-tree"),
        (NODE + DOMAIN.format("switch", "nvlink4") + "span = 8\n", "links_per"),
        (NODE + DOMAIN.format("switch", "nvlink4") + "links_per_device = 1\n", "span"),
        (NODE + DOMAIN.format("torus", "ici") + "links_per_device = 1\n", "max_dims"),
        (NODE + DOMAIN.format("mesh", "nvlink4") + "span = 8\nedges = [[0, 9, 1]]\n", "edge"),
        (NODE + '[[domains]]\nlnk = "nvlink4"\n', "link"),
        (NODE + "domains = []\n", "domains"),
    ],
)  # fmt: skip
def test_nodes_that_do_not_hold_together(tmp_path, text, match):
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=match):
        load(path, nodes=2)


@pytest.mark.parametrize("nodes", [0, -1, 1.5, True, "8", float("nan")])
def test_numbers_of_nodes_that_are_none(nodes):
    with pytest.raises(SpecError, match="a whole number"):
        load("dgx-h100", nodes=nodes)
    with pytest.raises(SpecError, match="a whole number"):
        load_cluster("dgx-h100", nodes=1, gpus_per_node=nodes)


def test_more_than_there_is():
    with pytest.raises(SpecError, match="560"):
        load("selene", nodes=561)
    with pytest.raises(SpecError, match="1 to 8"):
        load_cluster("dgx-h100", gpus_per_node=9)
    with pytest.raises(SpecError, match="scale_out"):
        load("l4-x8", nodes=2)
    with pytest.raises(SpecError, match="no number of nodes"):
        load("h100-sxm5-80gb", nodes=2)
    with pytest.raises(SpecError, match="box"):
        load("tpu-v2-pod", nodes=65)
    with pytest.raises(SpecError, match="64 devices"):
        load_cluster("dgx-h100", nodes=8).tier_of(65)
    with pytest.raises(SpecError, match="a cluster"):
        load_cluster_file("dgx-h100")


def test_unknown_is_absent_and_using_it_raises():
    v100 = load_accelerator("v100-sxm2-16gb")
    with pytest.raises(SpecError) as caught:
        v100.matrix_peak("bf16")
    assert "fp16" in caught.value.accepted
    with pytest.raises(SpecError):
        v100.vector_peak("bf16")
    with pytest.raises(SpecError, match="Nearest: bf16"):
        v100.peak("bf61")
    with pytest.raises(SpecError) as caught:  # what either kind of unit takes, not one kind's
        load_accelerator("a100-sxm4-80gb").peak("fp8")
    assert {"fp64", "tf32", "int8"} <= set(caught.value.accepted.rpartition(": ")[2].split(", "))
    tpu = load_accelerator("tpu-v5e")
    assert tpu.tdp is None
    with pytest.raises(SpecError, match="tdp"):
        tpu.require("tdp")


def test_specs_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        load_accelerator("mi250x").units = 3
