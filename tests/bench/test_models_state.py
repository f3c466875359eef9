"""What a measuring process says of itself, and the cases and rounds of the later runs."""

import gc
import time

import pytest

from validate.bench.models import (
    cases,
    cases_draw,
    cases_fresh,
    cases_more,
    cases_usual,
    draws,
    drive,
    plans,
    state,
)


def test_counters_tell_what_a_stream_took():
    first = state.counters()
    made = [[k] for k in range(20_000)]
    gc.collect()
    row = state.between(first, state.counters(), 10)
    assert len(made) == 20_000
    assert row["cpu_own"] > 0.0
    assert row["gc_old"] >= 0.1  # the full collection, over ten steps
    assert row["moves"] >= 0
    assert set(row) >= {"waits", "preempted", "faults", "core", "gc_young", "gc_middle"}


def test_a_walk_is_timed_by_the_object():
    assert state.walk() > 0.0


def test_later_cases_are_new_and_each_has_its_own_key():
    later = [*cases_more.eager(), *cases_more.compiled()]
    keys = [case.key for case in later]
    assert len(set(keys)) == len(keys)
    before = {case.model for case in [*cases.eager(), *cases.compiled()]}
    assert not before & {case.model for case in later}
    assert {case.mode for case in cases_more.compiled()} == {"compiled"}


@pytest.mark.parametrize("draw", [cases_fresh, cases_draw])
def test_an_unread_draw_holds_no_model_of_another_run(draw):
    fresh = [*draw.eager(), *draw.compiled()]
    keys = [case.key for case in fresh]
    assert len(set(keys)) == len(keys)
    modules = {cases, cases_more, cases_fresh, cases_draw, cases_usual} - {draw}
    others = [case for one in modules for case in (*one.eager(), *one.compiled())]
    assert not {case.model for case in others} & {case.model for case in fresh}
    assert {case.mode for case in draw.compiled()} == {"compiled"}


def test_usual_models_are_other_shapes_or_new():
    before = [*cases.eager(), *cases_more.eager(), *cases.compiled(), *cases_more.compiled()]
    known = {case.key for case in before}
    shapes = [*draws.eager(cases_usual.SHAPES), *draws.compiled(cases_usual.SHAPES)]
    assert not {case.key for case in shapes} & known
    assert {case.model for case in shapes} <= {case.model for case in before}
    unread = [*draws.eager(cases_usual.UNREAD), *draws.compiled(cases_usual.UNREAD)]
    assert not {case.model for case in unread} & {case.model for case in [*before, *shapes]}


def test_every_case_of_a_plan_has_a_key_of_its_own():
    keys = [case.key for case in plans.every()]
    assert len(set(keys)) == len(keys)


def test_the_probe_runs_inside_a_backward_pass():
    torch = pytest.importorskip("torch")
    seen = []

    def probe():
        seen.append(torch.is_grad_enabled())
        return (1.0, 2.0, 3.0)

    assert state.in_backward(probe, "cpu") == (1.0, 2.0, 3.0)
    assert seen == [False]


def test_rounds_hold_what_the_memory_holds():
    plan = [cases.Case("infer", f"net{k}", "compiled", 1, gb=20.0) for k in range(7)]
    sizes = [len(members) for members in drive.rounds(plan)]
    assert sizes == [3, 3, 1]
    large = cases.Case("infer", "net", "compiled", 1, gb=100.0)
    assert drive.rounds([large]) == [[large]]


def _training(torch):
    from torch.utils.checkpoint import checkpoint

    from validate.bench.models import inside

    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 4)
    )
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)

    def forward():
        return checkpoint(layers, layers(torch.ones(2, 4)), use_reentrant=False).sum()

    return layers, inside.Training(forward, optimizer.step)


def test_phases_of_a_step_leave_the_probes_between_them_out():
    torch = pytest.importorskip("torch")
    from validate.bench.models import measure

    layers, step = _training(torch)
    counted = []

    def blocks(count):
        counted.append(count)
        return 0.25

    before = layers[0].weight.detach().clone()
    found = step.probed(blocks)
    assert not torch.equal(before, layers[0].weight)
    assert all(found[part] > 0.0 for part in measure.PHASES)
    assert [found[part] for part in measure.BLOCKS] == [0.25] * 3
    assert counted == [1, 1, 1, 2]


def test_blocks_between_steps_are_no_part_of_them():
    torch = pytest.importorskip("torch")
    from validate.bench.models import woven

    layers, step = _training(torch)
    slow = 0.02

    def blocks(count):
        time.sleep(slow * count)
        return slow

    before = layers[0].weight.detach().clone()
    row = woven.woven(step, blocks, lambda: None, 3)
    assert not torch.equal(before, layers[0].weight)
    numbers = {name: [float(x) for x in str(text).split()] for name, text in row.items()}
    assert len(numbers["woven_us"]) == 3
    assert len(numbers["woven_block_us"]) == len(numbers["woven_first_us"]) == 6
    assert len(numbers["woven_backward_block_us"]) == 6  # where the pass begins, and where it ends
    assert min(numbers["woven_us"]) > 0.0
    # Six sleeps ran inside each backward pass.
    assert min(numbers["woven_backward_us"]) < 6e6 * slow
    plain = woven.woven(lambda: None, blocks, lambda: None, 2)
    assert "woven_forward_us" not in plain
    assert len(str(plain["woven_us"]).split()) == 2


def test_a_stream_has_enough_steps():
    pytest.importorskip("torch")
    from validate.bench.models import woven

    assert woven.count_of(1.0, tiny=False) == woven.FEWEST
    assert woven.count_of(1e-4, tiny=False) == woven.MOST
    assert woven.count_of(0.02, tiny=False) == 15
    assert woven.count_of(0.02, tiny=True) == 2


def test_a_process_that_keeps_its_memory_holds_little():
    kept = state.keep_memory()
    laid = state.KEPT_BYTES // state.KEPT_SIZE
    assert 0 < len(kept) <= laid // 500 + 1
    assert {len(one) for one in kept} == {state.KEPT_SIZE}


def test_a_page_fault_is_timed():
    assert 0.0 < state.fault_seconds() < 0.01
