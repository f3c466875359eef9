"""Names of the kernels of products, and the decision trees that are grown from them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from perfmodel.cost.choice import Rule
from perfmodel.cost.tasks import odd_rows, tasks_of
from perfmodel.cost.walk import tree_of
from perfmodel.workload.op import op_from_dict
from validate import products


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        (
            "nvjet_sm90_tst_192x128_64x5_1x2_h_bz_coopB_NTT 384 221420 168",
            (0.0, 192.0, 128.0, 64.0, 5.0, 1.0, 2.0, 2.0, 0.0, 0.0),
        ),
        (
            "sm80_xmma_gemm_f32f32_f32f32_f32_nt_n_tilesize32x64x8_stage3_warpsize1x2x1_ffma "
            "64 6144 90",
            (1.0, 32.0, 64.0, 8.0, 3.0, 1.0, 1.0, 0.0, 0.0, 0.0),
        ),
        (
            "_ZN7cutlass7Kernel2I52cutlass_80_tensorop_s1688gemm_128x64_32x3_tn_align1EE 128 1 2",
            (3.0, 128.0, 64.0, 32.0, 3.0, 1.0, 1.0, 0.0, 0.0, 9.0),
        ),
        (
            "cutlass_75_tensorop_bf16_s1688gemm_bf16_128x128_tn_align1 128 32768 254",
            (3.0, 128.0, 128.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 9.0),
        ),
        (
            "_Z16gemmSN_TN_kernelIfLi128ELi16ELi2ELi4ELi4ELi4ELb1E30cublasGemv 128 6144 89",
            (5.0, 8.0, 4.0, 0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 2.0),
        ),
        (
            "_Z16gemmSN_NN_kernelIfLi256ELi4ELi2ELi8ELi5ELi4ELb0E30cublasGemv 256 15360 64",
            (5.0, 64.0, 5.0, 0.0, 8.0, 1.0, 1.0, 0.0, 0.0, 1.0),
        ),
        (
            "_ZN8internal5gemvx6kernelIiiffffLb0ELb1ELb1ELb0ELi7ELb0E18cublas 128 528 159",
            (6.0, 4.0, 1.0, 0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 17.0),
        ),
        (
            "_ZN8internal5gemvx6kernelIii6__halfS2_S2_fLb1ELb1ELb0ELb0ELi7ELb0E18 128 1024 56",
            (6.0, 32.0, 1.0, 0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 9.0),
        ),
        (
            "_Z17gemv2T_kernel_valIiiffffLi128ELi16ELi4ELi4ELb0ELb0E18cublasGemv 128 2560 65",
            (6.0, 8.0, 1.0, 0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 2.0),
        ),
        (
            "_Z13gemv2N_kernelIiiffffLi128ELi2ELi4ELi4ELi1ELb0E18cublasGemv 128 2560 48",
            (6.0, 64.0, 1.0, 0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 3.0),
        ),
        (
            "_Z14gemvNSP_kernelIffffLi1ELi32ELi4ELi1024ELb0E18cublasGemv 256 1024 45",
            (6.0, 8.0, 1.0, 0.0, 8.0, 1.0, 1.0, 0.0, 0.0, 4.0),
        ),
        (
            "_Z13gemmk1_kernelIifLi256ELi5ELb1ELb0ELb0ELb0E30cublasGemv 256 1024 22",
            (6.0, 32.0, 32.0, 0.0, 8.0, 1.0, 1.0, 0.0, 0.0, 5.0),
        ),
        (
            "_Z20magma_sgemmEx_kernelIfffLb0ELb0ELi6ELi3ELi5ELi3ELi3EEviii13Batched 64 3328 72",
            (7.0, 64.0, 32.0, 8.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0),
        ),
        (
            "_Z18sgemm_largek_lds64ILb1ELb0ELi6ELi3ELi4ELi5ELi2ELi66EEvPfPKf 128 4868 40",
            (8.0, 64.0, 8.0, 0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 1.0),
        ),
        (
            "_Z10dot_kernelIfLi128ELi0E15cublasDotParamsI30cublasGemv 128 512 28",
            (6.0, 0.0, 0.0, 0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 0.0),
        ),
    ],
)
def test_a_name_tells_maker_tile_and_cluster(name, kernel):
    op = {"op": "gemm", "m": 1, "n": 77, "k": 128}
    launches = [("memset 0 0 0", (1, 1, 1)), ("_Z11scal_kernelIff 256 0 18", (1, 1, 1))]
    assert products.kernel_of([*launches, (name, (3, 4, 5))], op) == (kernel, (3, 4, 5))


def test_parts_are_blocks_beyond_the_tiles():
    op = {"op": "gemm", "m": 64, "n": 128, "k": 4096}
    split = (0.0, 64.0, 32.0, 64.0, 4.0, 1.0, 1.0, 0.0, 1.0, 1.0)
    assert products.parts_of(split, (2, 8, 1), op) == 4.0
    assert products.parts_of((*split[:9], 0.0), (2, 8, 1), op) == 1.0
    assert products.parts_of((1.0, *split[1:]), (2, 2, 6), op) == 6.0


@pytest.mark.parametrize(
    ("op", "trans", "odd"),
    [
        ({"m": 5, "n": 64, "k": 128, "dtype": "bf16"}, "tn", False),
        ({"m": 5, "n": 60, "k": 128, "dtype": "bf16"}, "tn", True),
        ({"m": 5, "n": 60, "k": 128, "dtype": "fp32"}, "nn", False),
        ({"m": 5, "n": 60, "k": 127, "dtype": "fp32"}, "nt", True),
        ({"m": 8, "n": 60, "k": 127, "dtype": "fp32"}, "nt", False),
        ({"m": 8, "n": 1, "k": 64, "dtype": "tf32"}, "tn", False),
    ],
)
def test_rows_beside_16_bytes_make_a_product_odd(op, trans, odd):
    sizes = {name: np.array([float(op.get(name, 1))]) for name in ("m", "n", "k", "batch")}
    assert odd_rows(sizes, {"trans": trans}, op["dtype"]) == odd
    described = {"op": "gemm", "trans": trans, **op}
    _, (task,) = tasks_of(op_from_dict(described))
    assert ("odd" in task.kernel) == odd


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="no scikit-learn")
@pytest.mark.parametrize("batches", [False, True])
def test_a_grown_tree_names_what_it_saw(batches):
    rng = np.random.default_rng(0)
    columns = rng.uniform(0, 10, (400, 4)).astype(np.float32)
    columns[:, 3] = batches * rng.integers(0, 2, 400) + 1.0
    few, many = (5.0, *[0.0] * 9), (1.0, 64.0, 64.0, 8.0, 3.0, 1.0, 1.0, 0.0, 1.0, 0.0)
    narrow = (columns[:, 1] < 4.0) == (columns[:, 3] < 2.0)
    table = products.Table(
        columns, [few if one else many for one in narrow], np.where(narrow, 1.0, 8.0)
    )
    arrays = products.grown(table, 1)
    rule = Rule(tree_of(arrays), *(arrays[name] for name in ("kernel", "parts", "kernels")))
    kernels, parts = rule(columns)
    assert [tuple(one) for one in kernels] == table.kernels
    assert np.allclose(parts, table.parts)


def test_lists_are_named_with_their_chip(capsys):
    parser = products.arguments("What it does.\n\nHow.")
    args = parser.parse_args(["a-chip=lists/a=b.csv.gz", "other=c.csv.gz", "--check"])
    assert args.lists == [(Path("lists/a=b.csv.gz"), "a-chip"), (Path("c.csv.gz"), "other")]
    assert args.check
    assert args.out is None
    for text in ("a.csv.gz", "=a.csv.gz", "chip="):
        with pytest.raises(SystemExit):
            parser.parse_args([text])
        assert "CHIP=LIST.csv.gz" in capsys.readouterr().err
