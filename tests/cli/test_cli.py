"""The command line as scripts use it: JSON on stdout, exit codes, five-part errors."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import perfmodel as package
from perfmodel import cli
from perfmodel.cli import output


def run(capsys, monkeypatch, *arguments):
    """Exit code, stdout and stderr of ``perfmodel ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["perfmodel", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    shown = capsys.readouterr()
    return caught.value.code or 0, shown.out, shown.err


@pytest.fixture
def perfmodel(capsys, monkeypatch):
    return lambda *arguments: run(capsys, monkeypatch, *map(str, arguments))


TRAIN = (
    "train llama-3-8b --on dgx-h100 --nodes 1 --global-batch-size 64 --seq-len 2048 --tp 2 --zero 1"
).split()
PLAN = "plan llama-3-8b --on dgx-h100 --nodes 1 --global-batch-size 64 --seq-len 2048".split()
INFER = (
    "infer llama-3-8b --on h100-sxm5-80gb --batch-size 8 --prompt-len 512 --output-len 128"
).split()
CONTRACT = {
    "step_time_s", "tokens_per_s_per_device", "mfu", "hfu", "bubble_fraction", "exposed_comm_s",
    "memory", "peak_memory_bytes", "fits", "energy_j", "parts",
}  # fmt: skip


def test_train_gives_the_keys_that_scripts_rely_on(perfmodel):
    code, out, err = perfmodel(*TRAIN, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document.keys() >= CONTRACT
    assert all(name.endswith("_bytes") for name in document["memory"])
    assert document["fits"] is True
    assert 0 < document["mfu"] < 1


def test_train_explains_itself_in_text(perfmodel):
    code, out, _ = perfmodel(*TRAIN)
    assert code == 0
    assert "forward" in out
    assert "memory of stage" in out
    assert "MFU" in out


def test_what_does_not_fit_is_an_answer_with_levers(perfmodel):
    code, out, _ = perfmodel(
        *"train gpt3-175b --on dgx-h100 --nodes 1 --global-batch-size 8 --seq-len 2048".split(),
        "--json",
    )
    document = json.loads(out)
    assert code == 3
    assert document["fits"] is False
    assert "needs" in document["verdict"]


def test_plan_gives_plans_in_order_with_bound_and_gap(perfmodel):
    code, out, _ = perfmodel(*PLAN, "--top", 3, "--json")
    document = json.loads(out)
    assert code == 0
    assert len(document["plans"]) == 3
    assert document.keys() >= {"plans", "evaluated", "infeasible", "lower_bound_s", "gap"}
    assert document["plans"][0]["step_time_s"] >= document["lower_bound_s"]
    assert 0 <= document["gap"] < 1


def test_a_whole_run_has_its_days_and_its_rent(perfmodel):
    code, out, _ = perfmodel(*TRAIN, "--tokens", "1e12", "--price", "2 USD/h", "--json")
    document = json.loads(out)
    run = document["budget"]
    assert code == 0
    assert run["time_s"] * 8 == pytest.approx(1e12 / document["tokens_per_s_per_device"])
    assert run["cost_usd"] == pytest.approx(2 * run["device_hours"])
    assert "USD" in perfmodel(*PLAN, "--tokens", "1e12", "--price", "2 USD/h")[1]
    assert perfmodel(*TRAIN, "--price", "2 USD/h")[0] == 2


def test_the_milp_heeds_the_precision_and_refuses_what_it_would_drop(perfmodel):
    milp = [*PLAN, "--method", "milp", "--json"]
    half, eighth = (
        json.loads(perfmodel(*milp, *extra)[1]) for extra in ([], ["--precision", "fp8"])
    )
    assert eighth["step_time_s"] < half["step_time_s"]
    code, out, _ = perfmodel(*milp, "--figure", "front.svg")
    assert code == 2
    assert "--method search" in json.loads(out)["accepted"]


@pytest.mark.parametrize("dialect", ["megatron", "torchtitan", "deepspeed", "slurm"])
def test_plan_exports_a_launch(perfmodel, dialect):
    code, out, _ = perfmodel(*PLAN, "--top", 1, "--json", "--export", dialect)
    assert code == 0
    assert len(json.loads(out)["export"]) > 40


@pytest.mark.parametrize("content", ["", "[]\n", '{"op": "gemm", "m": 8, "n": 8, "k": 8}\n'])
def test_validate_says_why_it_left_a_row_out(perfmodel, tmp_path, content):
    source = tmp_path / "measured.jsonl"
    source.write_text(content)
    code, out, err = perfmodel("validate", "--ops", source, "--on", "h100-sxm5-80gb")
    assert code == (0 if content else 2)
    assert ("1 of 1 rows were refused" in out) if content else ("no operator" in err)
    array = '{"op": "gemm", "m": [8, 9], "n": 8, "k": 8, "latency_us": 5}\n'
    source.write_text(array)
    code, out, _ = perfmodel("validate", "--ops", source, "--on", "h100-sxm5-80gb", "--json")
    assert code == 0
    assert "one operator" in json.loads(out)["records"][0]["refused"]
    assert perfmodel("validate", "--on", "h100-sxm5-80gb")[0] == 2


def test_validate_predicts_answers_row_by_row(perfmodel, tmp_path):
    source = tmp_path / "answers.csv"
    source.write_text(
        "row_id,model,chip,batch,input_len,output_len,pp,latency_ms\n"
        "a,llama-3-8b,h100-sxm5-80gb,8,256,16,,100\nb,llama-3-8b,h100-sxm5-80gb,8,256,16,2,90\n"
    )
    code, out, _ = perfmodel("validate", "--inference", source, "--json")
    assert code == 0
    good, bad = json.loads(out)["records"]
    assert (good["row_id"], good["measured_s"], good["quantity"]) == ("a", 0.1, "e2e_s")
    assert good["predicted_s"] > 0
    assert (bad["predicted_s"], bad["refused"].split(":")[0]) == (None, "pp")
    assert "1 of 2 rows were refused" in perfmodel("validate", "--inference", source)[1]
    code, out, _ = perfmodel("validate", "--inference", tmp_path / "gone.csv", "--json")
    assert (code, json.loads(out)["got"]) == (2, "<no such file>")


def test_models_lists_and_shows_what_is_read(perfmodel, tmp_path):
    rows = {row["name"]: row for row in json.loads(perfmodel("models", "--json")[1])}
    assert {"gpt3-175b", "llama-3-8b", "llama-3-70b"} <= rows.keys()
    assert rows["llama-3-8b"]["parameters"] == 8_030_261_248
    code, out, _ = perfmodel("models", "deepseek-v3")
    assert code == 0
    assert "58 of 61" in out
    config = tmp_path / "config.json"
    config.write_text(
        '{"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 100}'
    )
    shape = json.loads(perfmodel("models", config, "--json")[1])
    assert (shape["layers"], shape["hidden"], shape["heads"]) == (2, 64, 2)
    code, out, _ = perfmodel("models", "lama-3-8b", "--json")
    assert (code, json.loads(out)["nearest"]) == (2, "llama-3-8b")


def test_the_version_is_told(perfmodel):
    assert perfmodel("--version")[:2] == (0, f"perfmodel {package.__version__}\n")
    assert "--version" in perfmodel("--versio")[2]


def test_specs_lists_and_shows_with_sources(perfmodel):
    code, out, _ = perfmodel("specs", "--json")
    assert code == 0
    assert {"h100-sxm5-80gb", "dgx-h100", "mi250x", "tpu-v4"} <= {
        entry["name"] for entry in json.loads(out)
    }
    code, out, _ = perfmodel("specs", "h100-sxm5-80gb")
    assert code == 0
    assert "nvidia-h100-datasheet-2023" in out


def test_operators_that_no_memory_holds_are_named(perfmodel, tmp_path):
    source = tmp_path / "ops.jsonl"
    records = [
        {"op": "gemm", "m": 512, "n": 512, "k": 512, "dtype": "bf16"},
        {"op": "gemm", "m": 2**18, "n": 2**18, "k": 512, "dtype": "bf16"},
        # The result may overwrite what is read: 64 GiB have room though 128 GiB are moved.
        {"op": "elementwise", "kind": "relu", "numel": 2**35, "dtype": "bf16"},
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = perfmodel("ops", source, "--on", "h100-sxm5-80gb", "--json")
    assert code == 3
    rows = json.loads(out)
    assert [row["fits"] for row in rows] == [True, False, True]
    assert rows[1]["held_bytes"] == 2 * (2**36 + 2 * 512 * 2**18)
    assert rows[2]["held_bytes"] == 2**36
    code, out, err = perfmodel("ops", source, "--on", "h100-sxm5-80gb")
    assert code == 3
    assert "ops.jsonl:2, needs 128.5 GiB, has 79.65 GiB" in err
    assert len(out.splitlines()) == 4


def test_ops_keeps_input_keys_and_writes_json_lines(perfmodel, tmp_path):
    source = tmp_path / "ops.jsonl"
    records = [
        {"op": "gemm", "m": 512, "n": 512, "k": 512, "dtype": "bf16", "latency_us": 3.0},
        {"op": "all_reduce", "bytes": 2**20, "world": 16},
        {"op": "softmax", "rows": 128, "cols": 4096, "dtype": "fp32"},
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    target = tmp_path / "priced.jsonl"
    code, out, _ = perfmodel("ops", source, "--on", "dgx-h100", "--out", target, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [json.loads(line) for line in target.read_text().splitlines()] == [
        row | {} for row in rows
    ]
    for record, row in zip(records, rows, strict=True):
        if "latency_us" not in record:
            assert row.items() >= record.items()
        assert 0 < row["lower_us"] <= row["low_us"] <= row["latency_us"] <= row["high_us"]
        assert row["bound"] in {"compute", "memory", "launch", "latency", "network"}


def test_infer_gives_latencies_and_memory(perfmodel):
    code, out, _ = perfmodel(*INFER, "--json")
    document = json.loads(out)
    assert code == 0
    assert document.keys() >= {
        "prefill_s", "decode_step_s", "ttft_s", "tpot_s", "e2e_s", "memory"
    }  # fmt: skip
    assert document["e2e_s"] > document["ttft_s"] >= document["prefill_s"]
    text = perfmodel(*INFER)[1]
    assert all(word in text for word in ("TTFT", "TPOT", "end to end", "tokens/s"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "lama-3-8b", *TRAIN[2:]], "llama-3-8b"),
        ([*TRAIN[:3], "dgx-h10", *TRAIN[4:]], "dgx-h100"),
        ([*TRAIN, "--tp", "3"], "divi"),
        ([*TRAIN, "--pp", "-1"], "pp"),
        ([*TRAIN, "--recompute", "ful"], "full"),
        (["specs", "h100-smx5-80gb"], "h100-sxm5-80gb"),
        ([*TRAIN[:3], "h100-sxm5-80gb", *TRAIN[4:]], "dgx-h100"),
        ([*TRAIN, "--global-batch-size", "9" * 20], "global_batch_size"),
        ([*TRAIN, "--nodes", "9" * 20], "nodes"),
        ([*PLAN, "--top", "9" * 20], "top"),
        ([*INFER, "--output-len", "9" * 20], "output_len"),
        (["infer", "bert-base", *INFER[2:]], "decoder"),
        (
            ["plan", *TRAIN[1:4], "--nodes", "0", "--global-batch-size", "8", "--seq-len", "8"],
            "nodes",
        ),
    ],
)
def test_bad_input_is_a_five_part_error(perfmodel, arguments, named):
    code, out, err = perfmodel(*arguments)
    assert code == 2
    assert out == ""
    assert named in err
    assert "Accepted:" in err
    assert "Repair:" in err
    code, out, err = perfmodel(*arguments, "--json")
    assert code == 2
    assert set(json.loads(out)) == {"error", "where", "got", "accepted", "nearest", "repair"}
    assert err == ""


def test_a_file_that_ends_early_is_told(perfmodel, tmp_path, monkeypatch):
    def early(*_, **__):
        raise EOFError("Compressed file ended early")

    monkeypatch.setattr("perfmodel.study.operators.price_records", early)
    source = tmp_path / "ops.jsonl"
    source.write_text('{"op": "gemm", "m": 1, "n": 1, "k": 1, "dtype": "bf16"}\n')
    code, out, err = perfmodel("ops", str(source), "--on", "h100-sxm5-80gb", "--json")
    assert (code, json.loads(out)["got"]) == (2, "<Compressed file ended early>")
    assert err.strip() == ""


def test_bad_operator_file_writes_nothing(perfmodel, tmp_path):
    source = tmp_path / "ops.jsonl"
    source.write_text('{"op": "gemm", "m": 1, "n": 1, "k": 1, "dtype": "bf16"}\n{"op": "gem"}\n')
    target = tmp_path / "out.jsonl"
    code, _, err = perfmodel("ops", source, "--on", "h100-sxm5-80gb", "--out", target)
    assert code == 2
    assert "ops.jsonl:2" in err
    assert "gemm" in err
    assert not target.exists()


def test_an_operator_that_the_chip_cannot_run_is_named_by_its_line(perfmodel, tmp_path):
    source = tmp_path / "ops.jsonl"
    line = '{"op": "gemm", "m": 1, "n": 1, "k": 1, "dtype": "%s"}\n'
    source.write_text(line % "fp16" + line % "bf16")
    code, _, err = perfmodel("ops", source, "--on", "t4-16gb")
    assert code == 2
    assert "ops.jsonl:2: T4: peak" in err


OPERATOR = '{"op": "gemm", "m": 64, "n": 64, "k": 64}'


def test_an_operator_file_of_another_editor_is_read(perfmodel, tmp_path):
    source = tmp_path / "ops.jsonl"
    source.write_bytes(f"\ufeff{OPERATOR}\r\n{OPERATOR}\r\n".encode())
    code, out, _ = perfmodel("ops", source, "--on", "h100-sxm5-80gb", "--json")
    assert code == 0
    assert [row["m"] for row in json.loads(out)] == [64, 64]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no operator"),
        (b"\n \n", "no operator"),
        ('{"op": "softmax", "é": 1}'.encode("latin-1"), "UTF-8"),
        (b'{"op": "gemm", "m": 64, "m": 32, "n": 64, "k": 64}', "duplicate keys m"),
        (b'{"op": "gemm", "m": [64, 32], "n": 64, "k": 64}', "one operator"),
        (
            b'{"op": "attention", "batch": 1, "q_heads": 7, "kv_heads": 3, "q_len": 8,'
            b' "kv_len": 8, "head_dim": 64}',
            "kv_heads",
        ),
    ],
)
def test_an_operator_file_that_says_nothing_or_two_things_is_refused(
    perfmodel, tmp_path, content, said
):
    source = tmp_path / "ops.jsonl"
    source.write_bytes(content)
    code, out, err = perfmodel("ops", source, "--on", "h100-sxm5-80gb")
    assert (code, out) == (2, "")
    assert said in err
    assert "Repair:" in err


def test_usage_errors_exit_with_two(perfmodel):
    assert perfmodel("train")[0] == 2


def test_json_is_plain():
    import numpy as np

    assert output.plain({"a": np.float64(1.5), "b": np.array([1, 2]), "c": float("nan")}) == {
        "a": 1.5, "b": [1, 2], "c": None
    }  # fmt: skip


def test_importing_the_package_stays_cheap():
    heavy = "numpy pandas matplotlib pulp simpy torch joblib scipy".split()
    for module in ("perfmodel", "perfmodel.cli"):
        script = f"import sys, {module};print([name for name in {heavy!r} if name in sys.modules])"
        shown = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert shown.stdout.strip() == "[]"


def test_every_name_of_the_package_is_there_for_type_checkers_too():
    source = Path(package.__file__).read_text()
    checked = source.split("if TYPE_CHECKING:")[1].split("__version__")[0]
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert re.search(rf"(import|as) {name}\b", checked), name


@pytest.mark.parametrize(
    ("arguments", "where", "nearest"),
    [
        (("spec",), "perfmodel", "specs"),
        (("conv", "nett"), "perfmodel conv", "net"),
        (("ops", "some.jsonl", "--jsn"), "perfmodel ops", "--json"),
        (("ops", "some.jsonl"), "perfmodel ops", None),
        (("infer", "gpt2", "--batch-size", "many"), "perfmodel infer: --batch-size", None),
        (("infer", "gpt2", "--on"), "perfmodel infer", None),
        (
            ("conv", "layer", "--on", "a100", "--channels", "5"),
            "perfmodel conv layer: --channels",
            None,
        ),
    ],
)
def test_a_command_line_that_cannot_be_read_is_told_in_five_parts(
    perfmodel, arguments, where, nearest
):
    code, out, err = perfmodel(*arguments, "--json")
    document = json.loads(out)
    assert (code, err) == (2, "")
    assert (document["where"], document["nearest"]) == (where, nearest)
    assert all(document[part] for part in ("got", "accepted", "repair"))


def test_a_value_of_another_type_is_named_with_what_is_wanted(perfmodel):
    code, out, _ = perfmodel("infer", "gpt2", "--batch-size", "many", "--json")
    document = json.loads(out)
    assert code == 2
    assert (document["got"], document["accepted"]) == ("'many'", "a whole number")
    document = json.loads(perfmodel("serv", "gpt2", "--json")[1])
    assert document["got"] == "'serv'"


def test_no_arguments_show_the_help(perfmodel):
    code, out, err = perfmodel()
    assert (code, err) == (2, "")
    assert "validate" in out


def test_a_file_that_cannot_be_written_is_no_traceback(perfmodel, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text('{"op": "gemm", "m": 8, "n": 8, "k": 8}\n')
    code, out, err = perfmodel(
        "ops", blocker, "--on", "h100-sxm5-80gb", "--out", blocker / "x.jsonl"
    )
    assert (code, out) == (2, "")
    assert "Repair" in err
    code, out, err = perfmodel(*TRAIN, "--figure", tmp_path / "step.swg")
    assert (code, out) == (2, "")
    assert "Nearest: .svg" in err
    assert list(tmp_path.iterdir()) == [blocker]
