"""A module's twin on the meta device, made without copying its weights."""

from __future__ import annotations

import copy
import warnings
from collections import UserDict
from typing import Any, Final

import torch
from torch.nn.parameter import is_lazy

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.memory import parts
from perfmodel.workload.importers.schema import tensors_in
from perfmodel.workload.importers.values import LARGEST

Values = list[tuple[torch.Tensor, torch.Tensor]]
_OPERATORS: Final = ("torch._ops", "torch._library")
"""Where the classes of operators stand, a module's own ones among them."""


def on_meta(module: Any) -> tuple[Any, Values]:
    """Copy a module, its parameters and buffers replaced by meta tensors.

    Returns
    -------
    torch.nn.Module
    list of (meta tensor, value)
        Small integer buffers with their values, where the module had any.

    Raises
    ------
    WorkloadError
        If the module cannot be copied.
    """
    memo: dict[int, Any] = {}
    values: Values = []
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    for name, unmade in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(unmade):
            raise WorkloadError(
                f"trace: {type(module).__name__}",
                f"<{name}, whose shape the first call of a lazy module decides>",
                "parameters and buffers with shapes",
                repair="run the module once on the CPU before it is traced, or state the sizes",
            )
    for parameter in module.parameters():
        memo[id(parameter)] = torch.nn.Parameter(
            _meta(parameter), requires_grad=parameter.requires_grad
        )
    for buffer in module.buffers():
        memo[id(buffer)] = _meta(buffer)
        _remember(values, memo[id(buffer)], buffer)
    for part in module.modules():
        for value in vars(part).values():
            if type(value).__module__.startswith(_OPERATORS):
                memo[id(value)] = value  # there is one of each
            if isinstance(value, torch.Tensor) and id(value) not in memo:
                memo[id(value)] = _meta(value)
                _remember(values, memo[id(value)], value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, on what its exported modules hold
            return copy.deepcopy(module, memo), values
    except Exception as fault:
        raise WorkloadError(
            f"trace: {type(module).__name__}",
            f"{type(fault).__name__}: {fault}",
            "a module that copy.deepcopy can copy",
            repair='build it under torch.device("meta"), without handles such as locks or files',
        ) from fault


def inputs_on_meta(value: Any, values: Values, memo: dict[int, Any]) -> Any:
    """Nested inputs with meta tensors in place of all others; small integers keep their values."""
    if isinstance(value, torch.Tensor):
        if id(value) not in memo:
            memo[id(value)] = _meta(value)
            _remember(values, memo[id(value)], value)
        return memo[id(value)]
    if value is None or isinstance(value, str | bytes | int | float | complex):
        return value
    if type(value) in (list, tuple):
        return type(value)(inputs_on_meta(item, values, memo) for item in value)
    if type(value) is dict or isinstance(value, UserDict):
        return {key: inputs_on_meta(item, values, memo) for key, item in value.items()}
    return _copied(value, values, memo)


def _copied(value: Any, values: Values, memo: dict[int, Any]) -> Any:
    """An object that holds tensors, such as a key-value cache."""
    for tensor in tensors_in(value):
        inputs_on_meta(tensor, values, memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception as fault:
        raise WorkloadError(
            f"trace: an input of type {type(value).__name__}",
            f"{type(fault).__name__}: {fault}",
            "tensors, numbers, strings, None, and tuples, lists, dicts and objects of them",
            repair="pass the tensors themselves",
        ) from fault


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    """A fresh storage, so that a step may let go of what the caller keeps."""
    with torch.no_grad():
        if tensor.layout != torch.strided:
            return _sparse(tensor)
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if tensor.requires_grad and tensor.is_leaf:
        twin.requires_grad_()
    return twin


def _sparse(tensor: torch.Tensor) -> torch.Tensor:
    """``to("meta")`` would drop the stored values."""
    values, *indices = (torch.empty_like(part, device="meta") for part in parts(tensor))
    if tensor.layout == torch.sparse_coo:
        done = tensor.is_coalesced()
        return torch.sparse_coo_tensor(*indices, values, tensor.shape, is_coalesced=done)
    return torch.sparse_compressed_tensor(*indices, values, tensor.shape, layout=tensor.layout)


def _remember(values: Values, twin: torch.Tensor, tensor: torch.Tensor) -> None:
    if (
        tensor.layout == torch.strided
        and tensor.is_cpu
        and tensor.numel() <= LARGEST
        and not tensor.is_floating_point()
        and not tensor.is_complex()
    ):
        values.append((twin, tensor.detach().clone()))
