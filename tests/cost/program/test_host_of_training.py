"""What training and compiled steps cost the host: hooks, trained tensors, generated wrappers."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.cost.program.coefficients import program_coefficients
from perfmodel.cost.program.host import (
    assumed_pace,
    call_seconds,
    column_seconds,
    columns,
    host_work,
)
from perfmodel.cost.program.host_kinds import paid_as
from perfmodel.hardware import load_accelerator
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, Resident
from perfmodel.workload.op import Conv2d, Elementwise, Gemm

C = program_coefficients(load_accelerator("h100-sxm5-80gb"))


def step(calls, *, mode="eager", kinds=(), modules=0, parameters=0):
    """Calls, each of which launches one kernel of its kind unless that is empty."""
    kernels, made = [], []
    ops = {"gemm": Gemm(64, 64, 64), "conv": Conv2d(1, 8, 8, 8, 8, 3)}
    for place, (kind, phase) in enumerate(calls):
        what = kinds[place] if kinds else "pointwise"
        launched = ()
        if what:
            launched = (len(kernels),)
            op = ops.get(what, Elementwise("add", 64))
            kernels.append(Kernel(f"aten.{what}", what, (op,), (), (), (place,), phase, kind))
        made.append(HostCall(kind, place, launched, phase, 3))
    resident = tuple(Resident(k, 8, "parameter") for k in range(parameters))
    return Lowered(
        "step", "torch-eager", mode, False, tuple(kernels), tuple(made), (), resident, modules
    )


def counted(lowered, name):
    work = host_work(lowered)
    return work.counts.sum(axis=0)[columns().index(name)]


def test_a_layer_that_runs_again_in_the_backward_pass_pays_for_its_hooks():
    plain = [("pointwise", "forward")] * 3 + [("pointwise", "backward")] * 3
    again = [*plain[:4], ("pointwise", "forward"), ("pointwise", "forward"), *plain[4:]]
    assert counted(step(plain), "recomputed") == 0
    assert counted(step(again), "recomputed") == 2
    more = (
        call_seconds(host_work(step(again)), C).sum()
        - call_seconds(host_work(step(plain)), C).sum()
    )
    hooks = C["recomputed"] + C["packed"]
    assert more == pytest.approx(2 * (C.host["pointwise"] + C["autograd"] + hooks))


def test_a_checkpointed_call_pays_in_the_first_forward_pass_too():
    calls = [("pointwise", "forward")] * 4 + [("pointwise", "backward")]
    again = step([*calls, ("pointwise", "forward"), ("pointwise", "forward"), calls[-1]])
    found = host_work(again)
    packed = found.counts[:, columns().index("packed")]
    assert packed[:4].tolist() == [0.5] * 4
    assert not packed[4:].any()


def test_gradients_are_kept_in_the_backward_pass():
    calls = [("pointwise", "forward")] * 2 + [("pointwise", "backward")] * 2
    work = host_work(step([*calls, ("optimizer", "optimizer")], parameters=7))
    kept = work.counts[:, columns().index("gradient")]
    assert kept.tolist() == [0.0, 0.0, 3.5, 3.5, 0.0]
    assert not work.counts[:, columns().index("parameter")][work.behind].any()


def test_views_that_run_again_save_nothing():
    calls = [("view", "forward"), ("pointwise", "backward"), ("view", "forward")]
    assert counted(step(calls, kinds=("", "pointwise", "")), "recomputed") == 0


def test_trained_tensors_are_paid_once_however_many_calls_the_optimizer_takes():
    calls = [("pointwise", "forward"), ("pointwise", "backward")]
    one = step([*calls, ("optimizer", "optimizer")], parameters=7)
    many = step([*calls, *[("foreach", "optimizer")] * 4], parameters=7)
    assert counted(one, "parameter") == pytest.approx(7)
    assert counted(many, "parameter") == pytest.approx(7)
    assert counted(step(calls, parameters=7), "parameter") == 0


def test_generated_wrappers_pay_by_what_they_call():
    calls = [("compiled_call", "forward"), *[("extern", "forward")] * 3, ("triton", "forward")]
    kinds = ("", "gemm", "conv", "attention", "pointwise")
    lowered = step(calls, mode="compile", kinds=kinds, modules=10)
    for name in ("extern_gemm", "extern_conv", "extern_attention", "triton", "compiled_call"):
        assert counted(lowered, f"forward {name}") == 1
    assert counted(lowered, "compiled_module") == 10
    assert counted(lowered, "compiled_input") == 3
    timed = sum(C.host[kind] for kind in ("extern_gemm", "extern_conv", "extern_attention"))
    timed += C.host["triton"] + C.host["compiled_call"]
    timed += 10 * C["compiled_module"] + 3 * C["compiled_input"] + 3 * C["compiled_tensor"]
    found = call_seconds(host_work(lowered), C, pace=2.0).sum()
    assert found == pytest.approx(2.0 * C["compiled_pace"] * timed)


@pytest.mark.parametrize(("name", "paid"), [("mm", "extern_gemm"), ("addmm", "extern_addmm")])
def test_a_product_with_an_addend_costs_a_generated_wrapper_more(name, paid):
    one = Kernel(name, "gemm", (Gemm(64, 64, 64),), (), (), (0,), "forward", "extern")
    assert paid_as("extern", [one]) == paid
    assert C.host["extern_addmm"] > C.host["extern_gemm"]


def test_all_calls_feel_a_slow_host_alike():
    generated = step([("compiled_call", "forward"), ("triton", "forward")], mode="compile",
                     kinds=("", "pointwise"))  # fmt: skip
    for lowered in (generated, step([("pointwise", "forward"), ("pointwise", "backward")])):
        work = host_work(lowered)
        once, later = (call_seconds(work, C, pace=p, behind=p).sum() for p in (1.0, 4.0))
        assert later == pytest.approx(4.0 * once)


def test_a_process_that_compiles_is_assumed_on_a_host_of_its_own_kind():
    c = replace(C, scalars=dict(C.scalars) | {"usual_pace": 0.9, "usual_pace_compiled": 1.3})
    assert assumed_pace("compile", c) == 1.3
    assert assumed_pace("eager", c) == assumed_pace("graph", c) == 0.9
    assert assumed_pace("compile", c, "slow") == c["slow_pace_compiled"]


def test_a_process_that_trains_is_assumed_slower_than_one_that_does_not():
    paces = {"usual_pace": 0.8, "usual_pace_training": 1.1, "usual_pace_compiled": 1.3}
    c = replace(C, scalars=dict(C.scalars) | paces)
    assert assumed_pace("eager", c, trains=True) == 1.1
    assert assumed_pace("compile", c, trains=True) == 1.3
    assert assumed_pace("eager", c, "slow", trains=True) == c["slow_pace_training"]


def test_kernels_of_a_compiled_forward_pass_keep_what_they_wrote():
    calls = [("compiled_call", "forward"), ("triton", "forward"), ("triton", "forward")]
    kinds = ("", "pointwise", "pointwise")
    behind = [*calls, ("compiled_call", "backward"), ("extern", "backward")]
    assert counted(step(calls, mode="compile", kinds=kinds), "compiled_saved") == 0
    training = step(behind, mode="compile", kinds=(*kinds, "", "gemm"))
    assert counted(training, "compiled_saved") == 2


def test_a_graph_that_breaks_is_entered_again_in_both_passes():
    calls = [("compiled_call", "forward"), ("triton", "forward"), ("compiled_call", "forward"),
             ("compiled_call", "backward"), ("compiled_call", "backward")]  # fmt: skip
    broken = step(calls, mode="compile", kinds=("", "pointwise", "", "", ""))
    assert counted(broken, "compiled_break") == 1
    assert counted(broken, "compiled_behind") == 2
    whole = step([calls[0], calls[1], calls[3]], mode="compile", kinds=("", "pointwise", ""))
    assert counted(whole, "compiled_break") == 0
    assert counted(whole, "compiled_behind") == 1


def test_every_column_has_a_cost():
    assert column_seconds(C).shape == (len(columns()),)
    assert np.all(column_seconds(C) > 0)


@pytest.mark.parametrize("kinds", [("foreach",) * 3, ("foreach", "optimizer"), ("optimizer",)])
def test_every_optimizer_pays_for_one_step(kinds):
    calls = [("pointwise", "backward"), *((kind, "optimizer") for kind in kinds)]
    assert counted(step(calls, parameters=5), "stepping") == pytest.approx(1)


def test_a_step_that_does_not_train_has_no_optimizer_to_pay():
    assert counted(step([("pointwise", "forward")]), "stepping") == 0
