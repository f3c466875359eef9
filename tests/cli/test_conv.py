"""The verbs of ``perfmodel conv``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perfmodel.cli.conv import conv
from perfmodel.errors import PerfmodelError, UsageError, WorkloadError

CHIP = ["--on", "v100-sxm2-16gb"]


def ask(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(conv, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_layer() -> None:
    found = ask("layer", *CHIP, "--channels", "32", "64", "--side", "28", "--pass", "wgrad")
    assert {one["algorithm"] for one in found["algorithms"]} >= {"direct", "fft", "kn2row"}
    times = [one["latency_us"] for one in found["algorithms"]]
    assert times == sorted(times)
    strided = ask("layer", *CHIP, "--stride", "2")
    assert strided["refused"]["fft"] == "needs a step of 1"


def test_cache_words() -> None:
    none, endless = (ask("layer", *CHIP, "--cache", word) for word in ("none", "infinite"))
    by_name = [{a["algorithm"]: a["bytes"] for a in one["algorithms"]} for one in (none, endless)]
    assert by_name[0]["im2col"] > by_name[1]["im2col"]
    with pytest.raises(WorkloadError, match="infinite"):
        ask("layer", *CHIP, "--cache", "some")


def test_net() -> None:
    found = ask("net", "resnet18", *CHIP, "--batch-size", "4", "--dtype", "fp16")
    assert found["images_per_s"] == pytest.approx(4 / found["step_time_s"])
    assert found["fits"]
    ask("net", "resnet50", *CHIP, "--batch-size", "2048", "--train", "--dtype", "fp32", code=3)
    many = ask(
        "net", "resnet18", "--on", "dgx-1-v100", "--nodes", "1", "--train", "--dtype", "fp16"
    )
    assert many["devices"] == 8


def test_choose() -> None:
    found = ask("choose", "espcn", *CHIP, "--workspace", "64 MiB", "--image-size", "64")
    assert found["gap"] < 1e-9
    assert found["workspace_bytes"] <= 64 * 2**20
    assert len(found["layers"]) == 3


def test_prune() -> None:
    found = ask("prune", *CHIP)
    by_name = {row["change"]: row for row in found["changes"]}
    assert by_name["4 bits (int4)"]["time"] is None
    assert by_name["50.0% of output channels"]["flops"] == 0.5
    assert 0.0 <= found["spmm_crossover_density"] < 0.5


def test_accuracy(tmp_path: Path) -> None:
    table = Path(__file__).parents[2] / "validate" / "published" / "convnets.csv"
    header, *lines = table.read_text().splitlines()
    path = tmp_path / "few.csv"
    few = [line for line in lines if line.startswith("dle,resnet50,infer,t4")]
    path.write_text("\n".join([header, *few, ""]))
    found = ask("accuracy", str(path))
    assert len(found["rows"]) == len(few)
    assert sum(one["rows"] for one in found["summary"]) < len(few)


def test_schedule(tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    path.write_text(
        json.dumps(
            {"batch": 8, "height": 14, "width": 14, "in_channels": 128, "groups": 8,
             "out_channels": 128}
        )
    )  # fmt: skip
    drawn = tmp_path / "schedule.svg"
    found = ask("schedule", str(path), "--on", "h100-sxm5-80gb", "--no-waves", "--picture",
                str(drawn))  # fmt: skip
    assert found["placement_bound_s"] <= found["makespan_s"]
    assert b"</svg>" in drawn.read_bytes()


def test_tables_for_people() -> None:
    for arguments in (["layer", *CHIP], ["prune", *CHIP], ["net", "resnet18", *CHIP]):
        result = CliRunner().invoke(conv, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert "us" in result.stdout or "ms" in result.stdout


def test_a_layout_that_is_none_is_told() -> None:
    with pytest.raises(WorkloadError, match="Nearest: nhwc"):
        ask("choose", "resnet18", *CHIP, "--input-layout", "nhcw")


def test_no_image_is_no_batch_and_a_small_one_moves_what_it_must() -> None:
    with pytest.raises(WorkloadError, match="batch"):
        ask("net", "resnet18", *CHIP, "--batch-size", "0")
    assert ask("choose", "resnet18", "--on", "h100-sxm5-80gb", "--image-size", "7")


@pytest.mark.parametrize(
    "option", [["--nodes", "2"], ["--gpus-per-node", "4"], ["--optimizer", "adam"]]
)
def test_what_only_training_has_is_not_passed_over(option: list[str]) -> None:
    with pytest.raises(UsageError, match="add --train") as caught:
        ask("net", "resnet18", *CHIP, *option)
    assert caught.value.where.endswith(option[0])


HEADER = "source,network,task,chip,devices,batch,image_size,dtype,amp,layout,time_s,label"
ROW = "own,resnet18,infer,v100-sxm2-16gb,1,4,,fp16,0,nchw,0.01,resnet18"


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (",4,,", ",x,,", "own.csv:2: batch"),
        (",4,,", ",-4,,", "own.csv:2: batch"),
        (",4,,", ",4,1.5,", "own.csv:2: image_size"),
        ("0.01", "nan", "own.csv:2: time_s"),
        ("0.01", "0", "own.csv:2: time_s"),
        ("0.01", "fast", "own.csv:2: time_s"),
        ("infer", "inference", "own.csv:2: task"),
        (",resnet18,infer", ",resnet1,infer", "own.csv:2: convnet"),
        ("v100-sxm2-16gb", "v100", "own.csv:2: name"),
        (",0.01", ",0.01,more", "own.csv:2"),
        (",0.01,resnet18", "", "own.csv:2"),
        ("\nown", "\n\xe9", "own.csv"),
    ],
)
def test_a_row_that_cannot_be_is_named(tmp_path: Path, old: str, new: str, where: str) -> None:
    file = tmp_path / "own.csv"
    file.write_bytes(f"{HEADER}\n{ROW}\n".replace(old, new).encode("latin-1"))
    with pytest.raises(PerfmodelError) as caught:
        ask("accuracy", str(file))
    assert caught.value.where.startswith(where)
    assert caught.value.repair


def test_a_source_that_the_table_has_not_is_named(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text(f"{HEADER}\n{ROW}\n")
    assert ask("accuracy", str(file), "--source", "own")["rows"] is not None
    with pytest.raises(WorkloadError, match="own") as caught:
        ask("accuracy", str(file), "--source", "owm")
    assert caught.value.nearest == "own"
