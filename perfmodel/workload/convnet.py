"""Convolutional networks: their graph, and the operators of an inference or a training step."""

from __future__ import annotations

from perfmodel.workload.convnets.backward import OPTIMIZER_BYTES, OPTIMIZERS, training_step
from perfmodel.workload.convnets.build import Convnet, Node
from perfmodel.workload.convnets.lower import FUSIONS, Setting, conv_op, forward
from perfmodel.workload.convnets.memory import Memory, inference_memory, training_memory
from perfmodel.workload.convnets.names import CONVNETS, convnet
from perfmodel.workload.convnets.program import network_program
from perfmodel.workload.layer import Call
from perfmodel.workload.ops.base import checked_size

__all__ = [
    "CONVNETS",
    "FUSIONS",
    "OPTIMIZERS",
    "OPTIMIZER_BYTES",
    "Convnet",
    "Memory",
    "Node",
    "Setting",
    "conv_op",
    "convnet",
    "convnet_calls",
    "forward",
    "inference_memory",
    "network_program",
    "training_memory",
]


def convnet_calls(
    name: str,
    batch: int,
    image_size: int | tuple[int, ...] | None = None,
    *,
    training: bool = False,
    dtype: str = "bf16",
    layout: str = "nhwc",
    fusion: str = "none",
    amp: bool = False,
    optimizer: str = "sgd",
) -> tuple[Call, ...]:
    """Every kernel of one step of a network on one device, in order.

    Parameters
    ----------
    name : str
        One of :data:`CONVNETS`.
    batch : int
        Images.
    image_size : int or tuple of int, optional
        Side or sides; by default those of the publication.
    training : bool
        Forward, loss, backward and optimizer; otherwise forward alone.
    dtype, layout : str
        Format of the feature maps; nhwc or nchw.
    fusion : str
        ``"none"``: a kernel for every node; ``"pointwise"``: one for every element-wise chain.
    amp : bool
        fp32 weights cast once a pass.
    optimizer : str
        sgd (with momentum), adamw or rmsprop.

    Raises
    ------
    WorkloadError
        If the network, a size or a word is not known.

    Examples
    --------
    >>> calls = convnet_calls("resnet18", 32)
    >>> sum(call.op.flops for call in calls if call.module == "conv") // 32 // 2
    1813561344
    """
    net = convnet(name, image_size)
    images = checked_size(batch, f"convnet {name}: batch")
    setting = Setting(int(images), dtype, layout, fusion, amp, training)
    return training_step(net, setting, optimizer) if training else forward(net, setting)
