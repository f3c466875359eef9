"""Fourier transforms: how lengths fall into kernels and passes, and what follows for the time."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.fourier import chirp_length, factors, lines, steps
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Fft

H100 = load_accelerator("h100-sxm5-80gb")
PLAIN = load_coefficients("hopper")


def seconds(*arguments, **more):
    return float(price(Fft(*arguments, **more), H100, efficiency=PLAIN).seconds)


def test_factors_by_hand():
    found = factors(np.array([1.0, 1024.0, 2 * 3 * 113, 64 * 127, 131.0, 4 * 241, 96.0]))
    assert found.largest.tolist() == [1, 2, 113, 127, 1, 2, 3]
    assert found.left.tolist() == [1, 1, 1, 1, 131, 241, 1]
    assert found.rest.tolist() == [1, 1, 339, 127, 131, 241, 3]


# Names of the kernels of transforms on an H100 (cuFFT 12.0): one of each power of a prime.
@pytest.mark.parametrize(
    ("length", "kernels", "primes"),
    [(5504, 2, 43), (8710, 4, 80), (2**17, 2, 0), (2**19, 2, 0), (98304, 3, 0), (82, 2, 41),
     (2759, 2, 120), (19580, 4, 89), (97, 1, 97), (6144, 1, 0), (768, 1, 0), (16384, 1, 0)],
)  # fmt: skip
def test_a_line_takes_the_kernels_that_were_seen(length, kernels, primes):
    found = lines(np.array([float(length)]), np.array([100.0]))
    assert (found.kernels[0], found.primes[0], found.chirp[0]) == (kernels, primes, 0)


@pytest.mark.parametrize(
    ("length", "kernels"), [(308, 1), (891, 1), (1024, 1), (46, 2), (93, 2), (187, 2), (915, 3)]
)
def test_so_does_one_along_the_other_axis(length, kernels):
    assert lines(np.array([float(length)]), np.array([100.0]), across=True).kernels[0] == kernels


def test_a_large_prime_makes_a_convolution_of_the_next_length_without_one():
    seen = {467508: 937500, 720764: 1458000, 6977: 14400, 43752: 90000, 26629: 54000}
    found = chirp_length(np.array([float(n) for n in seen]))
    assert found.tolist() == list(seen.values())


def test_a_long_convolution_goes_over_its_length_in_every_kernel_of_both_transforms():
    found = lines(np.array([6977.0, 1009.0]), np.array([64.0, 64.0]))
    assert found.passes.tolist() == pytest.approx([6 * 14400 / 6977, 1.0])
    assert found.chirp.tolist() == [1, 1]


def test_few_long_lines_are_cut_and_many_are_not():
    found = lines(np.array([32768.0, 32768.0]), np.array([2.0, 242.0]))
    assert found.kernels.tolist() == [2, 1]


def test_a_faster_memory_alone_speeds_a_transform_up_little():
    kinds = [Fft(64, 630, rows=630), Fft(2000, 499)]
    h200 = load_accelerator("h200-sxm-141gb")
    for op in kinds:
        here, there = (float(price(op, chip, efficiency=PLAIN).seconds) for chip in (H100, h200))
        assert 1.0 <= here / there < 1.2


def test_going_back_copies_the_spectrum_and_scales_in_a_kernel_of_its_own():
    n, one = np.array([4096.0]), np.array([1.0])
    _, _, forward = steps("rfft", n, one, one, 0 * one)
    _, _, back = steps("irfft", n, one, one, 0 * one)
    _, _, scaled = steps("irfft", n, one, one, one)
    assert [forward[0], back[0], scaled[0]] == [0, 1, 2]


def test_a_real_transform_takes_half_of_a_complex_one():
    ratio = seconds(4096, 4096) / seconds(4096, 4096, kind="rfft")
    assert 1.8 < ratio < 2.2


def test_two_axes_cost_two_passes():
    one, both = seconds(64 * 512, 512), seconds(64, 512, rows=512)
    assert 1.8 < both / one < 2.2


def test_a_prime_length_is_slower_than_the_next_power_of_two():
    assert seconds(1000, 499) > 1.5 * seconds(1000, 512)
