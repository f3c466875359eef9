"""Convolutional networks on devices: inference and data-parallel training steps.

An inference that is replayed from a graph is priced as the program of any model: the network is
written as the operators that PyTorch dispatches for it (:mod:`perfmodel.workload.convnets.program`)
and goes the way of recorded ones. Training steps and eager ones, whose host is unknown more often
than not, are the sum of their operators, or the host's work where that takes longer: the device
runs behind a queue that the host fills.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from perfmodel.cost.price import price
from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.hardware import Accelerator, Cluster
from perfmodel.network import collective_seconds
from perfmodel.study.convnets_kinds import host_calls, kind_of
from perfmodel.study.own_model import estimate_program
from perfmodel.workload.convnet import (
    Convnet,
    Memory,
    Setting,
    convnet,
    convnet_calls,
    forward,
    inference_memory,
    network_program,
    training_memory,
)
from perfmodel.workload.layer import Call
from perfmodel.workload.ops.streams import Fused
from perfmodel.workload.stack import load_stack
from perfmodel.workload.stacked import stacked

MODES: Final = ("graph", "eager", "compile")
REPLAYS: Final = MappingProxyType({"graph": "cuda-graph", "compile": "torch-compile-graph"})
"""The stack of an inference that is replayed."""
LOOP_KERNELS: Final = {"sgd": 3, "rmsprop": 7, "adamw": 8}
"""Element-wise kernels for each tensor of an optimizer that loops over them (torch.optim before
its multi-tensor implementations)."""
BUCKET_BYTES: Final = 25 * 2**20
"""Gradients that DistributedDataParallel reduces together [B] (its ``bucket_cap_mb`` of 25)."""


@dataclass(frozen=True, slots=True)
class ConvnetStep:
    """One step of a network: inference of a batch, or a training step of every device.

    Parameters
    ----------
    name : str
        The network.
    batch, devices : int
        Images of one device; devices that work on batches of their own.
    step_seconds : float
        The whole step [s].
    kernel_seconds, host_seconds, exposed_comm_seconds : float
        The device's kernels, the host's launches, and what of the all-reduce nothing hides [s].
    modules : tuple of (str, float)
        Kernel time by kind of operator and pass [s].
    memory : Memory
        Of one device [B].
    fits : bool
        Whether that is within the device's memory.
    flops : int
        Of one device [FLOP].
    calibrated : float
        Share of the kernel time that measurements of the device stand behind.
    kinds : tuple of (str, float)
        Kernel time by what a library has kernels of its own for
        (:func:`~perfmodel.study.convnets_kinds.kind_of`) [s].
    kernels : int
        How many kernels the device runs.
    """

    name: str
    batch: int
    devices: int
    step_seconds: float
    kernel_seconds: float
    host_seconds: float
    exposed_comm_seconds: float
    modules: tuple[tuple[str, float], ...]
    memory: Memory
    fits: bool
    flops: int
    calibrated: float
    kinds: tuple[tuple[str, float], ...] = ()
    kernels: int = 0

    @property
    def images_per_second(self) -> float:
        """Of all devices together."""
        return self.batch * self.devices / self.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "network": self.name,
            "batch_per_device": self.batch,
            "devices": self.devices,
            "step_time_s": self.step_seconds,
            "images_per_s": self.images_per_second,
            "kernel_time_s": self.kernel_seconds,
            "host_time_s": self.host_seconds,
            "exposed_comm_s": self.exposed_comm_seconds,
            "modules_s": dict(self.modules),
            "memory": {
                "weights_bytes": self.memory.weights,
                "gradients_bytes": self.memory.gradients,
                "optimizer_bytes": self.memory.optimizer,
                "activations_bytes": self.memory.activations,
            },
            "peak_memory_bytes": self.memory.total,
            "fits": self.fits,
            "flops": self.flops,
            "calibrated_share": self.calibrated,
        }


@dataclass(frozen=True, slots=True)
class _Kernels:
    seconds: float
    backward: float
    modules: tuple[tuple[str, float], ...]
    flops: int
    launches: float
    calibrated: float
    kinds: tuple[tuple[str, float], ...]
    count: int


def infer_convnet(
    name: str,
    accelerator: Accelerator,
    batch: int,
    *,
    image_size: int | tuple[int, ...] | None = None,
    dtype: str = "bf16",
    layout: str = "nhwc",
    mode: str = "graph",
    amp: bool = False,
    training_norms: bool = False,
    host_launch: float | None = None,
) -> ConvnetStep:
    """Latency of one batch.

    Parameters
    ----------
    name : str
        A network that :func:`~perfmodel.workload.convnet.convnet` knows.
    accelerator : Accelerator
        The device.
    batch : int
        Images.
    image_size, dtype, layout, amp
        As for :func:`~perfmodel.workload.convnet.convnet_calls`.
    mode : str
        ``"graph"``: unfused kernels replayed from a CUDA graph; ``"eager"``: launched one by one;
        ``"compile"``: fused by a compiler, replayed.
    training_norms : bool
        Norms compute their statistics, as in a model that nobody put into evaluation mode.
    host_launch : float, optional
        Host time of one eager launch [s]; by default that of the torch-eager stack.

    Raises
    ------
    WorkloadError
        If a name, size or word is not known.
    """
    _check_mode(mode)
    setting = Setting(batch, dtype, layout, _fusion(mode), amp, training_norms)
    net = convnet(name, image_size)
    if mode != "eager":
        return _replayed(net, setting, accelerator, REPLAYS[mode])
    kernels = _price(forward(net, setting), accelerator)
    memory = inference_memory(net, setting)
    return _assemble(name, batch, 1, kernels, accelerator, memory, mode, host_launch, 0.0)


def train_convnet(
    name: str,
    cluster: Cluster | Accelerator,
    batch_per_device: int,
    dtype: str = "fp16",
    *,
    image_size: int | tuple[int, ...] | None = None,
    layout: str = "nhwc",
    mode: str = "eager",
    amp: bool | None = None,
    optimizer: str = "sgd",
    loop_optimizer: bool = False,
    host_launch: float | None = None,
) -> ConvnetStep:
    """A data-parallel training step: forward, backward with all-reduce behind it, optimizer.

    Parameters
    ----------
    name : str
        A network that :func:`~perfmodel.workload.convnet.convnet` knows.
    cluster : Cluster
        All of its devices work, each on a batch of its own; or a single accelerator.
    batch_per_device : int
        Images.
    dtype : str
        Format of the arithmetic; half formats imply ``amp`` unless that is given.
    image_size, layout, amp, optimizer
        As for :func:`~perfmodel.workload.convnet.convnet_calls`.
    loop_optimizer : bool
        The optimizer runs :data:`LOOP_KERNELS` kernels for every parameter tensor, as PyTorch's did
        before version 2, instead of few for all.
    mode, host_launch
        As for :func:`infer_convnet`; replayed kernels are added up.

    Notes
    -----
    fp32 gradients are reduced in buckets as soon as they are there, so the last bucket is never
    hidden and the others only as far as the backward pass is long.
    """
    _check_mode(mode)
    amp = dtype in ("fp16", "bf16") if amp is None else amp
    calls = convnet_calls(
        name, batch_per_device, image_size, training=True, dtype=dtype, layout=layout,
        fusion=_fusion(mode), amp=amp, optimizer=optimizer,
    )  # fmt: skip
    net = convnet(name, image_size)
    setting = Setting(batch_per_device, dtype, layout, _fusion(mode), amp, training=True)
    memory = training_memory(net, setting, optimizer)
    accelerator = cluster if isinstance(cluster, Accelerator) else cluster.accelerator
    kernels = _price(calls, accelerator)
    if loop_optimizer:
        launches = LOOP_KERNELS[optimizer] * net.parameter_tensors
        kernels = _with_loop(kernels, launches, accelerator)
    exposed = (
        0.0
        if isinstance(cluster, Accelerator)
        else _exposed(4 * net.parameters, kernels.backward, cluster)
    )
    devices = 1 if isinstance(cluster, Accelerator) else cluster.devices
    return _assemble(
        name, batch_per_device, devices, kernels, accelerator, memory, mode, host_launch, exposed
    )


def _replayed(net: Convnet, setting: Setting, accelerator: Accelerator, stack: str) -> ConvnetStep:
    """An inference as a program on a stack that replays it."""
    chosen = load_stack(stack)
    if setting.dtype in ("fp32", "tf32"):
        words = {"matmul_fp32": setting.dtype, "convolution_fp32": setting.dtype}
        chosen = chosen.model_copy(update=words)
    done = estimate_program(network_program(net, setting), accelerator, stack=chosen)
    table = done.kernels
    seconds = table.seconds.tolist()
    modules: dict[str, float] = {}
    kinds: dict[str, float] = {}
    for kernel, each in zip(table.kernels, seconds, strict=True):
        modules[kernel.kind] = modules.get(kernel.kind, 0.0) + each
        kind = kind_of(kernel.ops[0])
        kinds[kind] = kinds.get(kind, 0.0) + each
    memory = inference_memory(net, setting)
    total = math.fsum(seconds)
    return ConvnetStep(
        name=net.name,
        batch=setting.batch,
        devices=1,
        step_seconds=done.seconds,
        kernel_seconds=total,
        host_seconds=0.0,
        exposed_comm_seconds=0.0,
        modules=tuple(sorted(modules.items(), key=lambda item: -item[1])),
        memory=memory,
        fits=memory.total <= float(accelerator.memory_capacity),
        flops=sum(int(kernel.flops) for kernel in table.kernels),
        calibrated=float(table.seconds[table.calibrated].sum()) / total,
        kinds=tuple(sorted(kinds.items())),
        kernels=len(table.kernels),
    )


def _assemble(
    name: str,
    batch: int,
    devices: int,
    kernels: _Kernels,
    accelerator: Accelerator,
    memory: Memory,
    mode: str,
    host_launch: float | None,
    exposed: float,
) -> ConvnetStep:
    launch = load_stack("torch-eager").host_launch if host_launch is None else host_launch
    host = kernels.launches * launch if mode == "eager" else 0.0
    return ConvnetStep(
        name=name,
        batch=batch,
        devices=devices,
        step_seconds=max(kernels.seconds, host) + exposed,
        kernel_seconds=kernels.seconds,
        host_seconds=host,
        exposed_comm_seconds=exposed,
        modules=kernels.modules,
        memory=memory,
        fits=memory.total <= float(accelerator.memory_capacity),
        flops=kernels.flops,
        calibrated=kernels.calibrated,
        kinds=kernels.kinds,
        kernels=kernels.count,
    )


def _price(calls: tuple[Call, ...], accelerator: Accelerator) -> _Kernels:
    modules: dict[str, float] = {}
    kinds: dict[str, float] = {}
    backward = calibrated = 0.0
    for places, op in stacked(call.op for call in calls):
        priced = price(op, accelerator)
        for place, seconds, known in zip(
            places, priced.seconds.tolist(), priced.calibrated.tolist(), strict=True
        ):
            call = calls[place]
            whole = seconds * float(call.count)
            word = f"{call.module} {call.grad} gradient" if call.grad else call.module
            modules[word] = modules.get(word, 0.0) + whole
            kind = kind_of(call.op, backward=bool(call.grad))
            kinds[kind] = kinds.get(kind, 0.0) + whole
            backward += whole if call.grad else 0.0
            calibrated += whole if known else 0.0
    total = math.fsum(modules.values())
    return _Kernels(
        total,
        backward,
        tuple(sorted(modules.items(), key=lambda item: -item[1])),
        sum(int(call.op.flops) * int(call.count) for call in calls),
        sum(host_calls(call) for call in calls),
        calibrated / total,
        tuple(sorted(kinds.items())),
        sum(int(call.count) for call in calls),
    )


def _with_loop(kernels: _Kernels, launches: int, accelerator: Accelerator) -> _Kernels:
    """The same step with that many kernels on single tensors instead of one on all of them."""
    each = float(price(Fused("optimizer", 1, 4, 4, 1), accelerator).seconds)
    modules = dict(kernels.modules)
    modules["optimizer"] = modules.get("optimizer", 0.0) + launches * each
    return replace(
        kernels,
        seconds=kernels.seconds + launches * each,
        modules=tuple(sorted(modules.items(), key=lambda item: -item[1])),
        launches=kernels.launches + launches,
    )


def _exposed(gradient_bytes: int, backward: float, cluster: Cluster) -> float:
    """What of the bucketed all-reduce the backward pass cannot hide [s]."""
    if cluster.devices == 1:
        return 0.0
    buckets = math.ceil(gradient_bytes / BUCKET_BYTES)
    last = gradient_bytes - (buckets - 1) * BUCKET_BYTES
    members = min(cluster.devices_per_node, cluster.devices)
    full, rest = (
        float(
            collective_seconds("all_reduce", size, cluster.devices, cluster, ranks_per_node=members)
        )
        for size in (BUCKET_BYTES, last)
    )
    total = (buckets - 1) * full + rest
    return max(rest, total - backward * (1.0 - 1.0 / buckets))


def _fusion(mode: str) -> str:
    return "pointwise" if mode == "compile" else "none"


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise WorkloadError(
            "convnet: mode",
            mode,
            ", ".join(MODES),
            nearest=nearest_name(mode, MODES),
            repair="use one of the modes",
        )
