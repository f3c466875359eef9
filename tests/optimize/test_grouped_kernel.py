"""The persistent kernel in Triton's interpreter against a float64 convolution."""

import os

import numpy as np
import pytest

# the interpreter itself converts one-element arrays to scalars, which NumPy deprecates
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

os.environ.setdefault("TRITON_INTERPRET", "1")
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from perfmodel.optimize.grouped.forms import forms  # noqa: E402
from perfmodel.optimize.grouped.heuristics import longest_first  # noqa: E402
from perfmodel.optimize.grouped.knapsack import merge  # noqa: E402
from perfmodel.optimize.grouped.problem import (  # noqa: E402
    Group,
    GroupedConv,
    contiguous_groups,
)
from perfmodel.optimize.grouped.tables import tables  # noqa: E402
from perfmodel.optimize.grouped.tiles import VARIANTS, usable  # noqa: E402

EIGHTS = contiguous_groups([8, 16, 24], [8, 40, 16])
LAYERS = {
    8: [
        GroupedConv(2, 5, 4, 48, EIGHTS),
        GroupedConv(1, 7, 6, 48, EIGHTS, stride=2, dilation=2, padding=2),
        GroupedConv(1, 9, 8, 48, EIGHTS, kernel=1, padding=0),
    ],
    4: [GroupedConv(2, 5, 4, 16, contiguous_groups([4, 12], [20, 4]))],
    1: [GroupedConv(2, 5, 4, 16, contiguous_groups([3, 6, 7], [5, 17, 2]), stride=2)],
    0: [GroupedConv(2, 5, 4, 16, (Group((5, 2, 9, 11), 7), Group((0, 1, 2, 5, 15), 19)))],
}


@pytest.mark.skipif(os.environ["TRITON_INTERPRET"] != "1", reason="for the interpreter")
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_kernel_equals_float64(variant, monkeypatch):
    from validate.grouped_conv import layer as device

    monkeypatch.setitem(device.DTYPES, "bf16", torch.float32)
    for conv in LAYERS[0 if variant.mode == "table" else variant.run]:
        assert variant in usable(conv)
        built = device.build(conv, "cpu")
        x, y = device.make_input(conv, "cpu", 1), device.make_output(conv, "cpu")
        number = variant.counts(conv)
        pick = np.random.default_rng(0).integers(0, 3, len(conv.groups))
        kinds = merge(number, number + 1.0, pick)
        counts = longest_first(kinds.seconds, kinds.number, 5)
        ready = device.prepare(variant, tables(conv, variant, pick, kinds, counts), "cpu")
        device.launch(built, ready, x, y)
        assert device.relative_error(y, device.reference(conv, built.weights, x)) < 2e-6


@pytest.mark.skipif(os.environ["TRITON_INTERPRET"] != "1", reason="for the interpreter")
@pytest.mark.parametrize("source", [8, 1, 0])
def test_every_form_equals_float64(source, monkeypatch):
    """Groups merged under zeros, and channels packed first, compute the same layer."""
    from validate.grouped_conv import layer as device
    from validate.grouped_conv.formed import form_layer, run_form

    monkeypatch.setitem(device.DTYPES, "bf16", torch.float32)
    conv = LAYERS[source][0]
    built = device.build(conv, "cpu")
    x = device.make_input(conv, "cpu", 1)
    reference = device.reference(conv, built.weights, x)
    ways = forms(conv)
    assert {one.gather is None for one in ways} == ({True} if source == 8 else {True, False})
    for form in ways:
        made = form_layer(built, form, "cpu")
        variant = usable(form.conv)[0]
        number = variant.counts(form.conv)
        pick = np.zeros(len(form.conv.groups), dtype=int)
        kinds = merge(number, number + 1.0, pick)
        counts = longest_first(kinds.seconds, kinds.number, 3)
        ready = device.prepare(variant, tables(form.conv, variant, pick, kinds, counts), "cpu")
        y = device.make_output(conv, "cpu")
        run_form(made, ready, x, y)
        assert device.relative_error(y, reference) < 2e-6, form.name
