"""Operators against counts worked out by hand, and their JSON form."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import WorkloadError
from perfmodel.workload.dtype import BYTES_PER_ELEMENT, bytes_per_element, canonical_dtype
from perfmodel.workload.op import (
    COLLECTIVES,
    FAMILIES,
    AdamW,
    Attention,
    Collective,
    Conv2d,
    Conv3d,
    Copy,
    CrossEntropy,
    Elementwise,
    Embedding,
    Fft,
    Fused,
    Gemm,
    GroupedGemm,
    LayerNorm,
    Permute,
    Recurrent,
    RmsNorm,
    Rope,
    ScatterAdd,
    Sgd,
    Softmax,
    Spmm,
    TopK,
    attention_pairs,
    op_from_dict,
    ops_from_jsonl,
)
from perfmodel.workload.precision import load_precision

# operator, FLOPs, bytes read, bytes written: by hand from the definitions
BY_HAND = [
    (Gemm(3, 5, 7), 2 * 105, 2 * (21 + 35), 2 * 15),
    (Gemm(3, 5, 7, batch=4, dtype="fp32"), 8 * 105, 16 * (21 + 35), 16 * 15),
    (Gemm(4, 4, 4, dtype="fp8_e4m3"), 128, 32, 32),
    (Gemm(3, 3, 3, dtype="fp4"), 54, 9, 18),
    (GroupedGemm(2, 3, 5, 7), 2 * 6 * 35, 2 * (42 + 70), 2 * 30),
    (GroupedGemm(2, 3, 5, 7, rows=5), 2 * 5 * 35, 2 * (35 + 70), 2 * 25),
    (GroupedGemm(2, 3, 5, 7, direction="wgrad"), 2 * 6 * 35, 2 * (42 + 30), 2 * 70),
    (Conv2d(1, 3, 224, 224, 64, 7, 2, 3), 236027904, 2 * (150528 + 9408), 2 * 802816),
    (Conv2d(2, 4, 5, 5, 6, 3, groups=2), 2 * 108 * 18, 2 * (200 + 108), 2 * 108),
    (Conv2d(2, 4, 5, 5, 6, 3, direction="dgrad"), 2 * 108 * 36, 2 * (108 + 216), 2 * 200),
    (Conv2d(2, 4, 5, 5, 6, 3, direction="wgrad"), 2 * 108 * 36, 2 * (200 + 108), 2 * 216),
    (Conv3d(1, 2, 4, 4, 4, 3, 3, padding=1), 2 * 192 * 54, 2 * (128 + 162), 2 * 192),
    (Attention(2, 4, 2, 8, 8, 16, False), 4 * 8 * 64 * 16, 2 * (1024 + 1024), 2 * 1024),
    (Attention(1, 1, 1, 8, 8, 16, True), 4 * 36 * 16, 2 * 3 * 128, 2 * 128),
    (
        Attention(1, 1, 1, 8, 8, 16, True, "bwd"),
        10 * 36 * 16,
        2 * 5 * 128,
        2 * 3 * 128,
    ),
    (Attention(1, 2, 2, 4, 4, 6, False, v_head_dim=4), 2 * 32 * 10, 2 * (96 + 32), 2 * 32),
    (RmsNorm(4, 8), 4 * 32, 2 * 40, 2 * 32),
    (LayerNorm(4, 8), 7 * 32, 2 * 48, 2 * 32),
    (LayerNorm(4, 8, direction="bwd"), 11 * 32, 2 * 72, 2 * 48),
    (Softmax(4, 8, "fp32"), 5 * 32, 4 * 32, 4 * 32),
    (Softmax(4, 8, "fp32", "bwd"), 4 * 32, 4 * 64, 4 * 32),
    (Elementwise("add", 10), 10, 40, 20),
    (Elementwise("gelu", 10, "fp32"), 80, 40, 40),
    (Elementwise("copy", 10), 0, 20, 20),
    (Fused("gated", 10, 4, 2, 6), 60, 40, 20),
    (Fused("add+norm", 10, 4, 2, 6, rows=2), 60, 40, 20),
    (Embedding(10, 100, 8), 0, 160 + 80, 160),
    (Embedding(10, 100, 8, direction="bwd"), 80, 160 + 80, 1600),
    (CrossEntropy(4, 10), 200, 80 + 32, 16),
    (CrossEntropy(4, 10, direction="bwd"), 80, 80 + 32, 80),
    (Rope(2, 3, 4), 72, 48 + 32, 48),
    (TopK(4, 8, 2), 32, 128, 32 + 32),
    (Permute(4, 8), 0, 64 + 16, 64),
    (Permute(4, 8, source=2), 0, 32 + 16, 64),
    (AdamW(10), 140, 160, 120),
    (AdamW(10, grad_dtype="bf16", copy_dtype="bf16"), 140, 140, 140),
    (Sgd(10), 40, 120, 80),
    (Sgd(10, momentum=False), 20, 80, 40),
    (Copy(10), 0, 10, 10),
    (Fft(3, 8), 3 * 120, 192, 192),
    (Fft(3, 8, kind="rfft"), 3 * 60, 3 * 32, 3 * 40),
    (Fft(3, 7, kind="irfft", scaled=True), 3 * (49 + 7), 3 * 32, 3 * 28),
    (Fft(2, 8, kind="rfft", rows=4), 2 * 400, 2 * 4 * 32, 2 * 4 * 40),
    (ScatterAdd(5, 4, 3), 20, 80 + 40 + 48, 48),
    (ScatterAdd(3, 4, 5, "bf16", "scatter_add"), 12, 24 + 24 + 24, 24),
    (Recurrent(2, 3, 4, 5), 2160, 976, 120),
    (Recurrent(2, 3, 4, 5, 2, 2, "bf16", "gru", "bwd"), 17280, 1968, 1728),
    (Spmm(3, 4, 5, 6), 48, 24 + 24 + 16 + 80, 48),
    (Collective("all_reduce", 10, 4), 0, 10, 10),
]


@pytest.mark.parametrize(("op", "flops", "read", "written"), BY_HAND)
def test_counts_by_hand(op, flops, read, written):
    assert (op.flops, op.bytes_read, op.bytes_written) == (flops, read, written)
    assert op.bytes_moved == read + written
    assert all(type(count) is int for count in (op.flops, op.bytes_read, op.bytes_written))


def test_every_family_is_checked_by_hand():
    assert {type(op) for op, *_ in BY_HAND} == {*FAMILIES.values(), Collective}


@pytest.mark.parametrize("op", [case[0] for case in BY_HAND])
def test_json_round_trip(op):
    assert op_from_dict(json.loads(json.dumps(op.to_dict()))) == op


def test_measurement_keys_are_accepted():
    record = {"op": "conv2d", "n": 8, "c_in": 64, "h": 56, "w": 56, "c_out": 64, "kernel": 3}
    record |= {"stride": 1, "padding": 1, "groups": 1, "layout": "nchw", "pass": "wgrad"}
    assert op_from_dict(record | {"dtype": "tf32"}).direction == "wgrad"
    assert [op_from_dict({"op": name, "bytes": 8, "world": 2}).op for name in COLLECTIVES] == list(
        COLLECTIVES
    )


@given(q=st.integers(1, 12), kv=st.integers(1, 12), causal=st.booleans(), window=st.integers(0, 14))
def test_attention_pairs_equal_counting(q, kv, causal, window):
    width = kv if window == 0 else window
    if causal:
        # query j stands at position kv - q + j; queries before the first key see nothing
        rows = [kv - q + j + 1 for j in range(q)]
        counted = sum(min(keys, width) for keys in rows if keys > 0)
    else:
        counted = q * min(kv, width)
    assert attention_pairs(q, kv, causal, window) == counted


@pytest.mark.parametrize("aligned", ["last", "first"])
@pytest.mark.parametrize(("q", "kv"), [(2**40, 2**41), (2**41, 2**40), (2**53, 2**53)])
def test_pairs_of_lengths_whose_product_no_integer_of_64_bits_holds(q, kv, aligned):
    short = min(q, kv)
    corner = short * (short + 1) // 2
    rest = (kv - q if aligned == "last" else q - kv) * short
    for causal, wanted in ((True, corner + max(rest, 0)), (False, q * kv)):
        op = Attention(1, 1, 1, q, kv, 8, causal, aligned=aligned)
        assert op.pairs == wanted
        many = Attention(1, 1, 1, np.array([q, q]), kv, 8, causal, aligned=aligned)
        assert many.pairs == pytest.approx([wanted] * 2)


@given(q=st.integers(1, 12), kv=st.integers(1, 12), causal=st.booleans(), window=st.integers(0, 14))
def test_a_mask_from_the_first_key_counted_by_hand(q, kv, causal, window):
    width = kv if window == 0 else window
    keys = [min(kv, row + 1) if causal else kv for row in range(q)]
    op = Attention(1, 1, 1, q, kv, 8, causal, window=window, aligned="first")
    assert op.pairs == sum(min(met, width) for met in keys)
    assert op.keys_met == max(keys)
    two = np.array([q, q])
    many = Attention(1, 1, 1, two, kv, 8, causal, window=window, aligned="first")
    assert many.pairs.tolist() == [op.pairs] * 2
    assert many.bytes_read.tolist() == [op.bytes_read] * 2


SDPA = {"op": "attention", "batch": 2, "q_heads": 4, "kv_heads": 4, "head_dim": 8, "causal": True}


def test_json_that_leaves_the_mask_open_is_the_call_of_pytorch():
    begins = {
        (q, kv): op_from_dict(SDPA | {"q_len": q, "kv_len": kv}).aligned
        for q, kv in ((64, 64), (64, 256), (256, 64), (1, 256))
    }
    assert begins == {(64, 64): "last", (64, 256): "first", (256, 64): "first", (1, 256): "last"}
    decoded = op_from_dict(SDPA | {"q_len": 1, "kv_len": 256})
    assert decoded.pairs == 256  # a step of decoding sees all keys
    behind = op_from_dict(SDPA | {"q_len": 64, "kv_len": 256, "aligned": "last"})
    assert behind.pairs == 64 * 192 + 64 * 65 // 2
    many = op_from_dict(SDPA | {"q_len": [64, 64], "kv_len": [64, 256]})
    assert (many.aligned, many.pairs.tolist()) == ("first", [64 * 65 // 2] * 2)
    unmasked = SDPA | {"q_len": 64, "kv_len": 256, "causal": False}
    assert op_from_dict(unmasked).pairs == 64 * 256
    with pytest.raises(WorkloadError, match="aligned"):
        op_from_dict(SDPA | {"q_len": [1, 64], "kv_len": 256})


sizes = st.integers(1, 10**5)


@given(m=sizes, n=sizes, k=sizes, batch=st.integers(1, 64), dtype=st.sampled_from(["bf16", "fp4"]))
def test_arrays_equal_scalars(m, n, k, batch, dtype):
    scalar = Gemm(m, n, k, batch, dtype)
    array = Gemm(np.array([m, 1]), n, np.array([[k], [1]]), batch, dtype)
    assert array.flops.shape == (2, 2)
    for name in ("flops", "bytes_read", "bytes_written"):
        assert getattr(array, name).flat[0] == getattr(scalar, name)


def test_arrays_do_not_wrap_around():
    huge = np.array([2**40])
    assert Gemm(huge, huge, huge).flops[0] == 2.0**121


@given(m=sizes, n=sizes, k=sizes)
def test_doubling_rows_doubles_work(m, n, k):
    assert Gemm(2 * m, n, k).flops == 2 * Gemm(m, n, k).flops
    assert Gemm(m, n, k, batch=2).bytes_moved == 2 * Gemm(m, n, k).bytes_moved


def test_numpy_scalars_become_integers():
    assert Gemm(np.int64(3), np.array(4), 5).to_dict()["n"] == 4


@pytest.mark.parametrize(
    ("record", "where", "nearest"),
    [
        ({"op": "gem", "m": 1, "n": 1, "k": 1}, "op", "gemm"),
        ({"op": "all_reduc", "bytes": 1, "world": 2}, "op", "all_reduce"),
        ({"m": 1}, "op", None),
        ([1], "operator", None),
        ({"op": "rmsnorm", "rows": 1, "colz": 1}, "colz", "cols"),
        ({"op": "gemm", "m": 1, "n": 1}, "gemm", None),
        ({"op": "gemm", "m": 0, "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": -4, "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": 1.0, "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": float("nan"), "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": "8", "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": True, "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": None, "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": 10**30, "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": [10**30], "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": [1, 2], "n": [1, 2, 3], "k": 1}, "array sizes", None),
        ({"op": "gemm", "m": [], "n": 1, "k": 1}, "m", None),
        ({"op": "gemm", "m": 1, "n": 1, "k": 1, "dtype": "bf-16"}, "dtype", "bf16"),
        ({"op": "gemm", "m": 1, "n": 1, "k": 1, "dtype": 16}, "dtype", None),
        ({"op": "topk", "rows": 4, "cols": 8, "k": 9}, "k", None),
        ({"op": "rmsnorm", "rows": 4, "cols": 8, "pass": "backward"}, "rmsnorm: pass", "bwd"),
        ({"op": "elementwise", "kind": "geluu", "numel": 1}, "kind", "gelu"),
        ({"op": "elementwise", "kind": ["gelu"], "numel": 1}, "kind", None),
        (
            {"op": "attention", "batch": 1, "q_heads": 1, "kv_heads": 1, "q_len": 1, "kv_len": 1}
            | {"head_dim": 1, "causal": "yes"},
            "causal",
            None,
        ),
        (
            {"op": "conv2d", "n": 1, "c_in": 3, "h": 8, "w": 8, "c_out": 4, "kernel": 3}
            | {"groups": 2},
            "groups",
            None,
        ),
        (
            {"op": "conv2d", "n": 1, "c_in": 3, "h": 2, "w": 8, "c_out": 4, "kernel": 3},
            "kernel",
            None,
        ),
    ],
)
def test_bad_operator_says_where_and_what(record, where, nearest):
    with pytest.raises(WorkloadError) as caught:
        op_from_dict(record)
    assert caught.value.where.endswith(where)
    assert caught.value.nearest == nearest
    assert all((caught.value.got, caught.value.accepted, caught.value.repair))


def test_jsonl_names_the_line(tmp_path):
    path = tmp_path / "ops.jsonl"
    good = json.dumps({"op": "gemm", "m": 1, "n": 2, "k": 3})
    path.write_text(f"{good}\n\n{good}\n")
    assert list(ops_from_jsonl(path)) == [Gemm(1, 2, 3)] * 2
    for line in ("{", '{"op": "gemm", "m": NaN, "n": 1, "k": 1}', "[" * 100_000):
        path.write_text(f"{good}\n{line}\n")
        with pytest.raises(WorkloadError, match=r"ops\.jsonl:2"):
            list(ops_from_jsonl(path))
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(WorkloadError, match="UTF-8"):
        list(ops_from_jsonl(path))


def test_missing_and_huge_files_are_refused_unread(tmp_path):
    with pytest.raises(WorkloadError, match="no such file"):
        list(ops_from_jsonl(tmp_path / "absent.jsonl"))
    huge = tmp_path / "huge.jsonl"
    with huge.open("wb") as file:
        file.truncate(2 * 2**30)
    with pytest.raises(WorkloadError, match="at most"):
        list(ops_from_jsonl(huge))


def test_dtype_names():
    assert bytes_per_element("fp4") == 0.5
    assert canonical_dtype("torch.bfloat16") == "bf16"
    assert Gemm(1, 2, 3, dtype="fp8") == Gemm(1, 2, 3, dtype="fp8_e4m3")
    assert [load_precision(word).name for word in ("fp8", "fp8_e4m3", "half")] == [
        "fp8", "fp8", "fp16",
    ]  # fmt: skip
    assert all(width in (0.5, 1, 2, 4, 8) for width in BYTES_PER_ELEMENT.values())
    with pytest.raises(WorkloadError) as caught:
        bytes_per_element("fp17")
    assert caught.value.nearest in {"fp16", "fp4"}


def test_the_page_shows_every_family_as_a_json_line():
    page = Path(__file__).parents[2] / "docs" / "workloads.md"
    lines = page.read_text().partition("```json\n")[2].partition("```")[0].splitlines()
    shown = [op_from_dict(json.loads(line)) for line in lines]
    assert [op.family for op in shown] == [*FAMILIES, "collective"]
