"""Every algorithm equals direct convolution; every formula equals what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from perfmodel.cost.conv_algorithms import ALGORITHMS, algorithm, obstacle
from perfmodel.cost.conv_passes import sizes_of
from perfmodel.cost.conv_transform_passes import fft_passes
from perfmodel.errors import WorkloadError
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.winograd import F2, F4
from tests.oracles import conv_reference as ref
from tests.oracles import conv_transforms as tra

STEP_1 = [
    (1, 2, 7, 6, 3, 3, 1),
    (2, 3, 5, 8, 2, 3, 0),
    (2, 2, 6, 6, 4, 5, 2),
    (1, 3, 4, 4, 2, 1, 0),
]
ANY = [(2, 4, 7, 6, 6, 3, 2, 1, 2), (1, 3, 9, 9, 4, 3, 3, 0, 1), (2, 4, 6, 6, 4, 3, 1, 1, 4)]
WINOGRAD = {"winograd-2x2": F2, "winograd-4x4": F4}


@dataclass
class Tally:
    flops: int = 0


TALLY = Tally()


class Counted:
    """A number that counts the operations done with it; a complex one counts real operations."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def _new(self, value: Any, real: int, complex_: int) -> Counted:
        TALLY.flops += complex_ if isinstance(value, complex) else real
        return Counted(value)

    def __add__(self, other: Counted) -> Counted:
        return self._new(self.value + other.value, 1, 2)

    def __sub__(self, other: Counted) -> Counted:
        return self._new(self.value - other.value, 1, 2)

    def __mul__(self, other: Any) -> Counted:
        factor = other.value if isinstance(other, Counted) else other
        return self._new(self.value * factor, 1, 6)

    def __neg__(self) -> Counted:
        return Counted(-self.value)


def counted(array: np.ndarray) -> np.ndarray:
    return np.array([Counted(v) for v in array.reshape(-1)], dtype=object).reshape(array.shape)


def values(array: np.ndarray) -> np.ndarray:
    return np.array([v.value for v in array.reshape(-1)]).reshape(array.shape)


def data(op: Conv2d) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    k = op.kernel
    return (
        rng.normal(size=(op.n, op.c_in, op.h, op.w)),
        rng.normal(size=(op.c_out, op.c_in // op.groups, k, k)),
        rng.normal(size=(op.n, op.c_out, op.h_out, op.w_out)),
    )


def run(name: str, op: Conv2d, x: Any, weight: Any, dy: Any) -> tuple[Any, ref.Ledger]:
    """The reference of an algorithm for one convolution of one group or, if it can, of several."""
    ledger = ref.Ledger()
    p, s, g, k = op.padding, op.stride, op.groups, op.kernel
    sides = (op.h, op.w)
    if name == "direct":
        return {
            "fwd": lambda: ref.direct(x, weight, s, p, g),
            "dgrad": lambda: ref.direct_dgrad(dy, weight, sides, s, p, g),
            "wgrad": lambda: ref.direct_wgrad(x, dy, k, s, p, g),
        }[op.direction](), ledger
    if name == "im2col":
        return {
            "fwd": lambda: ref.im2col(x, weight, s, p, g, ledger),
            "dgrad": lambda: ref.im2col_dgrad(dy, weight, sides, s, p, g, ledger),
            "wgrad": lambda: ref.im2col_wgrad(x, dy, k, s, p, g, ledger),
        }[op.direction](), ledger
    if op.direction == "wgrad":
        return {
            "kn2row": lambda: ref.kn2row_wgrad(x, dy, k, p, ledger),
            "kn2row-accumulating": lambda: ref.kn2row_wgrad(x, dy, k, p, ledger),
            "winograd-2x2": lambda: tra.winograd_wgrad(x, dy, p, F2, ledger),
            "winograd-4x4": lambda: tra.winograd_wgrad(x, dy, p, F4, ledger),
            "fft": lambda: tra.fft_wgrad(x, dy, k, p, 16 if k > 3 else 8, ledger),
        }[name](), ledger
    forward = {
        "kn2row": lambda a, b, pad: ref.kn2row(a, b, pad, ledger),
        "kn2row-accumulating": lambda a, b, pad: ref.kn2row_accumulating(a, b, pad, ledger),
        "scalar-matrix": ref.scalar_matrix,
        "winograd-2x2": lambda a, b, pad: tra.winograd(a, b, pad, F2, ledger),
        "winograd-4x4": lambda a, b, pad: tra.winograd(a, b, pad, F4, ledger),
        "fft": lambda a, b, pad: tra.fft(a, b, pad, 16 if k > 3 else 8, ledger),
    }[name]
    if op.direction == "dgrad":
        return ref.as_forward_dgrad(forward, dy, weight, p), ledger
    return forward(x, weight, p), ledger


def cases() -> list[tuple[str, Conv2d]]:
    found = []
    for direction in ("fwd", "dgrad", "wgrad"):
        ops = [
            Conv2d(n, ci, h, w, co, k, 1, p, direction=direction, dtype="fp64")
            for n, ci, h, w, co, k, p in STEP_1
        ]
        for name in ALGORITHMS:
            more = []
            if name in ("direct", "im2col"):
                more = [Conv2d(*sizes, direction=direction, dtype="fp64") for sizes in ANY]
            if name == "scalar-matrix" and direction == "wgrad":
                continue  # inner products of the same maps: the arithmetic of kn2row's gradient
            found += [(name, op) for op in ops + more if not obstacle(name, op)]
    return found


@pytest.mark.parametrize(("name", "op"), cases(), ids=str)
def test_numerics(name: str, op: Conv2d) -> None:
    x, weight, dy = data(op)
    expected, _ = run("direct", op, x, weight, dy)
    got, _ = run(name, op, x, weight, dy)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("name", "op"), [case for case in cases() if case[0] != "fft"], ids=str)
def test_counted_flops(name: str, op: Conv2d) -> None:
    if name == "im2col" and op.kernel == 1:
        pytest.skip("the patches of one tap are the input itself: nothing is gathered or added")
    x, weight, dy = data(op)
    TALLY.flops = 0
    run(name, op, counted(x), counted(weight), counted(dy))
    assert TALLY.flops == algorithm(name, op).flops


@pytest.mark.parametrize(("name", "op"), cases(), ids=str)
def test_counted_bytes(name: str, op: Conv2d) -> None:
    if name in ("direct", "scalar-matrix") or (op.kernel == 1 and name == "im2col"):
        pytest.skip("one pass: its bytes are those of the operator")
    x, weight, dy = data(op)
    _, ledger = run(name, op, x, weight, dy)
    if name == "fft":
        passes, workspace = fft_passes(op, 16 if op.kernel > 3 else 8)
    else:
        chosen = algorithm(name, op)
        passes, workspace = chosen.passes, chosen.workspace
    scratch = 16 if name == "fft" else 8
    read, written = (sum(getattr(one, side) for one in passes) for side in ("read", "written"))
    held = sum(size for one in passes for size, _ in one.scratch)
    moved = scratch * (ledger.scratch_read + ledger.scratch_written)
    if name == "kn2row-accumulating" or (name == "kn2row" and op.direction == "wgrad"):
        # what a tap meets again may be in a cache: it stands with the buffers
        assert read <= op.bytes_read
        assert read + written + held == 8 * (ledger.read + ledger.written) + moved
    else:
        assert (read, written, held) == (8 * ledger.read, 8 * ledger.written, moved)
    assert workspace == scratch * ledger.workspace


def test_direct_is_the_definition() -> None:
    op = Conv2d(1, 2, 4, 5, 4, 3, 2, 1, 2, dtype="fp64")
    x, weight, _ = data(op)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((1, 4, op.h_out, op.w_out))
    for o, i, j in np.ndindex(4, op.h_out, op.w_out):
        for a, b in np.ndindex(3, 3):
            y[0, o, i, j] += weight[o, 0, a, b] * padded[0, o // 2, 2 * i + a, 2 * j + b]
    np.testing.assert_allclose(ref.direct(x, weight, 2, 1, 2), y, atol=1e-12)


def test_gradients_by_finite_differences() -> None:
    op = Conv2d(1, 2, 4, 4, 3, 3, 1, 1, dtype="fp64")
    x, weight, dy = data(op)

    def loss(image: np.ndarray, bank: np.ndarray) -> float:
        return float((ref.direct(image, bank, 1, 1, 1) * dy).sum())

    for of_x in (True, False):
        target = x if of_x else weight
        grad = (
            ref.direct_dgrad(dy, weight, (4, 4), 1, 1, 1)
            if of_x
            else ref.direct_wgrad(x, dy, 3, 1, 1, 1)
        )
        for place in list(np.ndindex(target.shape))[::7]:
            step = np.zeros_like(target)
            step[place] = 1e-6
            up = loss(x + step, weight) if of_x else loss(x, weight + step)
            down = loss(x - step, weight) if of_x else loss(x, weight - step)
            assert grad[place] == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-7)


def test_grouped_counts_are_sums_over_groups() -> None:
    whole = Conv2d(2, 8, 6, 6, 4, 3, 1, 1, groups=2, dtype="fp64")
    one = Conv2d(2, 4, 6, 6, 2, 3, 1, 1, dtype="fp64")
    for name in ALGORITHMS:
        grouped, single = algorithm(name, whole), algorithm(name, one)
        assert grouped.flops == 2 * single.flops, name
        assert grouped.workspace == 2 * single.workspace, name
        assert grouped.traffic() == 2 * single.traffic(), name


def test_radix2_counts_5_n_log2_n() -> None:
    signal = np.random.default_rng(1).normal(size=16) + 0j
    TALLY.flops = 0
    got = values(tra.radix2(counted(signal)))
    assert TALLY.flops == 5 * 16 * 4
    np.testing.assert_allclose(got, np.fft.fft(signal), atol=1e-12)


def test_fft_arithmetic_is_transforms_and_products() -> None:
    op = Conv2d(2, 3, 12, 12, 4, 3, 1, 1, dtype="fp32")
    passes, _ = fft_passes(op, 8)
    tiles = 2 * 2 * 2
    transform = 5 * 64 * 3
    assert [one.flops for one in passes] == [
        tiles * 3 * transform,
        12 * transform,
        8 * 8 * 5 * tiles * 12,
        tiles * 4 * transform,
    ]


def test_winograd_saves_what_it_promises() -> None:
    op = Conv2d(1, 64, 24, 24, 64, 3, 1, 1, dtype="fp32")
    for name, saving in (("winograd-2x2", 2.25), ("winograd-4x4", 4.0)):
        product = next(one for one in algorithm(name, op).passes if one.name == "product")
        assert op.flops / product.flops == pytest.approx(saving)


def test_traffic_falls_with_cache() -> None:
    op = Conv2d(4, 32, 28, 28, 32, 3, 1, 1, dtype="fp16")
    for name in ALGORITHMS:
        chosen = algorithm(name, op)
        none, some, endless = (chosen.traffic(size) for size in (0.0, 1e6, float("inf")))
        assert none >= some >= endless >= op.bytes_moved, name


def test_what_an_algorithm_cannot_do_is_said() -> None:
    strided = Conv2d(1, 4, 8, 8, 4, 3, 2, 1)
    with pytest.raises(WorkloadError, match="step of 1"):
        algorithm("fft", strided)
    with pytest.raises(WorkloadError, match="winograd-2x2"):
        algorithm("winograd2x2", strided)
    with pytest.raises(WorkloadError, match="3 x 3"):
        algorithm("winograd-2x2", Conv2d(1, 4, 8, 8, 4, 5, 1, 2))
    assert sizes_of(strided).q == 4
