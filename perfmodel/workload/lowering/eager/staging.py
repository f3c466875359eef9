"""What reductions and cuDNN's batch norms put down in memory while they run.

A sum across rows whose neighbours in memory belong to different results is shared among blocks that
leave partial sums: with ``o`` results, ``b`` blocks for each and ``w`` lanes of ``v`` values,
``o b w v`` accumulators (ATen/native/cuda/Reduce.cuh, ``ReduceConfig::global_memory_size``).
cuDNN's batch norm of a training step keeps a bit for every element of an image channels last.
"""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.device import Device
from perfmodel.workload.lowering.eager.names import group_of
from perfmodel.workload.lowering.kernel import Traffic
from perfmodel.workload.lowering.site import Site, item_bytes, numel
from perfmodel.workload.program import Tensor

_MOST_THREADS, _WARP, _VECTOR = 512, 32, 4
_LEAST_EACH, _MOST_EACH = 16, 256
_OWN_FORMAT: Final = ("amax", "amin", "max", "min", "any", "all", "prod")
_WELFORD: Final = ("var", "std", "var_mean", "std_mean")
_BITS, _BITS_BACK = 8, 12  # elements for a byte of cuDNN's batch norm, forward and backward


def staging(site: Site, taken: Traffic = ()) -> Traffic:
    """Temporary blocks beside those that the rules of :mod:`table` name.

    Parameters
    ----------
    site : Site
        The operator.
    taken : tuple of (storage, bytes)
        What its rule names: a convolution gives that back before it sums its bias gradient.
    """
    size = 0
    name = site.name.rstrip("_")
    if group_of(site.name).startswith("reduction") and site.inputs:
        dims = site.attribute("dim")
        if dims is not None:
            size = partial_sums(site.inputs[0], dims, _accumulator(name, site), site.device)
    elif name == "convolution_backward" and site.inputs:
        mask = list(site.attribute("output_mask", ()))
        grad = site.inputs[0]
        if len(mask) > 2 and mask[2]:
            others = [axis for axis in range(len(grad.shape)) if axis != 1]
            size = partial_sums(grad, others, 4, site.device)
            size = max(0, size - sum(one for _, one in taken))
    elif name in ("cudnn_batch_norm", "cudnn_batch_norm_backward") and site.inputs:
        x = site.inputs[0]
        if x.layout == "channels_last" and site.attribute("training", True):
            size = numel(x.shape) // (_BITS_BACK if name.endswith("backward") else _BITS)
    return ((site.temporary(14), size),) if size else ()


def partial_sums(x: Tensor, dims: object, accumulator: int, device: Device) -> int:
    """Bytes that blocks leave for each other; 0 where one block finishes a result [B].

    Parameters
    ----------
    x : Tensor
        What is summed.
    dims : int or list of int
        Along which axes.
    accumulator : int
        Bytes of a partial sum [B].
    device : Device
        How many blocks run at once.
    """
    rank = len(x.shape)
    if not rank or not isinstance(dims, int | list | tuple) or x.layout == "strided":
        return 0
    axes = [dims] if isinstance(dims, int) else list(dims) or range(rank)
    reduced = {int(axis) % rank for axis in axes}
    inner = _innermost(x)
    if inner in reduced or 0 in x.shape:
        return 0
    rows = numel([x.shape[axis] for axis in reduced])
    results = numel(x.shape) // rows
    vector = next(size for size in (_VECTOR, 2, 1) if x.shape[inner] % size == 0)
    most, lanes = _MOST_THREADS // vector, results // vector
    width = min(_power(lanes), most, _WARP)
    height = min(_power(rows), most // width)
    width = min(_power(lanes), most // height)
    if rows < height * _LEAST_EACH and rows < _MOST_EACH:
        return 0
    each = -(-rows // height)
    blocks, room = -(-lanes // width), device.units * (device.threads // (width * height))
    if each < _MOST_EACH or blocks > room:
        return 0
    shared = max(min(-(-room // blocks), -(-each // _LEAST_EACH)), -(-each // _MOST_EACH))
    return accumulator * results * shared * width * vector if shared > 1 else 0


def _innermost(x: Tensor) -> int:
    """The axis of more than one element along which neighbours lie in memory."""
    rank = len(x.shape)
    order = list(range(rank))
    if x.layout == "channels_last" and rank > 2:
        order = [0, *range(2, rank), 1]
    return next((axis for axis in reversed(order) if x.shape[axis] > 1), rank - 1)


def _accumulator(name: str, site: Site) -> int:
    width = item_bytes(site.inputs[0].dtype)
    if name in _OWN_FORMAT:
        return width
    if name in _WELFORD:
        return 16
    return 16 if name.startswith("arg") else max(4, width)


def _power(number: int) -> int:
    return 1 << (max(1, number).bit_length() - 1)
