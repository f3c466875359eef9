"""Fits of program coefficients recover what made the steps; files round-trip."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate.programs import (
    Measured,
    ModelRow,
    assumed_paces,
    fit_programs,
    hosts_of,
    issue_pace,
    row_pace,
    write_program_file,
)
from perfmodel.calibrate.programs.joined import join
from perfmodel.calibrate.programs.least import fit_values, moved
from perfmodel.calibrate.programs.rows import read_kernel_rows, read_model_rows
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.program.coefficients import load_program_coefficients
from perfmodel.cost.program.host import pace_of_probe
from perfmodel.cost.program.step import device_times, prepare, profiled_kernels, step
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, Resident
from perfmodel.workload.op import Elementwise, Gemm

H100 = load_accelerator("h100-sxm5-80gb")
START = load_program_coefficients("h100-sxm5-80gb", "hopper", measured=False)
TRUTH = replace(
    START,
    scalars=dict(START.scalars)
    | {"cache_share": 0.8, "cache_rate": 2.6, "graph_launch": 12e-6, "stream_gap": 1.2e-6,
       "python_call": 0.8e-6},
    host=dict(START.host) | {"gemm": 20e-6, "pointwise": 9e-6, "view": 1.5e-6},
    pace={"gemm": 1.12, "pointwise": 0.93},
)  # fmt: skip


def network(number, graph):
    rng = np.random.default_rng(number)
    kernels, calls = [], []
    width = int(rng.choice([256, 512, 1024, 2048]))
    rows = int(rng.choice([64, 512, 4096, 16384]))
    size, weight, current = rows * width * 2, width * width * 2, 1000
    for layer in range(int(rng.integers(6, 30))):
        shown = len(kernels)
        kernels.append(
            Kernel("aten.mm", "gemm", (Gemm(rows, width, width),), ((layer, weight),
                   (current, size)), ((current + 1, size),), (), "forward", "gemm")
        )  # fmt: skip
        calls += [HostCall("view", -1, (), "forward")] * int(rng.integers(0, 4))
        calls.append(HostCall("gemm", -1, (shown,), "forward"))
        for _ in range(int(rng.integers(0, 4))):
            current += 1
            kernels.append(
                Kernel("aten.relu", "pointwise", (Elementwise("relu", rows * width),),
                       ((current, size),), ((current + 1, size),), (), "forward", "pointwise")
            )  # fmt: skip
            calls.append(HostCall("pointwise", -1, (len(kernels) - 1,), "forward"))
        current += 1
    if graph:
        calls = [HostCall("graph_replay", -1, tuple(range(len(kernels))), "forward")]
    return Lowered(
        f"net{number}", "torch-eager", "eager", graph, tuple(kernels), tuple(calls), (),
        (Resident(0, weight, "parameter"),), 0 if graph else len(kernels),
    )  # fmt: skip


def measured(number, graph):
    prepared = prepare(network(number, graph), H100)
    done = step(prepared, TRUTH)
    row = ModelRow(
        f"infer/net{number}", "infer", f"net{number}", "graph" if graph else "eager", 1, 0, "bf16",
        done.seconds, done.synchronised, done.host + TRUTH["first_step"],
        None if graph else float(np.sum(profiled_kernels(prepared, TRUTH))),
        len(prepared.lowered.kernels),
    )  # fmt: skip
    return Measured(row, prepared)


@pytest.fixture(scope="module")
def cases():
    return [measured(number, graph) for number in range(24) for graph in (True, False)]


def test_a_fit_finds_what_made_the_steps(cases):
    fitted = fit_programs(cases[:24], START, device="h100-sxm5-80gb")
    before = [step(one.prepared, START).seconds / one.row.step_s for one in cases[24:]]
    after = [step(one.prepared, fitted).seconds / one.row.step_s for one in cases[24:]]
    assert np.abs(np.array(after) - 1.0).mean() < 0.02
    assert np.abs(np.array(after) - 1.0).mean() < 0.3 * np.abs(np.array(before) - 1.0).mean()
    assert fitted.host["gemm"] == pytest.approx(TRUTH.host["gemm"], rel=0.25)
    assert fitted["stream_gap"] == pytest.approx(TRUTH["stream_gap"], rel=0.35)
    assert "scalars.cache_share" in moved(START, fitted)
    assert set(fitted.interval) == {"eager", "graph"}


def test_slopes_of_all_coefficients_at_once_are_those_one_by_one():
    rng = np.random.default_rng(5)
    counts = rng.uniform(1.0, 9.0, (40, 3))
    names = ("gemm", "pointwise", "view")

    def many(sets):
        return counts @ np.array([[c.host[name] for name in names] for c in sets]).T

    target = many([TRUTH])[:, 0]
    fits = [
        fit_values(lambda c: many([c])[:, 0], target, START, np.linspace(0.5, 1.0, 40), host=names,
                   many=given)
        for given in (None, many)
    ]  # fmt: skip
    for name in names:
        assert fits[1].host[name] == pytest.approx(TRUTH.host[name], rel=0.1)
        assert fits[1].host[name] == pytest.approx(fits[0].host[name], rel=1e-3)


def probed(number, rng, truth):
    """A step with probes; of three rows two come after a profiler, and those have no block."""
    prepared = prepare(network(number, False), H100)
    attached = number % 3 > 0
    calls = float(rng.uniform(5e-6, 15e-6)) * np.array([1.0, rng.uniform(0.8, 1.2)])
    single, stream = (pace_of_probe(x, truth, profiler=attached) for x in calls.tolist())
    blocks = [None if attached else x * truth["probe_block"] for x in (single, stream)]
    issued = step(prepared, truth, pace=single, profiler=attached).host
    around = step(prepared, truth, pace=stream, profiler=attached).seconds
    row = ModelRow(
        f"infer/net{number}", "infer", f"net{number}", "eager", 1, 0, "bf16", around,
        host_s=issued + single * truth["first_step"], probe_call_s=float(calls[0]),
        stream_call_s=float(calls[1]), after_profiler=attached, probe_block_s=blocks[0],
        stream_block_s=blocks[1],
    )  # fmt: skip
    return Measured(row, prepared)


def test_a_probe_tells_the_pace_and_the_profiler_its_share():
    truth = replace(
        TRUTH,
        scalars=dict(TRUTH.scalars) | {"probe_power": 1.3, "profiler_launch": 4e-6},
        host=dict(TRUTH.host) | {"pointwise": START.host["pointwise"]},
    )
    rng = np.random.default_rng(7)
    rows = [probed(number, rng, truth) for number in range(60)]
    fitted = fit_programs(rows[:40], START, device="h100-sxm5-80gb")
    assert fitted["probe_power"] == pytest.approx(1.3, rel=0.03)
    assert fitted["fast_pace"] < fitted["usual_pace"] < fitted["slow_pace"]
    # Costs are those of the median probe; a launch costs more there by as much.
    slower = pace_of_probe(fitted["probe_call"], truth)
    assert fitted["profiler_launch"] == pytest.approx(slower * 4e-6, rel=0.3)
    for one in rows[40:]:
        row = one.row
        host = step(
            one.prepared, fitted, pace=issue_pace(row, fitted), profiler=row.after_profiler
        ).host
        first = issue_pace(row, fitted) * fitted["first_step"]
        assert host + first == pytest.approx(row.host_s, rel=0.15)


def test_the_stream_is_paced_by_the_block_inside_it_or_by_what_is_known():
    def pace(**more):
        row = ModelRow("a", "infer", "a", "eager", 1, 0, "bf16", 1e-3, probe_call_s=8e-6, **more)
        return row_pace(row, START)

    block = START["probe_block"]
    call = START["probe_call"]
    assert pace(stream_call_s=call, stream_block_s=1.7 * block) == pytest.approx(1.7**0.75)
    assert pace(stream_call_s=30e-6, stream_block_s=1.7 * block) > 1.7
    before, around = (pace_of_probe(x, START) for x in (8e-6, 10e-6))
    assert before < pace(stream_call_s=10e-6) < around
    # Two probes that lie far away caught a moment.
    assert pace(stream_call_s=80e-6) == pytest.approx(pace(stream_call_s=12e-6))
    assert pace() is None


def test_what_no_row_shows_stays(cases):
    fitted = fit_programs(cases[:8], START, device="x")
    # Calls that no program makes follow the processor as a whole; ratios stay.
    factor = fitted.host["conv"] / START.host["conv"]
    assert fitted.host["fft"] == pytest.approx(factor * START.host["fft"])
    assert fitted["backward_share"] == START["backward_share"]
    assert "conv_fwd" not in fitted.pace


def test_a_file_is_read_back_as_it_was_written(tmp_path):
    (tmp_path / "programs.toml").write_text((efficiency_folder() / "programs.toml").read_text())
    write_program_file(
        tmp_path, H100, replace(TRUTH, interval={"graph": 0.1}), rows=10, models=5, sha256="0" * 64,
        held_out={"graph": (7, 0.034)},
    )  # fmt: skip
    found = load_program_coefficients("h100-sxm5-80gb", "hopper", folder=tmp_path)
    assert found.device == "h100-sxm5-80gb"
    assert found["cache_rate"] == pytest.approx(2.6)
    assert found.pace["gemm"] == pytest.approx(1.12)
    assert found.interval == {"graph": 0.1}
    sibling = load_program_coefficients("h200-sxm-141gb", "hopper", folder=tmp_path)
    assert sibling.device == "h100-sxm5-80gb"
    other = load_program_coefficients("a100-sxm4-80gb", "ampere", folder=tmp_path)
    assert other.device == ""


TABLE = """case,kind,model,mode,batch,seq,dtype,step_us,latency_us,host_us,kernel_us,peak_allocated
infer/a/eager/b1/s0/bf16/nhwc,infer,a,eager,1,0,bf16,120.5,140,118,60,1024
infer/a/graph/b1/s0/bf16/nhwc,infer,a,graph,1,0,bf16,80,,,,
infer/b/eager/b1/s0/bf16/nhwc,infer,b,eager,1,0,bf16,,,,,
"""


def test_a_table_of_models_is_read(tmp_path):
    (tmp_path / "cases.csv").write_text(TABLE)
    first, second = read_model_rows(tmp_path)
    assert first.step_s == pytest.approx(120.5e-6)
    assert first.peak_allocated == 1024
    assert second.host_s is None
    assert first.recorded == second.recorded == "infer-a-b1-s0-bf16-nhwc"
    assert list(read_kernel_rows(tmp_path)) == []
    (tmp_path / "cases.csv").write_text(TABLE.replace("120.5", "fast"))
    with pytest.raises(CalibrationError, match="columns"):
        read_model_rows(tmp_path)
    with pytest.raises(CalibrationError, match="no such file"):
        read_model_rows(tmp_path / "nowhere")


PROBED = """\
case,kind,model,mode,batch,seq,dtype,step_us,kernel_us,probe_call_us,stream_probe_add_ns{}
infer/a/eager/b1,infer,a,eager,1,0,bf16,120,60,7.0,24{}
infer/a/compiled/b1,infer,a,compiled,1,0,bf16,80,50,6.5,{}
infer/b/eager/b1,infer,b,eager,1,0,bf16,90,,9.0,25{}
"""


def test_rows_behind_a_profiled_one_ran_with_the_profiler_attached(tmp_path):
    for folder, column, cells in (
        ("old", "", ("", "", "")),
        ("new", ",after_profiler", (",false", ",false", ",false")),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cases.csv").write_text(PROBED.format(column, *cells))
    rows = {(row.run, row.case): row for row in read_model_rows(tmp_path)}
    attached = {key for key, row in rows.items() if row.after_profiler}
    assert attached == {("old", "infer/b/eager/b1")}
    row = rows["old", "infer/a/eager/b1"]
    assert row.probe_call_s == pytest.approx(7e-6)
    assert row.stream_add_s == pytest.approx(24e-9)
    assert row.stream_call_s is None


STANDING = """\
case,kind,model,mode,batch,seq,dtype,step_us,after_profiler,stream_probe_call_us
infer/a/eager/b1,infer,a,eager,1,0,bf16,{},{},{}
infer/a/graph/b1,infer,a,graph,1,0,bf16,80,false,
"""


def test_of_the_rows_of_a_case_one_stands_for_it(tmp_path):
    for folder, step_us, attached, probe in (
        ("eager", 120, "true", "7"), ("eager-2", 90, "false", ""), ("eager-9", 95, "false", "7"),
        ("eager-10", 96, "false", "7"), ("eager-11", 150, "true", "7"),
    ):  # fmt: skip
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cases.csv").write_text(STANDING.format(step_us, attached, probe))
    rows = read_model_rows(tmp_path)
    eager = [row for row in rows if row.mode == "eager"]
    assert [row.run for row in eager if not row.superseded] == ["eager-10"]
    graph = [row for row in rows if row.mode == "graph"]
    assert sum(not row.superseded for row in graph) == 1  # the newest of equal ones


def test_programs_behind_each_other_take_what_they_take_alone(cases):
    some = cases[:7]
    joined = join([one.prepared.priced for one in some])
    found = joined.sums(joined.seconds(TRUTH))
    alone = [device_times(one.prepared, TRUTH)[0].seconds.sum() for one in some]
    assert found == pytest.approx(alone, rel=1e-9)
    assert joined.priced.count == sum(one.prepared.priced.count for one in some)


def test_the_assumed_pace_counts_hosts_and_not_rows():
    rng = np.random.default_rng(3)
    fast = [probed(3 * number, rng, TRUTH) for number in range(30)]

    def at(one, run, block, mode="eager"):
        row = replace(one.row, run=run, mode=mode, stream_block_s=block, probe_block_s=block,
                      stream_call_s=8e-6, probe_call_s=8e-6)  # fmt: skip
        return replace(one, row=row)

    many = [at(one, "many", 100e-6) for one in fast[:24]]
    few = [at(one, f"few-{k}", 130e-6) for k, one in enumerate(fast[24:])]
    fitted = fit_programs([*many, *few], START, device="h100-sxm5-80gb")
    assert fitted["usual_pace"] == pytest.approx((130e-6 / fitted["probe_block"]) ** 0.75)
    assert fitted["usual_pace_compiled"] == fitted["usual_pace_training"] == fitted["usual_pace"]


def test_hosts_that_train_are_assumed_apart():
    rng = np.random.default_rng(4)
    some = [probed(3 * number, rng, TRUTH).row for number in range(30)]
    slow = [replace(row, kind="train", stream_block_s=200e-6) for row in some[:15]]
    fast = [replace(row, kind="infer", stream_block_s=100e-6) for row in some[15:]]
    found = assumed_paces([*slow, *fast], TRUTH)
    assert found["usual_pace_training"] > found["usual_pace"]
    assert found["usual_pace"] <= found["usual_pace_compiled"] <= found["usual_pace_training"]


def test_runs_close_in_time_are_on_one_host():
    row = measured(0, False).row
    times = {"a": 0.0, "b": 800.0, "c": 1600.0, "d": 9000.0, "e": None, "f": None}
    rows = [replace(row, run=run, began=time) for run, time in times.items()]
    assert hosts_of(rows) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e", "f": "f"}
