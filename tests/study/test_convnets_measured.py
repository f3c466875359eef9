"""Whole networks replayed as graphs: rows that are scored, both predictions, the page."""

from collections import Counter
from pathlib import Path

import pytest

from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from perfmodel.study.convnets import infer_convnet
from perfmodel.study.convnets_measured import (
    NETWORKS,
    frozen_errors,
    markdown,
    network_rows,
    network_scores,
)
from perfmodel.study.own_model import estimate_program
from perfmodel.study.scores import REPORT, half
from perfmodel.workload.convnet import Setting, convnet, network_program
from perfmodel.workload.lowering.lower import lower
from perfmodel.workload.program import load_program
from perfmodel.workload.stack import load_stack

H100 = load_accelerator("h100-sxm5-80gb")
PROGRAMS = Path(__file__).resolve().parents[2] / "validate" / "programs"
RECORDED = {path.name.split("-")[1] for path in PROGRAMS.glob("infer-*-nhwc.json.gz")}
MATRIX = ("conv", "gemm")
HEAD = "case,kind,model,mode,batch,seq,dtype,step_us\n"
CASE = "infer/{0}/{1}/b{2}/s0/bf16/nhwc,infer,{0},{1},{2},0,bf16,{3}\n"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Measured is a fifth longer than the program says; rows that are none of ours beside them."""
    folder = tmp_path_factory.mktemp("models")
    lines = [HEAD, CASE.format("vit_b_16", "graph", 8, 10), CASE.format("resnet18", "eager", 8, 10)]
    for model, batch in (("resnet18", 8), ("unet2d", 1)):
        path = PROGRAMS / f"infer-{model}-b{batch}-s0-bf16-nhwc.json.gz"
        found = estimate_program(path, H100, stack="cuda-graph").seconds
        lines.append(CASE.format(model, "graph", batch, 1.2e6 * found))
    (folder / "cases.csv").write_text("".join(lines))
    return network_rows(folder, PROGRAMS, H100)


def test_only_replayed_networks_are_rows(rows):
    assert [(row.network, row.batch) for row in rows] == [("resnet18", 8), ("unet2d", 1)]


def test_errors_are_of_the_measurement(rows):
    for row in rows:
        assert row.error == pytest.approx(1.0 / 1.2 - 1.0, abs=1e-5)
        assert row.split == half(row.network)
    assert rows[0].bundled_s == infer_convnet("resnet18", H100, 8, dtype="bf16").step_seconds
    assert rows[0].bundled_error == pytest.approx(rows[0].bundled_s / rows[0].measured_s - 1.0)
    # a network of the same layers has the same kernels
    assert rows[1].bundled_s == pytest.approx(rows[1].program_s, rel=1e-9)


def test_scores_keep_halves_and_predictions_apart(rows):
    scores = network_scores(rows)
    assert sum(one.count for (name, _), one in scores.items() if name == "bundled") == 2
    assert sum(one.count for (name, _), one in scores.items() if name == "program") == 2
    assert scores["program", REPORT].mape == pytest.approx(1.0 - 1.0 / 1.2, abs=1e-5)


def test_the_page_holds_every_row_and_the_words_behind(rows):
    page = markdown({"h100-sxm5-80gb": rows}, "## What is behind the errors\n\nWords.\n")
    assert page.count("-16.7") >= 2
    assert f"| resnet18 | {rows[0].split} | 8 |" in page
    assert page.endswith("Words.\n")


@pytest.mark.parametrize("model", sorted(set(NETWORKS) & RECORDED))
def test_a_bundled_network_is_the_recorded_one(model):
    path = min(PROGRAMS.glob(f"infer-{model}-b*-nhwc.json.gz"))
    program = load_program(path)
    counted = {t.storage: t for t in program.tensors if t.role == "parameter"}
    net = convnet(*NETWORKS[model])
    assert net.parameters == program.parameters == sum(
        program.storages[number] // 2 for number in counted
    )  # fmt: skip
    batch = int(path.name.split("-")[2].removeprefix("b"))
    stack = load_stack("cuda-graph")
    mine, recorded = (
        lower(one, stack).kernels for one in (network_program(net, Setting(batch)), program)
    )
    assert len(mine) == len(recorded)
    assert sum(k.flops for k in mine if k.kind in MATRIX) == sum(
        k.flops for k in recorded if k.kind in MATRIX
    )
    assert Counter(map(word, mine)) == Counter(map(word, recorded))


def word(kernel):
    """A kernel's name; a module may keep its input or not, and wrap what it does."""
    return kernel.name.removesuffix("_")


def test_first_predictions_are_of_measured_networks():
    path = PROGRAMS.parents[1] / "docs" / "accuracy" / "convnets_frozen.csv"
    first = frozen_errors(path)
    assert {network for _, network, _ in first} <= set(NETWORKS)
    page = markdown({}, frozen=first)
    assert "convnets_frozen.csv" in page


def test_no_table_is_a_complaint(tmp_path):
    with pytest.raises(CalibrationError, match="no such file"):
        network_rows(tmp_path, PROGRAMS, H100)
