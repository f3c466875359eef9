"""What writes a network's program: names, shapes and lifetimes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from perfmodel.workload.convnets.build import Convnet
from perfmodel.workload.convnets.build import Node as Layer
from perfmodel.workload.convnets.lower import Setting
from perfmodel.workload.program import Node, Program, Tensor

LAST: Final = "channels_last"
FIRST: Final = "contiguous"


@dataclass(slots=True)
class Writer:
    """Tensors, operators and memory of a program, written layer by layer."""

    net: Convnet
    setting: Setting
    readers: tuple[tuple[int, ...], ...]
    place: int = 0
    maps: dict[int, Tensor] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    storages: list[int] = field(default_factory=list)
    casts: set[int] = field(default_factory=set)

    @property
    def dtype(self) -> str:
        """Format of maps; tf32 is a way to multiply fp32."""
        return "fp32" if self.setting.dtype == "tf32" else self.setting.dtype

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """Of a layer's map, images first."""
        return (self.setting.batch, layer.channels, *layer.sides)

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        role: str = "activation",
        layout: str = FIRST,
        dtype: str = "",
    ) -> Tensor:
        """A tensor with memory of its own."""
        made = Tensor(name, shape, dtype or self.dtype, role, len(self.storages), layout)
        self.storages.append(int(made.bytes))
        self.tensors.append(made)
        return made

    def view(self, of: Tensor, shape: tuple[int, ...], layout: str = FIRST) -> Tensor:
        """Another shape of the same memory."""
        made = replace(of, name=f"{of.name}:{len(self.tensors)}", shape=shape, layout=layout)
        self.tensors.append(made)
        return made

    def weight(self, name: str, shape: tuple[int, ...], layout: str = FIRST) -> Tensor:
        """A factor of products, cast where it is kept in fp32; the cast lives to the end."""
        if not self.setting.amp:
            return self.kept(name, shape, layout=layout)
        full = self.kept(f"{name}.fp32", shape, layout=layout)
        cast = self.tensor(full.name.removesuffix(".fp32"), shape, layout=layout)
        self.call("aten._to_copy", (full,), (cast,))
        self.casts.add(cast.storage)
        return cast

    def kept(
        self, name: str, shape: tuple[int, ...], *, role: str = "parameter", layout: str = FIRST
    ) -> Tensor:
        """A parameter or statistic as it is stored."""
        name = f"{self.net.nodes[self.place].name}.{name}"
        dtype = "fp32" if self.setting.amp else self.dtype
        return self.tensor(name, shape, role=role, layout=layout, dtype=dtype)

    def call(
        self,
        target: str,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """One operator."""
        name = f"{self.net.nodes[self.place].name}/{target.removeprefix('aten.')}.{len(self.nodes)}"
        self.nodes.append(
            Node(
                name,
                target,
                tuple(tensor.name for tensor in inputs),
                tuple(tensor.name for tensor in outputs),
                dict(attributes or {}),
                "forward",
            )
        )

    def source(self, layer: Layer, which: int = 0) -> Tensor:
        """The map that a layer reads."""
        return self.maps[layer.inputs[which]]

    def made(self, tensor: Tensor) -> None:
        """Take a tensor as the map of the current layer."""
        self.maps[self.place] = tensor

    def like(self, layer: Layer, layout: str) -> Tensor:
        """The map of a layer, in a memory order of its own where it has sides."""
        shape = self.shape(layer)
        plain = math.prod(shape[2:]) == 1
        return self.tensor(layer.name, shape, layout=FIRST if plain else layout)

    def sole(self, place: int) -> bool:
        """Whether the current layer alone reads a map that it may overwrite."""
        mine = self.readers[place] == (self.place,)
        return mine and self.net.nodes[place].kind not in ("input", "slice")

    def finish(self) -> Program:
        """The program, with memory given back after its last use."""
        index = {tensor.name: tensor for tensor in self.tensors}
        kept = {t.storage for t in self.tensors if t.role != "activation"} | self.casts
        kept.add(self.maps[len(self.net.nodes) - 1].storage)
        last: dict[int, int] = {}
        for place, node in enumerate(self.nodes):
            for name in (*node.inputs, *node.outputs):
                last[index[name].storage] = place
        frees: dict[int, list[int]] = {}
        for storage, place in last.items():
            if storage not in kept:
                frees.setdefault(place, []).append(storage)
        nodes = tuple(
            replace(node, frees=tuple(frees.get(place, ())))
            for place, node in enumerate(self.nodes)
        )
        inputs = tuple(tensor.name for tensor in self.tensors if tensor.role == "input")
        outputs = (self.maps[len(self.net.nodes) - 1].name,)
        return Program(
            self.net.name, tuple(self.tensors), nodes, inputs, outputs, "bundled", 0,
            tuple(self.storages),
        )  # fmt: skip
