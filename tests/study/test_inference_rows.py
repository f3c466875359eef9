"""Measured answers of decoders against predictions: what a row asks, and why one is refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.hardware import Cluster
from perfmodel.study.inference_case import INFERENCE, InferenceCase, express
from perfmodel.study.inference_report import score_inference
from perfmodel.study.training_csv import read_rows

CHIP = "h100-sxm5-80gb"
USUAL = {
    "row_id": "a", "model": "llama-3-8b", "chip": CHIP, "phase": "prefill+decode", "batch": 8,
    "input_len": 256, "output_len": 16, "tp": 1, "weight_dtype": "bf16", "kv_dtype": "bf16",
    "software": "vLLM",
}  # fmt: skip


def table(path, *rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(n, "")) for n in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def case(tmp_path, **changes):
    (row,) = read_rows(table(tmp_path / "t.csv", USUAL | changes), INFERENCE)
    return express(row)


def test_what_infer_predicts_is_what_a_row_is_scored_by(tmp_path):
    answer = pm.infer("llama-3-8b", CHIP, 8, 256, 16)
    long = pm.infer("llama-3-8b", CHIP, 8, 256, 17)
    rows = (
        {"latency_ms": answer.e2e_s * 1e3},
        {"phase": "prefill", "ttft_ms": answer.ttft_s * 2e3},
        {"phase": "prefill", "output_len": 0, "latency_ms": answer.ttft_s * 1e3},
        {"phase": "decode", "tpot_ms": long.tpot_s * 5e2},
        {"phase": "decode", "latency_ms": long.tpot_s * 16e3},
        {"tok_s_total": 8 * 16 / answer.e2e_s},
        {"tpot_ms": answer.tpot_s * 1e3},
        {"phase": "prefill", "tok_s_total": 8 * 256 / answer.ttft_s},
        {"phase": "", "latency_ms": answer.e2e_s * 1e3},
        {},
    )
    named = [USUAL | {"row_id": str(i)} | row for i, row in enumerate(rows)]
    report = score_inference(table(tmp_path / "t.csv", *named))
    found = [record.ratio for record in report.records]
    assert found[:-1] == pytest.approx([1, 0.5, 1, 2, 1, 1, 1, 1, 1])
    assert found[-1] is None
    assert report.records[-1].predicted_s == pytest.approx(answer.e2e_s)
    quantities = [record.quantity for record in report.records]
    assert quantities[:4] == ["e2e_s", "ttft_s", "ttft_s", "tpot_s"]
    first = report.records[1]
    assert first.low_s <= first.predicted_s <= first.high_s
    assert first.fits
    assert report.by(lambda record: record.quantity)["e2e_s"].mape < 1e-9
    measured, predicted = report.scatter()
    assert {name: times.size for name, times in measured.items()} == {
        "e2e_s": 3, "ttft_s": 3, "tpot_s": 3
    }  # fmt: skip
    assert np.all(predicted["e2e_s"] > 0)
    assert "10 rows, 9 compared" in report.markdown()


def test_a_row_that_leaves_things_out_says_what_was_assumed(tmp_path):
    short = case(tmp_path, weight_dtype="", kv_dtype="", software="", tp="")
    assert set(short.assumed) >= {"weight_dtype", "kv_dtype", "software"}
    assert short.asked["precision"] == short.asked["kv_dtype"] == "bf16"
    assert case(tmp_path).assumed == ("layers", "hidden", "vocab")
    narrow = case(tmp_path, weight_dtype="fp8", kv_dtype="fp8")
    assert (narrow.asked["precision"], narrow.asked["kv_dtype"]) == ("fp8", "fp8_e4m3")
    assert case(tmp_path, weight_dtype="fp8", kv_dtype="").asked["kv_dtype"] == "bf16"
    assert case(tmp_path, software="PyTorch eager").asked["stack"] == "torch-eager"
    empty = case(tmp_path, phase="decode", input_len=0)
    assert (empty.asked["prompt_len"], empty.asked["output_len"]) == (1, 17)
    assert case(tmp_path, input_len="2k").asked["prompt_len"] == 2048


def test_a_replica_of_several_devices_is_a_cluster(tmp_path):
    spread = case(tmp_path, tp=4, chips_total=4)
    assert isinstance(spread.device, Cluster)
    assert spread.device.devices == 4


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"phase": "serving"}, "phase"), ({"phase": "encode"}, "phase"),
        ({"concurrency": 32}, "concurrency"), ({"beam": 4}, "beam"), ({"pp": 2}, "pp"),
        ({"dp": 2}, "dp"), ({"ep": 8}, "ep"), ({"batch": ""}, "batch"), ({"batch": 0}, "batch"),
        ({"batch": "many"}, "batch"), ({"batch": -1}, "batch"), ({"input_len": ""}, "input_len"),
        ({"input_len": 0}, "input_len"), ({"output_len": 0}, "output_len"),
        ({"model": "bert-large"}, "model"), ({"model": "nobody"}, "model"),
        ({"chip": "h1"}, "chip"), ({"chip": ""}, "chip"),
        ({"tp": 2, "chips_total": 8}, "chips_total"), ({"weight_dtype": "q4_k_m"}, "weight_dtype"),
        ({"weight_dtype": "fp8/int8"}, "weight_dtype"), ({"kv_dtype": "fp4"}, "kv_dtype"),
        ({"weight_dtype": "int8", "act_dtype": "bf16"}, "act_dtype"),
        ({"latency_ms": "nan%"}, "latency_ms"), ({"tp": 3, "model": "llama-3-8b"}, "tp"),
        ({"chip": "a100-sxm4-80gb", "weight_dtype": "fp8"}, "peak"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_asked_is_refused_and_hides_no_other(tmp_path, changes, column):
    path = table(tmp_path / "t.csv", USUAL | changes, USUAL | {"row_id": "b", "latency_ms": 100})
    bad, good = score_inference(path).records
    assert column in bad.refused.split(": got")[0]
    assert all(bad.error[part] for part in ("where", "got", "accepted", "repair"))
    assert bad.predicted_s is None
    assert good.ratio is not None


def test_what_is_no_table_is_told(tmp_path):
    with pytest.raises(WorkloadError, match="no such file"):
        score_inference(tmp_path / "gone.csv")
    (tmp_path / "t.csv").write_text("model,chip\nllama-3-8b,h100\n")
    with pytest.raises(WorkloadError, match="no column batch"):
        score_inference(tmp_path / "t.csv")


CELLS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)


@settings(max_examples=150, deadline=None)
@given(column=st.sampled_from(INFERENCE.all), cell=CELLS)
def test_any_cell_ends_in_a_case_or_a_refusal(column, cell, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    cell = cell.replace('"', "").replace(",", "")
    (row,) = read_rows(table(path, USUAL | {column: cell}), INFERENCE)
    with contextlib.suppress(PerfmodelError):
        assert isinstance(express(row), InferenceCase)
