"""Python calls that a dispatch mode does not see: modules, ``detach``, numbers made tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn

from perfmodel.workload.importers.stream import Stream

_META: Final = torch.device("meta")


@contextlib.contextmanager
def watched(stream: Stream, model: Any) -> Iterator[None]:
    """Tell the stream of these calls while the context lasts."""
    with _calls(stream, model), _detaches(stream), _literals():
        yield


@contextlib.contextmanager
def _calls(stream: Stream, model: Any) -> Iterator[None]:
    """Keep the path of the running module, and count calls.

    Not by module hooks: they take a slower way whose frames keep tensors alive after an exception,
    and stopping a recomputation early is one.
    """
    paths = {id(part): path for path, part in model.named_modules()}
    original = nn.Module.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        stream.modules.append(paths.get(id(self), stream.modules[-1]))
        stream.module_calls += 1
        try:
            return original(self, *args, **kwargs)
        finally:
            stream.modules.pop()

    nn.Module.__call__ = call
    try:
        yield
    finally:
        nn.Module.__call__ = original


@contextlib.contextmanager
def _detaches(stream: Stream) -> Iterator[None]:
    """Tell a call of ``detach`` from the detaching that saving a tensor does on the meta device."""
    original = torch.Tensor.detach

    def detach(self: torch.Tensor) -> torch.Tensor:
        stream.detaching = True
        try:
            return original(self)
        finally:
            stream.detaching = False

    torch.Tensor.detach = detach
    try:
        yield
    finally:
        torch.Tensor.detach = original


@contextlib.contextmanager
def _literals() -> Iterator[None]:
    """Numbers of the program text that become tensors: made on the host and copied, as on CUDA.

    Made on the meta device they would lose their values.
    """
    make, renew, take = torch.tensor, torch.Tensor.new_tensor, torch.as_tensor
    read, write = torch.Tensor.__getitem__, torch.Tensor.__setitem__

    def tensor(data: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
        if device is None or torch.device(device) != _META:
            return make(data, device=device, **more)
        return make(data, device="cpu", **more).to(_META)

    def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
        if isinstance(data, torch.Tensor) or device is None or torch.device(device) != _META:
            return take(data, dtype=dtype, device=device)
        return take(data, dtype=dtype, device="cpu").to(_META)

    def new_tensor(self: torch.Tensor, data: Any, **more: Any) -> torch.Tensor:
        more.setdefault("dtype", self.dtype)
        return tensor(data, **{"device": self.device, **more})

    def getitem(self: torch.Tensor, index: Any) -> Any:
        return read(self, _indices(self, index))

    def setitem(self: torch.Tensor, index: Any, value: Any) -> None:
        if self.is_meta and type(value) in (int, float) and _sliced(index):
            # CUDA fills the slice; the meta device would copy a broadcast number
            read(self, index).fill_(make(value, dtype=self.dtype, device="cpu"))
        else:
            write(self, _indices(self, index), value)

    def _sliced(index: Any) -> bool:
        parts = index if isinstance(index, tuple) else (index,)
        return all(isinstance(part, slice) or type(part) is int for part in parts)

    def _indices(self: torch.Tensor, index: Any) -> Any:
        if not self.is_meta or not isinstance(index, list | tuple):
            return index
        if isinstance(index, list):
            return _index(index)
        return tuple(_index(item) if isinstance(item, list) else item for item in index)

    def _index(numbers: list[Any]) -> Any:
        plain = all(isinstance(number, int) for number in numbers)
        return make(numbers, device="cpu").to(_META) if plain and numbers else numbers

    torch.tensor, torch.as_tensor = tensor, as_tensor
    torch.Tensor.new_tensor = new_tensor
    torch.Tensor.__getitem__ = getitem
    torch.Tensor.__setitem__ = setitem
    try:
        yield
    finally:
        torch.tensor, torch.Tensor.new_tensor, torch.as_tensor = make, renew, take
        torch.Tensor.__getitem__, torch.Tensor.__setitem__ = read, write
