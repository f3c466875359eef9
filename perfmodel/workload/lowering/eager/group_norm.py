"""Group normalisation: mean and variance a group, a scale and a shift a channel, the map."""

from __future__ import annotations

from perfmodel.workload.lowering.device import H100, Device
from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.lowering.stream import OFFSETS, stream

_MOMENT_THREADS = 512
# profiled group norms of 64 to 4,096 groups of 10 to 82 thousand elements (7 shapes, within 10 %):
# 1.6 us at the beginning, 0.24 us a turn of a block's threads, 2.1 ps an element of many blocks
_MOMENT_BEGIN, _MOMENT_TURN, _MOMENT_ELEMENT = 1.1e7, 1.65e6, 14.4


def group_norm(site: Site) -> Work:
    """Moments of each group, a small kernel that folds them into a scale and shift, the map."""
    x, out = site.inputs[0], site.outputs[0]
    elements = numel(x.shape)
    if elements == 0:
        return Work("norm")
    channels = x.shape[0] * x.shape[1] if len(x.shape) > 1 else 1
    folded = 8 * channels
    scratch = ((site.temporary(), folded),)
    groups = max(1, x.shape[0] * int(site.attribute("group", site.attribute("num_groups", 1))))
    work = moments_work(groups, elements // groups, site.device)
    moments = stream("moments", elements, site.bytes(x), 0, max(work, 3.0 * elements))
    fold = stream("fold", channels, 12 * channels, folded, 4.0 * channels)
    each = 2.0 + OFFSETS  # scale and shift are found for every element
    apply = stream("group_norm", elements, site.bytes(x), site.bytes(out), each * elements, x.dtype)
    kernels = (
        site.kernel(
            "reduction", moments, name=f"{site.name}: moments", reads=(x,),
            writes=site.outputs[1:], host="norm",
        ),
        site.kernel(
            "pointwise", fold, name=f"{site.name}: fold", reads=site.inputs[1:],
            writes=(), extra_writes=scratch, host="norm",
        ),
        site.kernel(
            "pointwise", apply, reads=(x,), extra_reads=scratch, writes=(out,), host="norm"
        ),
    )  # fmt: skip
    return Work("norm", kernels, scratch)


def moments_work(groups: int, each: int, device: Device = H100) -> float:
    """Operations that take as long as mean and variance of groups, a block of 512 threads each.

    A thread goes through its elements one after another, each with a division that the next one
    waits for (ATen/native/cuda/group_norm_kernel.cu, ``RowwiseMomentsCUDAKernel``).
    """
    turns = -(-each // (_MOMENT_THREADS if each >= _MOMENT_THREADS else 32))
    at_once = device.units * (device.threads // _MOMENT_THREADS)
    waiting = (_MOMENT_BEGIN + _MOMENT_TURN * turns) * max(1.0, groups / at_once)
    return max(waiting, _MOMENT_ELEMENT * groups * each)


def group_norm_backward(site: Site) -> Work:
    """Sums a channel, their fold, the input gradient, the gradients of weight and bias."""
    grad, x = site.inputs[0], site.inputs[1]
    elements = numel(x.shape)
    if elements == 0:
        return Work("norm")
    channels = x.shape[0] * x.shape[1] if len(x.shape) > 1 else 1
    read = site.bytes(grad) + site.bytes(x)
    scratch = ((site.temporary(), 16 * channels),)
    sums = stream("channel sums", elements, read, 8 * channels, 4.0 * elements)
    fold = stream("fold", channels, 16 * channels, 16 * channels, 8.0 * channels)
    apply = stream("group_norm_backward", elements, read, site.bytes(x), 5.0 * elements, x.dtype)
    kernels: list[Kernel] = [
        site.kernel(
            "reduction", sums, name=f"{site.name}: sums", reads=(grad, x), writes=(),
            extra_writes=scratch, host="norm",
        ),
        site.kernel(
            "pointwise", (fold, fold), name=f"{site.name}: fold", reads=(), extra_reads=scratch,
            writes=site.outputs[1:], launches=2, host="norm",
        ),
        site.kernel(
            "pointwise", apply, reads=(grad, x), writes=site.outputs[:1], host="norm"
        ),
    ]  # fmt: skip
    return Work("composite", tuple(kernels), scratch)
