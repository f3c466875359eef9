"""Every shipped file loads, names a source for every value, and makes physical sense."""

import json
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from perfmodel.hardware import (
    Accelerator,
    Cluster,
    Link,
    describe,
    list_specs,
    load,
    load_link,
    references,
)
from perfmodel.hardware.load import FOLDERS, load_cluster_file, spec_folders, spec_names
from perfmodel.hardware.read import read_toml
from perfmodel.hardware.schema import schemas
from perfmodel.hardware.sources import citation_keys, missing_sources

ROOT = spec_folders()[-1]
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.toml"))
IDS = [f"{path.parent.name}/{path.stem}" for path in FILES]
CHIPS = sorted(spec_names("accelerators"))
NODES = sorted(spec_names("nodes"))

REQUIRED = {
    "accelerators": """v100-sxm2-16gb v100-sxm2-32gb t4-16gb a100-sxm4-40gb a100-sxm4-80gb
        a100-pcie-40gb a100-pcie-80gb a10g-24gb a30-24gb a40-48gb l4-24gb l40s-48gb rtx-4090-24gb
        h100-sxm5-80gb h100-pcie-80gb h100-nvl-94gb h200-sxm-141gb b200-sxm-180gb b300-sxm-270gb
        gb200 gb300 mi100 mi210 mi250 mi250x mi300x mi325x mi355x tpu-v2 tpu-v3 tpu-v4 tpu-v5e
        tpu-v5p tpu-v6e tpu-v7x gaudi2 gaudi3 xeon-8480plus epyc-9654 jetson-agx-orin-64gb
        edge-iot-class edge-mobile-class edge-automotive-class p100-sxm2-16gb
        h100-sxm5-96gb-hbm2e""",
    "links": """nvlink1 nvlink2 nvlink3 nvlink4 nvlink5 pcie3 pcie4 pcie5 pcie6 infinity-fabric ici
        10gige 40gige roce100 roce400 edr100 hdr200 ndr400 xdr800 slingshot11 aries""",
    "nodes": """dgx-1-v100 dgx-2 dgx-a100 dgx-a100-40gb dgx-h100 hgx-h100 hgx-h200 hgx-b200 hgx-b300
        gb200-nvl72 gb300-nvl72 frontier-node lumi-g-node summit-node mi300x-platform
        mi325x-platform mi355x-platform tpu-v4-pod tpu-v5p-pod tpu-v5e-pod tpu-v6e-pod tpu-v7x-pod
        hgx-a100-40gb-roce hgx-a100-40gb-x4 aws-p4d""",
    "clusters": "selene frontier lumi summit aurora-class eagle-class",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_catalogue_holds_what_users_ask_for(folder):
    assert set(REQUIRED[folder].split()) <= set(spec_names(folder))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_leaf_has_a_source_in_references(path):
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    sources = values["sources"]
    assert missing_sources(values, sources) == []
    keys = {key for source in sources.values() for key in citation_keys(source)}
    assert keys <= set(references())


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_source_pattern_is_used_and_the_file_loads(path):
    from fnmatch import fnmatchcase

    from perfmodel.hardware.sources import leaves

    values = read_toml(path)
    paths = [leaf for leaf, _ in leaves(values)]
    unused = [p for p in values["sources"] if not any(fnmatchcase(leaf, p) for leaf in paths)]
    assert unused == []
    assert path.read_text(encoding="utf-8").startswith("#:schema ../schema/")
    loaded = load_cluster_file(path) if path.parent.name == "clusters" else load(path)
    assert loaded.name


def test_references_are_whole_and_each_is_cited():
    cited = {
        key
        for path in ROOT.glob("*/*.toml")
        for source in read_toml(path).get("sources", {}).values()
        for key in citation_keys(str(source))
    }
    for key, entry in references().items():
        assert {"title", "publisher", "date", "url"} <= set(entry), key
        assert entry["url"].startswith("https://")
    assert len(cited & set(references())) > 90


def test_a_leaf_without_a_source_is_noticed():
    values = {"name": "X", "units": 1, "memory": {"kind": "HBM", "bandwidth": "1 GB/s"}}
    assert missing_sources(values, {"memory.b*": "key p.1"}) == ["units", "memory.kind"]


@pytest.mark.parametrize("name", CHIPS)
def test_peaks_follow_from_units_clock_and_architecture(name):
    chip = load(name)
    assert isinstance(chip, Accelerator)
    clocks = [c for c in (chip.clock.boost, chip.clock.matrix, chip.clock.base) if c is not None]
    for kind in ("matrix", "vector"):
        for dtype, operations in getattr(chip.per_clock, kind).items():
            peak = getattr(chip.peaks, kind)[dtype]
            assert chip.units is not None
            candidates = [chip.units * clock * operations for clock in clocks]
            assert min(abs(peak / c - 1) for c in candidates) < 0.025, (kind, dtype, candidates)


@pytest.mark.parametrize("name", CHIPS)
def test_orders_of_magnitude_and_of_precision(name):
    chip = load(name)
    assert isinstance(chip, Accelerator)
    if chip.kind != "edge":
        assert 4 * 2**30 <= chip.memory_capacity <= 2**40
        assert 1e11 < chip.memory_bandwidth < 1e13
        assert chip.tdp is None or 50 <= chip.tdp <= 2000
    for table in (chip.peaks.matrix, chip.peaks.vector):
        order = [d for d in ("fp64", "fp32", "fp16", "fp8_e4m3", "fp4") if d in table]
        assert all(table[wide] <= table[narrow] for wide, narrow in pairwise(order))
        if "bf16" in table and "fp16" in table:
            assert table["bf16"] <= table["fp16"]
    for dtype, sparse in chip.peaks.matrix_sparse.items():
        assert sparse == pytest.approx(2 * chip.peaks.matrix[dtype], rel=0.01)
    intensity = max((chip.peaks.matrix or chip.peaks.vector).values()) / chip.memory_bandwidth
    assert 5 < intensity < 5000


DATASHEET_NVLINK = {
    "dgx-1-p100": 160e9, "dgx-1-v100": 300e9, "dgx-2": 300e9, "dgx-a100": 600e9,
    "dgx-h100": 900e9, "hgx-h200": 900e9, "dgx-b200": 1800e9, "gb200-nvl72": 1800e9,
    "hgx-a100-40gb-x4": 600e9, "mi300x-platform": 896e9, "mi355x-platform": 1075.2e9,
}  # fmt: skip


@pytest.mark.parametrize(("name", "both_directions"), DATASHEET_NVLINK.items())
def test_scale_up_rate_is_half_of_the_printed_one(name, both_directions):
    cluster = load(name)
    assert isinstance(cluster, Cluster)
    assert 2 * cluster.tiers[0].bandwidth == pytest.approx(both_directions)


TPU_ICI = {"tpu-v4-pod": 600e9, "tpu-v5e-pod": 400e9, "tpu-v5p-pod": 1200e9, "tpu-v6e-pod": 800e9}


@pytest.mark.parametrize(("name", "both_directions"), TPU_ICI.items())
def test_ici_rate_of_a_full_pod_is_half_of_the_printed_one(name, both_directions):
    pod = load(name, nodes=64)
    assert isinstance(pod, Cluster)
    assert 2 * pod.tiers[0].bandwidth == pytest.approx(both_directions)


@pytest.mark.parametrize("name", sorted(spec_names("links")))
def test_links_are_one_way_and_below_the_wire(name):
    link = load_link(name)
    assert isinstance(link, Link)
    assert 1e9 < link.bandwidth_per_direction < 1e12
    if link.achievable_per_direction is not None:
        assert 0.5 <= link.achievable_per_direction / link.bandwidth_per_direction < 1
    if link.latency is not None:
        assert 1e-7 < link.latency < 1e-4


@pytest.mark.parametrize("name", NODES)
def test_tiers_widen_and_every_device_is_reached(name):
    for nodes in (1, 8):
        try:
            cluster = load(name, nodes=nodes)
        except Exception:
            if nodes == 1:
                raise
            continue
        assert isinstance(cluster, Cluster)
        spans = [tier.span for tier in cluster.tiers]
        assert spans == sorted(set(spans))
        assert spans[-1] == cluster.devices == nodes * cluster.devices_per_node
        assert all(tier.bandwidth > 0 and tier.links_per_device > 0 for tier in cluster.tiers)
        inner = cluster.tiers[0].bandwidth
        assert all(tier.bandwidth <= inner for tier in cluster.tiers[1:])


def test_hybrid_cube_mesh_uses_every_link():
    tier = load("dgx-1-v100").tiers[0]
    degree = [sum(n for a, b, n in tier.edges if device in (a, b)) for device in range(8)]
    assert degree == [6] * 8


def test_mi250x_mesh_leaves_four_links_inside_each_module():
    tiers = load("frontier-node").tiers
    assert [tier.span for tier in tiers] == [2, 8]
    assert tiers[0].bandwidth == pytest.approx(200e9)
    # Even dies have a double and a single link outside, odd ones two singles: 2.5 on average.
    assert tiers[1].bandwidth == pytest.approx(2.5 * 50e9)


def test_mi250x_device_is_half_a_package():
    chip = load("mi250x")
    assert chip.devices_per_package == 2
    assert chip.tdp == pytest.approx(280.0)
    assert chip.matrix_peak("bf16") * 2 == pytest.approx(383e12, rel=1e-3)


@pytest.mark.parametrize(("variant", "elder"), [
    ("h200-sxm-141gb", "h100-sxm5-80gb"), ("gh200-96gb", "h100-sxm5-80gb"),
    ("a100-pcie-80gb", "a100-sxm4-40gb"), ("mi325x", "mi300x"),
])  # fmt: skip
def test_variants_are_younger_than_their_dies(variant, elder):
    assert load(variant).year > load(elder).year
    assert load(variant).made == load(elder).made == load(elder).year
    assert load("b200-sxm-180gb").made == load("b200-sxm-180gb").year


@pytest.mark.parametrize(("chip", "elder"), [
    ("t4-16gb", "v100-sxm2-16gb"), ("l4-24gb", "h100-sxm5-80gb"), ("a10g-24gb", "a40-48gb"),
    ("mi210", "mi250x"), ("b300-sxm-270gb", "b200-sxm-180gb"),
])  # fmt: skip
def test_dies_of_one_process_are_of_one_year(chip, elder):
    assert load(chip).made == load(elder).made != load(chip).year


@pytest.mark.parametrize("name", ["accelerator", "link", "node", "cluster"])
def test_committed_schema_is_the_generated_one(name):
    committed = (ROOT / "schema" / f"{name}.json").read_text(encoding="utf-8")
    assert committed == schemas()[f"{name}.json"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_shipped_files_satisfy_their_schema(folder):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "schema" / f"{folder.removesuffix('s')}.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for path in sorted((ROOT / folder).glob("*.toml")):
        assert [e.message for e in validator.iter_errors(read_toml(path))] == [], path.name


def test_describe_gives_value_and_source_of_each_field():
    rows = {row.field: row for row in describe("a100-sxm4-80gb")}
    assert rows["memory.bandwidth"].value == "2.039 TB/s"
    assert "a100-datasheet" in rows["memory.bandwidth"].source
    assert rows["units"].source.startswith("nvidia-a100-whitepaper")
    assert all(row.source or row.field in {"name", "vendor", "family", "kind", "note"}
               for row in rows.values())  # fmt: skip
    tiers = {row.field: row.value for row in describe("selene") if row.field.startswith("tiers")}
    assert tiers["tiers.0.bandwidth"] == "300 GB/s per device, one way"


def test_list_specs_names_everything():
    entries = list_specs()
    assert {(entry.kind, entry.name) for entry in entries} >= {
        ("accelerator", "mi250x"), ("node", "dgx-h100"), ("cluster", "lumi"), ("link", "ici"),
    }  # fmt: skip
    assert not [entry for entry in entries if "cannot be read" in entry.summary]
    assert len(entries) == len(FILES)
    assert isinstance(Path(ROOT), Path)
