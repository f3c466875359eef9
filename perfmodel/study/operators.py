"""Price a list of operator descriptions: kernels on a device, collectives on a node or cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from perfmodel.cost import price
from perfmodel.cost.power import draw
from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.hardware import Accelerator, Cluster, Hardware, Link, load, load_cluster
from perfmodel.network.collectives import price_collective
from perfmodel.study.measured_rows import as_operator
from perfmodel.workload.op import Attention, Collective, Op, op_from_dict
from perfmodel.workload.stacked import stacked

MEASURED_KEYS: Final = frozenset(
    ("id", "row_id", "name", "device", "latency_us", "p10_us", "p90_us", "mode")
) | {"power_w", "clock_mhz", "temp_c", "calls", "replays", "sets", "note", "family"}
"""What a measured row holds beside the operator itself."""


def price_records(
    records: Sequence[tuple[str, Any]],
    hardware: Hardware,
    *,
    ignored: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Every record with its price.

    Parameters
    ----------
    records : sequence of (where, dict)
        Operator descriptions, with the place to name in errors.
    hardware : str, Path, Accelerator or Cluster
        The device; collectives need a node or a cluster.
    ignored : collection of str
        Keys that are kept in the output but do not describe the operator.

    Returns
    -------
    list of dict
        The input keys plus ``latency_us lower_us low_us high_us bound calibrated``; ``aligned`` of
        a causal attention over unequal lengths that left it open; of a kernel
        ``held_bytes fits``: what the device's memory holds for it at once, at the least [B], and
        whether there is room; and on a chip of known design power ``board_w energy_mj
        board_calibrated``: power while it runs back to back [W], energy of one call [mJ], whether
        power was read there of any as short.

    Raises
    ------
    WorkloadError
        If a record does not describe one operator, or a collective is asked of a bare accelerator.
    """
    target = load(hardware) if isinstance(hardware, str | Path) else hardware
    operators = [one_operator(where, record, ignored) for where, record in records]
    rows: list[dict[str, Any]] = [
        dict(record) | _assumed(record, op)
        for (_, record), op in zip(records, operators, strict=True)
    ]
    for places, op in stacked(operators):
        try:
            if isinstance(op, Collective):
                columns = _collective(op, hardware)
            else:
                columns = _kernel(op, _device(op, target))
        except PerfmodelError as error:
            raise error.inside(records[places[0]][0]) from None
        lists = {name: column.tolist() for name, column in columns.items()}
        for i, place in enumerate(places):
            rows[place] |= {name: values[i] for name, values in lists.items()}
    return rows


def price_or_refuse(
    records: Sequence[tuple[str, Any]],
    hardware: Hardware,
    *,
    ignored: Collection[str] = (),
) -> list[dict[str, Any] | PerfmodelError]:
    """As :func:`price_records`, with the error itself in the place of a record that has no price.

    A format that the chip lacks, or a collective that is asked of a bare chip, hides no other row.
    """
    try:
        return list(price_records(records, hardware, ignored=ignored))
    except PerfmodelError as error:
        if len(records) == 1:
            return [error]
    half = len(records) // 2
    first = price_or_refuse(records[:half], hardware, ignored=ignored)
    return first + price_or_refuse(records[half:], hardware, ignored=ignored)


def one_operator(where: str, record: Any, ignored: Collection[str]) -> Op:
    """The operator of a record, whose sizes have to be single numbers."""
    if isinstance(record, dict):
        record = {key: value for key, value in record.items() if key not in ignored}
        record = as_operator(where, record)
    op = op_from_dict(record, where=where)
    if np.ndim(op.flops) or np.ndim(op.bytes_moved):
        raise WorkloadError(
            where, record, "one operator: a number for every size", repair="write a line for each"
        )
    return op


def _assumed(record: dict[str, Any], op: Op) -> dict[str, str]:
    """What the price rests on that the record left open: where a mask of unequal lengths begins."""
    if not isinstance(op, Attention) or "aligned" in record:
        return {}
    unequal = op.causal and op.q_len not in (1, op.kv_len)
    return {"aligned": op.aligned} if unequal else {}


def _device(op: Op, target: Accelerator | Cluster | Link) -> Accelerator:
    if isinstance(target, Link):
        raise WorkloadError(
            f"operator {op.family}",
            f"<the link {target.name}>",
            "an accelerator, a node or a cluster",
            repair="name the device that runs the operator",
        )
    return target.accelerator if isinstance(target, Cluster) else target


def _kernel(op: Op, device: Accelerator) -> dict[str, Any]:
    priced = price(op, device)
    held = np.broadcast_to(np.asarray(op.bytes_held, dtype=np.float64), priced.seconds.shape)
    columns = _times(priced, priced.bound)
    columns |= {"held_bytes": held, "fits": held <= device.memory_capacity}
    if device.tdp is None:
        return columns
    drawn = draw(op, device, seconds=priced.seconds)
    return columns | {
        "board_w": drawn.watts,
        "energy_mj": drawn.joules * 1e3,
        "board_calibrated": drawn.calibrated,
    }


def _collective(op: Collective, hardware: Hardware) -> dict[str, Any]:
    """A named node is repeated until all ranks have a device; a cluster value is taken as it is."""
    target = load(hardware) if isinstance(hardware, str | Path) else hardware
    if not isinstance(target, Cluster):
        raise WorkloadError(
            f"operator {op.op}",
            f"<the device {target.name}>",
            "a node or a cluster, such as dgx-h100",
            repair="name the node whose links carry the collective",
        )
    world = np.asarray(op.world)
    if isinstance(hardware, str | Path) and world.max() > target.devices:
        target = load_cluster(hardware, nodes=-(-int(world.max()) // target.devices_per_node))
    inside = np.minimum(world, target.devices_per_node)
    priced = price_collective(op.op, op.bytes, world, target, ranks_per_node=inside)
    return _times(priced, np.where(priced.latency > priced.moving, "latency", "network"))


def _times(priced: Any, bound: Any) -> dict[str, Any]:
    """Columns that the prices of kernels and of collectives have alike."""
    return {
        "latency_us": priced.seconds * 1e6,
        "lower_us": priced.lower * 1e6,
        "low_us": priced.low * 1e6,
        "high_us": priced.high * 1e6,
        "bound": bound,
        "calibrated": priced.calibrated,
    }
