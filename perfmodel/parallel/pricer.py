"""Kernel and message times for the shards of one grid, each operator priced once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Efficiency, price
from perfmodel.hardware import Accelerator, Cluster
from perfmodel.parallel import overlap as hiding
from perfmodel.parallel import placement
from perfmodel.parallel.grid import PlanGrid, distinct
from perfmodel.parallel.pace import pace, paced
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.wire import wire_seconds
from perfmodel.workload.op import Op
from perfmodel.workload.transformer import Call, Message

Floats = NDArray[np.float64]

AXES: Final = ("tp", "cp", "ep", "etp")
TENSOR_CHUNKS: Final = 4
"""Pieces into which overlapped tensor-parallel collectives and their products are cut."""


@dataclass(frozen=True, slots=True)
class Work:
    """Kernel times of a list of calls: arrays over the shards.

    ``times`` has four rows: prediction, lower bound, low and high end of the interval [s].
    """

    times: Floats
    launches: Floats
    calibrated: bool


class Pricer:
    """Prices calls on the device and messages on the cluster, for the shards of one grid."""

    def __init__(
        self, cluster: Cluster, grid: PlanGrid, efficiency: Efficiency | None, stack: str
    ) -> None:
        self.accelerator: Accelerator = cluster.accelerator
        self.pace = pace(stack, cluster.accelerator.family)
        self.cluster = cluster
        self.share = hiding.stolen_share(cluster.accelerator)
        self.size = len(grid)
        self.ring = grid.cp
        self.efficiency = efficiency
        self.prices: dict[int, Any] = {}
        self.sent: dict[int, tuple[Message, Floats]] = {}
        domain = placement.domain_devices(cluster)
        self.local = {
            "tp": placement.tensor_group(grid, domain).local,
            "cp": placement.context_group(grid, domain).local,
            "ep": placement.expert_group(grid, domain).local,
            "etp": placement.group(grid.expert_tp, 1, domain).local,
        }

    def work(
        self, calls: Iterable[Call], messages: tuple[Message, ...] = (), phase: str = ""
    ) -> Work:
        """Sum of the kernel times of some calls; messages of a pass are launched beside them."""
        times = np.zeros((4, self.size))
        launches = np.zeros(self.size)
        calibrated = True
        for call in calls:
            times += self._times(call) * call.count
            launches += call.count
            calibrated = calibrated and bool(self._price(call).calibrated.all())
        for message in messages:
            if message.phase == phase:
                launches += np.where(np.asarray(message.op.world) > 1, message.count, 0)
        return Work(times, launches, calibrated)

    def _price(self, call: Call) -> Any:
        return self._priced(call)[0]

    def _priced(self, call: Call) -> tuple[Any, Any]:
        """Prices of the distinct operators of a call, and where each shard's stands."""
        key = id(call.op)
        if key not in self.prices:  # the operator is kept alive beside its price
            op, places = _distinct(call.op)
            priced = price(op, self.accelerator, efficiency=self.efficiency)
            self.prices[key] = (call.op, priced, places)
        _, priced, places = self.prices[key]
        return priced, places

    def _times(self, call: Call) -> Floats:
        priced, places = self._priced(call)
        rows = paced(priced, self.pace)
        if places is not None:
            return np.stack(rows)[:, places]
        return np.stack([np.broadcast_to(row, self.size) for row in rows])

    def _message(self, message: Message) -> Floats:
        key = id(message)
        if key not in self.sent:  # the message is kept alive beside its time
            self.sent[key] = (message, self._send(message))
        return self.sent[key][1]

    def _send(self, message: Message) -> Floats:
        op = message.op
        local: Any = np.minimum(self.local[message.axis], op.world)
        world: Any = op.world
        if op.op == "p2p":
            # a neighbour in the ring: across domains as soon as the group leaves one
            alone = self.ring == 1
            world = np.where(alone, 1, 2)
            local = np.where((self.local["cp"] >= self.ring) & ~alone, 2, 1)
        seconds = wire_seconds(op.op, op.bytes, world, self.cluster, local)
        return np.broadcast_to(seconds * message.count, self.size)

    def message_seconds(self, messages: tuple[Message, ...], phase: str) -> dict[str, Floats]:
        """All communication of one pass, by axis, hidden or not."""
        total = {axis: np.zeros(self.size) for axis in AXES}
        for message in messages:
            if message.phase == phase:
                total[message.axis] = total[message.axis] + self._message(message)
        return total

    def exposed_seconds(
        self, messages: tuple[Message, ...], phase: str, calls: tuple[Call, ...], base: Plan
    ) -> dict[str, Floats]:
        """Communication of one pass that stays in sight, by axis.

        A message that names a call hides behind it. With ``tensor`` overlap the collectives of
        matrix products are cut in pieces and hide behind the products, but for one piece.
        """
        exposed = {axis: np.zeros(self.size) for axis in AXES}
        for message in messages:
            if message.phase != phase:
                continue
            seconds = self._message(message)
            if message.overlaps:
                seconds = hiding.exposed(seconds, self._cover(message, calls), self.share)
            exposed[message.axis] = exposed[message.axis] + seconds
        if "experts" in base.overlap:
            # the other micro-batch computes meanwhile
            busy = self.work(calls).times[0]
            exposed["ep"] = hiding.exposed(exposed["ep"], busy, self.share)
        if "tensor" in base.overlap:
            products = self.work([call for call in calls if _is_product(call)]).times[0]
            whole = exposed["tp"]
            behind = whole * (1.0 - 1.0 / TENSOR_CHUNKS)
            exposed["tp"] = whole / TENSOR_CHUNKS + hiding.exposed(behind, products, self.share)
        return exposed

    def _cover(self, message: Message, calls: tuple[Call, ...]) -> Floats:
        """Time of the calls that hide a message: core attention, or a product's input gradient."""
        if message.axis == "cp":
            return np.asarray(self.work([call for call in calls if call.core]).times[0])
        hiding_calls = ("qkv_input", "q_input", "kv_up_input", "fc1_input", "shared_fc1_input")
        covering = [call for call in calls if call.name.startswith(hiding_calls)]
        return np.asarray(self.work(covering).times[0])


def _distinct(op: Op) -> tuple[Op, NDArray[np.intp] | None]:
    """An array operator without repetitions, and the place of each of the originals in it."""
    varying = {
        field.name: value
        for field in fields(op)  # type: ignore[arg-type]
        if isinstance(value := getattr(op, field.name), np.ndarray)
    }
    if not varying:
        return op, None
    columns = [column.reshape(-1) for column in np.broadcast_arrays(*varying.values())]
    first, places = distinct(*columns)
    once = {name: column[first] for name, column in zip(varying, columns, strict=True)}
    return replace(op, **once), places  # type: ignore[type-var]


def _is_product(call: Call) -> bool:
    return call.op.family == "gemm" and not call.core
