"""Recurrent layers of cuDNN: one operator a stack, or what a projection makes of it.

A stack without projections is one :class:`~perfmodel.workload.op.Recurrent`, priced by what such
stacks were measured to take. Cells with a projection are taken apart: one product for all inputs of
a layer, then the steps one by one. A step is a product of the last state with the recurrent
weights, and a kernel for the gates. A cell waits for the one before it and for the one below it, so
that layers overlap: ``L`` layers of ``T`` steps take ``T + L - 1`` turns with about
``T L / (T + L - 1)`` cells each. The two directions of a layer run side by side, and the next layer
waits for both.

Reference
---------
Appleyard, Kocisky, Blunsom: Optimizing Performance of Recurrent Neural Networks on GPUs (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, item_bytes
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.op import Gemm, Op, Recurrent

_GATES: Final = {0: 1, 1: 1, 2: 4, 3: 3}  # rnn with relu, with tanh, lstm, gru
_KINDS: Final = {0: "rnn", 1: "rnn", 2: "lstm", 3: "gru"}
_EACH: Final = 12.0  # operations of a gate: an exponential and a quotient


@dataclass(frozen=True, slots=True)
class Layers:
    """Sizes of a stack of recurrent layers.

    Parameters
    ----------
    steps, batch, width : int
        Length of the sequences, how many there are, and what each step reads.
    hidden, gates : int
        Width of a cell, and how many gates it has.
    out : int
        Width of what it hands on: of its projection, where it has one.
    layers, ways : int
        Layers, and directions of each.
    """

    steps: int
    batch: int
    width: int
    hidden: int
    gates: int
    out: int
    layers: int
    ways: int

    @property
    def turns(self) -> tuple[int, int]:
        """How many turns there are one after another, and about how many cells run in each."""
        if self.ways > 1:
            return self.steps * self.layers, self.ways
        turns = self.steps + self.layers - 1
        return turns, max(1, round(self.steps * self.layers / turns))

    def read_by(self, layer: int) -> int:
        """Width of what a layer reads."""
        return self.width if layer == 0 else self.out * self.ways


def sizes(site: Site) -> Layers:
    """Sizes by the arguments of ``_cudnn_rnn``."""
    shape, together = site.inputs[0].shape, list(site.attribute("batch_sizes", ()))
    if together:  # packed: fewer sequences at every step
        steps, batch = len(together), -(-shape[0] // len(together))
    else:
        first = site.attribute("batch_first", False)
        batch, steps = (shape[0], shape[1]) if first else shape[1::-1]
    hidden = int(site.attribute("hidden_size"))
    return Layers(
        steps, batch, shape[-1], hidden, _GATES[int(site.attribute("mode"))],
        int(site.attribute("proj_size", 0)) or hidden, int(site.attribute("num_layers", 1)),
        2 if site.attribute("bidirectional", False) else 1,
    )  # fmt: skip


def recurrent(site: Site) -> Work:
    """Products of all inputs, layer by layer, and the steps."""
    of = sizes(site)
    if of.steps * of.batch == 0:
        return Work("composite")
    if of.out == of.hidden:
        return _whole(site, of, "train" if site.attribute("train", False) else "fwd")
    dtype, wide = _dtype(site), of.gates * of.hidden
    kernels = [
        site.kernel("gemm", Gemm(of.steps * of.batch, wide, of.read_by(layer), 1, dtype),
                    name="recurrent: inputs", host="composite")
        for layer in range(of.layers)
        for _ in range(of.ways)
    ]  # fmt: skip
    turns, cells = of.turns
    step = [
        Gemm(of.batch, wide, of.out, cells, dtype),
        _gates(site, of, cells, kept=2),
        Gemm(of.batch, of.out, of.hidden, cells, dtype),
    ]
    kernels += _each(site, step) * turns
    return Work("composite", tuple(kernels))


def recurrent_backward(site: Site) -> Work:
    """The steps in reverse, then gradients of what the layers read and of the weights."""
    of = sizes(site)
    if of.steps * of.batch == 0:
        return Work("composite")
    if of.out == of.hidden:
        return _whole(site, of, "bwd")
    dtype, wide, rows = _dtype(site), of.gates * of.hidden, of.steps * of.batch
    turns, cells = of.turns
    step = [
        Gemm(of.batch, of.hidden, of.out, cells, dtype),
        _gates(site, of, cells, kept=6),
        Gemm(of.batch, of.out, wide, cells, dtype),
    ]
    kernels = _each(site, step) * turns
    width = item_bytes(site.inputs[0].dtype)
    bias = stream("bias", rows * wide, rows * wide * width, wide * width, rows * wide)
    for layer in range(of.layers):
        read = of.read_by(layer)
        after = [
            Gemm(rows, read, wide, 1, dtype),
            Gemm(wide, read, rows, 1, dtype),
            Gemm(wide, of.out, rows, 1, dtype),
            bias,
        ]
        kernels += _each(site, after) * of.ways
    return Work("composite", tuple(kernels))


def _whole(site: Site, of: Layers, direction: str) -> Work:
    """The stack as one operator."""
    op = Recurrent(
        of.steps, of.batch, of.width, of.hidden, of.layers, of.ways, _dtype(site),
        _KINDS[int(site.attribute("mode"))], direction,
    )  # fmt: skip
    return Work("composite", (site.kernel("recurrent", op, host="composite"),))


def _each(site: Site, ops: list[Op]) -> list[Kernel]:
    """A kernel for each operator; what they hand each other stays in the cache."""
    return [
        site.kernel(
            "gemm" if isinstance(op, Gemm) else "pointwise", op, name=f"recurrent: {op.family}",
            host="composite",
        )
        for op in ops
    ]  # fmt: skip


def _gates(site: Site, of: Layers, cells: int, *, kept: int) -> Op:
    """Reads the products and the state, writes the state and what the backward pass needs."""
    elements, width = cells * of.batch * of.hidden, item_bytes(site.inputs[0].dtype)
    read = elements * width * (2 * of.gates + 1)
    written = elements * width * kept
    return stream("gates", elements, read, written, _EACH * of.gates * elements)


def _dtype(site: Site) -> str:
    """The format of the products: TF32 for fp32 states where convolutions may."""
    dtype = site.inputs[0].dtype
    return site.convolution if dtype == "fp32" else dtype
