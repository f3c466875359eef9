"""What a measuring process says of itself, and the cases and rounds of the later runs."""

import gc

import pytest

from validate.bench.models import (
    cases,
    cases_draw,
    cases_fresh,
    cases_more,
    drive,
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


def test_single_steps_run_without_the_collector_and_it_comes_back():
    seen = []
    waited = []
    spent = state.uncollected(lambda: seen.append(gc.isenabled()), lambda: waited.append(1), 3)
    assert seen == [False] * 3
    assert len(waited) == 4
    assert spent >= 0.0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_failing_step_gives_the_collector_back():
    def broken():
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        state.uncollected(broken, lambda: None, 1)
    assert gc.isenabled()


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
    modules = {cases, cases_more, cases_fresh, cases_draw} - {draw}
    others = [case for one in modules for case in (*one.eager(), *one.compiled())]
    assert not {case.model for case in others} & {case.model for case in fresh}
    assert {case.mode for case in draw.compiled()} == {"compiled"}


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


def test_phases_of_a_step_leave_the_probes_between_them_out():
    torch = pytest.importorskip("torch")
    from torch.utils.checkpoint import checkpoint

    from validate.bench.models import inside, measure

    layers = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 4)
    )
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    counted = []

    def blocks(count):
        counted.append(torch.is_grad_enabled())
        return 0.25

    def forward():
        return checkpoint(layers, layers(torch.ones(2, 4)), use_reentrant=False).sum()

    before = layers[0].weight.detach().clone()
    found = inside.phased(forward, optimizer.step, blocks, layers)
    assert not torch.equal(before, layers[0].weight)
    assert all(found[part] > 0.0 for part in measure.PHASES)
    assert [found[part] for part in measure.BLOCKS] == [0.25] * 3
    assert len(counted) > 8  # both passes were sampled
    assert not layers[0]._forward_pre_hooks
    alone = inside.phased(forward, optimizer.step, blocks, None)
    assert alone["backward_block"] == 0.25
