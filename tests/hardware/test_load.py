"""Names, paths, extension, numbers of nodes: what load accepts and what comes out."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import SpecError
from perfmodel.hardware import (
    Accelerator,
    Cluster,
    Link,
    citations,
    load,
    load_accelerator,
    load_cluster,
    load_link,
    load_node,
)
from perfmodel.hardware.cluster import torus_slice

CHIP = """
name = "Mine"
vendor = "Me"
family = "hopper"
memory = { kind = "HBM3", capacity = "100 GiB", bandwidth = "5 TB/s" }
peak.matrix = { bf16 = "1 PFLOP/s" }
"""


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(CHIP)
    return path


def test_load_tells_the_kinds_apart():
    assert isinstance(load("h100-sxm5-80gb"), Accelerator)
    assert isinstance(load("ndr400"), Link)
    assert isinstance(load("dgx-h100"), Cluster)
    assert isinstance(load("selene"), Cluster)


@pytest.mark.parametrize("name", ["DGX-H100", "nodes/dgx-h100", "nodes/dgx-h100.toml"])
def test_names_in_any_case_and_with_their_folder(name):
    assert load(name, nodes=2).devices == 16


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("B200", "b200-sxm-180gb"),
        ("l4", "l4-24gb"),
        ("ironwood", "tpu-v7x"),
        ("trillium", "tpu-v6e"),
    ],
)
def test_short_names_where_they_are_unique(alias, name):
    assert load(alias) == load(name)


def test_ambiguous_short_names_are_refused():
    for name in ("h100", "a100", "v100"):
        with pytest.raises(SpecError, match=f"Nearest: {name}-.*, {name}-"):
            load(name)


def test_aliases_are_not_inherited(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "b200"\nname = "Mine"\n')
    assert load_accelerator("b200").aliases
    assert load_accelerator(path).aliases == ()


def test_accelerator_accessors():
    chip = load_accelerator("a100-sxm4-80gb")
    assert chip.matrix_peak("bf16") == 312e12
    assert chip.vector_peak("fp32") == 19.5e12
    assert chip.peak("fp32") == 19.5e12
    assert chip.peak("float16") == 312e12
    assert chip.has_matrix("tf32")
    assert not chip.has_matrix("fp32")
    assert chip.memory_capacity == 80 * 2**30
    assert chip.memory_bandwidth == 2.039e12
    assert chip.l2_capacity == 40 * 2**20
    assert chip.units == 108
    assert chip.clock_boost == 1.41e9
    assert chip.require("tdp") == 400.0
    assert load_accelerator("h100-sxm5-80gb").peak("fp8") == pytest.approx(1978.9e12)


def test_prices_are_per_hour_outside_and_per_second_inside():
    assert load_accelerator("tpu-v5e").price_per_hour == pytest.approx(1.2)
    assert load_node("aws-p4d").price_per_hour == pytest.approx(32.77)
    assert load_node("dgx-h100").price_per_hour is None
    assert load_accelerator("mi250x").price_per_hour is None


def test_a_node_stands_for_its_accelerator():
    assert load_accelerator("dgx-h100").name == "H100-SXM5-80GB"
    assert load_accelerator("frontier").name == "MI250X"


def test_cluster_tiers_run_outwards():
    cluster = load_cluster("dgx-h100", nodes=8)
    assert [(tier.name, tier.span) for tier in cluster.tiers] == [("nvlink4", 8), ("ndr400", 64)]
    inner, outer = cluster.tiers
    assert inner.bandwidth == 450e9
    assert outer.bandwidth == 50e9
    assert outer.nics_per_node == 8
    assert outer.rail_optimized
    assert cluster.tier_of(8) is inner
    assert cluster.tier_of(9) is outer
    assert "64" in repr(cluster)
    assert cluster.host_link is not None
    assert cluster.host_link.family == "pcie"
    assert "nvidia-h100-whitepaper-2022" in citations(cluster)


def test_one_node_has_no_network_tier():
    assert [tier.name for tier in load_cluster("dgx-a100").tiers] == ["nvlink3"]


def test_nvl72_domain_is_wider_than_its_node():
    rack = load_cluster("gb200-nvl72", nodes=18)
    assert [(tier.name, tier.span) for tier in rack.tiers] == [("nvlink5", 72)]
    two = load_cluster("gb200-nvl72", nodes=36)
    assert [(tier.name, tier.span) for tier in two.tiers] == [("nvlink5", 72), ("ndr400", 144)]
    assert two.devices_per_node == 4


def test_shared_nics_are_shared():
    p4d = load_cluster("aws-p4d", nodes=2)
    assert p4d.tiers[-1].bandwidth == pytest.approx(12.5e9 / 2)
    frontier = load_cluster("frontier-node", nodes=2)
    assert frontier.tiers[-1].bandwidth == pytest.approx(25e9 / 2)
    p5 = load_cluster("aws-p5", nodes=2)
    assert p5.tiers[-1].bandwidth == pytest.approx(4 * 12.5e9)


def test_idle_devices_leave_their_nics_idle():
    half = load_cluster("dgx-h100", nodes=2, gpus_per_node=4)
    assert half.devices == 8
    assert half.tiers[0].span == 4
    assert half.tiers[-1].nics_per_node == 4
    assert half.tiers[-1].bandwidth == 50e9
    mesh = load_cluster("mi300x-platform", gpus_per_node=4)
    assert mesh.tiers[0].bandwidth == pytest.approx(3 * 64e9)
    assert load_cluster("dgx-1-v100", gpus_per_node=2).tiers[0].bandwidth == 25e9


def test_a_cluster_file_may_be_used_in_part():
    assert load_cluster("selene").devices == 4480
    assert load_cluster("selene", nodes=128).devices == 1024
    spans = [tier.span for tier in load_cluster("frontier").tiers]
    assert spans == [2, 8, 128 * 8, 9408 * 8]
    assert [tier.oversubscription for tier in load_cluster("frontier").tiers] == [1, 1, 1, 1.75]
    assert load_cluster("frontier", nodes=128).tiers[-1].oversubscription == 1.0


@pytest.mark.parametrize(
    ("name", "nodes", "dims", "wraps"),
    [
        ("tpu-v4-pod", 16, (4, 4, 4), (True,) * 3),
        ("tpu-v4-pod", 32, (4, 4, 8), (True,) * 3),
        ("tpu-v4-pod", 1024, (16, 16, 16), (True,) * 3),
        ("tpu-v4-pod", 1, (1, 2, 2), (False,) * 3),
        ("tpu-v5e-pod", 64, (16, 16), (True, True)),
        ("tpu-v5e-pod", 32, (8, 16), (False, True)),
        ("tpu-v5p-pod", 1536, (16, 16, 24), (True,) * 3),
    ],
)
def test_torus_slices_have_the_shapes_that_are_sold(name, nodes, dims, wraps):
    tier = load_cluster(name, nodes=nodes).tiers[0]
    assert tier.dims == dims
    assert tier.wraps == wraps


def test_more_than_a_pod_is_several_slices_over_the_network():
    tiers = load_cluster("tpu-v5e-pod", nodes=128).tiers
    assert [tier.span for tier in tiers] == [256, 512]
    assert tiers[0].dims == (16, 16)
    assert tiers[1].bandwidth == pytest.approx(25e9 / 8)


@given(st.integers(1, 512), st.integers(2, 3))
def test_torus_slice_conserves_devices_and_fits(devices, axes):
    top = (16,) * axes
    box = torus_slice(devices, top)
    if box is not None:
        product = 1
        for side in box:
            product *= side
        assert product == devices
        assert max(box) <= 16
        assert list(box) == sorted(box)


@given(st.integers(1, 200), st.integers(1, 8))
def test_more_devices_never_shrink_a_cluster(nodes, used):
    small = load_cluster("dgx-h100", nodes=nodes, gpus_per_node=used)
    large = load_cluster("dgx-h100", nodes=nodes + 1, gpus_per_node=used)
    assert large.devices > small.devices == small.tiers[-1].span


def test_own_file_by_path_and_in_a_node(chip, tmp_path):
    assert load(chip).memory_bandwidth == 5e12
    assert load(str(chip)).peak("bf16") == 1e15
    node = tmp_path / "node.toml"
    node.write_text('extends = "dgx-h100"\nname = "Mine"\naccelerator = "mine.toml"\n')
    cluster = load(node, nodes=4)
    assert cluster.accelerator.name == "Mine"
    assert cluster.devices == 32
    whole = tmp_path / "cluster.toml"
    whole.write_text('name = "C"\nvendor = "Me"\nnode = "node.toml"\nnodes = 3\n')
    assert load(whole).devices == 24


def test_own_file_may_extend_a_shipped_one(tmp_path):
    path = tmp_path / "faster.toml"
    path.write_text('extends = "h100-sxm5-80gb"\nname = "Faster"\nmemory.bandwidth = "5 TB/s"\n')
    mine, base = load_accelerator(path), load_accelerator("h100-sxm5-80gb")
    assert mine.memory_bandwidth == 5e12
    assert mine.memory_capacity == base.memory_capacity
    assert mine.peaks == base.peaks
    assert "no source given" in mine.sources["memory.bandwidth"]
    from perfmodel.hardware import describe

    rows = {row.field: row.source for row in describe(path)}
    assert rows["memory.bandwidth"] == "faster.toml (no source given)"
    assert rows["units"].startswith("nvidia-h100-whitepaper")


def test_environment_variable_adds_folders_and_comes_first(chip, tmp_path, monkeypatch):
    folder = tmp_path / "specs" / "accelerators"
    folder.mkdir(parents=True)
    (folder / "my-chip.toml").write_text(CHIP)
    (folder / "a100-sxm4-80gb.toml").write_text(CHIP)
    monkeypatch.setenv("PERFMODEL_SPECS", os.pathsep.join([str(tmp_path), str(tmp_path / "specs")]))
    assert load("my-chip").name == "Mine"
    assert load("a100-sxm4-80gb").name == "Mine"
    assert load("h100-sxm5-80gb").name == "H100-SXM5-80GB"


def test_a_folder_that_is_not_there_is_no_silent_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PERFMODEL_SPECS", str(tmp_path / "typo"))
    with pytest.raises(SpecError, match="PERFMODEL_SPECS"):
        load("h100-sxm5-80gb")


def test_an_edited_file_is_read_again(chip):
    before = load(chip)
    chip.write_text(CHIP.replace("100 GiB", "200 GiB"))
    assert load(chip).memory_capacity == 2 * before.memory_capacity


def test_nodes_and_links_by_name():
    assert load_node("dgx-h100").devices == 8
    assert load_link("nvlink4").bandwidth_per_direction == 25e9
    with pytest.raises(SpecError, match="a link"):
        load_link("dgx-h100")
    with pytest.raises(SpecError, match="a node"):
        load_node("ndr400")
    with pytest.raises(SpecError, match="an accelerator"):
        load_accelerator("ndr400")
    with pytest.raises(SpecError, match="a node"):
        load_cluster("h100-sxm5-80gb")
