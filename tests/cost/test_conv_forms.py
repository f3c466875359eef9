"""Convolutions that run as something else: plain products, emulated groups, trials of a search."""

import numpy as np
import pytest

from perfmodel.cost.conv import implicit_gemm
from perfmodel.cost.conv_forms import direct_parts, fastest, later, times
from perfmodel.cost.conv_groups import (
    generic_parts,
    group_width,
    is_native,
    is_product,
    looped_parts,
    pad_seconds,
    padded_groups,
    slice_seconds,
    sliced_bytes,
    tried,
)
from perfmodel.cost.conv_kernels import repacking
from perfmodel.cost.conv_point import point_sizes
from perfmodel.cost.conv_search import searched
from perfmodel.cost.conv_spectra import is_spectral, spectral_parts
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.gemm import MANY_SPLITS, TILES
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.parts import combine
from perfmodel.cost.tasks import MAP, tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

H100 = load_accelerator("h100-sxm5-80gb")
POINT = {"op": "conv2d", "n": 4, "c_in": 64, "h": 28, "w": 14, "c_out": 128, "kernel": 1,
         "stride": 1, "padding": 0, "groups": 1, "layout": "nhwc", "dtype": "bf16"}  # fmt: skip
GROUPED = POINT | {"kernel": 3, "padding": 1, "c_in": 256, "c_out": 256, "groups": 8}
DEPTHWISE = GROUPED | {"groups": 256}


def priced(record, **more):
    _, (task,) = tasks_of(op_from_dict(record))
    device = task_device(task, H100)
    return mechanism(task, device, load_coefficients("hopper").of(task.kernel) | more)


@pytest.mark.parametrize(
    ("layout", "direction", "expected"),
    [
        ("nhwc", "fwd", (4 * 28 * 14, 128, 64, 1)),
        ("nhwc", "dgrad", (4 * 28 * 14, 64, 128, 1)),
        ("nhwc", "wgrad", (128, 64, 4 * 28 * 14, 1)),
        ("nchw", "fwd", (128, 28 * 14, 64, 4)),
        ("nchw", "dgrad", (64, 28 * 14, 128, 4)),
        ("nchw", "wgrad", (128, 64, 28 * 14, 4)),
    ],
)
def test_a_point_convolution_is_a_product_of_the_same_arithmetic(layout, direction, expected):
    op = op_from_dict(POINT | {"layout": layout, "pass": direction})
    _, (task,) = tasks_of(op)
    m, n, k, batch = (float(task.sizes[key][0]) for key in ("m", "n", "k", "batch"))
    assert (m, n, k, batch) == expected
    assert 2 * m * n * k * batch == op.flops
    own = {name for name in task.sizes if not name.startswith(MAP)}
    assert own == {"m", "n", "k", "batch", "flops", "read", "written"}


def test_point_sizes_take_arrays():
    sizes = {key: np.array([2.0, 3.0]) for key in ("n", "c_in", "c_out", "inputs")}
    sizes |= {key: np.ones(2) for key in ("flops", "read", "written")}
    assert point_sizes(sizes, "wgrad", "nchw")["k"].tolist() == [4.0, 9.0]


def test_a_weight_gradient_channels_first_adds_up_images_or_turns_maps():
    record = POINT | {"layout": "nchw", "pass": "wgrad"}
    weights = 64 * 128
    op = op_from_dict(record)
    apart = sizes_of(record)
    assert (apart["batch"][0], apart["k"][0]) == (4.0, 28 * 14)
    # partial sums in full precision are written once and read once
    assert apart["read"][0] == op.bytes_read + 4 * 4 * weights
    assert apart["written"][0] == op.bytes_written + 4 * 4 * weights
    wide = record | {"c_in": 1024, "c_out": 2048, "h": 8, "w": 8}
    turned, op = sizes_of(wide), op_from_dict(wide)
    assert (turned["batch"][0], turned["k"][0]) == (1.0, 4 * 8 * 8)
    assert turned["read"][0] == op.bytes_read + 2 * 4 * 64 * (1024 + 2048)
    alone = sizes_of(record | {"n": 1})
    assert alone["read"][0] == op_from_dict(record | {"n": 1}).bytes_read


def test_no_forward_convolution_cuts_its_sum():
    few = POINT | {"n": 1, "c_in": 2048, "h": 7, "w": 7, "c_out": 64, "kernel": 3, "padding": 1}
    steps = [priced(few | {"c_in": c}).compute[0] for c in (1024, 2048, 4096)]
    assert steps[2] - steps[1] == pytest.approx(2.0 * (steps[1] - steps[0]))
    assert priced(few).choice[0] < len(TILES)
    summed = priced(few | {"pass": "wgrad", "c_in": 64, "n": 64})
    assert summed.choice[0] % len(MANY_SPLITS) >= 1.0


@pytest.mark.parametrize("direction", ["fwd", "dgrad"])
def test_one_tap_in_full_precision_starts_sooner(direction):
    one = POINT | {"dtype": "fp32", "layout": "nchw", "h": 4, "w": 4, "pass": direction}
    late, soon = (priced(one, floor_seconds=2e-5, point_floor_seconds=t) for t in (2e-5, 2e-6))
    assert soon.seconds[0] < late.seconds[0] - 1e-5
    strided = one | {"stride": 2}
    late, soon = (priced(strided, point_floor_seconds=t) for t in (2e-5, 2e-6))
    assert soon.seconds[0] == late.seconds[0]


def task_of(record):
    _, (task,) = tasks_of(op_from_dict(record))
    return task


def sizes_of(record):
    return task_of(record).sizes


def test_groups_are_padded_to_a_power_of_two():
    width = group_width(np.array([3.0, 32.0, 33.0, 8.0]), np.array([2.0, 32.0, 8.0, 48.0]))
    assert width.tolist() == [4.0, 32.0, 64.0, 64.0]


def test_groups_of_equal_powers_of_two_need_no_copies():
    even = sizes_of(GROUPED)
    padded, kernels, moved = padded_groups(even, 2.0, "fwd")
    assert (kernels[0], moved[0]) == (0.0, 0.0)
    assert all(np.array_equal(padded[name], even[name]) for name in even)


@pytest.mark.parametrize("direction", ["fwd", "dgrad", "wgrad"])
def test_uneven_groups_copy_what_is_narrower_and_the_weights(direction):
    sizes = sizes_of(GROUPED | {"c_in": 8 * 20, "c_out": 8 * 32, "pass": direction})
    padded, kernels, moved = padded_groups(sizes, 2.0, direction)
    weights = 9 * (160 * 256 / 8 + 256 * 256 / 8)
    assert kernels.tolist() == [2.0]
    assert moved[0] == 2.0 * (4 * 28 * 14 * (160 + 256) + weights)
    assert padded["c_in"].tolist() == padded["c_out"].tolist() == [256.0]
    whole = 2.0 * (2 * 4 * 28 * 14 * 256 + 9 * 256 * 32)
    assert padded["read"][0] + padded["written"][0] == whole
    op = op_from_dict(GROUPED | {"pass": direction})
    assert (padded["read"][0], padded["written"][0]) == (op.bytes_read, op.bytes_written)


def test_copies_cost_a_start_each_and_their_bytes():
    _, (task,) = tasks_of(op_from_dict(GROUPED))
    device = task_device(task, H100)
    c = {"pad_floor_seconds": 1e-5, "pad_efficiency": 0.1}
    seconds = pad_seconds(np.array([0.0, 3.0]), np.array([0.0, 0.1 * device.bandwidth]), device, c)
    assert seconds.tolist() == pytest.approx([0.0, 3e-5 + 1.0])


def test_other_groups_are_emulated_at_the_cost_of_copies():
    even = priced(GROUPED).seconds[0]
    uneven = GROUPED | {"c_in": 240, "c_out": 240, "groups": 10}
    assert priced(uneven).seconds[0] > 2.0 * even
    cheap = priced(uneven, pad_floor_seconds=1e-6).seconds[0]
    assert cheap < priced(uneven).seconds[0]


def test_wide_groups_of_one_tap_are_a_batch_of_products():
    sizes = sizes_of(POINT | {"c_in": 720, "c_out": 256, "groups": 4})
    wide = {"c_in": np.array([720.0, 720.0, 722.0 * 4, 1100.0, 256.0]),
            "c_out": np.array([256.0, 256.0, 256.0, 256.0, 256.0]),
            "groups": np.full(5, 4.0)}  # fmt: skip
    rest = {name: np.repeat(value, 5) for name, value in sizes.items() if name not in wide}
    rest["taps"][1] = 9.0
    assert is_product(rest | wide).tolist() == [True, False, False, False, False]


def test_a_generic_kernel_does_so_many_operations_a_second():
    _, (task,) = tasks_of(op_from_dict(GROUPED))
    device = task_device(task, H100)
    c = {"generic_efficiency": 0.01, "generic_place_cycles": 5.0, "floor_seconds": 2e-6,
         "overlap_exponent": 3.0}  # fmt: skip
    flops = np.array([0.0, 0.01 * device.vector, 0.0])
    places = np.array([0.0, 0.0, device.clock / 5.0])
    found = generic_parts(flops, places, device, c).seconds
    assert found.tolist() == pytest.approx([2e-6, 1.0 + 2e-6, 1.0 + 2e-6])
    later_start = generic_parts(flops, places, device, c | {"generic_floor_seconds": 3e-6})
    assert later_start.seconds[0] == pytest.approx(3e-6)


@pytest.mark.parametrize("direction", ["fwd", "dgrad", "wgrad"])
def test_a_generic_kernel_adds_up_one_term_after_another(direction):
    record = GROUPED | {"pass": direction, "stride": 2}
    op = op_from_dict(record)
    _, (task,) = tasks_of(op)
    device = task_device(task, H100)
    c = {"generic_efficiency": 0.01, "generic_wait_cycles": 1e-9, "generic_loop_taps": 0.0}
    c |= {"generic_last_share": 0.5, "generic_floor_seconds": 0.0, "overlap_exponent": 3.0}
    first, last = (
        looped_parts(task.sizes, direction, layout, device, c).seconds[0]
        for layout in ("nchw", "nhwc")
    )
    # Channels first an input gradient tries every tap at every place, of which a quarter hits.
    tries = 4.0 if direction == "dgrad" else 1.0
    assert first == pytest.approx(tries * op.flops / (0.01 * device.vector))
    assert last == pytest.approx(op.flops / (0.005 * device.vector))
    terms = {"fwd": 32 * 9, "dgrad": 32 * 9, "wgrad": 4 * 14 * 7}[direction]
    waiting = looped_parts(task.sizes, direction, "nchw", device, c | {"generic_wait_cycles": 1e6})
    assert waiting.seconds[0] == pytest.approx(terms * 1e6 / device.clock)
    longer = looped_parts(task.sizes, direction, "nchw", device, c | {"generic_loop_taps": 9.0})
    assert longer.seconds[0] == pytest.approx((1.0 if direction == "wgrad" else 2.0) * first)


def test_a_group_is_cut_out_and_put_back_unless_a_copy_pads_it():
    _, (task,) = tasks_of(op_from_dict(GROUPED))
    device = task_device(task, H100)
    alone = task.sizes | {"c_in": np.array([32.0]), "c_out": np.array([20.0])}
    c = {"slice_efficiency": 0.5}
    moved = 2.0 * 4 * 28 * 14 * 32 * 2.0  # the output is padded by a copy
    seconds = slice_seconds(alone, 2.0, "nhwc", device, c)
    assert seconds[0] == pytest.approx(moved / (0.5 * device.bandwidth))
    assert slice_seconds(alone, 2.0, "nchw", device, c)[0] == 0.0


def test_a_group_that_ends_inside_a_sector_reads_it_whole():
    even = sizes_of(GROUPED) | {"c_in": np.array([32.0]), "c_out": np.array([32.0])}
    uneven = even | {"c_in": np.array([10.0])}
    places, weights = 4.0 * 28 * 14, 9.0 * 32 * 2
    assert sliced_bytes(even, 2.0, "nhwc")[0] == places * 128 + weights * 32
    assert sliced_bytes(uneven, 2.0, "nhwc")[0] == places * (64 + 20 + 30) + weights * 10
    assert sliced_bytes(uneven, 2.0, "nchw")[0] == places * (64 + 20) + weights * 10


def test_short_weight_gradients_of_wide_even_groups_need_no_copies():
    even = sizes_of(POINT | {"n": 16, "c_in": 80, "c_out": 256, "h": 7, "w": 7, "groups": 2})
    assert is_native(even).tolist() == [True]
    for other in (
        {"n": np.array([64.0])},  # more terms
        {"taps": np.array([9.0])},
        {"c_in": np.array([72.0])},  # no whole vectors
        {"c_in": np.array([48.0])},  # narrow
        {"c_out": np.array([640.0])},  # wide
    ):
        assert is_native(even | other).tolist() == [False]
    record = POINT | {"n": 16, "c_in": 80, "c_out": 256, "h": 7, "w": 7, "groups": 2,
                      "pass": "wgrad"}  # fmt: skip
    last, first = (priced(record | {"layout": layout}).seconds[0] for layout in ("nhwc", "nchw"))
    assert last < 0.5 * first


def test_a_trial_counts_launches_by_the_clock_of_the_host():
    quick = combine(*(np.array([v, v]) for v in (2e-5, 0.0, 0.0, 0.0)), 2.0)
    single = combine(*(np.array([v, v]) for v in (5e-5, 0.0, 0.0, 0.0)), 2.0)
    launches = np.array([12.0, 3.0])
    c = {"launch_seconds": 6e-6, "search_scatter": 1e-3}
    found = tried([(quick, True, launches, 1.0), (single, True, np.ones(2), 1.0)], c)
    assert found.seconds.tolist() == pytest.approx([5e-5, 2e-5])
    assert (found.choice // 100).tolist() == [1.0, 0.0]
    ahead = tried([(quick, True, np.ones(2), 4.0), (single, True, np.ones(2), 1.0)], c)
    assert (ahead.choice // 100).tolist() == [1.0, 1.0]


def test_chance_decides_between_forms_that_are_close():
    one, two = (combine(*(np.array([v]) for v in (t, 0.0, 0.0, 1e-6)), 2.0) for t in (2e-5, 3e-5))
    c = {"launch_seconds": 0.0, "search_scatter": 0.3}
    none = np.zeros(1)
    alike = tried([(one, True, none, 1.5), (two, True, none, 1.0)], c).seconds[0]
    shares = np.array([(2.1e-5 * 1.5) ** (-1 / 0.3), 3.1e-5 ** (-1 / 0.3)])
    shares /= shares.sum()
    assert alike == pytest.approx(2.1e-5 ** shares[0] * 3.1e-5 ** shares[1])
    alone = tried([(one, True, none, 1.0), (two, np.array([False]), none, 1.0)], c)
    assert alone.seconds[0] == pytest.approx(2.1e-5)
    assert alone.beside is not None
    assert alone.beside.tolist() == [[pytest.approx(2.1e-5)], [np.inf]]


def test_the_fastest_form_that_serves_counts():
    slow = combine(*(np.array([v, v]) for v in (4.0, 0.0, 0.0, 1.0)), 2.0)
    fast = times(later(combine(*(np.array([v, v]) for v in (1.0, 0.0, 0.0, 0.0)), 2.0), 0.5), 2.0)
    chosen = fastest(((slow, True), (fast, np.array([True, False]))))
    assert chosen.seconds.tolist() == [3.0, 5.0]
    assert chosen.floor.tolist() == [1.0, 1.0]
    assert (chosen.choice // 100).tolist() == [1.0, 0.0]


def test_a_direct_convolution_takes_its_steps_however_few_outputs_there_are():
    _, (task,) = tasks_of(op_from_dict(GROUPED))
    device = task_device(task, H100)
    values = {"direct_step_cycles": 200.0, "direct_floor_seconds": 0.0, "direct_small_share": 0.5,
              "bandwidth_efficiency": 1.0, "floor_seconds": 0.0,
              "overlap_exponent": 4.0}  # fmt: skip
    one, few, many = (
        direct_parts(
            (np.array([m]), np.array([64.0]), np.array([512.0]), np.ones(1)),
            np.zeros(1), device, values,
        ).seconds[0]
        for m in (1.0, 64.0, 64.0 * 2 * device.units)
    )  # fmt: skip
    assert one == few == pytest.approx(512 * 100.0 / device.clock)
    assert many == pytest.approx(4 * few)  # in large blocks, of twice the step


def test_a_search_keeps_the_better_kernel_unless_both_are_short():
    c = {"search_lead_seconds": 3e-6, "search_spread_seconds": 1e-6}
    special = combine(*(np.full(3, v) for v in (0.0, 0.0, 0.0, 4e-6)), 2.0)
    generic = np.array([7e-6, 1e-3, 7e-6])
    found = searched(special, np.array([True, True, False]), generic, c)
    assert found.choice[0] == pytest.approx(0.5)
    assert found.seconds[0] == pytest.approx((4e-6 * 7e-6) ** 0.5)
    assert found.seconds[1] == pytest.approx(4e-6)
    assert found.seconds[2] == pytest.approx(7e-6)
    np.testing.assert_allclose(found.floor, found.seconds)


def test_copies_move_maps_weights_and_what_is_padded():
    def copies(**other):
        return [float(part[0]) for part in repacking(task_of(POINT | other))]

    maps, weights = 2.0 * 4 * 28 * 14 * (64 + 128), 64.0 * 128
    three = {"kernel": 3, "padding": 1}
    assert copies(**three) == [0.0, 0.0, 0.0, 0.0]
    # Weights of one tap lie alike in both orders.
    assert copies(layout="nchw", w=13) == [2 * maps * 13 / 14, 2.0, 0.0, 0.0]
    assert copies(layout="nchw", **three) == [2 * maps, 3.0, 2 * 2 * 9 * weights, 0.0]
    odd = 2 * 2 * 64.0 * 129 * 9
    # All taps of weights are padded in the time of one.
    assert copies(c_out=129, **three) == [2 * 2 * 4 * 28 * 14 * 129.0, 2.0, odd, odd / 9]


def test_weights_that_are_padded_cost_passes_of_their_own():
    record = POINT | {"c_out": 1026, "c_in": 2050, "h": 14, "stride": 2, "pass": "wgrad"}
    plain = priced(record, uneven_weight_passes=1.0).seconds[0]
    assert priced(record, uneven_weight_passes=30.0).seconds[0] > plain + 3e-5
    assert priced(record, weight_passes=30.0).seconds[0] == priced(record).seconds[0]


def test_maps_that_start_on_vectors_are_products_though_channels_do_not():
    record = POINT | {"c_out": 129, "n": 64, "layout": "nchw", "pass": "wgrad"}
    slow = priced(record, point_bandwidth_share=0.01).seconds[0]
    assert priced(record).seconds[0] < slow
    vectors = priced(record, unaligned_efficiency=0.02, unaligned_bandwidth_share=0.1)
    assert vectors.seconds[0] == priced(record).seconds[0]
    # Rows of weights are the input channels.
    weights = record | {"c_in": 66}
    assert priced(weights, unaligned_efficiency=0.02).seconds[0] > priced(weights).seconds[0]
    singly = record | {"w": 13}
    assert (
        priced(singly, unaligned_bandwidth_share=0.9).seconds[0]
        < priced(singly, unaligned_bandwidth_share=0.3).seconds[0]
    )


def test_one_place_in_bf16_is_no_plain_product_of_weights():
    record = POINT | {"h": 1, "w": 1, "c_in": 2308, "c_out": 577, "n": 128, "pass": "wgrad"}
    half, bf16 = (priced(record | {"dtype": dtype}).seconds[0] for dtype in ("fp16", "bf16"))
    assert bf16 > 1.5 * half
    # Of few channels it is, and a kernel of the vector units serves too.
    few = record | {"c_in": 144, "c_out": 36}
    half, bf16 = (priced(few | {"dtype": dtype}).seconds[0] for dtype in ("fp16", "bf16"))
    assert bf16 == pytest.approx(half)


def test_rows_of_single_elements_are_loaded_more_slowly_than_even_ones():
    record = POINT | {"c_out": 512, "n": 64, "layout": "nchw"}
    odd, even = record | {"h": 13, "w": 13}, record | {"h": 14, "w": 13}
    for one, changes in ((odd, True), (even, False)):
        slow, quick = (priced(one, single_rate=rate).seconds[0] for rate in (0.3, 1.0))
        assert (slow > 1.2 * quick) == changes
    channels = POINT | {"c_out": 514, "c_in": 130, "n": 64}
    assert priced(channels, single_rate=0.3).seconds[0] == priced(channels).seconds[0]


def test_channels_of_odd_multiples_of_16_bytes_fill_the_blocks_of_a_tap_badly():
    record = POINT | {"kernel": 3, "padding": 1, "n": 64}
    for c_in, changes in ((72, True), (80, False), (96, False)):
        one = record | {"c_in": c_in}
        slow, quick = (priced(one, eighth_rate=rate).seconds[0] for rate in (0.5, 1.0))
        assert (slow > 1.3 * quick) == changes


def test_few_channels_are_quicker_in_fp16():
    first = POINT | {"c_in": 3, "h": 224, "w": 224, "kernel": 3, "stride": 2, "n": 64, "c_out": 32}
    assert priced(first | {"dtype": "fp16"}).seconds[0] < 0.8 * priced(first).seconds[0]


def test_a_strided_input_gradient_is_the_products_of_its_places():
    one = {"n": 8, "c_in": 64, "inputs": 196, "outputs": 49, "c_out": 128, "groups": 1}
    sizes = {name: np.array([float(value)]) for name, value in one.items()}
    for side, step in ((1, 2), (2, 2), (3, 2), (3, 1), (4, 4)):
        taps, steps = np.array([float(side**2)]), np.array([float(step**2)])
        m, n, k, batch = implicit_gemm(
            sizes["n"], sizes["c_in"], sizes["inputs"], sizes["outputs"], sizes["c_out"],
            taps, steps, sizes["groups"], "dgrad",
        )  # fmt: skip
        work = float((2 * m * n * k * batch)[0])
        assert work == pytest.approx(2 * 8 * 196 * 64 * 128 * side**2 / step**2)
        assert k[0] >= 128  # every place that is reached sees all output channels
    few = priced(GROUPED | {"groups": 1, "pass": "dgrad", "stride": 2, "n": 1, "c_out": 2048})
    even = priced(GROUPED | {"groups": 1, "pass": "dgrad", "n": 1, "c_out": 2048 * 9 // 36})
    # One wave: the place that sees four taps is deeper than the mean of 9/4.
    assert few.compute[0] > even.compute[0]


def test_transforms_of_whole_maps_and_of_tiles():
    device = task_device(tasks_of(op_from_dict(POINT | {"dtype": "fp32"}))[1][0], H100)
    c = {"spectrum_passes": 1.0, "spectrum_floor_seconds": 0.0, "spectrum_efficiency": 1e9}
    layer = {"n": 2, "c_in": 8, "c_out": 16, "h": 14, "w": 12, "pad": 1, "side": 3, "outputs": 168,
             "steps": 1, "taps": 9, "groups": 1}  # fmt: skip
    sizes = {name: np.array([float(value)]) for name, value in layer.items()}
    # 16 x 16 places: 16 x 9 complex values of 8 bytes for 2 x 24 maps and 128 filters.
    forward = spectral_parts(sizes, "fwd", device, c)
    assert forward.memory[0] * device.bandwidth == pytest.approx(8 * 144 * (48 + 128))
    # 4 x 3 tiles of 4 x 4 places become 36 values each, and so does every filter.
    weights = spectral_parts(sizes, "wgrad", device, c)
    assert weights.memory[0] * device.bandwidth == pytest.approx(4 * 36 * (12 * 48 + 128))
    assert not is_spectral(sizes | {"steps": np.array([4.0])}, "fwd")[0]
    assert not is_spectral(sizes, "dgrad")[0]


def test_a_transform_serves_full_precision_where_it_is_faster():
    layer = GROUPED | {"dtype": "fp32", "groups": 1, "n": 64, "h": 14}
    assert priced(layer).seconds[0] < priced(layer, spectrum_floor_seconds=1.0).seconds[0]
    slow = priced(layer, spectrum_floor_seconds=1.0)
    assert slow.seconds[0] == priced(layer, spectrum_floor_seconds=2.0).seconds[0]


def test_passes_of_volumes_are_kernels_of_their_own():
    volume = {"op": "conv3d", "n": 1, "c_in": 16, "d": 8, "h": 8, "w": 8, "c_out": 16, "kernel": 3,
              "stride": 1, "padding": 1, "layout": "nchw"}  # fmt: skip
    kernels = {
        (dtype, which): tasks_of(op_from_dict(volume | {"dtype": dtype, "pass": which}))[1][0]
        for dtype in ("bf16", "tf32")
        for which in ("fwd", "dgrad")
    }
    assert kernels["bf16", "dgrad"].kernel == "conv3d_dgrad-half"
    assert kernels["tf32", "dgrad"].kernel == "conv3d_dgrad-tf32"
    assert kernels["tf32", "fwd"].kernel == "conv3d_fwd-tf32"
    assert {task.family for task in kernels.values()} == {"conv3d"}
