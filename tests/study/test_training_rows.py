"""Scoring a table of measured training steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.study.training_case import TrainingCase, express
from perfmodel.study.training_convnet import ConvnetCase
from perfmodel.study.training_csv import TRAINING, Row, read_rows
from perfmodel.study.training_rows import Refused, published_path, score_training
from perfmodel.workload.transformer import hardware_flops, model_flops

PUBLISHED = {row.row_id: row for row in read_rows(published_path())}
SOME = ("T0023", "T0032", "T0097", "T0316", "T0512", "T0529", "T0651", "T0820", "T0880", "T0938",
        "T1050", "T1149", "T1094", "T1241", "T1397", "T0811")  # fmt: skip


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def one(tmp_path: Path, **cells: object) -> Row:
    """A row of a table with these columns."""
    known: dict[str, object] = {
        "row_id": "u1",
        "model": "llama-3-8b",
        "chip": "H100-SXM5-80GB",
        "chips_total": 8,
        "chips_per_node": 8,
        "seq_len": 4096,
        "global_batch": 64,
        "micro_batch": 1,
        "tp": 1,
        "pp": 1,
        "zero_fsdp": "FSDP",
        "recompute": "full",
        "dtype": "bf16",
    } | cells
    text = ",".join(known) + "\n" + ",".join(f'"{value}"' for value in known.values()) + "\n"
    return read_rows(table(tmp_path / "one.csv", text))[0]


def case(row: Row) -> TrainingCase:
    found = express(row)
    assert isinstance(found, TrainingCase), getattr(found, "error", found)
    return found


def refusal(row: Row) -> PerfmodelError:
    found = express(row)
    assert isinstance(found, Refused)
    return found.error


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory):
    """Some of the published rows, scored."""
    lines = published_path().read_text(encoding="utf-8").splitlines()
    kept = [lines[0], *(line for line in lines[1:] if line.split(",", 1)[0] in SOME)]
    path = tmp_path_factory.mktemp("table") / "some.csv"
    return score_training(table(path, "\n".join(kept) + "\n"))


def test_one_record_for_every_row_in_order(report):
    assert [record.row_id for record in report.records] == sorted(SOME)
    for record in report.records:
        assert (record.refused is None) == (record.step_time_s is not None)
        if record.refused is None:
            assert record.step_time_s > 0
            assert record.parts is not None


def test_rows_without_a_model_here_are_refused_with_reasons(report):
    refused = {record.row_id: record for record in report.refused}
    assert set(refused) == {"T1241", "T0811"}
    assert "lstm" in refused["T1241"].refused
    assert all(record.error and record.error["repair"] for record in refused.values())


def test_parts_add_up_to_the_step(report):
    for record in report.expressed:
        if record.source_id not in ("korthikanti-t4-layer", "neusight-train"):
            assert sum(record.parts.values()) <= record.step_time_s * 1.0001


def test_json_holds_a_record_a_row_and_the_scores(report):
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert len(document["records"]) == len(SOME)
    for record in document["records"]:
        assert {"row_id", "step_time_s", "peak_mem_gb", "refused"} <= record.keys()
    assert document["summary"]["rows"] == len(SOME)


def test_markdown_names_every_source_and_the_refusals(report):
    text = report.markdown()
    assert "# Accuracy of predicted training steps" in text
    for record in report.compared():
        assert record.source_id in text
    assert "## Refused rows" in text


def test_scatter_has_a_point_for_every_compared_row(report):
    measured, predicted = report.scatter()
    assert sum(map(len, measured.values())) == len(report.compared())
    for name, values in measured.items():
        assert values.shape == predicted[name].shape
        assert np.all(values > 0)


def test_the_order_of_rows_does_not_matter(tmp_path, report):
    lines = published_path().read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines[1:] if line.split(",", 1)[0] in SOME[:6]]
    turned = score_training(table(tmp_path / "t.csv", "\n".join([lines[0], *kept[::-1]])))
    there = {record.row_id: record.step_time_s for record in report.records}
    for record in turned.records:
        assert record.step_time_s == pytest.approx(there[record.row_id], rel=1e-12)


@pytest.mark.parametrize(
    ("row_id", "degrees"),
    [
        ("T0031", (8, 35, 8, 3)),
        ("T0529", (8, 12, 4, 1)),
        ("T0356", (4, 8, 2, 5)),
        ("T0097", (1, 1, 8, 1)),
    ],
)
def test_stated_degrees_are_kept(row_id, degrees):
    plans = case(PUBLISHED[row_id]).plans
    for plan in plans:
        assert (plan.tp, plan.pp, plan.dp, plan.virtual_stages) == degrees


def test_every_plan_uses_exactly_the_devices():
    for row_id in SOME:
        found = express(PUBLISHED[row_id])
        if isinstance(found, TrainingCase):
            assert {plan.world for plan in found.plans} == {found.cluster.devices}


def test_published_batches_are_kept():
    for row in PUBLISHED.values():
        found = express(row) if row.count("global_batch") else None
        if isinstance(found, TrainingCase) and "global_batch" not in found.assumed:
            assert found.batch == row.count("global_batch")
            assert found.share == 1.0


def test_missing_dp_is_what_the_others_leave(tmp_path):
    found = case(one(tmp_path, chips_total=64, tp=4, pp=2, zero_fsdp="ZeRO-1"))
    assert [plan.dp for plan in found.plans] == [8]
    assert "dp" in found.assumed


def test_uneven_stages_that_a_note_explains():
    uneven = [plan for row in PUBLISHED.values() if "last stage 1 block" in row.lower("notes")
              for plan in case(row).plans]  # fmt: skip
    assert uneven
    for plan in uneven:
        assert plan.layers_per_stage[-1] == 1


def test_a_convolutional_network_is_priced_kernel_by_kernel(tmp_path):
    row = one(tmp_path, model="ResNet-50", seq_len="", global_batch=2048, micro_batch=256)
    assert isinstance(express(row), ConvnetCase)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("Llama 3.1 405B", "llama-3.1-405b"),
        ("LLAMA2-70b-chat", "llama-2-70b"),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("Mixtral-8x7B-v0.1", "mixtral-8x7b"),
        ("GPT-3 (175B)", "gpt3-175b"),
        ("DeepSeek V3", "deepseek-v3"),
        ("deepseek-r1", "deepseek-v3"),
        ("BERT-Large", "bert-large"),
    ],
)
def test_spellings_of_models(tmp_path, spelling, name):
    assert case(one(tmp_path, model=spelling, seq_len=512)).model.name == name


@pytest.mark.parametrize(
    ("spelling", "memory", "name"),
    [
        ("h100", "", "H100-SXM5-80GB"),
        ("H100 SXM", "80", "H100-SXM5-80GB"),
        ("A100", "40", "A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-80GB", "", "A100-SXM4-80GB"),
        ("a100_pcie", "80", "A100-PCIe-80GB"),
        ("MI300X", "", "MI300X"),
        ("GB200", "", "GB200"),
    ],
)
def test_spellings_of_chips(tmp_path, spelling, memory, name):
    found = case(one(tmp_path, chip=spelling, chip_mem_gb=memory))
    assert found.cluster.accelerator.name == name


def test_stated_network_rates_reach_the_cluster(tmp_path):
    rates = {}
    for words in ("400 Gb/s per GPU", "8x400Gb/s NDR IB", "200 Gb/s per node", ""):
        found = case(one(tmp_path, chips_total=16, interconnect=words))
        rates[words] = found.cluster.tiers[-1].bandwidth * 8 / 1e9
        assert ("interconnect" in found.assumed) == (not words)
    assert rates["400 Gb/s per GPU"] == pytest.approx(rates["8x400Gb/s NDR IB"]) == 400
    assert rates["200 Gb/s per node"] == pytest.approx(25)


@pytest.mark.parametrize(
    ("cells", "where", "word"),
    [
        ({"model": "no-such-model"}, "model", "layers and hidden"),
        ({"chip": "H1000X"}, "chip", "accelerator"),
        ({"chips_total": ""}, "chips_total", "how many"),
        ({"seq_len": ""}, "seq_len", "tokens"),
        ({"dtype": "fp4"}, "dtype", "bf16"),
        ({"tp": 3, "zero_fsdp": "none"}, "tp, pp, dp, cp", "divides the 8 devices"),
        ({"tp": 8, "pp": 1, "model": "gpt2-large"}, "plan on gpt2-large", "tp must divide"),
        ({"layers": "many"}, "layers", "whole number"),
        ({"step_time_s": -1}, "step_time_s", "above 0"),
        ({"step_time_s": "1e400"}, "step_time_s", "above 0"),
        ({"global_batch": 4, "chips_total": 4096}, "dp", "at most the global batch"),
        ({"model": "mamba-2.8b"}, "arch", "transformer"),
        ({"model": "Llama-2-70B LoRA"}, "model", "all trained"),
    ],
)
def test_rows_that_make_no_sense_are_refused_with_five_parts(tmp_path, cells, where, word):
    error = refusal(one(tmp_path, **cells))
    assert where in error.where
    assert word in f"{error.accepted} {error.where} {error.got}"
    assert error.repair


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("model,chip\nllama-3-8b,h100\n", "chips_total"),
        ("chip,chips_total\nh100,8\n", "model"),
        ("model,chip,chips_total,tp,tp\n", "twice"),
        ('model,chip,chips_total\n"llama,h100,8\n', "CSV"),
        ("model,chip,chips_total\0\n", "CSV"),
    ],
)
def test_files_that_are_no_table_raise(tmp_path, text, word):
    with pytest.raises(WorkloadError) as caught:
        read_rows(table(tmp_path / "bad.csv", text))
    assert word in str(caught.value)
    assert caught.value.repair


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(WorkloadError, match="no such file"):
        score_training(tmp_path / "nowhere.csv")


def test_bad_rows_leave_the_others_alone(tmp_path):
    text = (
        "row_id,model,chip,chips_total,seq_len,global_batch,micro_batch,tp,pp,dtype,extra\n"
        "a,llama-3-8b,h100,8,2048,64,1,8,1,bf16,x\n"
        "b,llama-3-8b,h100,eight,2048,64,1,8,1,bf16,x\n"
        "c,llama-3-8b,h100,8,2048,64,1,8,1,bf16,x,y,z\n"
        "d\n"
        "e,llama-3-8b,h100,8,2k,64,1,8,1,bf16,x\n"
    )
    records = {r.row_id: r for r in score_training(table(tmp_path / "t.csv", text)).records}
    assert [name for name, record in records.items() if record.refused] == ["b", "c", "d"]
    assert records["a"].step_time_s == pytest.approx(records["e"].step_time_s)


def test_blank_header_cases_and_missing_ids(tmp_path):
    text = "\ufeffModel,Chip,Chips Total,seq-len,Global_Batch\nbert-large,a100,1,128,\n"
    row = read_rows(table(tmp_path / "t.csv", text))[0]
    assert row.row_id == "line-2"
    assert row.count("chips_total") == 1
    assert row.count("seq_len") == 128


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        ({"step_time_s": 2.5, "tokens_per_s_per_chip": 1}, lambda model: 2.5),
        ({"tokens_per_s_per_chip": 1024}, lambda model: 64 * 4096 / (1024 * 8)),
        ({"samples_per_s": 16}, lambda model: 4.0),
        (
            {"tflops_per_chip": 400, "tflops_def": "model FLOPs"},
            lambda model: float(model_flops(model, 4096, 64)) / (400e12 * 8),
        ),
        (
            {"tflops_per_chip": 400, "tflops_def": "hardware incl. full recompute"},
            lambda model: float(hardware_flops(model, 4096, 64, "full")) / (400e12 * 8),
        ),
        (
            {"mfu_pct": 50, "tflops_def": "MFU vs 312 TFLOP/s"},
            lambda model: float(model_flops(model, 4096, 64)) / (156e12 * 8),
        ),
        ({}, lambda model: None),
    ],
)
def test_a_rate_becomes_a_step_in_its_own_convention(tmp_path, cells, seconds):
    found = case(one(tmp_path, **cells))
    wanted = seconds(found.model)
    assert found.measured.step_time_s == (wanted if wanted is None else pytest.approx(wanted))


def test_memory_is_compared_in_the_unit_of_the_row(tmp_path):
    text = (
        "row_id,model,chip,chips_total,seq_len,global_batch,micro_batch,tp,pp,peak_mem_gb,notes\n"
        "a,llama-3-8b,h100,8,2048,64,1,8,1,40,\n"
        "b,llama-3-8b,h100,8,2048,64,1,8,1,40,memory in GiB\n"
    )
    first, second = score_training(table(tmp_path / "t.csv", text)).records
    assert first.peak_mem_gb * 1e9 == pytest.approx(second.peak_mem_gb * 2**30)
    assert first.measured_mem_gb == second.measured_mem_gb == 40


def test_one_layer_is_what_a_second_one_adds():
    row = PUBLISHED["T0032"]
    single = case(row)
    assert single.scope == "layer"
    assert single.model.layers == 1


def test_a_doubled_batch_takes_about_twice_the_time(tmp_path):
    text = "row_id,model,chip,chips_total,seq_len,global_batch,micro_batch,tp,pp\n" + "".join(
        f"{batch},llama-3-8b,h100,8,2048,{batch},1,8,1\n" for batch in (64, 128)
    )
    first, second = score_training(table(tmp_path / "t.csv", text)).records
    assert 1.8 < second.step_time_s / first.step_time_s <= 2.0


CELLS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)


@settings(max_examples=150, deadline=None)
@given(column=st.sampled_from(TRAINING.all), cell=CELLS)
def test_any_cell_ends_in_a_case_or_a_refusal(column, cell):
    base = PUBLISHED["T0023"]
    texts = base.texts | {column: cell} if column not in base.numbers else base.texts
    try:
        number = abs(float(cell))
    except ValueError:
        number = 3.0
    numbers = base.numbers | ({column: number} if column in base.numbers else {})
    if not np.isfinite(number) or number > 1e12:
        return
    found = express(replace(base, texts=texts, numbers=numbers))
    assert isinstance(found, TrainingCase | ConvnetCase | Refused)


@pytest.mark.slow
def test_the_whole_published_table():
    report = score_training()
    assert len(report.records) == 893
    assert len(report.expressed) >= 0.8 * 893
    assert report.summary()["report"]["count"] > 300
