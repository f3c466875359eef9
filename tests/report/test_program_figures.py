"""Pictures of programs: what is drawn is what was predicted and what was profiled."""

import gzip
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.cost.program import estimate_lowered
from perfmodel.errors import ScenarioError
from perfmodel.hardware import load_accelerator
from perfmodel.report.programs import (
    memory_over_time,
    operator_roofline,
    profiled_kind,
    timeline,
)
from perfmodel.report.programs_pictures import archived_trace, held_out_scatter
from perfmodel.report.style import save
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, MemoryEvent, Resident
from perfmodel.workload.op import Elementwise, Fused, Gemm

H100 = load_accelerator("h100-sxm5-80gb")


@pytest.fixture(scope="module")
def found():
    size = 4096 * 1024 * 2
    kernels = (
        Kernel("aten.mm", "gemm", (Gemm(4096, 1024, 1024),), ((0, 2**21), (1, size)),
               ((2, size),), (0,), "forward", "gemm"),
        Kernel("aten.relu", "pointwise", (Elementwise("relu", 4096 * 1024),), ((2, size),),
               ((3, size),), (1,), "forward", "pointwise"),
    )  # fmt: skip
    calls = (
        HostCall("gemm", 0, (0,), "forward", 3),
        HostCall("pointwise", 1, (1,), "forward", 2),
    )
    events = (
        MemoryEvent(0, 2, size, True),
        MemoryEvent(1, 3, size, True),
        MemoryEvent(1, 2, size, False),
    )
    lowered = Lowered(
        "two", "torch-eager", "eager", False, kernels, calls, events,
        (Resident(0, 2**21, "parameter"), Resident(1, size, "input")), 2,
    )  # fmt: skip
    return estimate_lowered(lowered, H100)


def test_operators_stand_under_the_roofs(found):
    drawn = operator_roofline(found, H100, "bf16")
    names = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert names == ["gemm", "pointwise"]


def test_memory_reaches_the_predicted_peak(found):
    drawn = memory_over_time(found, capacity=H100.memory_capacity)
    allocated = next(line for line in drawn.axes[0].lines if line.get_label() == "allocated")
    assert "[MiB]" in drawn.axes[0].get_ylabel()
    assert np.max(allocated.get_ydata()) * 2**20 == pytest.approx(found.peak_allocated)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_capacity_is_a_line_where_the_step_comes_near_it(found, share):
    drawn = memory_over_time(found, capacity=found.peak_reserved / share)
    labels = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert ("device memory" in labels) == (share > 0.5)
    assert (", of " in drawn.axes[0].get_title(loc="left")) == (share < 0.5)


def test_what_only_moves_bytes_has_no_place_under_the_roofs(found):
    kernels = tuple(replace(one, kind="copy") for one in found.kernels.kernels[1:])
    moved = replace(found.kernels, kernels=(*found.kernels.kernels[:1], *kernels))
    drawn = operator_roofline(replace(found, kernels=moved), H100, "bf16")
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["gemm"]


def test_what_mostly_waits_has_no_place_under_the_roofs_and_counts_no_flops(found):
    second = found.kernels.kernels[1]
    op = Fused("sum", numel=1, read=16, written=4, operations=10**7)
    waiting = replace(second, ops=(op,), reads=((1, 16),), writes=((3, 4),))
    table = replace(found.kernels, kernels=(found.kernels.kernels[0], waiting))
    drawn = operator_roofline(replace(found, kernels=table), H100, "bf16")
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["gemm"]
    first, other = (row["flops"] for row in table.rows())
    assert first > 0.0
    assert other == 0.0


def test_timeline_beside_a_profile(found, tmp_path):
    events = [
        {"ph": "X", "cat": "kernel", "name": name, "ts": start, "dur": 10, "pid": 0, "tid": 7}
        for name, start in (("nvjet_tst_128x256", 100), ("vectorized_elementwise_kernel", 115))
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    drawn = timeline(found, path)
    words = [text.get_text() for text in drawn.axes[0].texts]
    assert words[0].startswith("predicted: 2 kernels")
    assert words[1] == "profiled: 2 kernels, 0.02 ms busy"
    target = save(drawn, tmp_path / "timeline.svg")
    assert target.stat().st_size > 1000
    zoomed = timeline(found, path, begin=0.0, length=12e-6)
    assert zoomed.axes[0].get_xlim() == pytest.approx((0.0, 0.012))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16", "conv"),
        ("nvjet_tst_192x192_64x4", "gemm"),
        ("flash_fwd_kernel<Flash_fwd_kernel_traits", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, ", "pointwise"),
        ("void cudnn::bn_fw_inf_1C11_kernel_NHWC", "norm"),
        ("somebody's kernel", "other"),
    ],
)
def test_profiled_kernels_are_told_apart(name, kind):
    assert profiled_kind(name) == kind


def test_a_trace_is_read_out_of_an_archive(tmp_path):
    event = {"ph": "X", "cat": "kernel", "name": "k", "ts": 5, "dur": 2, "pid": 0, "tid": 7}
    packed = gzip.compress(json.dumps({"traceEvents": [event]}).encode())
    path = tmp_path / "kineto.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("infer-a-eager.json.gz")
        member.size = len(packed)
        archive.addfile(member, io.BytesIO(packed))
    assert archived_trace(path, "infer-a-eager").seconds.tolist() == pytest.approx([2e-6])
    with pytest.raises(ScenarioError, match="infer-a-eager"):
        archived_trace(path, "infer-b-eager")


def test_the_scatter_shows_held_out_rows_only():
    rows = [
        {"chip": "x", "split": split, "refused": refused, "mode": mode, "measured_s": "1e-3",
         "predicted_s": "1.1e-3", "after_profiler": profiler, "superseded": superseded}
        for split, refused, mode, profiler, superseded in (
            ("report", "", "graph", "False", "False"),
            ("report", "lost", "graph", "False", "False"),
            ("tune", "", "graph", "False", "False"),
            ("report", "", "eager", "True", "False"),
            ("report", "", "eager", "False", "True"),
        )
    ]  # fmt: skip
    drawn = held_out_scatter(rows, "x")
    labels = {text.get_text() for text in drawn.axes[0].get_legend().get_texts()}
    assert labels == {
        "graph: 1 point, MAPE 10.0%", "eager (profiler attached): 1 point, MAPE 10.0%"
    }  # fmt: skip
