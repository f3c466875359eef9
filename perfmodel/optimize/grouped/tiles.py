"""What one program of the persistent kernel computes, how long it takes, and how many run at once.

A *variant* is one compiled kernel: up to three tile shapes that share registers and shared memory
(its footprint), one way of finding inputs, and so one residency (programs per SM). A tile of a
group takes ``alpha + steps * beta`` [s] while all slots of the device are busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from perfmodel.errors import SpecError
from perfmodel.optimize.grouped.problem import ELEMENT_BYTES, Floats, GroupedConv, Integers
from perfmodel.optimize.grouped.sharing import PLAIN, Dealing


@dataclass(frozen=True, slots=True)
class Tile:
    """``bm`` output pixels x ``bn`` outputs, walking the inner dimension by ``bk``."""

    bm: int
    bn: int
    bk: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled kernel.

    ``mode`` is ``"taps"`` (one filter tap a step), ``"flat"`` (taps and channels as one dimension)
    or ``"table"`` (flat, channels looked up); ``run`` the neighbouring channels loaded at once.
    """

    name: str
    tiles: tuple[Tile, ...]
    warps: int
    stages: int
    mode: str
    run: int
    max_registers: int | None = None

    def steps(self, inputs: Integers, kernel: int) -> Integers:
        """Steps of the inner loop, (groups, tiles)."""
        bk = np.array([tile.bk for tile in self.tiles])
        wide = np.asarray(inputs)[..., None]
        if self.mode == "taps":
            return np.asarray(kernel**2 * -(-wide // bk))
        return np.asarray(-(-(kernel**2 * wide) // bk))

    def filled(self, inputs: Integers, kernel: int) -> Floats:
        """Steps' worth of lanes that hold a channel, (groups, tiles); at most :meth:`steps`."""
        bk = np.array([tile.bk for tile in self.tiles])
        return np.asarray(kernel**2 * np.asarray(inputs)[..., None] / bk)

    def counts(self, conv: GroupedConv) -> Integers:
        """Tiles that cover each group, (groups, tiles)."""
        bm = np.array([tile.bm for tile in self.tiles])
        bn = np.array([tile.bn for tile in self.tiles])
        return np.asarray((-(-conv.rows // bm)) * (-(-conv.outputs[:, None] // bn)))


def _tiles(*shapes: tuple[int, int, int]) -> tuple[Tile, ...]:
    return tuple(Tile(*shape) for shape in shapes)


TINY = _tiles((16, 16, 64), (32, 16, 64), (32, 32, 64))
SMALL = _tiles((64, 16, 64), (64, 32, 64), (64, 64, 64))
LARGE = _tiles((128, 32, 64), (128, 64, 64), (128, 128, 64))
VARIANTS: tuple[Variant, ...] = (
    Variant("tiny-flat-8", TINY, 4, 3, "flat", 8),
    Variant("small-flat-8", SMALL, 4, 3, "flat", 8),
    Variant("small-taps-8", SMALL, 4, 3, "taps", 8),
    Variant("large-flat-8", LARGE, 8, 3, "flat", 8, 128),
    Variant("large-taps-8", LARGE, 8, 3, "taps", 8, 128),
    Variant("tiny-flat-4", TINY, 4, 3, "flat", 4),
    Variant("small-flat-4", SMALL, 4, 3, "flat", 4),
    Variant("large-flat-4", LARGE, 8, 3, "flat", 4),
    Variant("tiny-flat-1", TINY, 4, 3, "flat", 1),
    Variant("small-flat-1", SMALL, 4, 3, "flat", 1),
    Variant("tiny-table-1", TINY, 4, 3, "table", 1),
    Variant("small-table-1", SMALL, 4, 3, "table", 1),
)


def usable(conv: GroupedConv, variants: tuple[Variant, ...] = VARIANTS) -> tuple[Variant, ...]:
    """The variants that can read this layer's channels, at its widest aligned load."""
    run = conv.input_run
    if run == 0:
        return tuple(variant for variant in variants if variant.mode == "table")
    fitting = [v for v in variants if v.mode != "table" and run % v.run == 0]
    widest = max((v.run for v in fitting), default=0)
    return tuple(variant for variant in fitting if variant.run == widest)


@dataclass(frozen=True, slots=True, eq=False)
class TileTimes:
    """Coefficients of one variant on one device.

    Parameters
    ----------
    variant : Variant
    alpha, beta : (tiles,) float arrays
        Time of a tile apart from its steps, and of one step, at full residency [s].
    residency : int
        Programs of the variant that one SM (CU) holds.
    launch : float
        From one kernel to the next in a graph, beyond its slowest slot [s].
    calibrated : bool
        Fitted on this device (else from the datasheet).
    begin : float
        Once a slot, whatever it computes [s].
    gamma : (tiles,) float array, optional
        Time of a step whose lanes all hold a channel, beyond an empty one [s]. Matters where a step
        is one filter tap: lanes past the group's last channel load nothing.
    fewer : tuple of TileTimes
        The same variant with fewer programs an SM, where that was measured.
    dealing : Dealing
        Which programs of a launch share an SM.
    spread : float
        Standard deviation of a slot's time as a share of it.
    """

    variant: Variant
    alpha: Floats
    beta: Floats
    residency: int
    launch: float
    calibrated: bool
    begin: float = 0.0
    gamma: Floats | None = None
    fewer: tuple[TileTimes, ...] = ()
    dealing: Dealing = PLAIN
    spread: float = 0.0

    @property
    def fill(self) -> Floats:
        """``gamma``, zeros if it was not fitted."""
        return np.zeros(len(self.alpha)) if self.gamma is None else self.gamma

    @property
    def name(self) -> str:
        """The variant and how many of its programs share an SM: ``"small-flat-8 x2"``."""
        return f"{self.variant.name} x{self.residency}"

    def seconds(self, conv: GroupedConv) -> Floats:
        """Time of one tile, (groups, tiles) [s]: ``alpha + steps beta + filled gamma``."""
        variant = self.variant
        return np.asarray(
            self.alpha
            + variant.steps(conv.inputs, conv.kernel) * self.beta
            + variant.filled(conv.inputs, conv.kernel) * self.fill
        )

    def mix(self, programs: int) -> list[tuple[TileTimes, float]]:
        """Measured numbers of programs an SM, and their weights, for a number between them."""
        known = {one.residency: one for one in (*self.fewer, self)}
        if programs in known:
            return [(known[programs], 1.0)]
        below = [number for number in known if number < programs]
        above = [number for number in known if number > programs]
        if not below or not above:
            return [(known[min(above) if above else max(below)], 1.0)]
        low, high = max(below), min(above)
        part = (programs - low) / (high - low)
        return [(known[low], 1 - part), (known[high], part)]


def linked(times: Sequence[TileTimes], dealing: Dealing) -> tuple[TileTimes, ...]:
    """The same coefficients, each knowing those of its variant with fewer programs an SM."""
    return tuple(
        replace(
            one,
            dealing=dealing,
            fewer=tuple(
                other
                for other in times
                if other.variant.name == one.variant.name and other.residency < one.residency
            ),
        )
        for one in times
    )


# Until a device is measured. Latency of a dependent device-memory access; three stand in a row
# before the first product of a tile (its table entry, its group, its operands).
MEMORY_LATENCY_S = 0.6e-6
LAUNCH_S = 2e-6
# 64-wide tiles of 16-bit operands with three buffers leave room for about this many programs.
RESIDENCY = {4: 4, 8: 2}


def datasheet_times(
    variant: Variant, *, units: int, peak: float, bandwidth: float, dtype: str = "bf16"
) -> TileTimes:
    """Coefficients from a datasheet alone: a step takes the longer of its products and its bytes.

    Parameters
    ----------
    units : int
        SMs or CUs.
    peak, bandwidth : float
        Matrix peak [FLOP/s] and rate at which operands arrive (last-level cache if known, else
        device memory) [B/s].
    """
    residency = RESIDENCY[variant.warps]
    share = units * residency
    m = np.array([tile.bm for tile in variant.tiles], dtype=float)
    n = np.array([tile.bn for tile in variant.tiles], dtype=float)
    k = np.array([tile.bk for tile in variant.tiles], dtype=float)
    size = ELEMENT_BYTES[dtype]
    products = 2 * m * n * k * share / peak
    operands = size * (m + n) * k * share / bandwidth
    written = size * m * n * share / bandwidth
    return TileTimes(
        variant,
        3 * MEMORY_LATENCY_S + written,
        np.maximum(products, operands),
        residency,
        LAUNCH_S,
        calibrated=False,
    )


def variant_named(name: str) -> Variant:
    """The variant of that name.

    Raises
    ------
    SpecError
        If there is none.
    """
    from perfmodel.errors import nearest_name

    known = {variant.name: variant for variant in VARIANTS}
    if name not in known:
        raise SpecError(
            "variant",
            name,
            ", ".join(known),
            nearest=nearest_name(name, known),
            repair="name one of the compiled variants",
        )
    return known[name]
