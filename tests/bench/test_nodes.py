"""Kernel names are read from what CUDA prints of a graph; repeats are kept apart."""

import json
import shutil

from validate.bench import nodes, store

VERBOSE = r"""digraph dot {
subgraph cluster_1 {
"graph_1_node_0"[style="solid" shape="record" label="{KERNEL
| {ID | 0 (topoId: 1) | sm90_xmma_tilesize128x128x64\<\<\<\{4,2,1\},384,213504\>\>\>}
| {{node handle | func handle} | {0x0000 | 0x111}}
}"];
"graph_1_node_1"[style="bold" shape="octagon" label="1
_Z6saxpyfPfS_\<\<\<4,128,0\>\>\>"];
}}"""


def test_names_and_launches_are_read():
    first, second = nodes.read_dot(VERBOSE)
    assert first.name == "sm90_xmma_tilesize128x128x64"
    assert first.launch == "{4,2,1},384,213504"
    assert (second.name, second.launch) == ("_Z6saxpyfPfS_", "4,128,0")
    assert nodes.read_dot("digraph dot {}") == []


def test_unpacking_with_a_suffix_keeps_repeats_apart(tmp_path):
    run, out = tmp_path / "run", tmp_path / "measured"
    run.mkdir()
    about = {"device": "NVIDIA H100 80GB HBM3", "latency_us": 9.0, "mode": "graph"}
    for m in (1, 2, 3):
        op = {"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": "bf16"}
        store.append(run / "ops.csv", {"family": "gemm", **op, **about})
    store.sidecar(run / "ops.csv", {"date": "2026-01-01"}, 3)
    assert store.unpack(run, out) == {"gemm": 3}
    shutil.copy(run / "ops.csv", run / "before.csv")
    op = {"op": "gemm", "m": 4, "n": 64, "k": 64, "dtype": "bf16"}
    store.append(run / "ops.csv", {"family": "gemm", **op, **about})
    assert store.unpack(run, out, suffix="-2") == {"gemm": 1, "again/gemm": 3}
    rows = store.read_any(out / "h100-sxm5-80gb" / "gemm-2.csv")
    assert [json.loads(r["m"]) for r in rows] == [4]
