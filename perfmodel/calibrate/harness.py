"""Rows as the harness writes them: which cells are words, and which operator a row measured."""

from __future__ import annotations

from typing import Any

from perfmodel.workload.op import FAMILIES

TEXT = {"op", "kind", "dtype", "pass", "layout", "trans", "route", "device", "mode", "family",
        "note"}  # fmt: skip
FLAGS = {"causal", "pinned", "momentum"}
ABOUT_RUN = {"family", "device", "latency_us", "p10_us", "p90_us", "mode", "calls", "replays",
             "sets", "power_w", "clock_mhz", "temp_c", "note"}  # fmt: skip
# Tensors that a chain reads, and its operations an element: nine of an activation's in generated
# code, which keep two-byte ones from the memory's rate, and the bias's, a row for all of them.
CHAINS = {
    "add_rmsnorm": (2, 4), "add_layernorm": (2, 10), "bias_gelu": (1, 10),
}  # fmt: skip
_ANY_SHAPE = "_dynamic"
SUMMED = {"add_rmsnorm", "add_layernorm"}


def to_record(raw: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:  # noqa: PLR0911, PLR0912
    """The operator of a measured row as ``op_from_dict`` takes it, or why there is none."""
    op = raw.get("op", "")
    if op == "host":
        return None, "time of the processor, not of the device"
    if op == "chain":
        kind = raw.get("kind", "")
        if kind.endswith(_ANY_SHAPE):
            return None, "chain compiled for any shape, laid out for the one that it met first"
        read, operations = CHAINS.get(kind, (2, 5))
        width = 4 if raw.get("dtype") == "fp32" else 2
        rows = {"rows": raw["rows"]} if kind in SUMMED else {}
        return {
            "op": "fused", "chain": kind, "numel": raw["rows"] * raw["cols"],
            "read": read * width, "written": width, "operations": operations,
            "dtype": raw.get("dtype", "bf16"), **rows,
        }, ""  # fmt: skip
    if op == "memcpy":
        routes = {"d2d": "device", "h2d": "host_to_device", "d2h": "device_to_host"}
        if raw.get("kind") != "d2d" and not raw.get("pinned", False):
            return None, "copy from pageable host memory, which no operator describes"
        return {"op": "copy", "bytes": raw["bytes"], "route": routes[str(raw["kind"])]}, ""
    if op == "topk":
        return {"op": "topk", "rows": raw["tokens"], "cols": raw["experts"], "k": raw["top_k"],
                "dtype": raw["dtype"]}, ""  # fmt: skip
    if op == "permute":
        if raw.get("kind") == "scatter":
            return {
                "op": "scatter_add", "kind": "index_add", "rows": raw["tokens"] * raw["top_k"],
                "cols": raw["dim"], "targets": raw["tokens"], "dtype": raw["dtype"],
            }, ""  # fmt: skip
        copies = {"source": raw["tokens"]} if raw["top_k"] > 1 else {}
        return {"op": "permute", "rows": raw["tokens"] * raw["top_k"], "cols": raw["dim"],
                "dtype": raw["dtype"], **copies}, ""  # fmt: skip
    if op == "fft":
        how = str(raw.get("kind", "fft"))
        kind = how.removesuffix("_unscaled").removesuffix("2")
        return {"op": "fft", "kind": kind, "batch": raw["batch"], "n": raw["n"],
                "rows": raw.get("rows", 1), "scaled": how in ("irfft", "irfft2")}, ""  # fmt: skip
    if op == "spmm":
        if raw.get("kind", "csr") != "csr":
            return None, "2:4 sparse product, which no operator describes"
        per_row = max(1, round(raw["density"] * raw["k"]))
        return {"op": "spmm", "m": raw["m"], "n": raw["n"], "k": raw["k"],
                "nnz": per_row * raw["m"], "dtype": raw["dtype"]}, ""  # fmt: skip
    if op == "attention" and raw.get("causal") and raw["q_len"] != raw["kv_len"]:
        return dict(raw) | {"aligned": "first"}, ""
    if op not in FAMILIES:
        return None, f"no operator is called {op!r}"
    record = dict(raw)
    if op == "conv3d":
        record["d"] = record.pop("depth", record.get("d"))
    if op == "recurrent":
        record["kind"] = str(record["kind"]).removesuffix("_tanh")
    if op in ("adamw", "sgd"):
        record.pop("dtype", None)
    return record, ""
