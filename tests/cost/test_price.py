"""Prices of every operator family: shapes, bounds, intervals, monotonicity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.cost import (
    efficiency_of,
    estimate,
    load_coefficients,
    load_efficiency,
    price,
)
from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import (
    AdamW,
    Attention,
    Collective,
    Conv2d,
    Embedding,
    Gemm,
    RmsNorm,
    Sgd,
    Softmax,
    TopK,
    op_from_dict,
)

H100 = load_accelerator("h100-sxm5-80gb")
PLAIN = load_coefficients("hopper")
RECORDS = [
    {"op": "gemm", "m": 4096, "n": 4096, "k": 4096, "dtype": "bf16"},
    {"op": "gemm", "m": 17, "n": 4096, "k": 512, "dtype": "fp8_e4m3"},
    {"op": "gemm", "m": 128, "n": 128, "k": 64, "batch": 96, "dtype": "fp32"},
    {"op": "grouped_gemm", "groups": 8, "m": 300, "n": 4096, "k": 2048, "dtype": "bf16"},
    {"op": "attention", "batch": 2, "q_heads": 32, "kv_heads": 8, "q_len": 2048, "kv_len": 2048,
     "head_dim": 128, "causal": True, "dtype": "bf16"},
    {"op": "attention", "batch": 2, "q_heads": 32, "kv_heads": 8, "q_len": 2048, "kv_len": 2048,
     "head_dim": 128, "causal": True, "pass": "bwd", "dtype": "bf16"},
    {"op": "attention", "batch": 64, "q_heads": 32, "kv_heads": 8, "q_len": 1, "kv_len": 4096,
     "head_dim": 128, "causal": False, "dtype": "bf16"},
    *(
        {"op": "conv2d", "n": 8, "c_in": 64, "h": 28, "w": 28, "c_out": 64, "kernel": 3,
         "stride": 1, "padding": 1, "groups": groups, "layout": layout, "pass": direction,
         "dtype": dtype}
        for groups in (1, 4, 64)
        for layout in ("nhwc", "nchw")
        for direction in ("fwd", "dgrad", "wgrad")
        for dtype in ("bf16", "fp32", "tf32")
    ),
    {"op": "conv3d", "n": 2, "c_in": 16, "d": 8, "h": 16, "w": 16, "c_out": 32, "kernel": 3,
     "padding": 1, "dtype": "bf16"},
    {"op": "rmsnorm", "rows": 4096, "cols": 4096, "dtype": "bf16"},
    {"op": "layernorm", "rows": 4096, "cols": 4096, "dtype": "bf16", "pass": "bwd"},
    {"op": "softmax", "rows": 1000, "cols": 1000, "dtype": "fp32"},
    {"op": "elementwise", "kind": "add", "numel": 1 << 24, "dtype": "bf16"},
    {"op": "fused", "chain": "x", "numel": 1 << 20, "read": 4, "written": 2},
    {"op": "embedding", "tokens": 4096, "vocab": 32000, "dim": 4096, "dtype": "bf16"},
    {"op": "embedding", "tokens": 4096, "vocab": 32000, "dim": 4096, "pass": "bwd"},
    {"op": "cross_entropy", "tokens": 4096, "vocab": 32000, "dtype": "bf16"},
    {"op": "cross_entropy", "tokens": 4096, "vocab": 32000, "pass": "bwd"},
    {"op": "adamw", "numel": 10**8},
    {"op": "sgd", "numel": 10**8},
    {"op": "rope", "tokens": 4096, "heads": 32, "head_dim": 128},
    {"op": "topk", "rows": 4096, "cols": 64, "k": 6},
    {"op": "permute", "rows": 4096, "cols": 4096},
    {"op": "copy", "bytes": 10**8},
    {"op": "copy", "bytes": 10**8, "route": "host_to_device"},
    {"op": "fft", "batch": 100, "n": 1024},
    {"op": "fft", "batch": 100, "n": 1000, "kind": "rfft"},
    {"op": "fft", "batch": 8, "n": 255, "rows": 37, "kind": "irfft", "scaled": True},
    {"op": "scatter_add", "rows": 10, "cols": 64, "targets": 4},
    {"op": "scatter_add", "rows": 10000, "cols": 64, "targets": 4, "dtype": "bf16"},
    {"op": "scatter_add", "rows": 10000, "cols": 64, "targets": 400, "kind": "scatter_add"},
    {"op": "recurrent", "steps": 20, "batch": 8, "width": 64, "hidden": 128, "kind": "gru"},
    {"op": "recurrent", "steps": 20, "batch": 8, "width": 64, "hidden": 512, "layers": 2,
     "dtype": "bf16", "pass": "bwd"},
    {"op": "spmm", "m": 1024, "n": 128, "k": 1024, "nnz": 10000},
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r['op']}-{r.get('pass', 'fwd')}")
@pytest.mark.parametrize("efficiency", [PLAIN, None], ids=["datasheet", "shipped"])
def test_every_family_has_a_price_inside_its_bounds(record, efficiency):
    answer = price(op_from_dict(record), H100, efficiency=efficiency)
    assert answer.seconds.shape == ()
    values = [float(v) for v in (answer.lower, answer.low, answer.seconds, answer.high)]
    assert np.isfinite(values).all()
    assert values[2] > 0
    assert values == sorted(values)
    assert str(answer.bound) in ("compute", "memory", "launch", "latency")


def test_arrays_are_priced_like_their_elements():
    m, n = np.array([1, 64, 4097]), np.array([[128], [4096]])
    whole = price(Gemm(m, n, 512), H100)
    assert whole.seconds.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            one = price(Gemm(int(m[j]), int(n[i, 0]), 512), H100)
            assert whole.seconds[i, j] == pytest.approx(float(one.seconds), rel=1e-5)
            assert whole.calibrated[i, j] == one.calibrated


def test_kernels_of_one_object_are_told_apart():
    q = np.array([1, 512])
    both = price(Attention(4, 8, 8, q, 512, 64, causal=False), H100, efficiency=PLAIN)
    one = price(Attention(4, 8, 8, 1, 512, 64, causal=False), H100, efficiency=PLAIN)
    assert both.seconds[0] == pytest.approx(float(one.seconds))
    groups = np.array([1, 64])
    conv = price(Conv2d(8, 64, 28, 28, 64, 3, 1, 1, groups), H100, efficiency=PLAIN)
    assert conv.seconds.shape == (2,)


def test_few_tokens_send_no_table_through_one_block():
    tokens = np.array([1, 16, 4096])
    few = price(Embedding(tokens, 32000, 1024, direction="bwd"), H100).seconds
    assert np.all(np.diff(few) >= 0)
    assert few[-1] < 1.5 * few[0]  # the dense gradient is written whatever the tokens


def test_one_chosen_value_is_not_sorted():
    one, two = price(TopK(64, 128, np.array([1, 2])), H100, efficiency=PLAIN).seconds
    assert one < 0.7 * two


def test_lower_bound_is_the_roofline():
    big = price(Gemm(8192, 8192, 8192), H100)
    assert float(big.lower) == pytest.approx(2 * 8192**3 / H100.matrix_peak("bf16"))
    stream = price(RmsNorm(65536, 8192), H100)
    moved = 2 * 2 * 65536 * 8192 + 2 * 8192
    kept = H100.l2_capacity
    assert float(stream.lower) == pytest.approx((moved - kept) / H100.memory_bandwidth, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 8192), n=st.integers(1, 8192), k=st.integers(1, 8192),
    factor=st.floats(1.1, 4.0),
)  # fmt: skip
def test_more_bandwidth_or_peak_is_never_slower(m, n, k, factor):
    """The mechanism is monotone in what the datasheet says."""
    better = H100.model_copy(
        update={
            "memory": H100.memory.model_copy(update={"bandwidth": H100.memory.bandwidth * factor})
        }
    )
    op = Gemm(m, n, k)
    assert price(op, better, efficiency=PLAIN).seconds <= price(
        op, H100, efficiency=PLAIN
    ).seconds * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 100000), cols=st.integers(8, 16384))
def test_more_bytes_are_never_faster(rows, cols):
    one = price(RmsNorm(rows, cols), H100, efficiency=PLAIN)
    two = price(RmsNorm(2 * rows, cols), H100, efficiency=PLAIN)
    assert two.seconds >= one.seconds * (1 - 1e-9)


def test_a_chip_without_measurements_is_priced_and_says_so():
    for name in ("tpu-v4", "mi250x", "v100-sxm2-16gb", "b200-sxm-180gb"):
        chip = load_accelerator(name)
        dtype = "fp16" if name.startswith("v100") else "bf16"
        answer = price(Gemm(4096, 4096, 4096, dtype=dtype), chip)
        assert not answer.calibrated
        assert answer.high > 1.1 * answer.seconds


@pytest.mark.parametrize("chip", ["tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e"])
def test_rows_of_a_systolic_chip_wait_for_memory_not_for_blocks_of_threads(chip):
    answer = price(RmsNorm(32768, 4096), load_accelerator(chip))
    assert answer.bound == "memory"
    assert answer.seconds < 2.0 * answer.lower
    routed = price(TopK(65536, 128, 8), load_accelerator(chip))
    assert routed.seconds < 10.0 * routed.lower  # 500 times, with a thread a value
    for optimizer in (AdamW(10**9), Sgd(10**9)):
        answer = price(optimizer, load_accelerator(chip))
        assert answer.seconds < 1.5 * answer.lower


def test_a_dtype_that_the_chip_lacks_is_an_error():
    with pytest.raises(PerfmodelError, match="fp8"):
        price(Gemm(64, 64, 64, dtype="fp8_e4m3"), load_accelerator("a100-sxm4-80gb"))


def test_a_collective_is_refused():
    with pytest.raises(WorkloadError, match="network"):
        price(Collective("all_reduce", 1024, 8), H100)


def test_estimate_shows_the_three_steps():
    tree = estimate(Gemm(4096, 4096, 4096), H100)
    assert [part.name for part in tree.parts] == ["bound", "mechanism", "correction"]
    assert tree.seconds == pytest.approx(float(price(Gemm(4096, 4096, 4096), H100).seconds))
    assert "tiles and waves" in tree.explain()
    of_h100 = efficiency_of(H100).of("gemm-half")
    assert f"compute_efficiency {of_h100['compute_efficiency']:.4g}" in tree.explain()
    assert {"measurements/h100-sxm5-80gb", "nvidia-h100-datasheet-2023"} <= set(tree.citations)
    with pytest.raises(WorkloadError, match="single"):
        estimate(Gemm(np.array([1, 2]), 4, 4), H100)


@pytest.mark.parametrize(
    ("op", "chip", "file"),
    [
        (Gemm(4096, 4096, 4096, dtype="fp32"), "l4-24gb", "neusight-2025"),
        (RmsNorm(64, 4096), "l4-24gb", "efficiency/default.toml"),
        (RmsNorm(64, 4096, direction="bwd"), "h100-sxm5-80gb", "efficiency/hopper.toml"),
        (Softmax(64, 4096, direction="bwd"), "h100-sxm5-80gb", "efficiency/default.toml"),
    ],
)
def test_what_nobody_measured_says_where_its_coefficients_stand(op, chip, file):
    tree = estimate(op, load_accelerator(chip))
    assert file in tree.explain().splitlines()[2]
    assert file in tree.citations
    assert any("datasheet" in key or "whitepaper" in key for key in tree.citations)


def test_efficiency_falls_back_from_chip_to_sibling_to_architecture():
    own = load_efficiency("h100-sxm5-80gb", "hopper", measured=False)
    assert own.name == "hopper"
    assert not own.fitted
    unknown = load_efficiency("chip-x", "architecture-x")
    assert unknown.name == "default"
    assert unknown.of("gemm-half")["floor_seconds"] > 0


def _whatif(path, *lines):
    sources = "".join(f'"{line.split(" =")[0]}" = "what-if"\n' for line in lines)
    text = "\n".join(('extends = "h100-sxm5-80gb"', 'name = "What if"', *lines))
    path.write_text(f"{text}\n[sources]\n{sources}")
    return load_accelerator(path)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_chip_of_another_name_is_priced_by_what_it_is_like(tmp_path, layout):
    words = {"op": "conv2d", "c_in": 128, "c_out": 128, "h": 28, "w": 28, "kernel": 3}
    op = op_from_dict(words | {"n": [8, 64], "padding": 1, "dtype": "fp32", "layout": layout})
    same = _whatif(tmp_path / "a.toml")
    np.testing.assert_array_equal(price(op, same).seconds, price(op, H100).seconds)
    assert not price(op, same).calibrated.any()
    assert efficiency_of(same).name == "h100-sxm5-80gb"
    faster = _whatif(tmp_path / "b.toml", 'memory.bandwidth = "4.8 TB/s"')
    assert efficiency_of(faster).name == "h100-sxm5-80gb"
    assert efficiency_of(load_accelerator("h200-sxm-141gb")).name == "h200-sxm-141gb"


def test_half_the_units_take_twice_as_long(tmp_path):
    op = Gemm(8192, 8192, 8192)
    half = price(op, _whatif(tmp_path / "a.toml", "units = 66")).seconds
    slow = price(op, _whatif(tmp_path / "b.toml", 'clock.boost = "990 MHz"')).seconds
    # Not quite twice: an H100 at its full rate is held back by its power.
    for seconds in (half, slow):
        assert 1.5 < seconds / price(op, H100).seconds < 2.1


def test_a_chip_described_otherwise_is_not_calibrated_by_its_name(tmp_path):
    op = op_from_dict({"op": "elementwise", "kind": "add", "numel": 2**26})
    own = tmp_path / "own.toml"

    def described(line, source=""):
        head = 'extends = "h100-sxm5-80gb"\nname = "H100-SXM5-80GB"\n'
        own.write_text(f'{head}{line}\n[sources]\n{source or line.split(" =")[0]} = "what-if"\n')
        return price(op, load_accelerator(own))

    measured = price(op, H100)
    assert measured.calibrated
    same = described('memory.capacity = "96 GiB"', '"memory.capacity"')
    assert same.calibrated
    assert same.seconds == measured.seconds
    for line in ('memory.bandwidth = "5 TB/s"', 'clock.boost = "1755 MHz"', "units = 114"):
        other = described(line, f'"{line.split(" =")[0]}"')
        assert not other.calibrated
        assert other.high / other.low > measured.high / measured.low


def test_keys_behind_a_mask_from_the_first_one_cost_nothing():
    def cost(keys, **words):
        return price(Attention(4, 8, 8, 512, keys, 64, **words), H100, efficiency=PLAIN).seconds

    assert cost(4096, aligned="first") == cost(512)
    assert cost(4096) > 2 * cost(4096, aligned="first")
    assert cost(128, causal=False) >= cost(128, aligned="first") > cost(128)
