"""An accelerator: what one addressable device can compute, hold and move.

All values are those of one *device*, the thing that software addresses: an MI250X package holds two
devices (its GCDs), a TPU v4 chip is one device with two cores. Peaks are dense. Capacities are what
the device offers (GiB), rates are decimal. What is unknown is ``None``, and asking for it raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from perfmodel.errors import SpecError, nearest_name
from perfmodel.hardware.fields import Capacity, Frequency, Peak, Power, Price, Rate

Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8_e4m3", "fp6", "fp4", "int8", "int4"]
DTYPES: Final = (
    "fp64", "fp32", "tf32", "bf16", "fp16", "fp8_e4m3", "fp6", "fp4", "int8", "int4",
)  # fmt: skip
_ALIASES: Final = {
    "fp8": "fp8_e4m3", "fp8_e5m2": "fp8_e4m3", "mxfp8": "fp8_e4m3", "mxfp6": "fp6",
    "mxfp4": "fp4", "nvfp4": "fp4", "float64": "fp64", "float32": "fp32", "float16": "fp16",
    "bfloat16": "bf16", "half": "fp16",
}  # fmt: skip
Kind = Literal["gpu", "tpu", "npu", "cpu", "edge"]
Count = Annotated[int, Field(gt=0, le=1_000_000_000, strict=True)]
Year = Annotated[int, Field(ge=1990, le=2100, strict=True)]
Text = Annotated[str, Field(min_length=1, max_length=400)]


class Table(BaseModel):
    """A table of a spec file: frozen, and no field it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Memory(Table):
    """Device memory: kind, capacity [B], bandwidth [B/s] (reads and writes together).

    ``inline_ecc``: whether the bits that correct errors lie in the memory itself, and so take a
    sixteenth of its capacity and of its transfers (GDDR; HBM has room and wires of their own).
    ``delivered``: share of the bandwidth that its maker says a stream comes to, where he does.
    """

    kind: str
    capacity: Capacity
    bandwidth: Rate
    inline_ecc: bool = False
    delivered: float | None = Field(default=None, gt=0.0, le=1.0)


class Cache(Table):
    """Caches shared by the whole device: L2, and a last level behind it where there is one.

    ``l2_partitions``: parts of the L2, each of which keeps what the units beside it read, so that
    data that all units read is kept so many times.
    """

    l2_capacity: Capacity | None = None
    l2_partitions: int = Field(default=1, ge=1)
    l2_bandwidth: Rate | None = None
    last_level: Capacity | None = None
    last_level_bandwidth: Rate | None = None


class OnChip(Table):
    """Storage of one unit (SM, CU, core): scratchpad, first-level cache, registers [B]."""

    shared_memory_per_unit: Capacity | None = None
    l1_per_unit: Capacity | None = None
    register_file_per_unit: Capacity | None = None


class Clock(Table):
    """Core clocks [Hz]; ``matrix``: the one behind low-precision matrix peaks, if another."""

    boost: Frequency | None = None
    base: Frequency | None = None
    matrix: Frequency | None = None


class Peaks(Table):
    """Dense peak rates [FLOP/s] by dtype; structured-sparse ones apart, for the record only."""

    matrix: dict[Dtype, Peak] = Field(default_factory=dict)
    vector: dict[Dtype, Peak] = Field(default_factory=dict)
    matrix_sparse: dict[Dtype, Peak] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.matrix or self.vector):
            raise ValueError("a rate for at least one dtype, under matrix or vector")
        return self


class PerClock(Table):
    """FLOP per clock of one unit, by dtype: peak = units x boost clock x this."""

    matrix: dict[Dtype, Count] = Field(default_factory=dict)
    vector: dict[Dtype, Count] = Field(default_factory=dict)


class Accelerator(Table):
    """One device, as its file describes it.

    Parameters
    ----------
    name, vendor, family, kind : str
        The vendor's name; the architecture (``"hopper"``, ``"cdna2"``, ``"tpu"``); what it is.
    aliases : tuple of str
        Other names to load it by; a file that extends this one does not inherit them.
    year : int
        First availability.
    silicon_year : int
        That of the vendor's first data-center chip with these dies or in their process, where it is
        another: what an operation spends follows the process. :attr:`made` is either.
    devices_per_package : int
        Addressable devices in one package; all other values but ``package_tdp`` are per device.
    units : int
        SMs, CUs, cores or matrix units, as ``unit_name`` says.
    package_tdp : float
        Thermal design power of the package [W]; :attr:`tdp` is a device's share.
    price : float
        Renting one device [USD/s]; :attr:`price_per_hour` gives USD/h.
    sources : dict
        Field pattern -> source.
    """

    name: Text
    aliases: tuple[Text, ...] = ()
    vendor: Text
    family: Text
    kind: Kind = "gpu"
    year: Year | None = None
    silicon_year: Year | None = None
    note: str | None = None
    devices_per_package: Count = 1
    units: Count | None = None
    unit_name: str | None = None
    package_tdp: Power | None = None
    price: Price | None = None
    clock: Clock = Clock()
    memory: Memory
    cache: Cache = Cache()
    on_chip: OnChip = OnChip()
    peaks: Peaks = Field(alias="peak")
    per_clock: PerClock = PerClock()
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def made(self) -> int | None:
        """Year of the process that the dies are made in."""
        return self.year if self.silicon_year is None else self.silicon_year

    @property
    def memory_capacity(self) -> float:
        """Device memory [B]."""
        return self.memory.capacity

    @property
    def memory_bandwidth(self) -> float:
        """Peak rate of device memory [B/s]."""
        return self.memory.bandwidth

    @property
    def memory_kind(self) -> str:
        """``"HBM3"``, ``"GDDR6"`` ..."""
        return self.memory.kind

    @property
    def l2_capacity(self) -> float | None:
        """L2 (or the cache that all units share) [B]."""
        return self.cache.l2_capacity

    @property
    def l2_bandwidth(self) -> float | None:
        """Peak read rate of that cache [B/s]."""
        return self.cache.l2_bandwidth

    @property
    def last_level_cache(self) -> float | None:
        """A cache between L2 and memory, such as Infinity Cache [B]."""
        return self.cache.last_level

    @property
    def shared_memory_per_unit(self) -> float | None:
        """Scratchpad of one unit [B]."""
        return self.on_chip.shared_memory_per_unit

    @property
    def register_file_per_unit(self) -> float | None:
        """Registers of one unit [B]."""
        return self.on_chip.register_file_per_unit

    @property
    def clock_boost(self) -> float | None:
        """Boost clock [Hz]; the one behind the matrix peaks where no other is published."""
        return self.clock.boost if self.clock.boost is not None else self.clock.matrix

    @property
    def tdp(self) -> float | None:
        """Thermal design power of one device: the package's divided by its devices [W]."""
        return None if self.package_tdp is None else self.package_tdp / self.devices_per_package

    @property
    def price_per_hour(self) -> float | None:
        """What one device costs to rent [USD/h]."""
        return None if self.price is None else self.price * 3600.0

    def matrix_peak(self, dtype: str) -> float:
        """Dense peak of the matrix units [FLOP/s]; `SpecError` if they lack the dtype."""
        return self._rate("peak.matrix", self.peaks.matrix, dtype)

    def vector_peak(self, dtype: str) -> float:
        """Peak of the vector units [FLOP/s]; `SpecError` if they lack the dtype."""
        return self._rate("peak.vector", self.peaks.vector, dtype)

    def peak(self, dtype: str) -> float:
        """The matrix peak where there is one, otherwise the vector peak [FLOP/s]."""
        return self._rate("peak", {**self.peaks.vector, **self.peaks.matrix}, dtype)

    def has_matrix(self, dtype: str) -> bool:
        """Whether the matrix units take this dtype."""
        return canonical_dtype(dtype) in self.peaks.matrix

    def require(self, field: str) -> float:
        """An optional value that the caller cannot do without.

        Raises
        ------
        SpecError
            If the file leaves it out.
        """
        value = getattr(self, field, None)
        if value is None:
            raise SpecError(
                f"{self.name}: {field}",
                None,
                "a value with its source",
                repair="add it to the chip's file (or to a file that extends it)",
            )
        return float(value)

    def _rate(self, field: str, table: Mapping[Dtype, float], dtype: str) -> float:
        key = canonical_dtype(dtype)
        for known, value in table.items():
            if known == key:
                return value
        have = ", ".join(table) or "none"
        raise SpecError(
            f"{self.name}: {field}",
            dtype,
            f"a dtype whose peak is known: {have}",
            nearest=nearest_name(key, table),
            repair="use one of those, or add the peak with its source to the chip's file",
        )


def canonical_dtype(dtype: str) -> str:
    """Our short name of a dtype: ``"fp8"`` -> ``"fp8_e4m3"``; `SpecError` if it is none of ours."""
    key = _ALIASES.get(dtype, dtype)
    if key not in DTYPES:
        known = (*DTYPES, *_ALIASES)
        raise SpecError(
            "dtype",
            dtype,
            ", ".join(DTYPES),
            nearest=nearest_name(str(dtype), known),
            repair="use one of the accepted names",
        )
    return key
