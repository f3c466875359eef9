"""The physics gate: a time below what the datasheet allows is refused, not averaged away."""

from __future__ import annotations

from validate.bench.ops import Op, flops, traffic

# Dense peaks [FLOP/s or op/s], memory bandwidth [B/s] and a bandwidth no L2 of the chip exceeds.
# NVIDIA H100 SXM5 and H200 SXM datasheets; fp32 counts the vector units.
_HOPPER = {
    "bf16": 989.4e12,
    "fp16": 989.4e12,
    "tf32": 494.7e12,
    "fp32": 66.9e12,
    "fp64": 66.9e12,
    "fp8_e4m3": 1978.9e12,
    "int8": 1978.9e12,
}
_AMPERE = {
    "bf16": 312e12,
    "fp16": 312e12,
    "tf32": 156e12,
    "fp32": 19.5e12,
    "fp64": 19.5e12,
    "int8": 624e12,
}
CHIPS: dict[str, tuple[dict[str, float], float]] = {
    "H100": (_HOPPER, 12e12),
    "H200": (_HOPPER, 12e12),
    "A100": (_AMPERE, 8e12),
}


def lower_bound_us(op: Op, device: str) -> float | None:
    """Shortest possible time [us] of `op` on `device`, or None for a chip without a table.

    Reference: time >= max(FLOPs / peak, bytes / L2 bandwidth). A 3 x 3 convolution of stride 1 may
    run as Winograd F(2x2, 3x3), which multiplies 2.25 times less; 2:4 sparsity doubles the peak,
    and its density of one half already counts that.
    """
    chip = next((c for name, c in CHIPS.items() if name in device), None)
    if chip is None or op["op"] in {"host", "fft"}:
        return None
    peaks, l2 = chip
    work = flops(op)
    if op["op"].startswith("conv") and op["kernel"] >= 3 and op["stride"] == 1:
        work /= 2.25
    peak = peaks.get(op.get("dtype", "fp32"))
    compute = work / peak if peak else 0.0
    reads, writes = traffic(op)
    if op["op"] == "memcpy" and op["kind"] != "d2d":
        return (reads / 64e9) * 1e6  # PCIe 5 x16, one direction
    return max(compute, (reads + writes) / l2) * 1e6


def refusal(op: Op, device: str, latency_us: float) -> str | None:
    """Reason to refuse the row, or None when it is possible."""
    if not latency_us > 0:  # catches NaN as well
        return f"latency {latency_us} us is not a positive number"
    bound = lower_bound_us(op, device)
    if bound is not None and latency_us < bound:
        return f"latency {latency_us:.4g} us is under the physical bound {bound:.4g} us"
    return None
