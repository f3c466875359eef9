from __future__ import annotations

import pytest

from perfmodel.errors import PlanError, WorkloadError
from perfmodel.hardware import load_accelerator, load_cluster
from perfmodel.parallel.inference import infer, kv_cache_bytes
from perfmodel.workload.transformer import load_model, parameters


@pytest.fixture(scope="module")
def h100():
    return load_accelerator("h100-sxm5-80gb")


def test_decoding_reads_the_weights_once_a_step(h100):
    model = load_model("llama-3-8b")
    result = infer(model, h100, 1, 1024, 128)
    least = 2 * parameters(model) / h100.memory_bandwidth
    assert least * 0.9 < result.decode.seconds < 2 * least
    assert result.decode.bound == "memory"
    assert result.prefill.bound == "compute"


def test_times_fit_together(h100):
    result = infer(load_model("llama-3-8b"), h100, 4, 512, 100)
    assert result.ttft_s == result.prefill.seconds
    assert result.e2e_s == pytest.approx(result.ttft_s + 99 * result.tpot_s)
    assert result.decode.seconds == pytest.approx(result.tpot_s, rel=0.02)
    assert result.output_tokens_per_s == pytest.approx(400 / result.e2e_s)
    single = infer(load_model("llama-3-8b"), h100, 4, 512, 1)
    assert single.e2e_s == single.ttft_s
    assert single.tpot_s == 0.0


def test_longer_caches_and_larger_batches_are_slower(h100):
    model = load_model("llama-3-8b")
    times = [infer(model, h100, 8, length, 2).tpot_s for length in (128, 2048, 32768)]
    assert times == sorted(times)
    assert infer(model, h100, 32, 128, 2).tpot_s >= times[0]


def test_tensor_parallelism_splits_a_replica():
    model, cluster = load_model("llama-3-70b"), load_cluster("dgx-h100", nodes=1)
    four, eight = (infer(model, cluster, 8, 1024, 16, tp=tp) for tp in (4, 8))
    assert eight.memory["weights"] == pytest.approx(four.memory["weights"] / 2, rel=0.01)
    assert eight.decode.seconds < four.decode.seconds
    assert any(part.bound == "network" for part in eight.decode.parts)


def test_narrow_weights_are_smaller_and_faster(h100):
    model = load_model("llama-3-8b")
    wide, narrow = (infer(model, h100, 1, 512, 8, precision=p) for p in ("bf16", "fp8"))
    assert narrow.memory["weights"] < 0.65 * wide.memory["weights"]
    assert narrow.decode.seconds < wide.decode.seconds


def _core(result):
    (core,) = (part for part in result.decode.parts if part.name == "attention core")
    return core


def test_a_narrow_cache_is_read_faster(h100):
    model = load_model("llama-3-8b")
    wide, narrow = (
        infer(model, h100, 32, 8192, 8, kv_dtype=dtype) for dtype in ("bf16", "fp8_e4m3")
    )
    assert narrow.memory["kv_cache"] == wide.memory["kv_cache"] / 2
    assert _core(narrow).seconds == pytest.approx(_core(wide).seconds / 2, rel=0.1)
    assert not _core(narrow).calibrated
    assert narrow.prefill.seconds == wide.prefill.seconds
    saved = wide.decode.seconds - narrow.decode.seconds
    assert saved == pytest.approx(_core(wide).seconds - _core(narrow).seconds)
    assert narrow.tpot_s == pytest.approx(narrow.decode.seconds, rel=0.02)
    assert infer(model, h100, 32, 8192, 8, kv_dtype="fp32").tpot_s > wide.tpot_s


def test_short_caches_gain_little_whatever_they_hold(h100):
    model = load_model("llama-3-8b")
    wide, narrow = (infer(model, h100, 1, 16, 4, kv_dtype=dtype) for dtype in ("bf16", "int8"))
    assert narrow.decode.seconds == pytest.approx(wide.decode.seconds, rel=0.02)
    with pytest.raises(WorkloadError, match="kv_dtype"):
        infer(model, h100, 1, 16, 4, kv_dtype="fp9")
    short, long = (infer(model, h100, 1, 16, 4, kv_dtype=one) for one in ("fp8", "fp8_e4m3"))
    assert short.to_dict() == long.to_dict()


def test_caches():
    # two tensors x 8 heads x 128 x 32 layers x 2 bytes
    assert kv_cache_bytes(load_model("llama-3-8b"), 1, 1) == 131072
    # DeepSeek-V2: (512 + 64) x 60 layers x 2 bytes, whole on every device
    assert kv_cache_bytes(load_model("deepseek-v2"), 1, 1, tp=8) == 69120
    assert kv_cache_bytes(load_model("llama-3-8b"), 2, 10, tp=4) == 20 * 131072 / 4


def test_verdict_and_json(h100):
    result = infer(load_model("llama-3-70b"), h100, 1, 128, 8)
    assert not result.fits
    assert "does not fit" in result.verdict
    record = result.to_dict()
    for key in ("prefill_s", "decode_step_s", "ttft_s", "tpot_s", "e2e_s", "memory"):
        assert key in record
    assert record["peak_memory_bytes"] == pytest.approx(sum(record["memory"].values()))


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"prompt_len": 1.5}, "prompt_len"),
        ({"output_len": -1}, "output_len"),
        ({"tp": 2}, "tp"),
    ],
)
def test_counts_must_make_sense(h100, values, where):
    arguments = {"batch_size": 1, "prompt_len": 16, "output_len": 4} | values
    with pytest.raises(PlanError) as error:
        infer(load_model("llama-3-8b"), h100, **arguments)
    assert where in error.value.where
