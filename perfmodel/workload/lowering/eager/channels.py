"""Statistics of batch norms whose channels lie apart: one block goes through each channel.

PyTorch's kernels for contiguous images start a block of 512 threads for every channel. Its threads
go through the places of an image, then through the images, and wait for every load; the gradient
goes through twice. Sixty-four channels leave half of an H100 idle, however large they are.

Reference
---------
ATen/native/cuda/Normalization.cuh, ``batch_norm_collect_statistics_kernel`` and
``batch_norm_backward_kernel``.
"""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.device import Device
from perfmodel.workload.lowering.site import numel
from perfmodel.workload.program import Tensor

_THREADS: Final = 512
# of 9 kernels profiled on an H100 (within 12 %), in operations that it does meanwhile: 2 us at the
# beginning; 0.25 and 0.32 us a turn of the threads where the cache holds all, 0.39 and 0.46 us else
_BEGIN: Final = 7e6
_TURN: Final = {1: (1.7e6, 2.7e6), 2: (2.15e6, 3.1e6)}
_CACHED: Final = 16e6
_ELEMENT: Final = 14.4
"""Operations in the time of an element where blocks are many."""


def channel_work(x: Tensor, moved: int, device: Device, *, passes: int = 1) -> float:
    """Operations that take as long as blocks that go through their channels.

    Parameters
    ----------
    x : Tensor
        (batch, channels, ...).
    moved : int
        Bytes of all operands, which a cache may hold [B].
    passes : int
        How often a block goes through its channel: 1 for statistics, 2 for gradients.
    """
    images, channels, places = x.shape[0], x.shape[1], numel(x.shape[2:])
    width = next((size for size in (32, 64, 128, 256) if places <= size), _THREADS)
    turns = -(-images // max(1, _THREADS // width)) * -(-places // width) * passes
    near, far = _TURN[passes]
    waves = max(1.0, channels * _THREADS / (device.units * device.threads))
    waiting = _BEGIN + turns * (near if moved <= _CACHED else far) * waves
    return max(waiting, _ELEMENT * passes * numel(x.shape))
