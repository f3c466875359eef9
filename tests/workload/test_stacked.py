import numpy as np

from perfmodel.workload.op import Attention, Gemm, RmsNorm
from perfmodel.workload.stacked import stacked


def test_groups_differ_in_words_and_keep_places():
    ops = [
        Gemm(m=1, n=2, k=3, dtype="bf16"),
        RmsNorm(rows=4, cols=5, dtype="bf16"),
        Gemm(m=6, n=7, k=8, dtype="bf16"),
        Gemm(m=9, n=9, k=9, dtype="fp16"),
    ]
    groups = list(stacked(ops))
    assert len(groups) == 3
    flops = np.zeros(len(ops))
    for places, op in groups:
        flops[places] = op.flops
    assert flops.tolist() == [op.flops for op in ops]


def test_flags_become_boolean_arrays():
    ops = [
        Attention(
            batch=1,
            q_heads=8,
            kv_heads=8,
            q_len=64,
            kv_len=64,
            head_dim=64,
            causal=causal,
            dtype="bf16",
        )
        for causal in (True, False)
    ]
    ((_, op),) = stacked(ops)
    assert op.causal.tolist() == [True, False]


def test_nothing_in_nothing_out():
    assert list(stacked([])) == []
