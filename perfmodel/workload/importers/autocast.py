"""CUDA autocast on meta tensors.

PyTorch's CUDA autocast skips tensors that are on no CUDA device. Its cast lists are registered here
for an autocast key that no device of this process uses, and that key is switched on around the
step: casts then happen below composite operators too, exactly where CUDA would make them.

Reference: the cast lists of ``ATen/autocast_mode.h``; a test compares the operators with those that
the installed PyTorch registers for CUDA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch.amp import autocast_mode


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LOWER: Final = _names(
    """
    _convolution _convolution.deprecated conv1d conv2d conv3d conv_tbc conv_transpose1d
    conv_transpose2d.input conv_transpose3d.input convolution prelu addmm addmv addr matmul
    einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot
    _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    _scaled_dot_product_flash_attention scaled_dot_product_attention
    """
)
"""Cast to the autocast format."""
UPPER: Final = _names(
    """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan
    pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm group_norm
    frobenius_norm.dim nuclear_norm nuclear_norm.dim cosine_similarity
    poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss
    smooth_l1_loss huber_loss mse_loss
    margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss
    multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp
    upsample_nearest1d _upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d
    upsample_nearest3d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
    _upsample_bilinear2d_aa upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa
    """
)
"""Cast to fp32."""
UPPER_DTYPE: Final = _names(
    """
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm
    linalg_matrix_norm
    linalg_matrix_norm.str_ord sum sum.dim_IntList
    """
)
"""Compute in fp32 through the operator's own ``dtype`` argument, where it was not given."""
PROMOTE: Final = _names(
    """
    addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add
    rms_norm
    """
)
"""Cast to the widest format among the arguments."""
NORMS: Final = ("norm.Scalar", "norm.ScalarOpt_dim")
"""fp32 by their overloads that take a ``dtype``."""
_KEY: Final = "AutocastHPU"
_DEVICE: Final = "hpu"
_HERE: Final = ("cuda", "meta")


class Casts:
    """The cast kernels, and the weights that the running autocast context has cast already."""

    def __init__(self) -> None:
        self.keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))
        self.cached: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.fallback: Any = torch.library.Library("_", "IMPL")
        self.fallback.fallback(torch.library.fallthrough_kernel, _KEY)
        self.library: Any = torch.library.Library("aten", "IMPL")
        for names, make in (
            (LOWER, self._lower),
            (UPPER, self._upper),
            (UPPER_DTYPE, self._upper_dtype),
            (PROMOTE, self._promote),
        ):
            for name in names:
                self._register(name, make)
        for name in NORMS:
            self._register(name, self._norm)

    def close(self) -> None:
        """Take the kernels back and forget the cast weights."""
        self.cached.clear()
        self.library._destroy()
        self.fallback._destroy()

    def _register(self, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default", None)
        if operator is not None:
            self.library.impl(name, make(operator), _KEY)

    def _lower(self, operator: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            to = torch.get_autocast_dtype(_DEVICE)
            with torch._C._ExcludeDispatchKeyGuard(self.keys):
                cast = [self._cast(value, to) for value in args]
                return operator(*cast, **{k: self._cast(v, to) for k, v in kwargs.items()})

        return kernel

    def _upper(self, operator: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(self.keys):
                cast = [self._cast(value, torch.float32) for value in args]
                return operator(
                    *cast, **{k: self._cast(v, torch.float32) for k, v in kwargs.items()}
                )

        return kernel

    def _upper_dtype(self, operator: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(self.keys):
                names = [argument.name for argument in operator._schema.arguments]
                given = dict(zip(names, args, strict=False)) | kwargs
                if _eligible(args[0]) and given.get("dtype") is None:
                    given["dtype"] = torch.float32
                return _call(operator, given)

        return kernel

    def _norm(self, operator: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(self.keys):
                if not _eligible(args[0]):
                    return operator(*args, **kwargs)
                norm = torch.ops.aten.norm
                if operator is norm.Scalar:
                    power = args[1] if len(args) > 1 else kwargs.get("p", 2)
                    return norm.ScalarOpt_dtype(args[0], power, dtype=torch.float32)
                return norm.ScalarOpt_dim_dtype(*args, **kwargs, dtype=torch.float32)

        return kernel

    def _promote(self, operator: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(self.keys):
                wide = torch.get_autocast_dtype(_DEVICE)
                for value in _flat([*args, *kwargs.values()]):
                    if _eligible(value) and value.dtype == torch.float32:
                        wide = torch.float32
                cast = [self._cast(value, wide) for value in args]
                return operator(*cast, **{k: self._cast(v, wide) for k, v in kwargs.items()})

        return kernel

    def _cast(self, value: Any, to: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return [self._cast(item, to) for item in value]
        if not _eligible(value) or value.dtype == to:
            return value
        keep = (
            torch.is_autocast_cache_enabled()
            and to == torch.get_autocast_dtype(_DEVICE)
            and value.dtype == torch.float32
            and value.requires_grad
            and value.is_leaf
            and value._base is None
        )
        if not keep:
            return value.to(to)
        if id(value) not in self.cached:
            self.cached[id(value)] = (value, value.to(to))
        return self.cached[id(value)][1]


@contextlib.contextmanager
def emulated(dtype: torch.dtype | None) -> Iterator[Callable[[], Any]]:
    """CUDA autocast for meta tensors while the context lasts.

    Yields a context manager: the step's own autocast region of ``dtype`` (nothing where None).
    ``torch.autocast("cuda", ...)`` inside a module works too.
    """
    casts = Casts()
    original = autocast_mode.autocast.__init__
    originals = {
        name: getattr(torch, name)
        for name in ("is_autocast_enabled", "get_autocast_dtype", "clear_autocast_cache")
    }
    available = autocast_mode.is_autocast_available
    was_enabled = torch.is_autocast_enabled(_DEVICE)
    torch._C._dispatch_tls_set_dispatch_key_included(_KEY, True)

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type not in _HERE:
            original(self, device_type, *args, **kwargs)
            return
        if not args and kwargs.get("dtype") is None:
            kwargs["dtype"] = originals["get_autocast_dtype"]("cuda")
        original(self, _DEVICE, *args, **kwargs)

    def clear() -> None:
        casts.cached.clear()
        originals["clear_autocast_cache"]()

    def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(device_type: str | None = None) -> Any:
            name = "cuda" if device_type is None else device_type
            return function(_DEVICE if name in _HERE else name)

        return wrapper

    autocast_mode.autocast.__init__ = init
    autocast_mode.is_autocast_available = lambda kind: kind in _HERE or available(kind)
    torch.amp.is_autocast_available = autocast_mode.is_autocast_available
    torch.is_autocast_enabled = mapped(originals["is_autocast_enabled"])
    torch.get_autocast_dtype = mapped(originals["get_autocast_dtype"])
    torch.clear_autocast_cache = clear
    try:
        if dtype is None:
            yield contextlib.nullcontext
        else:
            yield lambda: torch.autocast("cuda", dtype=dtype)
    finally:
        autocast_mode.autocast.__init__ = original
        autocast_mode.is_autocast_available = available
        torch.amp.is_autocast_available = available
        for name, function in originals.items():
            setattr(torch, name, function)
        torch.set_autocast_enabled(_DEVICE, was_enabled)
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, False)
        casts.close()


def _eligible(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.device.type == "meta"
        and value.is_floating_point()
        and value.dtype != torch.float64
    )


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(list(value))
        else:
            yield value


def _call(operator: Any, given: dict[str, Any]) -> Any:
    positional, keyword = [], {}
    for argument in operator._schema.arguments:
        if argument.name not in given:
            if argument.kwarg_only:
                continue
            positional.append(argument.default_value)
        elif argument.kwarg_only:
            keyword[argument.name] = given[argument.name]
        else:
            positional.append(given[argument.name])
    return operator(*positional, **keyword)
