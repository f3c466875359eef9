"""Where the meta device and a CUDA device part ways, and how the recording follows CUDA.

Composite operators ask which device they run on. What they would do on CUDA is put in their place
for the ``AutogradMeta`` key while a recording lasts; kernels whose result has another memory format
or another name on CUDA are corrected as they are recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch._prims_common import suggest_memory_format

from perfmodel.workload.importers import losses, recurrent
from perfmodel.workload.importers.attention import attend
from perfmodel.workload.importers.fastpath import fused, offered

_ATEN: Final = torch.ops.aten
_STANDS_FOR: Final = {"transformers::grouped_mm_fallback": "aten._grouped_mm"}
_PACKED: Final = (_ATEN._weight_int4pack_mm.default,)
_NIBBLES: Final = 8  # columns of a row of packed weights
_LIMIT_TRAINING: Final = 880_801  # rows that cuDNN's batch norm accepts
_LIMIT_EVAL: Final = 65_535


def composites(order: tuple[str, ...]) -> dict[Any, Callable[..., Any]]:
    """Composite operators whose CUDA branch differs, with that branch."""
    return {
        _ATEN.scaled_dot_product_attention.default: partial(attend, order=order),
        _ATEN.dropout.default: _dropout,
        _ATEN.softmax.int: partial(_softmax, _ATEN._softmax),
        _ATEN.log_softmax.int: partial(_softmax, _ATEN._log_softmax),
        **fused(order),
        **recurrent.layers(),
        **losses.composites(),
    }


@contextlib.contextmanager
def as_cuda(table: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """CUDA's branches of composite operators, and CUDA's optimizer kernels, on meta tensors."""
    from torch.optim import optimizer

    library: Any = torch.library.Library("aten", "IMPL")
    for operator, function in table.items():
        name = str(operator).removeprefix("aten.").removesuffix(".default")
        library.impl(name, function, "AutogradMeta")
    for name, kernel in _KERNELS.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            library.m.impl(name, "Meta", kernel, False)  # the wrapper refuses composites
    names = ("_get_foreach_kernels_supported_devices", "_get_fused_kernels_supported_devices")
    originals = {name: getattr(optimizer, name) for name in names}
    from torch.nn.utils import clip_grad

    supported = clip_grad._has_foreach_support
    for name, original in originals.items():
        setattr(optimizer, name, lambda original=original: [*original(), "meta"])
    clip_grad._has_foreach_support = lambda tensors, device: True
    try:
        with offered():
            yield
    finally:
        clip_grad._has_foreach_support = supported
        for name, original in originals.items():
            setattr(optimizer, name, original)
        library._destroy()


_ONE_FORMAT: Final = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN.bmm.default,
        _ATEN.baddbmm.default,
        _ATEN.convolution.default,
    }
)
"""Products, whose kernels convert nothing."""


def on_meta(func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Run an operator on meta tensors, in a format that its meta kernel takes.

    Raises
    ------
    RuntimeError
        Where CUDA has no kernel for operands of several formats, which meta kernels let through.
    """
    if func in _ONE_FORMAT:
        _check_formats(func, args)
    for part in (recurrent, losses):
        found = part.run(func, args)
        if found is not None:
            return found
    if func in _PACKED:
        return args[0].new_empty((args[0].shape[0], args[1].shape[0] * _NIBBLES))
    if func is not _ATEN._grouped_mm.default or args[0].dtype == torch.bfloat16:
        return func(*args, **kwargs)
    pair = [tensor.to(torch.bfloat16) for tensor in args[:2]]
    return func(*pair, *args[2:], **kwargs).to(args[0].dtype)


def _check_formats(func: Any, args: tuple[Any, ...]) -> None:
    formats = [one.dtype for one in args if isinstance(one, torch.Tensor)]
    if len(set(formats)) > 1:
        said = ", ".join(str(one).removeprefix("torch.") for one in formats)
        message = f"{func.overloadpacket.__name__}: operands must have the same dtype, not {said}"
        raise RuntimeError(message)


def corrected(func: Any, args: tuple[Any, ...], out: Any) -> Any:
    """The operator's result with the memory format that cuDNN would give it."""
    if func is _ATEN.convolution.default:
        form = _conv_format(args[0], args[1])
        return out if form is None else out.contiguous(memory_format=form)
    if func is _ATEN.convolution_backward.default:
        form = _conv_format(args[1], args[2])
        if form is None:
            return out
        return tuple(
            t.contiguous(memory_format=form) if t is not None and t.dim() == args[1].dim() else t
            for t in out
        )
    if func is _ATEN._scaled_dot_product_cudnn_attention.default and not args[4]:
        return (out[0], out[1].new_empty(0), *out[2:])  # no logsumexp without a backward pass
    return out


def cuda_target(func: Any, args: tuple[Any, ...]) -> str | None:
    """The name that CUDA dispatches where it is another one, else None."""
    if func.namespace == "transformers":  # a stand-in of exported mixtures of experts
        return _STANDS_FOR.get(func._schema.name)
    if func is _ATEN.native_batch_norm.default:
        image, weight, bias, mean, variance, training, _, eps = args
        if _cudnn_norm(image, weight, bias, mean, variance, training=training, eps=eps):
            return "aten.cudnn_batch_norm"
    elif func is _ATEN.native_batch_norm_backward.default:
        _, image, weight, mean, variance, _, _, training, eps, _ = args
        if training and _cudnn_norm(
            image, weight, weight, mean, variance, training=training, eps=eps
        ):
            return "aten.cudnn_batch_norm_backward"
    return None


def _dropout(tensor: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    if not train or p == 0 or tensor.numel() == 0:
        return tensor
    if p == 1:
        return tensor.mul(torch.zeros((), dtype=tensor.dtype, device=tensor.device))
    out: torch.Tensor = _ATEN.native_dropout(tensor, p, train)[0]
    return out


def _rms_norm(
    tensor: torch.Tensor, shape: list[int], weight: torch.Tensor | None, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = (*tensor.shape[: tensor.dim() - len(shape)], *(1 for _ in shape))
    kind = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return torch.empty_like(tensor), tensor.new_empty(rows, dtype=kind)


def _like_input(grad: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """All the work is done in place."""


_KERNELS: Final = {
    "_fused_rms_norm": _rms_norm,
    "mish_backward": _like_input,
    "_fused_sgd_": _nothing,
    "_fused_adam_": _nothing,
    "_fused_adamw_": _nothing,
    "_fused_adagrad_": _nothing,
}
"""Kernels that CUDA has and the meta device may lack; there a composite takes their place."""


def _softmax(
    kernel: Any, tensor: torch.Tensor, dim: int, dtype: torch.dtype | None = None
) -> torch.Tensor:
    if dtype == torch.float32 and tensor.dtype == torch.float16:  # one kernel reads half
        out: torch.Tensor = kernel(tensor, dim, True)
        return out
    out = kernel(tensor if dtype is None else tensor.to(dtype), dim, False)
    return out


def _conv_format(image: torch.Tensor, weight: torch.Tensor) -> torch.memory_format | None:
    for tensor in (image, weight):
        if tensor.dim() in (4, 5):
            form: torch.memory_format = suggest_memory_format(tensor)
            if form != torch.contiguous_format:
                return form
    return None


def _cudnn_norm(
    image: Any, weight: Any, bias: Any, mean: Any, variance: Any, *, training: bool, eps: float
) -> bool:
    if weight is None or bias is None or (mean is None) != (variance is None):
        return False
    if torch.bfloat16 in (image.dtype, weight.dtype):
        return False
    if image.dtype == torch.float16 and weight.dtype != torch.float32:
        return False
    limit = _LIMIT_TRAINING if training else _LIMIT_EVAL
    return bool(
        (mean is not None or training)
        and image.dim() >= 3
        and image.shape[0] <= limit
        and image.numel() < 2**31
        and eps >= 0
    )
