"""Layers of further networks, and the plan that draws on them."""

import random
from collections import Counter

import pytest

from validate.bench import conv_draws, conv_layers, conv_plain, ops, plan


def test_the_table_holds_every_kind_of_layer_once():
    layers = conv_layers.layers()
    assert len({layer[:-1] for layer in layers}) == len(layers) > 4000
    kinds = Counter(conv_layers.kind(layer) for layer in layers)
    assert min(kinds["dense"], kinds["depthwise"], kinds["grouped"]) > 300


@pytest.mark.parametrize("kind", ["dense", "depthwise", "grouped"])
@pytest.mark.parametrize("drawn_by", [conv_layers.draw, conv_plain.draw])
def test_a_draw_keeps_its_kind_and_can_be_run(kind, drawn_by):
    draw, rng, source = drawn_by(kind), random.Random(1), plan.points(4, 1)
    drawn = [draw(next(source), rng) | {"dtype": "bf16"} for _ in range(300)]
    for op in drawn:
        ops.check(op)
        outs = [ops.conv_out(op[s], op["kernel"], op["stride"], op["padding"]) for s in ("h", "w")]
        assert min(outs) >= 1
        assert op["c_in"] % op["groups"] == op["c_out"] % op["groups"] == 0
        assert (op["groups"] == 1) == (kind == "dense")
        assert (op["groups"] == op["c_in"] == op["c_out"]) == (kind == "depthwise")
    assert len({op["n"] for op in drawn}) > 8
    recorded = {layer.h for layer in conv_layers.layers()}
    assert any(op["h"] not in recorded for op in drawn)


def test_the_wide_plan_covers_every_kind_pass_layout_and_type_in_its_prefix():
    entries = conv_draws.build(700, seed=2, strata=conv_draws.WIDE)
    assert len({ops.key(e) for e in entries}) == len(entries)
    cells = {(e["op"], e["pass"], e["layout"], e["dtype"]) for e in entries[: len(entries) // 2]}
    assert len(cells) == 2 * 3 * 2 * 4
    kinds = Counter(ops.family(e) for e in entries)
    assert kinds["conv2d_fwd"] > kinds["conv2d_dgrad"] > 0.08 * len(entries)
    assert min(kinds["conv2d_depthwise"], kinds["conv2d_grouped"]) > 0.1 * len(entries)


def test_the_split_plan_is_of_groups_and_single_channels_most():
    entries = conv_draws.build(700, seed=2, strata=conv_draws.SPLIT)
    kinds = Counter(ops.family(e) for e in entries)
    assert kinds["conv2d_depthwise"] > 0.3 * len(entries)
    assert kinds["conv2d_grouped"] > 0.15 * len(entries)
    half = Counter(
        e["dtype"] for e in entries if ops.family(e) == "conv2d_depthwise" and e["layout"] == "nchw"
    )
    assert half["fp16"] > 2 * half["bf16"] > 0


def test_the_likely_plan_holds_ordinary_sizes_most_and_every_cell():
    entries = conv_draws.build(1500, seed=2, strata=conv_draws.LIKELY)
    assert len({ops.key(e) for e in entries}) == len(entries)
    cells = {(e["op"], e["pass"], e["layout"], e["dtype"]) for e in entries[: len(entries) // 2]}
    assert len(cells) == 2 * 3 * 2 * 4
    flat = [e for e in entries if e["op"] == "conv2d"]
    dense = [e for e in flat if e["groups"] == 1]
    assert 0.5 * len(entries) < len(dense) < 0.8 * len(entries)
    even = [e for e in dense if e["c_out"] % 8 == 0 and (e["c_in"] % 8 == 0 or e["c_in"] <= 4)]
    assert len(even) > 0.8 * len(dense)


def test_the_aimed_plan_holds_first_layers_and_every_cell():
    entries = conv_draws.build(1500, seed=2, strata=conv_draws.AIMED)
    assert len({ops.key(e) for e in entries}) == len(entries)
    cells = {(e["op"], e["pass"], e["layout"], e["dtype"]) for e in entries[: len(entries) // 2]}
    assert len(cells) == 2 * 3 * 2 * 4
    stems = [e for e in entries if e["op"] == "conv2d" and e["groups"] == 1 and e["c_in"] <= 4]
    assert len(stems) > 0.04 * len(entries)
    # Nobody asks for the gradient of an image; layers of odd sizes may look like such a one.
    patches = Counter(e["pass"] for e in stems if e["kernel"] == e["stride"] > 2)
    assert patches.keys() >= {"fwd", "wgrad"}
    assert patches["dgrad"] < 0.1 * patches.total()
    assert Counter(ops.family(e) for e in entries)["conv2d_grouped"] > 0.2 * len(entries)
