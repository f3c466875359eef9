"""Arguments of the Python interface that are of a wrong kind: told in five parts, by name."""

from pathlib import Path

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.optimize.space import Space as Mixed
from perfmodel.optimize.uniform import Space as Uniform
from perfmodel.workload.stack import bundled_stacks, load_stack, stack_of

CHIP = "h100-sxm5-80gb"
NODE = "dgx-h100"
ODD = [None, 5, 1.5, [], {}, b"x", float("nan"), True, np.array([1, 2]), object()]
OP = {"op": "gemm", "m": 8, "n": 8, "k": 8}


def _infer(**given):
    usual = {"model": "gpt2", "device": CHIP, "batch_size": 1, "prompt_len": 8, "output_len": 2}
    return pm.infer(**(usual | given))


def _plan(**given):
    usual = {"model": "gpt2", "cluster": NODE, "global_batch_size": 8, "seq_len": 64, "top": 1}
    return pm.plan(**(usual | given))


def _train(plan):
    return pm.train("gpt2", NODE, plan, 8, 64)


CALLS = {
    "cluster": lambda odd: _plan(cluster=odd),
    "stack": lambda odd: _infer(stack=odd),
    "stack of a plan": lambda odd: _plan(stack=odd),
    "plan": _train,
    "plans": lambda odd: pm.evaluate("gpt2", NODE, [odd], 8, 64),
    "dtype": lambda odd: pm.op_from_dict(OP | {"dtype": odd}),
    "recompute": lambda odd: pm.Plan(recompute=odd),
    "op": lambda odd: pm.collective_seconds(odd, 1e6, 8, NODE, ranks_per_node=8),
    "path": pm.load_graph,
    "plans alone": lambda odd: pm.evaluate("gpt2", NODE, odd, 8, 64),
    "method": lambda odd: _plan(method=odd),
    "objective": lambda odd: _plan(objective=odd),
    "precision": lambda odd: _infer(precision=odd),
    "recompute_modules": lambda odd: pm.Plan(recompute_modules=[odd]),
    "budget": lambda odd: pm.budget(odd, 1e9),
}


@pytest.mark.parametrize("named", CALLS)
@pytest.mark.parametrize("odd", ODD, ids=[type(odd).__name__ for odd in ODD])
def test_what_is_of_a_wrong_kind_is_told(named, odd):
    with pytest.raises(pm.PerfmodelError) as caught:
        CALLS[named](odd)
    assert named.split(" ")[0].rstrip("s") in caught.value.where
    assert all((caught.value.got, caught.value.accepted, caught.value.repair))


@pytest.mark.parametrize("odd", ["1e12", "", None, [], {}, b"x", object(), np.array([1, 2])])
def test_a_budget_of_no_number_is_told(odd):
    step = _train(pm.Plan(dp=8))
    with pytest.raises(pm.PerfmodelError, match="budget: tokens"):
        pm.budget(step, tokens=odd)
    if odd is not None:
        with pytest.raises(pm.PerfmodelError, match="budget: rent"):
            pm.budget(step, tokens=1e9, rent=odd)
    assert pm.budget(step, np.float32(1e9)).seconds == pm.budget(step, 1e9).seconds


@pytest.mark.parametrize("odd", ["x", "8", None, {}, b"x", object(), True])
@pytest.mark.parametrize("name", ["size_bytes", "world", "ranks_per_node"])
def test_a_collective_of_no_number_is_told(name, odd):
    usual = {"size_bytes": 1e6, "world": 8, "ranks_per_node": 8}
    with pytest.raises(pm.PerfmodelError, match=f"all_reduce: {name}"):
        pm.collective_seconds("all_reduce", cluster=NODE, **(usual | {name: odd}))


NUMBERS = {
    "nodes": lambda n: pm.load(NODE, nodes=n).nodes,
    "tp": lambda n: pm.Plan(tp=n).tp,
    "zero": lambda n: pm.Plan(dp=2, zero=n).zero,
    "layers_per_stage": lambda n: pm.Plan(pp=2, layers_per_stage=(n, 5)).layers_per_stage[0],
    "batch_size": lambda n: _infer(batch_size=n).ttft_s,
    "prompt_len": lambda n: _infer(prompt_len=n).ttft_s,
    "global_batch_size": lambda n: _plan(global_batch_size=4 * n).best.step_time_s,
    "seq_len": lambda n: _plan(seq_len=8 * n).best.step_time_s,
    "top": lambda n: len(_plan(top=n).plans),
    "batch": lambda n: pm.evaluate("gpt2", NODE, [pm.Plan(dp=8)], 8 * n, 64).step_time.item(),
}


@pytest.mark.parametrize("named", NUMBERS)
def test_whole_numbers_may_be_of_numpy(named):
    answer = NUMBERS[named](np.int64(2))
    assert type(answer) is type(NUMBERS[named](2))
    assert answer == NUMBERS[named](2)
    with pytest.raises(pm.PerfmodelError, match=named):
        NUMBERS[named](np.float64(2.0))


def test_plans_may_come_from_any_iterable_but_not_alone():
    plans = [pm.Plan(dp=8), pm.Plan(tp=2, dp=4)]
    times = pm.evaluate("gpt2", NODE, (plan for plan in plans), 8, 64).step_time
    np.testing.assert_array_equal(times, pm.evaluate("gpt2", NODE, plans, 8, 64).step_time)
    with pytest.raises(pm.PerfmodelError, match=r"plans: got <Plan>"):
        pm.evaluate("gpt2", NODE, plans[0], 8, 64)


@pytest.mark.parametrize(
    ("plan", "batch", "why"),
    [
        (pm.Plan(dp=8, micro_batch_size=2), 8, "micro_batch_size"),  # no micro-batch at all
        (pm.Plan(dp=8), 12, "micro_batch_size"),
        (pm.Plan(dp=8), -8, "global_batch_size"),
        (pm.Plan(dp=8), 8.0, "global_batch_size"),
        (pm.Plan(tp=8, dp=2), 8, "world size"),
        (pm.Plan(tp=8), 8, "heads"),
        (pm.Plan(pp=8, virtual_stages=4), 8, "layers"),
    ],
)
def test_no_plan_of_an_array_is_priced_that_cannot_be(plan, batch, why):
    with pytest.raises(pm.PerfmodelError, match=why) as caught:
        pm.evaluate("gpt2", NODE, [pm.Plan(dp=8), plan], batch, 64)
    assert "plan" in caught.value.where


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"space": Uniform}, "search: space"),
        ({"space": Mixed(), "method": "search"}, "search: space"),
        ({"space": Uniform(), "method": "milp", "top": 5}, "planner: space"),
        ({"headroom": "0.1"}, "search: headroom"),
        ({"headroom": 1.0}, "search: headroom"),
        ({"efficiency": CHIP}, "efficiency"),
    ],
)
def test_options_of_a_search_that_are_something_else_are_told(given, where):
    with pytest.raises(pm.PerfmodelError) as caught:
        _plan(**given)
    assert caught.value.where == where


@pytest.mark.parametrize("of", [Uniform, Mixed])
@pytest.mark.parametrize(
    "given", [{"tp": 8}, {"tp": (0,)}, {"cp": ("2",)}, {"zero": (-1,)}, {"virtual_stages": (2.0,)}]
)
def test_what_a_search_cannot_look_through_is_told(of, given):
    with pytest.raises(pm.PerfmodelError, match=f"space: {next(iter(given))}"):
        of(**given)


@pytest.mark.parametrize(
    "given",
    [{"recompute": "full"}, {"recompute": ("ful",)}, {"sequence_parallel": (1,)}, {"widest": 0}],
)
def test_words_and_switches_of_a_search_are_told(given):
    with pytest.raises(pm.PerfmodelError, match=f"space: {next(iter(given))}"):
        Uniform(**given)
    assert Uniform(tp=np.array([2, 4])).tp == (2, 4)
    with pytest.raises(pm.PerfmodelError, match="no product of the degrees"):
        _plan(space=Uniform(tp=(3,)))


def test_sizes_of_a_collective_that_do_not_broadcast_are_told():
    with pytest.raises(pm.PerfmodelError, match=r"shapes \(3,\), \(2,\), \(\)"):
        pm.collective_seconds("all_reduce", np.ones(3), np.ones(2), NODE, ranks_per_node=1)


def test_a_format_is_empty_only_where_it_may_be():
    with pytest.raises(pm.PerfmodelError, match="gemm: dtype"):
        pm.op_from_dict(OP | {"dtype": ""})
    assert pm.op_from_dict({"op": "adamw", "numel": 8}).copy_dtype == ""


def test_a_stack_is_a_value_a_name_or_a_path(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("host_launch = 1e-6\n")
    with pytest.raises(pm.PerfmodelError, match=r"own.toml: description: got <no description>"):
        load_stack(path)
    (bundled,) = Path(pm.__file__).parent.glob("workload/stacks/torch-eager.toml")
    path.write_text(bundled.read_text().replace("torch-eager", "own", 1))
    assert stack_of(path) == stack_of(str(path)) == load_stack(path)
    for name in bundled_stacks():
        assert stack_of(name) == stack_of(load_stack(name))
    assert _infer(stack=Path(path)).e2e_s == _infer(stack=str(path)).e2e_s


def test_a_collective_is_asked_of_a_name_too():
    asked = ("all_reduce", 1e6, 8)
    by_name = pm.collective_seconds(*asked, NODE, ranks_per_node=8)
    assert by_name == pm.collective_seconds(*asked, pm.load(NODE), ranks_per_node=8)
