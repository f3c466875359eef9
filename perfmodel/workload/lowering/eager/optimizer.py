"""Operators over lists of tensors: multi-tensor kernels, fused optimizers, gradient scaling.

A multi-tensor kernel takes a limited number of tensors and of chunks of 65,536 elements in its
arguments; longer lists take several launches (ATen/native/cuda/MultiTensorApply.cuh).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from perfmodel.workload.lowering.eager.names import operations
from perfmodel.workload.lowering.site import Site, Work, arithmetic, numel
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.op import AdamW, Op, Sgd
from perfmodel.workload.program import Tensor

CHUNK: Final = 65536
MOST_BLOCKS: Final = 320
# lists a kernel walks -> tensors that fit into its arguments
MOST_TENSORS: Final = MappingProxyType({1: 110, 2: 64, 3: 48, 4: 36, 5: 30})

_STATE = MappingProxyType({"_fused_adamw": 2, "_fused_adam": 2, "_fused_adagrad": 1})


def launches(tensors: Sequence[Tensor], lists: int) -> int:
    """Kernels that walk ``lists`` lists of such tensors in step."""
    most = MOST_TENSORS.get(lists, 30)
    count, blocks, filled = 0, 0, 0
    for tensor in tensors:
        chunks = -(-numel(tensor.shape) // CHUNK)
        if chunks == 0:
            continue
        filled += 1
        while chunks:
            taken = min(chunks, MOST_BLOCKS - blocks)
            blocks += taken
            chunks -= taken
            if blocks == MOST_BLOCKS:
                count, blocks, filled = count + 1, 0, 1 if chunks else 0
        if filled == most:
            count, blocks, filled = count + 1, 0, 0
    return count + (1 if blocks else 0)


def foreach(site: Site) -> Work:
    """An element-wise operator over whole lists: every tensor read, the first list written."""
    written = site.outputs or _first_list(site)
    if all(tensor.host for tensor in site.inputs):
        return Work("host_tensor")
    elements = sum(numel(tensor.shape) for tensor in written)
    base = site.name.removeprefix("_foreach_")
    reads = site.inputs
    if base in ("copy_", "zero_"):
        reads = site.inputs[len(written) :]
    norm = base in ("norm", "max")
    elements = sum(numel(tensor.shape) for tensor in reads) if norm else elements
    if elements == 0:
        return Work("foreach")
    lists = max(1, round(len(reads) / max(1, len(written)))) + (0 if base.endswith("_") else 1)
    count = launches(reads if norm else written, 1 if norm else min(lists, 5)) + (1 if norm else 0)
    read = sum(size for _, size in site.traffic(reads))
    out = sum(size for _, size in site.traffic(written))
    flops = (2 if norm else operations(base)) * elements
    op = stream(f"foreach {base}", elements, read, out, flops, arithmetic(written[0].dtype))
    kernel = site.kernel("optimizer", op, reads=reads, writes=written, launches=count,
                         host="foreach")  # fmt: skip
    return Work("foreach", (kernel,))


def fused(site: Site) -> Work:
    """One pass over weights, gradients and states."""
    parameters, gradients, states = _lists(site)
    elements = sum(numel(tensor.shape) for tensor in parameters)
    if elements == 0:
        return Work("optimizer")
    dtype, grad = parameters[0].dtype, gradients[0].dtype if gradients else "fp32"
    moment = states[0].dtype if states else dtype
    op: Op
    if "sgd" in site.name:
        op = Sgd(elements, bool(states), dtype)
    else:
        op = AdamW(elements, dtype, grad, moment)
    lists = 2 + len(states) // max(1, len(parameters))
    written = (*parameters, *states)
    kernel = site.kernel("optimizer", op, writes=written, launches=launches(parameters, lists))
    return Work("optimizer", (kernel,))


def unscale(site: Site) -> Work:
    """Gradients divided by the loss scale in place, and a flag for infinities."""
    gradients = [t for t in site.inputs if numel(t.shape) > 1] or list(site.inputs[:1])
    elements = sum(numel(tensor.shape) for tensor in gradients)
    size = sum(site.bytes(tensor) for tensor in gradients)
    op = stream("unscale", elements, size, size, 2.0 * elements)
    kernel = site.kernel(
        "optimizer", op, writes=gradients, launches=max(1, launches(gradients, 1)), host="foreach"
    )
    return Work("foreach", (kernel,))


def scale_update(site: Site) -> Work:
    """A handful of scalars."""
    op = stream("scale update", 1, 12, 12, 4)
    return Work("pointwise", (site.kernel("optimizer", op, writes=site.inputs[:2],
                                          host="pointwise"),))  # fmt: skip


def _lists(site: Site) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights, gradients and states of a flattened fused call.

    The counters of steps (scalars, one a weight) and a learning rate in a tensor stand last.
    """
    tensors = list(site.inputs)
    named = site.attribute("lists", {})
    if "self" in named:
        return _named_lists(tensors, named)
    base = site.name.rstrip("_")
    states = _STATE.get(base, 0) + (1 if site.attribute("amsgrad", False) else 0)
    if "sgd" in base:
        lists = 3 if site.attribute("momentum", 0) else 2
        count = len(tensors) // lists
    else:
        count = len(tensors) // (states + 3)
        lists = states + 2
    count = max(1, count)
    parts = [tensors[place * count : (place + 1) * count] for place in range(lists)]
    return parts[0], parts[1], [tensor for part in parts[2:] for tensor in part]


def _named_lists(
    tensors: list[Tensor], named: Mapping[str, int]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The lists by the names that the schema gives them."""
    parts: dict[str, list[Tensor]] = {}
    start = 0
    for name, count in named.items():
        parts[name] = tensors[start : start + count]
        start += count
    states = [
        tensor
        for name, part in parts.items()
        if name not in ("self", "grads", "state_steps")
        for tensor in part
    ]
    return parts["self"], parts.get("grads", []), states


def _first_list(site: Site) -> tuple[Tensor, ...]:
    """The list that an in-place operator over lists writes: half or a third of the inputs."""
    tensors = site.inputs
    named = site.attribute("lists", {})
    if "self" in named:
        return tensors[: named["self"]]
    base = site.name.removeprefix("_foreach_").rstrip("_")
    lists = {"addcmul": 3, "addcdiv": 3, "lerp": 2, "copy": 2}.get(base, 1)
    if lists == 1 and len(tensors) % 2 == 0:
        half = len(tensors) // 2
        if [t.shape for t in tensors[:half]] == [t.shape for t in tensors[half:]]:
            lists = 2
    count = len(tensors) // lists
    return tensors[:count]
