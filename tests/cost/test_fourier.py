"""Fourier transforms: how lengths fall into kernels and passes, and what follows for the time."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.fourier import factors, lines, steps
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Fft

H100 = load_accelerator("h100-sxm5-80gb")
PLAIN = load_coefficients("hopper")


def seconds(*arguments, **more):
    return float(price(Fft(*arguments, **more), H100, efficiency=PLAIN).seconds)


def test_factors_by_hand():
    largest, left = factors(np.array([1.0, 1024.0, 2 * 3 * 113, 64 * 127, 131.0, 4 * 241]))
    assert largest.tolist() == [1, 2, 113, 127, 1, 2]
    assert left.tolist() == [1, 1, 1, 1, 131, 241]


def test_long_lines_take_a_second_pass_and_large_primes_a_convolution():
    found = lines(np.array([8192.0, 2.0**17, 131.0]))
    assert found.passes.tolist() == pytest.approx([1.0, 2.0, 2 * 2.1])
    assert found.kernels.tolist() == [1, 2, 2]
    assert found.chirp.tolist() == [0, 0, 1]


def test_a_prime_beside_other_factors_takes_a_kernel_and_a_pass_more():
    found = lines(np.array([83.0, 6 * 83.0, 4 * 23.0, 16 * 17.0]))
    assert found.kernels.tolist() == [1, 2, 2, 1]
    assert found.passes.tolist() == [1, 2, 2, 1]
    assert found.prime.tolist() == [1, 1, 0, 0]


def test_a_faster_memory_alone_speeds_a_transform_up_little():
    kinds = [Fft(64, 630, rows=630), Fft(2000, 499)]
    h200 = load_accelerator("h200-sxm-141gb")
    for op in kinds:
        here, there = (float(price(op, chip, efficiency=PLAIN).seconds) for chip in (H100, h200))
        assert 1.0 <= here / there < 1.2


def test_going_back_copies_the_spectrum_and_scales_in_a_kernel_of_its_own():
    n, one = np.array([4096.0]), np.array([1.0])
    _, _, forward = steps("rfft", n, one, 0 * one)
    _, _, back = steps("irfft", n, one, 0 * one)
    _, _, scaled = steps("irfft", n, one, one)
    assert [forward[0], back[0], scaled[0]] == [0, 1, 2]


def test_a_real_transform_takes_half_of_a_complex_one():
    ratio = seconds(4096, 4096) / seconds(4096, 4096, kind="rfft")
    assert 1.8 < ratio < 2.2


def test_two_axes_cost_two_passes():
    one, both = seconds(64 * 512, 512), seconds(64, 512, rows=512)
    assert 1.8 < both / one < 2.2


def test_a_prime_length_is_slower_than_the_next_power_of_two():
    assert seconds(1000, 499) > 1.5 * seconds(1000, 512)
