"""Which chip a row is said to be of, and which words a row needs."""

import csv
from pathlib import Path

import pytest

from perfmodel.calibrate.labels import check_table, check_words, same_chip
from perfmodel.calibrate.measurements import load_measurements
from perfmodel.errors import CalibrationError
from tests.calibrate.conftest import seal


@pytest.mark.parametrize(
    ("said", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA H200", "h200-sxm-141gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm4-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("h100-sxm5-80gb", "h100-sxm5-80gb"),
        ("NVIDIA H100 80GB HBM3", "my h100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "geforce rtx 4090"),
        ("Tesla T4", "t4-16gb"),
        ("NVIDIA L40S", "l40s-48gb"),
        ("AMD Instinct MI250X", "mi250x"),
    ],
)
def test_a_driver_and_a_description_name_the_same_chip(said, device):
    assert same_chip(said, device)


@pytest.mark.parametrize(
    ("said", "device"),
    [
        ("NVIDIA H100 PCIe", "h100-sxm5-80gb"),
        ("NVIDIA H100 NVL", "h100-sxm5-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-sxm4-80gb"),
        ("NVIDIA H200", "h100-sxm5-80gb"),
        ("device", "h100-sxm5-80gb"),
        ("NVIDIA L40", "l4"),
        ("NVIDIA GeForce RTX 4080 SUPER", "geforce rtx 4080"),
        ("NVIDIA L4", "t4"),
        ("NVIDIA V100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA X200 HBM3", "my hbm3"),
        ("", "h100-sxm5-80gb"),
    ],
)
def test_a_sibling_is_another_chip(said, device):
    assert not same_chip(said, device)


@pytest.mark.parametrize(
    ("raw", "missing"),
    [
        ({"op": "softmax", "rows": 8, "cols": 8}, "dtype"),
        ({"op": "fft", "n": 8, "batch": 1}, "kind"),
        ({"op": "conv2d", "dtype": "bf16", "layout": "nhwc"}, "pass"),
        ({"op": "attention", "dtype": "bf16", "q_len": 1}, "causal"),
        ({"op": "conv3d", "dtype": "bf16", "layout": "nchw", "pass": "fwd"}, "stride"),
        ({"op": "chain", "kind": "silu_mul"}, "dtype"),
        ({"op": "memcpy", "kind": "h2d", "bytes": 8}, "pinned"),
        ({"op": "spmm", "dtype": "fp32", "density": 0.1}, "kind"),
    ],
)
def test_a_word_that_was_lost_is_missed(raw, missing):
    with pytest.raises(KeyError, match=missing):
        check_words("x:2", raw)
    check_words("x:2", {"op": "adamw", "numel": 8})
    with pytest.raises(CalibrationError, match="Nearest: softmax"):
        check_words("x:2", {"op": "sofmax"})


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"op": "permute", "kind": "toss", "dtype": "bf16"}, "gather"),
        ({"op": "memcpy", "kind": "x2x", "bytes": 8, "pinned": True}, "h2d"),
        ({"op": "chain", "kind": "3.5", "dtype": "bf16"}, "chain"),
        ({"op": "spmm", "kind": "csr", "dtype": "fp32", "density": 0}, "share"),
    ],
)
def test_words_that_no_operator_checks_are_checked(raw, word):
    with pytest.raises(CalibrationError, match=word):
        check_words("x:2", raw)


BACKWARD = {"op": "attention", "pass": "bwd", "q_len": 8, "causal": True, "dtype": "bf16"}
DEPTHWISE = {"op": "conv2d", "pass": "fwd", "groups": 8, "c_in": 8}


@pytest.mark.parametrize(
    ("table", "raw", "lost"),
    [
        ("attention_bwd-2", BACKWARD, "pass"),
        ("conv2d_depthwise", DEPTHWISE, "groups"),
        ("batched_gemm", {"op": "gemm", "batch": 4}, "batch"),
    ],
)
def test_a_table_holds_what_its_name_says(table, raw, lost):
    check_table(table, "x:2", raw)
    check_table("my own", "x:2", raw)
    less = {name: value for name, value in raw.items() if name != lost}
    less |= {"groups": 1} if lost == "groups" else {}
    with pytest.raises(CalibrationError, match=f"rows of {table.removesuffix('-2')}"):
        check_table(table, "x:2", less)
    with pytest.raises(CalibrationError, match="rows of softmax"):
        check_table("softmax", "x:2", raw)


@pytest.mark.parametrize(
    ("op", "cells"),
    [
        ("memcpy", {"kind": "d2d"}),
        ("topk", {"tokens": "8", "experts": "8", "dtype": "fp32"}),
        ("permute", {"tokens": "8", "kind": "gather", "dtype": "bf16", "top_k": "2"}),
        ("fft", {"kind": "fft", "batch": "8"}),
    ],
)
def test_a_column_that_was_lost_is_told(tmp_path: Path, op, cells):
    row = {"op": op, "device": "NVIDIA H100 80GB HBM3", "latency_us": "5.0"} | cells
    path = tmp_path / f"{op}.csv"
    with path.open("w", newline="") as handle:
        table = csv.DictWriter(handle, row, lineterminator="\n")
        table.writeheader()
        table.writerow(row)
    seal(path)
    with pytest.raises(CalibrationError, match="without") as caught:
        load_measurements(tmp_path, "h100-sxm5-80gb")
    assert caught.value.where == f"{op}.csv:2"


def test_a_file_of_another_editor_is_read(tmp_path: Path):
    path = tmp_path / "softmax.csv"
    path.write_bytes(
        "\ufeffop,dtype,rows,cols,device,latency_us\r\n"
        "softmax,bf16,1024,1024,NVIDIA H100 80GB HBM3,5.0\r\n".encode()
    )
    seal(path)
    (row,) = load_measurements(tmp_path, "h100-sxm5-80gb").rows
    assert row.record == {"op": "softmax", "dtype": "bf16", "rows": 1024, "cols": 1024}
