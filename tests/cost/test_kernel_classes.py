"""Which kernel serves which sizes, and what the mechanisms of special cases count."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate.learn import EVEN_SHARES, SHARES, shares_of
from perfmodel.cost.conv_kernels import convolution, pointwise, repacking
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.gemm import MANY_SPLITS, SPLITS, gemm_parts
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.tasks import MAP, Task, tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

CONV = {"op": "conv2d", "n": 8, "c_in": 64, "h": 28, "w": 28, "c_out": 128, "kernel": 1,
        "stride": 1, "padding": 0, "groups": 1, "layout": "nhwc", "dtype": "bf16"}  # fmt: skip
GEMM = {"op": "gemm", "m": 1000, "n": 1024, "k": 1024, "dtype": "bf16"}
VOLUME = CONV | {"op": "conv3d", "d": 4}
DEPTHWISE = CONV | {"c_out": 64, "groups": 64, "kernel": 3, "padding": 1}


def task(record) -> Task:
    _, (found,) = tasks_of(op_from_dict(record))
    return found


@pytest.mark.parametrize(
    ("record", "kernel"),
    [
        ({"op": "rmsnorm", "rows": 8, "cols": 4096, "dtype": "bf16"}, "rmsnorm"),
        ({"op": "layernorm", "rows": 8, "cols": 4097, "dtype": "bf16"}, "layernorm_odd"),
        ({"op": "softmax", "rows": 8, "cols": 2048, "dtype": "bf16"}, "softmax_warp"),
        ({"op": "softmax", "rows": 8, "cols": 2049, "dtype": "bf16"}, "softmax"),
        ({"op": "embedding", "tokens": 16, "vocab": 999, "dim": 64, "dtype": "bf16"},
         "embedding_few"),
        ({"op": "embedding", "tokens": 9, "vocab": 262144, "dim": 8192, "dtype": "bf16"},
         "embedding"),
        ({"op": "embedding", "tokens": 17, "vocab": 999, "dim": 64, "dtype": "bf16"}, "embedding"),
        ({"op": "fft", "batch": 4, "n": 64}, "fourier"),
        ({"op": "fft", "batch": 4, "n": 64, "kind": "rfft"}, "fourier_r2c"),
        ({"op": "scatter_add", "rows": 16, "cols": 8, "targets": 9}, "scatter_add_few"),
        ({"op": "scatter_add", "rows": 17, "cols": 8, "targets": 9}, "scatter_add_rows"),
        ({"op": "scatter_add", "rows": 9, "cols": 8, "targets": 9, "kind": "scatter_add"},
         "scatter_add_values"),
        ({"op": "recurrent", "steps": 9, "batch": 2, "width": 8, "hidden": 8}, "recurrent_fwd"),
        ({"op": "recurrent", "steps": 9, "batch": 2, "width": 8, "hidden": 8, "pass": "bwd"},
         "recurrent_bwd"),
        (GEMM, "gemm-half"),
        (GEMM | {"k": 1001}, "gemm_odd-half"),
        (GEMM | {"k": 1001, "trans": "nn"}, "gemm_odd-half"),
        (GEMM | {"k": 1001, "trans": "nt"}, "gemm-half"),
        (GEMM | {"m": 1001, "trans": "nt"}, "gemm_odd-half"),
        (GEMM | {"n": 1001, "trans": "nt"}, "gemm_odd-half"),
        (CONV, "conv_point_fwd_nhwc-half"),
        (CONV | {"layout": "nchw", "pass": "dgrad"}, "conv_point_dgrad_nchw-half"),
        (CONV | {"layout": "nchw", "h": 7, "w": 7}, "conv_fwd_nchw-half"),
        (CONV | {"layout": "nchw", "h": 1, "w": 1}, "conv_point_fwd_nhwc-half"),
        (CONV | {"dtype": "fp32"}, "conv_fwd_nhwc-fp32"),
        (VOLUME, "conv_point_fwd_nhwc-half"),
        (VOLUME | {"layout": "nchw", "d": 7, "pass": "wgrad"}, "conv_point_wgrad_nchw-half"),
        (VOLUME | {"layout": "nchw", "d": 7, "h": 7, "w": 7}, "conv3d_fwd-half"),
        (VOLUME | {"kernel": 3, "padding": 1}, "conv3d_fwd-half"),
        (VOLUME | {"c_in": 63}, "conv3d_fwd-half"),
        (VOLUME | {"dtype": "fp32"}, "conv3d_fwd-fp32"),
        (CONV | {"c_in": 63}, "conv_odd_fwd_nhwc-half"),
        (CONV | {"c_in": 63, "pass": "wgrad"}, "conv_odd_wgrad_nhwc-half"),
        (CONV | {"c_in": 63, "pass": "dgrad"}, "conv_dgrad_nhwc-half"),
        (CONV | {"kernel": 3, "padding": 1, "groups": 2}, "conv_grouped_fwd_nhwc-half"),
        (CONV | {"kernel": 3, "padding": 1, "groups": 2, "dtype": "fp32"}, "conv_grouped_fwd-fp32"),
        (CONV | {"groups": 2, "layout": "nchw", "pass": "wgrad"}, "conv_grouped_wgrad_nchw-half"),
        (DEPTHWISE, "conv_depthwise_fwd_nhwc-bf16"),
        (DEPTHWISE | {"dtype": "fp16"}, "conv_depthwise_fwd_nhwc-fp16"),
        (DEPTHWISE | {"dtype": "tf32"}, "conv_depthwise_fwd_nhwc"),
        (DEPTHWISE | {"layout": "nchw"}, "conv_depthwise_fwd_nchw"),
        (DEPTHWISE | {"layout": "nchw", "dtype": "fp16"}, "conv_depthwise_fwd_nchw-fp16"),
    ],
)  # fmt: skip
def test_sizes_choose_the_kernel(record, kernel):
    assert task(record).kernel == kernel


def test_channels_last_products_are_not_repacked():
    moved, kernels, weights, padded = repacking(task(CONV | {"stride": 2}))
    assert (moved, kernels, weights, padded) == (0.0, 0.0, 0.0, 0.0)
    assert pointwise(task(CONV | {"dtype": "fp32"})) == 1.0


def test_channels_first_products_are_repacked_where_maps_do_not_start_on_16_bytes():
    uneven = CONV | {"layout": "nchw", "h": 7, "w": 7}
    moved, kernels, weights, padded = repacking(task(uneven))
    maps = 2 * 8 * 7 * 7 * (64 + 128)  # bytes of input and output
    assert (moved, kernels) == (2 * maps, 2.0)
    assert (weights, padded) == (0.0, 0.0)  # of one tap: alike in both orders


def test_odd_channels_are_padded_one_operand_at_a_time():
    moved, kernels, weights, padded = repacking(task(CONV | {"c_in": 3}))
    assert kernels == 2.0  # the input and the weights
    assert moved == 2 * 2 * (8 * 3 * 28 * 28)
    assert weights == padded == 2 * 2 * 3 * 128


def test_plain_products_of_volumes_are_those_of_maps_with_as_many_places():
    volume, flat = task(VOLUME), task(CONV | {"h": 4 * 28})
    own = [name for name in flat.sizes if not name.startswith(MAP)]
    assert {name: tuple(volume.sizes[name]) for name in own} == {
        name: tuple(flat.sizes[name]) for name in own
    }
    assert volume.words == flat.words


def test_more_splits_never_cost_time():
    one = task({"op": "gemm", "m": 64, "n": 64, "k": 1 << 20, "dtype": "bf16"})
    device = replace(task_device(one, load_accelerator("h100-sxm5-80gb")), bandwidth=1e16)
    values = {
        "compute_efficiency": 0.9, "tile_half_intensity": 6.0, "tile_overhead_cycles": 100.0,
        "operand_bytes_per_clock": 60.0, "bandwidth_efficiency": 0.9, "joules_per_flop": 1e-13,
        "joules_per_byte": 1e-11, "energy_halving_years": 4.0, "split_overhead_seconds": 3e-6,
        "floor_seconds": 2e-6, "overlap_exponent": 3.0,
    }  # fmt: skip
    sizes = [np.array([float(v)]) for v in (64, 64, 1 << 20, 1)]
    few, many = (
        gemm_parts(*sizes, 2.0, 2.0, device, values, splits=splits).compute[0]
        for splits in (SPLITS, MANY_SPLITS)
    )
    assert many < few / 3


def test_shares_favour_the_learner_that_is_right():
    rng = np.random.default_rng(0)
    truth = rng.normal(0.0, 0.3, 200)
    answers = np.stack([truth + rng.normal(0.0, 0.01, 200), rng.normal(0.0, 0.3, 200)])
    assert tuple(shares_of(answers, truth)) == (1.0, 0.0)
    assert tuple(shares_of(answers[::-1], truth)) == (0.0, 1.0)
    assert tuple(shares_of(answers[:, :20], truth[:20])) == EVEN_SHARES
    assert all(sum(shares) <= 1.0 for shares in SHARES)


def test_tf32_may_fall_to_kernels_of_full_precision():
    few = CONV | {"dtype": "tf32", "layout": "nchw", "n": 256, "c_in": 4, "c_out": 4, "stride": 2}
    one = task(few)
    device = task_device(one, load_accelerator("h100-sxm5-80gb"))
    c = load_coefficients("hopper").of(one.kernel)
    with_, without = (
        convolution(one, device, values).seconds[0]
        for values in (c, {name: c[name] for name in c if name != "vector_efficiency"})
    )
    assert with_ < without


def test_weight_gradients_round_the_channels_of_a_tap_up():
    wide = CONV | {"kernel": 3, "padding": 1, "pass": "wgrad", "dtype": "bf16", "n": 256}
    device = task_device(task(wide), load_accelerator("h100-sxm5-80gb"))
    c = load_coefficients("hopper").of("conv_wgrad_nhwc-half")
    few, block, more = (
        convolution(task(wide | {"c_in": channels}), device, c).compute[0]
        for channels in (16, 32, 48)
    )
    assert few == block < more
