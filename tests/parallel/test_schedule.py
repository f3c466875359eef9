from __future__ import annotations

import numpy as np
import pytest

from perfmodel.parallel.layout import even_layout, padded_stage_kinds, stage_kinds
from perfmodel.parallel.schedule import fill_and_drain, in_flight
from perfmodel.workload.transformer import layer_kinds, load_model


def simulate_1f1b(forward: list[float], backward: list[float], micro_batches: int) -> float:
    """1F1B in dependency order, without communication: an oracle for the closed form."""
    stages = len(forward)
    orders = []
    for stage in range(stages):
        warm = min(stages - stage - 1, micro_batches)
        order = [("f", i) for i in range(warm)]
        for i in range(micro_batches - warm):
            order += [("f", warm + i), ("b", i)]
        order += [("b", i) for i in range(micro_batches - warm, micro_batches)]
        orders.append(order)
    done: dict[tuple[str, int, int], float] = {}
    clock, place = [0.0] * stages, [0] * stages
    while any(place[s] < len(orders[s]) for s in range(stages)):
        for s in range(stages):
            if place[s] == len(orders[s]):
                continue
            kind, i = orders[s][place[s]]
            if kind == "f":
                need = ("f", s - 1, i) if s > 0 else None
            else:
                need = ("b", s + 1, i) if s < stages - 1 else ("f", s, i)
            if need is not None and need not in done:
                continue
            ready = done[need] if need else 0.0
            clock[s] = max(clock[s], ready) + (forward[s] if kind == "f" else backward[s])
            done[kind, s, i] = clock[s]
            place[s] += 1
    return max(clock)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batches", [8, 16, 33])
def test_equal_stages_match_an_event_oracle(stages, micro_batches):
    forward, backward = 1.0, 2.0
    expected = simulate_1f1b([forward] * stages, [backward] * stages, micro_batches)
    each = forward + backward
    closed = micro_batches * each + fill_and_drain("1f1b", stages * each, each, stages, 1)
    assert closed == pytest.approx(expected)


def test_a_slow_last_stage_is_matched_within_a_forward_pass():
    forward, backward = [1.0, 1.0, 1.0, 1.6], [2.0, 2.0, 2.0, 3.2]
    expected = simulate_1f1b(forward, backward, 16)
    closed = 16 * 4.8 + fill_and_drain("1f1b", sum(forward) + sum(backward), 4.8, 4, 1)
    assert closed == pytest.approx(expected, rel=0.02)


def test_bubble_is_its_share_of_the_rest_not_of_the_whole():
    # (p - 1) (f + b) beside m (f + b): of the step it is (p - 1) / (m + p - 1)
    idle = float(fill_and_drain("1f1b", 8 * 3.0, 3.0, 8, 1))
    assert idle == pytest.approx(21.0)
    assert idle / (16 * 3.0 + idle) == pytest.approx(7 / (16 + 7))


def test_interleaving_divides_the_bubble_and_zb_h1_thirds_it():
    assert float(fill_and_drain("1f1b", 24.0, 3.0, 8, 3)) == pytest.approx(7.0)
    # forward = input half = weight half = 1
    assert float(fill_and_drain("zb-h1", 24.0, 3.0, 8, 1, weight=1.0)) == pytest.approx(7.0)


def test_micro_batches_in_flight():
    assert in_flight("1f1b", np.arange(4), 4, 1, 16).tolist() == [4, 3, 2, 1]
    # fewer micro-batches than stages: no more are held than exist
    assert in_flight("1f1b", np.arange(4), 4, 1, 2).tolist() == [2, 2, 2, 1]
    assert in_flight("gpipe", np.arange(4), 4, 1, 16).tolist() == [16] * 4
    # Korthikanti et al. 2022: interleaving holds 1 + (p - 1) / (p v) times as much
    assert float(in_flight("1f1b", 0, 8, 3, 64)) == pytest.approx(8 * (1 + 7 / 24))


@pytest.mark.parametrize(("layers", "chunks"), [(96, 8), (61, 16), (126, 16), (7, 7), (5, 4)])
def test_layouts_keep_every_layer(layers, chunks):
    layout = even_layout(layers, chunks)
    assert sum(layout) == layers
    assert max(layout) - min(layout) <= 1
    assert layout[0] <= layout[len(layout) // 2]


def test_stages_of_a_model_with_dense_first_layers():
    kinds = layer_kinds(load_model("deepseek-v3"))
    table = stage_kinds(kinds, 16, 1)
    assert table.layers.sum(axis=1) @ table.count == 61
    dense = table.layers[:, 0] @ table.count
    assert dense == 3
    assert table.embedding @ table.count == 1
    assert table.head @ table.count == 1


def test_padding_adds_no_devices():
    kinds = layer_kinds(load_model("gpt3-175b"))
    tables = [stage_kinds(kinds, 1, 1), stage_kinds(kinds, 8, 3)]
    padded = padded_stage_kinds(tables)
    assert padded.count.sum(axis=1).tolist() == [1, 8]
    assert (padded.layers[..., 0] * padded.count).sum(axis=1).tolist() == [96, 96]
