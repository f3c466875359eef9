"""Scores of whole programs: from a table and recorded programs to tables of errors."""

import csv
import io
from dataclasses import replace

import pytest

import perfmodel as pm
from perfmodel.cost.program.coefficients import program_coefficients
from perfmodel.errors import WorkloadError
from perfmodel.hardware import load_accelerator
from perfmodel.study import programs_bars
from perfmodel.study.executor import processes
from perfmodel.study.own_model import estimate_program
from perfmodel.study.programs import (
    Record,
    family_of,
    memory_scores,
    purpose,
    time_scores,
)
from perfmodel.study.programs_fit import fit_and_score
from perfmodel.study.programs_host import both_ways, by_streams, issue_scores, repeats
from perfmodel.study.programs_measured import measured_cases, measured_records, records
from perfmodel.study.programs_report import WORDS, markdown, table_csv
from perfmodel.workload.program import Node, Program, Tensor, load_program, save_program
from perfmodel.workload.stack import load_stack

H100 = load_accelerator("h100-sxm5-80gb")
HEAD = (
    "case,kind,model,mode,batch,seq,dtype,step_us,latency_us,host_us,kernel_us,before_allocated,"
    "peak_allocated\n"
)


def layered(name, layers, rows, width):
    """Products with an activation behind each."""
    tensors = [Tensor("x", (rows, width), "bf16", "input", 0)]
    storages = [rows * width * 2]
    nodes = []
    for layer in range(layers):
        weight, product, out = f"w{layer}", f"y{layer}", f"x{layer}"
        before = nodes[-1].outputs[0] if nodes else "x"
        for one, shape, role in (
            (weight, (width, width), "parameter"),
            (product, (rows, width), "activation"),
            (out, (rows, width), "activation"),
        ):
            tensors.append(Tensor(one, shape, "bf16", role, len(storages)))
            storages.append(shape[0] * shape[1] * 2)
        freed = (3 * layer,) if layer else ()
        nodes.append(Node(product, "aten.mm", (before, weight), (product,), {}, "forward"))
        nodes.append(
            Node(out, "aten.relu", (product,), (out,), {}, "forward",
                 frees=(*freed, 3 * layer + 2))
        )  # fmt: skip
    return Program(
        name, tuple(tensors), tuple(nodes), ("x",), (nodes[-1].outputs[0],), "json", 2 * layers,
        tuple(storages),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Measured is what is predicted, a tenth longer."""
    root = tmp_path_factory.mktemp("models")
    lines = [HEAD]
    for number in range(12):
        name = f"net{number}"
        program = layered(name, 3 + number, 256 << (number % 4), 512 << (number % 3))
        save_program(program, root / f"infer-{name}-b8-s0-bf16-nhwc.json.gz")
        for mode, stack in (("eager", "torch-eager"), ("graph", "cuda-graph")):
            found = estimate_program(program, H100, stack=stack)
            c = program_coefficients(H100)
            issued = found.host_seconds + c["usual_pace"] * c["first_step"]
            step, host = (1.1e6 * x for x in (found.seconds, issued))
            # Three workspaces that other cases left lie there too.
            left = 3 * 32 * 2**20
            peak = found.peak_allocated + left
            before = found.memory.resident + found.memory.at_peak["workspace"] + left
            lines.append(
                f"infer/{name}/{mode}/b8/s0/bf16/nhwc,infer,{name},{mode},8,0,bf16,{step},,{host},,{before},{peak}\n"
            )
    lines.append("infer/lost/eager/b8/s0/bf16/nhwc,infer,lost,eager,8,0,bf16,10,,,,,\n")
    (root / "cases.csv").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def cases(folders):
    return measured_cases(folders, folders, H100)


def test_errors_are_those_that_were_put_in(cases):
    kept, refused = cases
    assert len(kept) == 24
    (lost,) = refused
    assert lost.refused.startswith("infer-lost-b8-s0-bf16-nhwc.json.gz: got")
    found = [*records(kept, H100), *refused]
    scores = time_scores(found, purpose)
    assert set(scores) == {"inference, eager", "inference, graph"}
    for one in scores.values():
        assert one.mape == pytest.approx(1 - 1 / 1.1, abs=1e-6)
        assert one.bias < 0.0
    assert memory_scores(found, purpose)["inference, eager"].mape == pytest.approx(0.0, abs=1e-12)


def test_processes_find_the_records_that_one_finds(cases, folders):
    kept, refused = cases
    alone = [*records(kept, H100), *refused]
    for spread in (processes(1), processes(2)):
        assert measured_records(folders, folders, H100, spread=spread) == alone


def test_a_fit_on_half_brings_the_other_half_closer(cases):
    kept, _ = cases
    fitted, found = fit_and_score(kept, H100, program_coefficients(H100))
    report = time_scores([one for one in found if one.split == "report"], purpose)
    assert report["inference, graph"].mape < 0.04
    assert report["inference, eager"].mape < 0.04
    assert fitted.device == "h100-sxm5-80gb"


def test_the_report_shows_every_row_and_keeps_its_words(cases):
    kept, refused = cases
    found = {"h100-sxm5-80gb": [*records(kept, H100), *refused]}
    text = markdown(found, f"{WORDS}\n\nbecause")
    assert "| inference, graph |" in text
    assert text.endswith(f"{WORDS}\n\nbecause\n")
    assert "Rows without a prediction: 1." in text
    rows = list(csv.DictReader(io.StringIO(table_csv(found))))
    assert len(rows) == 25
    assert {row["split"] for row in rows} == {"tune", "report"}


def test_one_door_for_programs(folders):
    path = folders / "infer-net3-b8-s0-bf16-nhwc.json.gz"
    program = load_program(path)
    by_name = pm.estimate_program(path, "h100-sxm5-80gb", stack="cuda-graph")
    assert program.estimate("h100-sxm5-80gb", stack="cuda-graph").seconds == by_name.seconds
    assert pm.estimate_program(path, "dgx-h100", stack="cuda-graph").seconds == by_name.seconds
    with pytest.raises(WorkloadError, match="an accelerator"):
        estimate_program(program, "nvlink4")


def test_families():
    assert family_of("resnet50") == "convolutional"
    assert family_of("llama_8b") == "language"
    assert family_of("unet3d") == "segmentation"


def test_a_chip_without_tf32_computes_fp32_in_fp32():
    tensors = (
        Tensor("x", (256, 512), "fp32", "input", 0),
        Tensor("w", (512, 512), "fp32", "parameter", 1),
        Tensor("y", (256, 512), "fp32", "activation", 2),
    )
    nodes = (Node("y", "aten.mm", ("x", "w"), ("y",), {}, "forward"),)
    product = Program(
        "product", tensors, nodes, ("x",), ("y",), "json", 1, (524_288, 1_048_576, 524_288)
    )
    allowed = load_stack("cuda-graph").model_copy(update={"matmul_fp32": "tf32"})
    for chip, changed in (("v100-sxm2-16gb", False), ("mi250x", False), ("h100-sxm5-80gb", True)):
        plain = product.estimate(chip, stack="cuda-graph").seconds
        assert (product.estimate(chip, stack=allowed).seconds < plain) is changed


def test_host_bound_rows_are_scored_with_their_pace_and_without(folders, tmp_path):
    rows = []
    for number in range(4):
        name, call = f"net{number}", 6e-6 + 3e-6 * number
        program = load_program(folders / f"infer-{name}-b8-s0-bf16-nhwc.json.gz")
        pace = pm.host_pace_of(call, "h100-sxm5-80gb")
        found = estimate_program(program, H100, host_pace=pace)
        first = pace * program_coefficients(H100)["first_step"]
        step, host = 1e6 * found.seconds, 1.1e6 * (found.host_seconds + first)
        rows.append(
            f"infer/{name}/eager/b8/s0/bf16/nhwc,infer,{name},eager,8,0,bf16,{step},{host},"
            f"{1e6 * call},{1e6 * call}\n"
        )
    head = (
        "case,kind,model,mode,batch,seq,dtype,step_us,host_us,probe_call_us,stream_probe_call_us\n"
    )
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "cases.csv").write_text(head + "".join(rows))
    kept, refused = measured_cases(tmp_path, folders, H100)
    assert not refused
    found = records(kept, H100)
    ((name, given, unknown),) = both_ways(found)
    assert name == "inference, eager"
    assert given.mape == pytest.approx(0.0, abs=1e-9)
    assert unknown.mape > 0.1
    assert issue_scores(found)[name].mape == pytest.approx(1 - 1 / 1.1)
    kept = [one for one in found if not one.superseded]
    told = by_streams([kept[0], *(replace(one, streams=2) for one in kept[1:])])
    assert {name: one.count for name, one in told.items()} == {
        "inference, eager: one stream": 1,
        "inference, eager: two streams": len(kept) - 1,
    }
    again = list(repeats(found).values())
    assert [one.count for one in again] == [4, 8, 8]
    assert again[0].mean == pytest.approx(0.0, abs=1e-12)
    assert again[1].mean > 0.1
    text = markdown({"h100-sxm5-80gb": found})
    assert "with the pace of the host" in text
    assert "single steps and stream of a row" in text


def test_a_probe_is_a_time():
    assert pm.host_pace_of(9e-6, "h100-sxm5-80gb") > pm.host_pace_of(7e-6, "h100-sxm5-80gb") > 0.0
    with pytest.raises(WorkloadError, match=r"(?s)call.*probe again"):
        pm.host_pace_of(9.0, "h100-sxm5-80gb")
    with pytest.raises(WorkloadError, match=r"(?s)block.*probe again"):
        pm.host_pace_of(9e-6, "h100-sxm5-80gb", block=9.0)


def test_bars_stand_beside_what_was_reached_and_how_often_intervals_held():
    def record(case, split, measured, **more):
        one = Record(case, "run", "train", "net", "eager", "language", split, measured)
        return replace(one, predicted_s=1.0, unprobed_s=2.0, host_pace=1.0, low_s=0.9, high_s=1.1,
                       unprobed_low_s=0.5, unprobed_high_s=3.0, **more)  # fmt: skip

    rows = [record("a", "report", 1.0), record("b", "report", 1.25), record("c", "unread", 0.8),
            record("d", "tune", 9.0)]  # fmt: skip
    page = "\n".join(programs_bars.markdown(rows, own=True))
    assert "| training, eager | 5 | 2 | 10.0 | -20 | 80.0 | 1 | 25.0 | +25 |" in page
    assert programs_bars.coverage(rows[:3]) == {"training, eager": (3, 1 / 3, 1.0)}
    sibling = "\n".join(programs_bars.markdown(rows, own=False))
    assert "| training, eager | 8 | 4 |" in sibling
