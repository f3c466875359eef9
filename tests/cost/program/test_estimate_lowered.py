"""A lowered program on a device: sums, properties, explanations, memory."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.cost import price
from perfmodel.cost.program import estimate_lowered, program_coefficients
from perfmodel.cost.program.coefficients import load_program_coefficients
from perfmodel.cost.program.host import (
    CALLS_OF_A_MODULE,
    OUTSIDE,
    call_seconds,
    columns,
    host_work,
)
from perfmodel.cost.program.host_kinds import inside, library_copies
from perfmodel.cost.program.memory import library_workspace, replay
from perfmodel.cost.program.price_kernels import price_kernels
from perfmodel.cost.program.spread import within
from perfmodel.errors import CalibrationError, WorkloadError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, MemoryEvent, Resident
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.op import Attention, Conv2d, Elementwise, Gemm, TopK

H100 = load_accelerator("h100-sxm5-80gb")
H200 = load_accelerator("h200-sxm-141gb")
MIB = 2**20


def with_memory(**changes):
    return H100.model_copy(update={"memory": H100.memory.model_copy(update=changes)})


def chain(layers=8, rows=512, width=1024, graph=False, training=False):
    """Linear layers with an activation: weights are storages 0.., activations follow."""
    kernels, calls, events = [], [], []
    weight = width * width * 2
    size = rows * width * 2
    current = layers
    for layer in range(layers):
        product, activated = current + 1, current + 2
        kernels.append(
            Kernel(
                "aten.mm", "gemm", (Gemm(rows, width, width, dtype="bf16"),),
                ((layer, weight), (current, size)), ((product, size),), (2 * layer,), "forward",
                "gemm",
            )
        )  # fmt: skip
        kernels.append(
            Kernel(
                "aten.relu", "pointwise", (Elementwise("relu", rows * width),),
                ((product, size),), ((activated, size),), (2 * layer + 1,), "forward", "pointwise",
            )
        )  # fmt: skip
        if not graph:
            calls += [HostCall("gemm", 2 * layer, (2 * layer,), "forward", 3)]
            calls += [HostCall("pointwise", 2 * layer + 1, (2 * layer + 1,), "forward", 2)]
        at = (0, 0) if graph else (2 * layer, 2 * layer + 1)
        events.append(MemoryEvent(at[0], product, size, True))
        if layer:
            events.append(MemoryEvent(at[0], current, size, False))
        events.append(MemoryEvent(at[1], activated, size, True))
        events.append(MemoryEvent(at[1], product, size, False))
        current = activated
    if graph:
        calls = [HostCall("graph_replay", -1, tuple(range(2 * layers)), "forward")]
    resident = tuple(Resident(k, weight, "parameter") for k in range(layers))
    return Lowered(
        "chain", "torch-eager", "eager", graph, tuple(kernels), tuple(calls), tuple(events),
        (*resident, Resident(layers, size, "input")), module_calls=0 if graph else 2 * layers,
    )  # fmt: skip


def test_a_graph_takes_its_kernels_and_one_start():
    found = estimate_lowered(chain(graph=True), H100)
    c = program_coefficients(H100)
    assert found.seconds == pytest.approx(found.kernels.seconds.sum() + c["graph_launch"])
    assert found.mode == "graph"
    assert found.launch_bound == pytest.approx(0.0, abs=1e-12)


def test_cold_kernels_cost_what_price_says():
    # Weights of 128 MiB each and activations of 2 GiB: no cache holds anything.
    found = estimate_lowered(chain(layers=2, rows=2**17, width=8192, graph=True), H100)
    paces = program_coefficients(H100).pace
    alone = float(price(Gemm(2**17, 8192, 8192), H100).seconds)
    assert found.kernels.resident.max() < 1e-3
    assert found.kernels.alone[0] == pytest.approx(alone)
    assert found.kernels.seconds[0] == pytest.approx(alone * paces.get("gemm", 1.0), rel=1e-3)


def test_fresh_activations_come_from_the_cache():
    lowered = chain(rows=1024, width=1024, graph=True)
    fitted = program_coefficients(H100)
    none = replace(fitted, scalars=dict(fitted.scalars) | {"cache_share": 1e-9})
    found = estimate_lowered(lowered, H100)
    without = estimate_lowered(lowered, H100, coefficients=none)
    relu = [k for k, kernel in enumerate(found.kernels.kernels) if kernel.kind == "pointwise"]
    assert found.kernels.resident[relu].min() > 0.8
    assert without.kernels.resident[relu].max() < 1e-6
    assert (found.kernels.seconds[relu] < without.kernels.seconds[relu]).all()


def test_small_work_is_bound_by_launches_and_large_work_is_not():
    small = estimate_lowered(chain(rows=16, width=128), H100)
    large = estimate_lowered(chain(rows=2**15, width=4096), H100)
    assert small.launch_bound > 0.5
    assert small.seconds == pytest.approx(small.host_seconds, rel=1e-6)
    assert large.launch_bound == pytest.approx(0.0, abs=1e-12)
    assert large.seconds == pytest.approx(large.device_seconds, rel=1e-6)
    assert small.estimate.bound == "launch"
    assert small.synchronised_seconds >= small.seconds


def test_a_step_is_the_sum_of_its_parts():
    found = estimate_lowered(chain(rows=16, width=128), H100)
    parts = sum(part.seconds for part in found.estimate.parts)
    assert parts == pytest.approx(found.seconds)
    text = found.explain()
    assert "device waits for the host" in text
    assert "iB allocated" in text
    assert "0.000" not in text
    record = json.loads(json.dumps(found.to_dict()))
    assert record["latency_s"] == found.seconds
    assert len(record["kernels"]) == 16


def test_memory_is_weights_activations_and_the_workspace_of_the_library():
    lowered = chain(layers=4, rows=4096, width=4096)
    memory = replay(lowered, workspace=library_workspace(H100))
    # 4 weights of 32 MiB, input, two live activations of 32 MiB, and 32 MiB for cuBLAS.
    assert memory.resident == 5 * 32 * MIB
    assert memory.peak_allocated == (4 + 1 + 2 + 1) * 32 * MIB
    assert memory.at_peak["workspace"] == 32 * MIB
    assert sum(memory.at_peak.values()) == memory.peak_allocated


def test_what_does_not_fit_is_said():
    small = with_memory(capacity=900 * 2**20)
    found = estimate_lowered(chain(layers=4, rows=4096, width=4096), small)
    assert not found.fits
    assert "more than the device has" in found.explain()
    assert "more than the device has" in repr(found)


def test_an_estimate_prints_as_a_line():
    shown = repr(estimate_lowered(chain(), H100))
    assert "\n" not in shown
    assert len(shown) < 160
    assert "H100" in shown


def test_an_unknown_operator_is_priced_between_two_estimates():
    lowered = chain(graph=True)
    strange = replace(
        lowered.kernels[1], name="mylib.op", kind="unknown", known=False,
        upper=(Elementwise("relu", 2**26),),
    )  # fmt: skip
    kernels = (lowered.kernels[0], strange, *lowered.kernels[2:])
    found = estimate_lowered(replace(lowered, kernels=kernels), H100)
    (one,) = found.unknown
    known = estimate_lowered(chain(graph=True), H100).estimate
    step = found.estimate
    assert step.high - step.seconds > one.high - found.kernels.seconds[1] > 0.0
    assert step.seconds - step.low > known.seconds - known.low
    assert one.name == "mylib.op"
    assert one.low < found.kernels.seconds[1] < one.high
    assert not found.estimate.calibrated


def test_a_host_that_holds_the_step_up_hides_an_unknown_operator():
    lowered = chain(layers=40)
    strange = replace(lowered.kernels[1], kind="unknown", known=False, upper=())
    kernels = (lowered.kernels[0], strange, *lowered.kernels[2:])
    found, plain = (estimate_lowered(x, H100) for x in (replace(lowered, kernels=kernels), lowered))
    assert found.launch_bound > 0.3
    assert found.estimate.low == pytest.approx(plain.estimate.low, rel=0.01)
    long = replace(strange, upper=(Elementwise("relu", 2**31),))
    kernels = (lowered.kernels[0], long, *lowered.kernels[2:])
    slow = estimate_lowered(replace(lowered, kernels=kernels), H100)
    (one,) = slow.unknown
    assert slow.estimate.high > max(slow.seconds, 0.9 * one.high)
    assert slow.estimate.low >= 0.6 * slow.host_seconds


def test_more_bandwidth_is_never_slower():
    lowered = chain(rows=4096, width=1024, graph=True)
    faster = with_memory(bandwidth=2 * H100.memory_bandwidth)
    assert estimate_lowered(lowered, faster).seconds <= estimate_lowered(lowered, H100).seconds


def test_a_chip_without_measured_models_takes_its_siblings():
    found = load_program_coefficients("h200-sxm-141gb", "hopper")
    assert found.host["pointwise"] > 0.0
    assert estimate_lowered(chain(), H200).estimate.high > 0.0


def test_a_wrong_file_is_refused(tmp_path):
    (tmp_path / "programs.toml").write_text("[scalars]\ncache_shar = 1.0\n")
    with pytest.raises(CalibrationError, match="cache_share"):
        load_program_coefficients("x", "y", folder=tmp_path)
    (tmp_path / "programs.toml").write_text("[scalars]\ncache_share = 1.0\n")
    with pytest.raises(CalibrationError, match="every coefficient"):
        load_program_coefficients("x", "z", folder=tmp_path)


def test_kernels_of_one_kind_and_phase_add_up():
    found = estimate_lowered(chain(), H100)
    assert len(found.kernels) == len(found.kernels.rows())
    assert sum(found.kernels.by_kind().values()) == pytest.approx(found.kernels.seconds.sum())
    assert list(found.kernels.by_phase()) == ["forward"]
    assert np.all(found.kernels.low <= found.kernels.seconds)
    assert np.all(found.kernels.high >= found.kernels.seconds)


def test_a_processor_is_the_same_beside_a_chip_that_nobody_measured():
    measured = load_program_coefficients("h100-sxm5-80gb", "hopper")
    other = load_program_coefficients("a100-sxm4-80gb", "ampere")
    defaults = load_program_coefficients("a100-sxm4-80gb", "ampere", measured=False)
    assert other.host == measured.host != defaults.host
    assert other["python_call"] == measured["python_call"]
    assert other["cache_share"] == defaults["cache_share"] != measured["cache_share"]
    assert (other.pace, other.device) == (defaults.pace, "")


def test_a_slower_host_takes_longer_and_an_unknown_one_is_said_to_be_assumed():
    lowered = chain(rows=16, width=128)
    one, two = (estimate_lowered(lowered, H100, host_pace=pace) for pace in (1.0, 2.0))
    assert two.host_seconds == pytest.approx(2.0 * one.host_seconds)
    assert two.seconds == pytest.approx(2.0 * one.seconds)
    assert (two.host_pace, two.host_pace_assumed) == (2.0, False)
    assert not any("host pace" in note for note in two.notes)
    c = program_coefficients(H100)
    unknown = estimate_lowered(lowered, H100)
    assert unknown.host_pace_assumed
    assert unknown.host_pace == c["usual_pace"]
    assert any("host pace" in note for note in unknown.notes)
    ends = [estimate_lowered(lowered, H100, host_pace=c[w]) for w in ("fast_pace", "slow_pace")]
    assert unknown.estimate.low <= ends[0].seconds < ends[1].seconds <= unknown.estimate.high
    assert unknown.to_dict()["host_pace_assumed"] is True


def test_a_step_that_the_device_holds_up_does_not_ask_for_a_pace():
    found = estimate_lowered(chain(rows=2**15, width=4096), H100)
    assert not any("host pace" in note for note in found.notes)
    slow = estimate_lowered(chain(rows=2**15, width=4096), H100, host_pace=1.5)
    assert slow.seconds == pytest.approx(found.seconds, rel=1e-3)


@pytest.mark.parametrize("pace", [0.0, -1.0, float("nan"), True, "fast"])
def test_a_pace_is_a_positive_ratio(pace):
    with pytest.raises(WorkloadError, match="host_pace"):
        estimate_lowered(chain(), H100, host_pace=pace)


def test_a_call_is_paid_by_what_it_launches():
    def seconds(**more):
        kernel = replace(chain(layers=1).kernels[0], **more)
        return float(call_seconds(host_work(one_call(kernel)), c).sum())

    def one_call(kernel):
        return replace(
            chain(layers=1), kernels=(kernel,), module_calls=0,
            calls=(HostCall(kernel.host, -1, (0,), "forward"),),
        )  # fmt: skip

    c = program_coefficients(H100)
    plain, groups = (Conv2d(8, 64, 28, 28, 64, 3, padding=1, groups=g) for g in (1, 4))
    assert seconds(host="conv", ops=(plain,)) == pytest.approx(c.host["conv"])
    assert seconds(host="conv", ops=(groups,)) == pytest.approx(c.host["conv_grouped"])
    generated = [
        seconds(kind="conv", host="extern", ops=(conv,))
        - seconds(kind="conv", host="extern", ops=())
        for conv in (plain, groups)
    ]
    paid = c.host["extern_conv_grouped"] - c["compiled_pace"] * c.host["extern_conv"]
    assert generated == pytest.approx([0.0, paid])
    text, token = (Attention(2, 8, 8, q_len, 64, 64) for q_len in (64, 1))
    assert seconds(host="attention", ops=(text,)) == pytest.approx(c.host["attention"])
    assert seconds(host="attention", ops=(token,)) == pytest.approx(c.host["attention_token"])
    found = [seconds(kind="attention", host="extern", ops=(one,)) for one in (text, token)]
    assert found[1] < found[0]
    assert seconds(host="norm", name="native_batch_norm") == pytest.approx(c.host["batch_norm"])
    half = seconds(host="pointwise", name="mul", reads=((0, 8),))
    both = seconds(host="pointwise", name="mul", reads=((0, 8), (1, 8)))
    assert (half, both) == pytest.approx((c.host["number"], c.host["pointwise"]))
    assert seconds(host="copy", name="_to_copy") == pytest.approx(c.host["copied"])
    back = seconds(host="copy", name="_to_copy", phase="backward")  # no Python calls it there
    assert back == pytest.approx(c.host["cast"])
    assert seconds(host="copy", name="copy_") == pytest.approx(c.host["copy"])
    more = seconds(host="sort", launches=5) - seconds(host="sort")
    assert more == pytest.approx(4 * c["more_launch"])


def test_python_functions_cost_the_host_and_modules_stand_for_them():
    c = program_coefficients(H100)
    counted = replace(chain(layers=4), python_calls=70)
    assumed = replace(counted, python_calls=0, module_calls=10)
    none = replace(assumed, module_calls=0)
    many, some, base = (
        float(call_seconds(host_work(one), c).sum()) for one in (counted, assumed, none)
    )
    usual = (1.0 - OUTSIDE) * c["python_call"] + OUTSIDE * c["outside_call"]
    assert many - base == pytest.approx(70 * usual)
    assert some - base == pytest.approx(CALLS_OF_A_MODULE * 10 * usual)
    split = float(call_seconds(host_work(replace(counted, outside_calls=20)), c).sum())
    assert split - base == pytest.approx(50 * c["python_call"] + 20 * c["outside_call"])
    assert c["outside_call"] > c["python_call"]


def test_views_are_recorded_for_less_than_kernels_and_a_backward_pass_wakes_a_thread():
    c = program_coefficients(H100)
    place = {name: k for k, name in enumerate(columns())}
    forward = chain(layers=2)
    back = HostCall("pointwise", -1, (), "backward")
    view = HostCall("view", -1, (), "forward")
    calls = (*forward.calls, view, back, back)
    counts = host_work(replace(forward, calls=calls)).counts.sum(axis=0)
    assert counts[place["autograd"]] == sum(bool(call.kernels) for call in forward.calls)
    assert counts[place["autograd_view"]] == 1 + sum(not call.kernels for call in forward.calls)
    assert counts[place["behind"]] == 1.0
    assert c["autograd_view"] < c["autograd"]


@pytest.mark.parametrize(
    ("kind", "name", "column"),
    [
        ("norm", "native_batch_norm", "autograd_norm"),
        ("conv", "convolution", "autograd_conv"),
    ],
)
def test_recording_a_batch_norm_or_a_convolution_takes_more_than_another_call(kind, name, column):
    c = program_coefficients(H100)
    place = {word: k for k, word in enumerate(columns())}
    forward = chain(layers=2)
    renamed = [replace(one, name=name) for one in forward.kernels]
    calls = [replace(call, kind=kind) if call.kernels else call for call in forward.calls]
    back = HostCall("pointwise", -1, (), "backward")
    inference = replace(forward, kernels=tuple(renamed), calls=tuple(calls))
    training = replace(inference, calls=(*calls, back))
    counted = host_work(training).counts
    assert counted[:, place[column]].sum() == sum(bool(call.kernels) for call in calls)
    other = {"autograd_norm": "autograd_conv", "autograd_conv": "autograd_norm"}[column]
    assert counted[:, place[other]].sum() == 0.0
    assert host_work(inference).counts[:, place[column]].sum() == 0.0
    assert c[column] > 0.0


def test_operators_that_call_others_cost_their_host_more():
    c = program_coefficients(H100)
    place = {name: k for k, name in enumerate(columns())}
    plain = chain(layers=1)
    one = plain.kernels[0]
    assert host_work(plain).counts[:, place["inside_call"]].sum() == 0.0
    assert inside([]) == inside([one]) == 0
    copy, work = replace(one, name="contiguous"), replace(one, name="native_layer_norm")
    assert inside([work]) == 0
    assert inside([copy]) == 0  # a call of its own
    assert inside([copy, work]) == 1
    assert inside([replace(one, name="masked_fill: copy"), one]) == 1
    assert inside([replace(one, name="native_group_norm: moments")]) == 3
    assert inside([replace(one, name="copy_", ops=(stream("repeat", 64, 8, 8),))]) == 6
    assert inside([replace(one, name="index: rows")]) == inside([replace(one, name="zeros")]) == 1
    assert inside([replace(one, name="index_copy_")]) == 0
    places = [replace(one, name=f"index_put: {part}") for part in ("copy", "sort")]
    assert inside([*places, one]) == 8  # indices in order, before any sum
    assert inside([places[0], one]) == 1
    assert c["inside_call"] > c["more_launch"]


def test_the_backward_pass_has_a_thread_of_its_own():
    forward = chain(rows=16, width=128)
    calls = tuple(replace(call, phase="backward") for call in forward.calls)
    c = program_coefficients(H100)
    work = host_work(replace(forward, calls=calls, module_calls=0))
    slow, usual = (float(call_seconds(work, c, pace=pace).sum()) for pace in (4.0, 1.0))
    assert slow == pytest.approx(4.0 ** c["backward_pace"] * usual)


def test_what_runs_beside_a_convolution_costs_the_host_too():
    lowered = chain(layers=1)
    conv, bias = (replace(kernel, kind=kind) for kernel, kind in
                  zip(lowered.kernels, ("conv", "pointwise"), strict=True))  # fmt: skip
    alone = replace(lowered, kernels=(conv,), calls=(HostCall("conv", -1, (0,), "forward"),))
    both = replace(lowered, kernels=(conv, bias), calls=(HostCall("conv", -1, (0, 1), "forward"),))
    c = program_coefficients(H100)
    one, two = (float(call_seconds(host_work(made), c).sum()) for made in (alone, both))
    assert two - one == pytest.approx(c.host["conv_beside"])
    with_profiler = float(call_seconds(host_work(both), c, profiler=True).sum())
    assert with_profiler - two == pytest.approx(2 * c["profiler_launch"])


def test_unknown_hosts_and_the_models_own_error_add_in_squares():
    low, high = within(1.0, (0.8, 2.0), 0.1)
    assert low == pytest.approx(math.exp(-math.hypot(math.log(0.8), 0.1)))
    assert high == pytest.approx(math.exp(math.hypot(math.log(2.0), 0.1)))
    assert within(1.0, (1.2, 0.9), 0.0) == (1.0, 1.0)  # a spread never turns round
    assert within(0.0, (0.0, 0.0), 0.1) == (0.0, 0.0)


def test_what_the_library_copies_around_convolutions_costs_its_host():
    c = program_coefficients(H100)
    plain = chain(layers=1).kernels[0]

    def copies(**sizes: object) -> int:
        shape = {"n": 8, "c_in": 64, "h": 28, "w": 28, "c_out": 64, "kernel": 3, "padding": 1}
        return library_copies([replace(plain, kind="conv", ops=(Conv2d(**(shape | sizes)),))])

    assert copies() == copies(c_in=3) == copies(layout="nchw", kernel=1, padding=0) == 0
    assert copies(layout="nchw") == 3  # maps, weights and the result are turned
    assert copies(c_in=18) == 4  # maps and weights, each filled and copied
    assert copies(c_out=18) == 3
    assert copies(c_in=18, c_out=18) == 5
    assert copies(c_in=18, kernel=1, padding=0) == copies(c_in=18, groups=18, c_out=18) == 0
    assert copies(c_in=18, dtype="tf32") == 0
    assert c["library_copy"] > c["more_launch"]
    turned = Conv2d(n=8, c_in=64, h=28, w=28, c_out=64, kernel=3, padding=1, layout="nchw")
    program = replace(
        chain(layers=1), kernels=(replace(plain, kind="conv", ops=(turned,)),),
        calls=(HostCall("conv", -1, (0,), "forward"),),
    )  # fmt: skip
    at = columns().index("library_copy")
    assert host_work(program).counts[:, at].sum() == 3
    assert host_work(replace(program, graph=True)).counts[:, at].sum() == 0


def test_a_choice_of_the_largest_pays_no_launch_beside_its_price():
    def launched(op):
        kernel = Kernel("x", "sort", (op,), ((0, 64),), ((1, 64),), (0,), "forward", "sort", 2)
        lowered = replace(chain(0), kernels=(kernel,), calls=(), events=())
        return price_kernels(lowered, H100).extra.tolist()

    assert launched(TopK(4, 8, 2)) == [0.0]
    assert launched(stream("histc", 64, 64, 64)) == [1.0]
