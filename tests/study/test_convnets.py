"""Steps of networks: sums, launches, data parallelism, and the published tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfmodel.cost.price import price
from perfmodel.errors import WorkloadError
from perfmodel.hardware import load_accelerator, load_cluster
from perfmodel.study.convnets import infer_convnet, train_convnet
from perfmodel.study.convnets_published import score_published, summary
from perfmodel.workload.convnet import convnet, convnet_calls

TABLE = Path(__file__).parents[2] / "validate" / "published" / "convnets.csv"
CHIP = load_accelerator("a100-sxm4-80gb")


def test_graph_mode_is_the_sum_of_the_kernels() -> None:
    step = infer_convnet("resnet18", CHIP, 8, dtype="fp16")
    calls = convnet_calls("resnet18", 8, dtype="fp16")
    expected = sum(float(price(c.op, CHIP).seconds) * c.count for c in calls)
    assert step.step_seconds == pytest.approx(expected)
    assert step.flops == sum(c.op.flops * c.count for c in calls)


def test_eager_is_host_bound_for_small_batches_only() -> None:
    small, large = (
        infer_convnet("efficientnet-b0", CHIP, n, mode="eager", host_launch=30e-6) for n in (1, 512)
    )
    assert small.step_seconds == small.host_seconds > small.kernel_seconds
    assert large.step_seconds == large.kernel_seconds > large.host_seconds


def test_compiled_is_faster() -> None:
    plain = infer_convnet("resnet50", CHIP, 64, dtype="fp16")
    fused = infer_convnet("resnet50", CHIP, 64, dtype="fp16", mode="compile")
    assert fused.step_seconds < plain.step_seconds


def test_one_device_has_no_all_reduce_and_more_devices_scale_less_than_linearly() -> None:
    alone = train_convnet("vgg16", CHIP, 32)
    one = train_convnet("vgg16", load_cluster("dgx-a100", nodes=1, gpus_per_node=1), 32)
    many = train_convnet("vgg16", load_cluster("dgx-a100", nodes=4), 32)
    assert one.step_seconds == alone.step_seconds
    assert one.exposed_comm_seconds == 0.0
    assert many.exposed_comm_seconds > 0.0
    assert one.images_per_second < many.images_per_second < 32 * one.images_per_second
    gradients = 4 * convnet("vgg16").parameters
    assert many.memory.gradients == gradients


def test_an_optimizer_that_loops_launches_for_every_tensor() -> None:
    few, many = (
        train_convnet("resnet50", CHIP, 8, host_launch=1.0, loop_optimizer=loop)
        for loop in (False, True)
    )
    # 53 convolutions, 53 norms of two tensors, a linear layer of two
    assert convnet("resnet50").parameter_tensors == 161
    assert many.host_seconds - few.host_seconds == 3 * 161
    assert many.kernel_seconds > few.kernel_seconds


def test_memory_decides_whether_it_fits() -> None:
    t4 = load_accelerator("t4-16gb")
    assert train_convnet("resnet50", t4, 32).fits
    assert not train_convnet("resnet50", t4, 512, "fp32").fits


def test_mode_is_checked() -> None:
    with pytest.raises(WorkloadError, match="eager"):
        infer_convnet("resnet18", CHIP, 1, mode="egaer")


def test_published_rows_are_scored_on_the_other_half(tmp_path: Path) -> None:
    header, *lines = TABLE.read_text().splitlines()
    some = [line for line in lines if line.startswith("dle,") and ",infer,a100" in line]
    path = tmp_path / "some.csv"
    path.write_text("\n".join([header, *some[::3], ""]))
    scored = score_published(path, sources=["dle"])
    assert len(scored) == len(some[::3])
    fitted = sum(one.fitted for one in scored)
    assert 0.4 < fitted / len(scored) < 0.6
    records = summary(scored)
    assert sum(record["rows"] for record in records) == len(scored) - fitted
    a100 = next(r for r in records if r["task"] == "infer" and r["chip"] == "a100-sxm4-80gb")
    # a gate against regressions, not a claim: the report has the numbers
    assert a100["mape"] < 0.2


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("source,network\ndle,resnet50\n")
    with pytest.raises(WorkloadError, match="time_s"):
        score_published(path)
