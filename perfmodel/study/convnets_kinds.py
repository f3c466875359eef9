"""What a kernel of a network is to the library that runs it, and to the host that launches it."""

from __future__ import annotations

from typing import Final

from perfmodel.optimize.grouped.library import regular
from perfmodel.workload.layer import Call
from perfmodel.workload.op import Op
from perfmodel.workload.ops.conv import Conv2d, Conv3d

HOST_CALLS: Final = {"conv": 1.8, "linear": 2.0, "norm": 1.6}
"""Host time of an eager call against that of an element-wise one, as measured beside an H100
(``validate/measurements/h100-sxm5-80gb/host.csv``: convolution 11.5, linear 13.2, norm 10.3 and
addition 6.5 us)."""


def kind_of(op: Op, *, backward: bool = False) -> str:
    """What a library has kernels of its own for: ``"grouped bwd half nhwc"``, ``"stream fp32"``."""
    dtype = getattr(op, "dtype", "")
    rate = "half" if dtype in ("fp16", "bf16") else "fp32"
    if not isinstance(op, Conv2d | Conv3d):
        # norms, poolings, biases and copies are described by their bytes alone
        return f"stream {rate}" if dtype else "stream of maps"
    way = f"{'bwd' if backward else 'fwd'} {rate}"
    if isinstance(op, Conv3d):
        return f"3d {way}"
    grouped = "grouped" if regular(op) else "odd groups"
    several = "depthwise" if op.groups == op.c_in else grouped
    shape = "dense" if op.groups == 1 else several
    return f"{shape} {way} {op.layout}"


def host_calls(call: Call) -> float:
    """Host time of a kernel in calls of an element-wise operator.

    A framework's operator costs the host once, however many kernels it runs: the statistics of a
    norm and the second gradient of a convolution or linear layer ride along. The bias of a
    convolution does not: cuDNN's takes none, and PyTorch dispatches an addition behind it
    (ATen/native/cudnn/ConvShared.cpp).
    """
    rides = call.name.endswith(".statistics") or (
        call.grad == "weight" and call.name.endswith(".weight_grad")
    )
    return 0.0 if rides else HOST_CALLS.get(call.module, 1.0) * float(call.count)
