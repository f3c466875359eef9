"""The plan covers what it promises, repeats itself, and holds its caps; the gate refuses."""

from collections import Counter

import pytest

from perfmodel.calibrate.measurements import to_record
from perfmodel.workload.convnets.lower import Setting, forward
from perfmodel.workload.convnets.names import CONVNETS, convnet
from perfmodel.workload.model import bundled_models, load_model
from perfmodel.workload.op import op_from_dict
from perfmodel.workload.ops.conv import Conv2d
from validate.bench import draws_layers as layers
from validate.bench import draws_stranger as stranger
from validate.bench import draws_thin as thin
from validate.bench import gate, known, ops, plan


def bare(entry):
    return {k: v for k, v in entry.items() if k != "power"}


@pytest.fixture(scope="module")
def h100():
    return [bare(e) for e in plan.build("h100", 1)]


def test_plan_is_distinct_valid_and_within_its_caps(h100):
    assert len({ops.key(o) for o in h100}) == len(h100) > 6500
    for op in h100:
        ops.check(op)
        assert plan.estimate_s(op) <= plan.TIME_CAP_S
        assert sum(ops.traffic(op)) <= plan.BYTES_CAP


def test_same_seed_same_plan_and_another_seed_another():
    first = plan.build("h200", 3, points=200)
    assert first == plan.build("h200", 3, points=200)
    assert first != plan.build("h200", 4, points=200)


def test_every_prefix_is_balanced(h100):
    whole = Counter(ops.family(o) for o in h100)
    half = Counter(ops.family(o) for o in h100[: len(h100) // 2])
    for name, count in whole.items():
        assert abs(half[name] - count / 2) <= max(4, 0.15 * count), name


def test_smoke_plan_touches_every_family_and_gemm_dtype(h100):
    smoke = [bare(e) for e in plan.build("smoke", 1)]
    assert len(smoke) <= 120
    assert {ops.family(o) for o in smoke} >= {ops.family(o) for o in h100} - {"host"}
    dtypes = {o["dtype"] for o in smoke if ops.family(o) == "gemm"}
    assert dtypes == {"bf16", "fp16", "tf32", "fp32", "fp8_e4m3", "int8"}


@pytest.mark.parametrize("family", ["recurrent", *layers.DRAWS])
def test_families_that_are_drawn_by_name_are_valid_and_counted_alike(family):
    drawn = [bare(entry) for entry in plan.sample(family, 60, 2)]
    assert len(drawn) == 60
    for op in drawn:
        record, _ = to_record(dict(op))
        counted = op_from_dict(record)
        assert ops.flops(op) == counted.flops
        assert sum(ops.traffic(op)) == counted.bytes_moved


@pytest.mark.parametrize("family", [*thin.DRAWS, *stranger.DRAWS])
def test_thin_and_strange_draws_are_operators(family):
    drawn = [bare(entry) for entry in plan.sample(family, 60, 2)]
    assert len(drawn) == 60
    for op in drawn:
        ops.check(op)
        record, _ = to_record(dict(op))
        assert op_from_dict(record).bytes_moved > 0


def test_keys_that_no_query_sees_are_not_counted():
    op = {"op": "attention", "batch": 1, "q_heads": 1, "kv_heads": 1, "q_len": 64, "kv_len": 4096,
          "head_dim": 128, "causal": True, "dtype": "bf16"}  # fmt: skip
    assert ops.traffic(op) == ops.traffic(op | {"kv_len": 64})
    assert sum(ops.traffic(op | {"causal": False})) > 10 * sum(ops.traffic(op))


def test_unknown_family_is_named():
    with pytest.raises(ValueError, match="gem_bf16"):
        plan.build(families=["gem_bf16"])


def test_points_fill_the_unit_cube_evenly():
    source = plan.points(3, 5)
    drawn = [next(source) for _ in range(512)]
    boxes = Counter(tuple(int(2 * x) for x in p) for p in drawn)
    assert set(boxes.values()) <= set(range(56, 73))  # 64 each; random draws spread wider


@pytest.mark.parametrize(
    ("op", "want"),
    [
        ({"op": "gemm", "m": 2, "n": 3, "k": 5, "dtype": "bf16"}, (60, 50, 12)),
        ({"op": "gemm", "m": 2, "n": 3, "k": 5, "dtype": "fp8_e4m3"}, (60, 25, 12)),
        (
            {"op": "attention", "batch": 1, "q_heads": 2, "kv_heads": 1, "q_len": 4, "kv_len": 4,
             "head_dim": 8, "causal": True, "dtype": "bf16"},
            (4 * 2 * 10 * 8, 128 + 128, 128),
        ),
        (
            {"op": "conv2d", "n": 1, "c_in": 2, "h": 5, "w": 5, "c_out": 4, "kernel": 3,
             "stride": 2, "padding": 1, "groups": 2, "pass": "wgrad", "dtype": "fp32"},
            (2 * 4 * 9 * 9, 4 * (50 + 36), 4 * 4 * 9),
        ),
    ],
)  # fmt: skip
def test_arithmetic_and_traffic_by_hand(op, want):
    assert (ops.flops(op), *ops.traffic(op)) == want


def test_gate_refuses_what_physics_forbids():
    op = {"op": "gemm", "m": 8192, "n": 8192, "k": 8192, "dtype": "bf16"}
    bound = gate.lower_bound_us(op, "NVIDIA H100 80GB HBM3")
    assert bound == pytest.approx(2 * 8192**3 / 989.4e12 * 1e6)
    assert gate.refusal(op, "NVIDIA H100 80GB HBM3", 0.9 * bound)
    assert gate.refusal(op, "NVIDIA H100 80GB HBM3", 1.2 * bound) is None
    assert gate.refusal(op, "unknown chip", float("nan"))
    assert gate.refusal(op, "unknown chip", 1.0) is None


def test_counts_replace_the_preset():
    entries = [
        bare(e) for e in plan.build(seed=3, counts={"gemm_odd": 40, "network_depthwise": 30})
    ]
    assert len(entries) == 70
    for op in entries:
        if op["op"] == "gemm":
            assert op["n"] % 8 or op["k"] % 8
        else:
            assert op["groups"] == op["c_in"] > 1


def test_repeats_come_from_the_folder_and_the_rest_does_not(tmp_path):
    held = [{"op": "gemm", "m": m, "n": 64, "k": 64, "dtype": "bf16"} for m in range(1, 30)]
    text = "op,m,n,k,dtype,latency_us\n" + "".join(
        f"gemm,{o['m']},{o['n']},{o['k']},bf16,9.0\n" for o in held
    )
    (tmp_path / "gemm.csv").write_text(text)
    repeats = plan.again(tmp_path, 9, seed=1)
    assert 0 < len(repeats) <= 9
    assert {ops.key(o) for o in repeats} <= {ops.key(o) for o in held}
    fresh = {"op": "gemm", "m": 99, "n": 64, "k": 64, "dtype": "bf16"}
    assert plan.without([held[3], fresh], tmp_path) == [fresh]


def test_rows_of_a_clock_that_comes_back_are_timed_anew_and_light_ones_first(tmp_path):
    rows = {
        1: "9,9,9.1,1980",
        2: "9,9,9.1,1500",
        3: "9,9,9.9,1980",
        4: "900,900,999,1500",
        5: "9,9,9.1,",
    }
    text = "op,m,n,k,dtype,latency_us,p10_us,p90_us,clock_mhz\n" + "".join(
        f"gemm,{m},64,64,bf16,{row}\n" for m, row in rows.items()
    )
    (tmp_path / "batched_gemm-2.csv").write_text(text)
    assert [op["m"] for op in plan.disturbed(tmp_path)] == [2, 3]
    dense, small = ({"op": "gemm", "m": m, "n": m, "k": m, "dtype": "bf16"} for m in (8192, 64))
    wide = {"op": "gemm", "m": 8, "n": 8192, "k": 8192, "dtype": "bf16", "power": True}
    assert plan.light_first([dense, wide, small]) == [small, wide, dense]


def test_layers_of_networks_are_those_of_the_bundled_networks():
    layers = set()
    for name in CONVNETS:
        for call in forward(convnet(name), Setting(1, "bf16", "nhwc")):
            if isinstance(call.op, Conv2d):
                o = call.op
                layers.add((o.c_in, o.c_out, o.h, o.w, o.kernel, o.stride, o.padding, o.groups))
    assert {layer[:-1] for layer in known.network_layers()} == layers


def test_products_of_every_bundled_model_at_its_degrees_are_among_the_shapes():
    shapes = set(known.linear_shapes())
    for name in bundled_models():
        model, told = load_model(name), known.TRANSFORMERS[name]
        assert (told.hidden, told.heads, told.kv_heads, told.head_dim) == (
            model.hidden, model.heads, model.kv_heads, model.head_dim,
        )  # fmt: skip
        for tp in (1, 2, 4, 8):
            wide = model.heads * model.head_dim // tp
            if model.heads % tp == 0 and min(model.hidden, wide) >= 32:
                assert (model.hidden, wide) in shapes
