"""Board power and SM clock through NVML by ctypes; readers answer None where NVML is absent."""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import Any

_INSTANT_POWER_FIELD = 186  # NVML_FI_DEV_POWER_INSTANT [mW]
_SM_CLOCK = 1


class _FieldValue(ctypes.Structure):
    _fields_ = [
        ("field_id", ctypes.c_uint),
        ("scope_id", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latency_usec", ctypes.c_longlong),
        ("value_type", ctypes.c_uint),
        ("status", ctypes.c_uint),
        ("value", ctypes.c_ulonglong),
    ]


def first_visible() -> int:
    """Number of the board that CUDA calls 0, where CUDA_VISIBLE_DEVICES chose it by a number."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


class Board:
    """One NVIDIA board; reads only, never changes a setting."""

    def __init__(self, index: int | None = None) -> None:
        self._lib: Any = None
        try:
            lib = ctypes.CDLL("libnvidia-ml.so.1")
            if lib.nvmlInit_v2() != 0:
                return
            handle = ctypes.c_void_p()
            number = ctypes.c_uint(first_visible() if index is None else index)
            if lib.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)) == 0:
                self._lib, self._handle = lib, handle
        except (OSError, AttributeError):
            self._lib = None

    def _uint(self, name: str, *args: int) -> int | None:
        if self._lib is None:
            return None
        try:
            out = ctypes.c_uint()
            call = getattr(self._lib, name)
            status = call(self._handle, *(ctypes.c_uint(a) for a in args), ctypes.byref(out))
        except (OSError, AttributeError):
            return None
        return int(out.value) if status == 0 else None

    def power_w(self) -> float | None:
        """Instantaneous board power [W]; the one-second average where the field is missing."""
        if self._lib is None:
            return None
        field = _FieldValue()
        field.field_id = _INSTANT_POWER_FIELD
        try:
            status = self._lib.nvmlDeviceGetFieldValues(
                self._handle, ctypes.c_int(1), ctypes.byref(field)
            )
        except (OSError, AttributeError):
            status = 1
        if status == 0 and field.status == 0:
            return float(field.value & 0xFFFFFFFF) / 1e3
        average = self._uint("nvmlDeviceGetPowerUsage")
        return None if average is None else average / 1e3

    def clock_mhz(self) -> int | None:
        """SM clock at this moment [MHz]."""
        return self._uint("nvmlDeviceGetClockInfo", _SM_CLOCK)

    def temperature_c(self) -> int | None:
        """Die temperature [deg C]."""
        return self._uint("nvmlDeviceGetTemperature", 0)


def board_facts() -> dict[str, str]:
    """Driver, power limit and clocks as ``nvidia-smi`` prints them; empty without it."""
    fields = [
        "name",
        "driver_version",
        "power.limit",
        "clocks.max.sm",
        "clocks.max.mem",
        "clocks.sm",
        "clocks.mem",
        "temperature.gpu",
        "memory.total",
        "pcie.link.gen.current",
        "pcie.link.width.current",
        "ecc.mode.current",
    ]
    query = f"--query-gpu={','.join(fields)}"
    command = ["nvidia-smi", f"--id={first_visible()}", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [v.strip() for v in done.stdout.splitlines()[0].split(",")]
    return dict(zip((f.replace(".", "_") for f in fields), values, strict=False))
