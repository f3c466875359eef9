"""Rows of convolutional networks: data parallel steps, priced kernel by kernel.

A step is the network's own kernels, the host where it launches more slowly than the device runs,
and what the backward pass does not hide of the gradients' all-reduce. Data loading is not modelled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from perfmodel.cost import price
from perfmodel.hardware import Accelerator, Cluster, load_accelerator
from perfmodel.network import collective_seconds
from perfmodel.parallel.overlap import exposed, stolen_share
from perfmodel.parallel.placement import domain_devices
from perfmodel.parallel.plan import Plan
from perfmodel.study.training_cluster import accelerator_name, machine_of
from perfmodel.study.training_csv import Row
from perfmodel.study.training_measured import Measured
from perfmodel.study.training_plan import precision_of
from perfmodel.workload.convnet import (
    CONVNETS,
    Setting,
    convnet,
    convnet_calls,
    training_memory,
)
from perfmodel.workload.layer import Call
from perfmodel.workload.stacked import stacked
from perfmodel.workload.transformer import load_stack

# spellings of tables -> network and the image it sees there
_NAMES: Final = (
    (re.compile(r"resnet-?(18|34|50|101|152)\b"), r"resnet\1"),
    (re.compile(r"efficientnet-?(b[0-4])"), r"efficientnet-\1"),
    (re.compile(r"(3d-?u-?net|unet-?3d)"), "nnunet-3d"),
    (re.compile(r"u-?net"), "unet-2d"),
)
LARGEST: Final = 1024
"""Images of a device tried where a table names no batch."""
# networks whose backbone is known, but not the rest
_PARTS: Final = re.compile(r"r-?cnn|ssd|retinanet|yolo|fpn|diffusion")
_CUBE: Final = re.compile(r"(\d{2,4})\^3")
_SIDES: Final = re.compile(r"(\d{2,4})x(\d{2,4})(?:x(\d{2,4}))?")


@dataclass(frozen=True, slots=True)
class ConvnetCase:
    """A row of a convolutional network that can be predicted."""

    row: Row
    network: str
    sides: tuple[int, ...] | None
    chip: str
    cluster: Cluster
    images: int
    batch: int
    precision: str
    compiled: bool
    measured: Measured
    assumed: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        """Data parallelism alone."""
        return Plan(dp=self.cluster.devices, micro_batch_size=self.images, precision=self.precision)


@dataclass(frozen=True, slots=True)
class ConvnetStep:
    """A predicted step and what it consists of [s], and the peak of memory [B]."""

    seconds: float
    parts: dict[str, float]
    peak_memory: float


def network_of(row: Row) -> str | None:
    """The convolutional network that a row names, ``None`` where it names none."""
    text = re.sub(r"[\s_]+", "-", row.lower("model"))
    if _PARTS.search(text):
        return None
    if text in CONVNETS:
        return text
    for pattern, name in _NAMES:
        if match := pattern.search(text):
            found = match.expand(name)
            return found if found in CONVNETS else None
    return None


def express_convnet(row: Row, network: str) -> ConvnetCase:
    """A row of a convolutional network, ready to be priced.

    Raises
    ------
    PerfmodelError
        If the chip, the batch or the precision cannot be used.
    """
    machine = machine_of(row)
    devices = machine.cluster.devices
    precision, filled = precision_of(row, machine.cluster.accelerator)
    assumed = [*machine.assumed, *filled]
    given = row.number("micro_batch")
    total = row.count("global_batch")
    sides = _sides(row, network)
    if total is not None:
        images = max(round(total / devices), 1)
    elif given is not None:
        images = max(round(given), 1)
    else:
        images = _fullest(network, sides, precision, machine.cluster.accelerator)
        assumed.append("global_batch")
    batch = total or images * devices
    if given is None or abs(given - images) > 0.01 * given:
        assumed.append("micro_batch")
    rate, seconds = row.number("samples_per_s"), row.number("step_time_s")
    if seconds is None and rate is not None:
        seconds = batch / rate
    return ConvnetCase(
        row=row,
        network=network,
        sides=sides,
        chip=accelerator_name(row),
        cluster=machine.cluster,
        images=images,
        batch=batch,
        precision=precision,
        compiled=re.search(r"mxnet|tf1|tensorflow|xla|jax|compile", _software(row)) is not None,
        measured=Measured(
            seconds,
            "step_time_s" if row.number("step_time_s") else "samples_per_s" if rate else "",
            None,
            1e9,
        ),
        assumed=tuple(dict.fromkeys(assumed)),
    )


def convnet_step(case: ConvnetCase) -> ConvnetStep:
    """One data parallel training step."""
    setting = _setting(case.images, case.precision, compiled=case.compiled)
    forward, backward, once, launches = _kernels(case.network, case.sides, setting, case.chip)
    # frameworks that run a captured or compiled graph do not wait for the host
    host = 0.0 if case.compiled else load_stack("torch-eager").host_launch * launches
    waiting = max(host - forward - backward, 0.0)
    numel = convnet(case.network, case.sides).parameters
    devices = case.cluster.devices
    gradients = 0.0
    if devices > 1:
        local = min(devices, domain_devices(case.cluster))
        width = 4.0 if case.precision in ("fp32", "tf32") else 2.0
        reduce = collective_seconds(
            "all_reduce", numel * width, devices, case.cluster, ranks_per_node=local
        )
        gradients = float(exposed(reduce, backward, stolen_share(case.cluster.accelerator)))
    parts = {
        "forward": forward,
        "backward": backward,
        "optimizer": once,
        "host": waiting,
        "communication": gradients,
    }
    held = training_memory(convnet(case.network, case.sides), setting).total
    return ConvnetStep(sum(parts.values()), parts, float(held))


def _setting(images: int, precision: str, *, compiled: bool) -> Setting:
    narrow = precision in ("fp16", "bf16")
    return Setting(
        images,
        precision,
        "nhwc" if narrow else "nchw",
        "pointwise" if compiled else "none",
        amp=narrow,
        training=True,
    )


def _fullest(
    network: str, sides: tuple[int, ...] | None, precision: str, accelerator: Accelerator
) -> int:
    """The largest power of two of images with which training fits 0.9 of the device."""
    images = LARGEST
    net = convnet(network, sides)
    while images > 1:
        setting = _setting(images, precision, compiled=False)
        if training_memory(net, setting).total < 0.9 * accelerator.memory_capacity:
            break
        images //= 2
    return images


@lru_cache(maxsize=128)
def _kernels(
    network: str, sides: tuple[int, ...] | None, setting: Setting, chip: str
) -> tuple[float, float, float, float]:
    """Seconds of forward, backward and optimizer, and how many kernels there are."""
    calls = convnet_calls(
        network,
        setting.batch,
        sides,
        training=True,
        dtype=setting.dtype,
        layout=setting.layout,
        fusion=setting.fusion,
        amp=setting.amp,
    )
    seconds = np.zeros(len(calls))
    accelerator = load_accelerator(chip)
    for places, op in stacked([call.op for call in calls]):
        seconds[list(places)] = price(op, accelerator).seconds
    counts = np.array([float(np.asarray(call.count)) for call in calls])
    seconds *= counts
    kinds = np.array([_pass(call) for call in calls])
    sums = [float(seconds[kinds == kind].sum()) for kind in ("forward", "backward", "optimizer")]
    return sums[0], sums[1], sums[2], float(counts.sum())


def _pass(call: Call) -> str:
    if call.module == "optimizer":
        return "optimizer"
    return "backward" if call.grad else "forward"


def _sides(row: Row, network: str) -> tuple[int, ...] | None:
    text = f"{row.lower('model')} {row.lower('arch')}"
    if cube := _CUBE.search(text):
        return (int(cube[1]),) * 3
    if found := _SIDES.search(text):
        sides = tuple(int(side) for side in found.groups() if side)
        flat = "3d" not in network
        return sides if len(sides) == (2 if flat else 3) else None
    return None


def _software(row: Row) -> str:
    return f"{row.lower('software')} {row.lower('notes')}"
