"""How many Python functions a recorded step calls."""

import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import perfmodel as pm  # noqa: E402
from perfmodel.workload.importers.python_calls import counts  # noqa: E402
from perfmodel.workload.program import load_program, save_program  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


def meta(*shape):
    return torch.empty(*shape, device="meta")


class Talkative(nn.Module):
    """Calls a function of its own so many times, and one operator."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = self.same(x)
        return x * 2

    @staticmethod
    def same(x):
        return x


def test_each_call_of_the_models_own_functions_counts():
    few, many = (pm.trace(Talkative(times), meta(4, 4)) for times in (3, 40))
    assert len(few.nodes) == len(many.nodes) == 1
    assert many.python_calls - few.python_calls == 37
    assert many.outside_calls - few.outside_calls == 37
    assert few.module_calls == many.module_calls == 1


def test_modules_count_and_shapes_on_meta_do_not():
    layers = [pm.trace(nn.Sequential(*[nn.Linear(8, 8)] * n), meta(2, 8)) for n in (1, 5)]
    each = (layers[1].python_calls - layers[0].python_calls) / 4
    assert layers[1].outside_calls == 0
    # __call__, its implementation and forward, and looking up weight and bias.
    assert each == 5.0
    for file, expected in (
        (nn.functional.__file__, True), (__file__, True), (pm.__file__, False),
        (torch._ops.__file__, False), (sys.modules["contextlib"].__file__, False),
        ("<string>", False), ("/opt/lib/site-packages/models/net.py", True),
    ):  # fmt: skip
        assert counts(file) is expected


def test_what_the_backward_pass_computes_again_counts_again():
    def calls(**more):
        parts = [nn.Sequential(Talkative(20), nn.Linear(8, 8)) for _ in range(3)]
        training = pm.Training("sgd", loss=lambda y: y.sum(), **more)
        return pm.trace(nn.Sequential(*parts), meta(4, 8), training=training).python_calls

    assert calls(checkpoint=("?",)) - calls() > 3 * 20


def test_the_count_is_kept_in_the_file_and_unknown_after_an_export(tmp_path):
    program = pm.trace(Talkative(3), meta(4, 4))
    save_program(program, tmp_path / "a.json")
    assert load_program(tmp_path / "a.json").python_calls == program.python_calls > 3
    assert pm.trace(Talkative(3), meta(4, 4), via="export").python_calls == 0


def test_a_profiler_of_the_callers_own_comes_back():
    def mine(frame, event, arg):
        del frame, event, arg

    before = sys.getprofile()
    sys.setprofile(mine)
    try:
        pm.trace(Talkative(1), meta(2))
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(before)
