"""An operator's call as the program IR spells it: tensors in schema order, the rest as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch

from perfmodel.workload.importers.memory import is_strided, nonzeros

DTYPES: Final = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.uint64: "int64",
    torch.uint32: "int32",
    torch.uint16: "int16",
    torch.bool: "bool",
    torch.complex32: "complex32",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
}
_FORMATS: Final = {
    torch.contiguous_format: "contiguous",
    torch.channels_last: "channels_last",
    torch.channels_last_3d: "channels_last",
    torch.preserve_format: "preserve",
}
_SILENT: Final = frozenset({"device", "layout", "pin_memory", "generator", "non_blocking"})


def target_of(func: Any) -> str:
    """``"aten.add_"`` for any overload of it."""
    return str(func._schema.name).replace("::", ".")


def arguments(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[list[torch.Tensor], dict[str, Any], list[torch.Tensor]]:
    """Split a call.

    Returns
    -------
    tensors : list of Tensor
        In schema order, lists flattened, absent ones left out.
    attributes : dict
        Everything else that is not None. ``"absent"`` names the optional tensors that were None,
        ``"lists"`` gives the length of each list of tensors, ``"nonzeros"`` the stored values of
        each sparse tensor.
    written : list of Tensor
        Tensors that the schema says are written in place.
    """
    tensors: list[torch.Tensor] = []
    written: list[torch.Tensor] = []
    attributes: dict[str, Any] = {}
    absent: list[str] = []
    lengths: dict[str, int] = {}
    for index, argument in enumerate(func._schema.arguments):
        name = argument.name
        given = index < len(args)
        value = args[index] if given else kwargs.get(name, argument.default_value)
        if value is None:
            if "Tensor" in str(argument.type):
                absent.append(name)
            continue
        if isinstance(value, torch.Tensor):
            found = [value]
        elif isinstance(value, list | tuple) and "Tensor" in str(argument.type):
            lengths[name] = len(value)
            found = [item for item in value if item is not None]
            absent += [f"{name}.{place}" for place, item in enumerate(value) if item is None]
        else:
            if name not in _SILENT:
                attributes[name] = json_value(value)
            continue
        tensors += found
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += found
    sparse = [nonzeros(tensor) for tensor in tensors if not is_strided(tensor)]
    if sparse:
        attributes["nonzeros"] = sparse
    if absent:
        attributes["absent"] = absent
    if lengths:
        attributes["lists"] = lengths
    return tensors, attributes, written


def json_value(value: Any) -> Any:
    """A schema value as JSON; non-finite numbers become strings."""
    shown: Any = str(value)
    if isinstance(value, bool | str):
        shown = value
    elif isinstance(value, torch.dtype):
        shown = DTYPES.get(value, shown.removeprefix("torch."))
    elif isinstance(value, torch.memory_format):
        shown = _FORMATS.get(value, "preserve")
    elif isinstance(value, int):
        shown = int(value)
    elif isinstance(value, float):
        shown = value if math.isfinite(value) else shown
    elif isinstance(value, complex):
        shown = [json_value(value.real), json_value(value.imag)]
    elif isinstance(value, list | tuple):
        shown = [json_value(item) for item in value]
    return shown


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists, mappings and objects with ``__dict__``-like items."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__") or type(value).__name__.endswith("Cache"):
        for item in vars(value).values():
            yield from tensors_in(item)
    elif type(value).__name__.endswith("Layer") and hasattr(value, "keys"):
        yield from tensors_in([value.keys, value.values])


def layout_of(tensor: torch.Tensor) -> str:
    """``contiguous``, ``channels_last``, ``strided`` or ``sparse``."""
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_contiguous():
        return "contiguous"
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    if tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d):
        return "channels_last"
    return "strided"
