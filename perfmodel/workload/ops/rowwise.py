"""Operators that stream rows: norms, softmax, look-up, loss, rotation, routing, scattered sums."""

# ruff: noqa: D102 - flops and bytes are documented once, on Op
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.ops.base import Count, Op, Size, exact, product, storage

_BOTH: dict[str, tuple[str, ...]] = {"direction": ("fwd", "bwd")}


@dataclass(frozen=True, slots=True)
class _Rows(Op):
    """Over the last axis of a rows x cols tensor.

    Forward reads the input and writes the output; backward reads the output gradient and one saved
    tensor of the same size and writes the input gradient. Weights and their gradients (one row) and
    saved statistics are counted with the subclasses.
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = _BOTH
    operations: ClassVar[tuple[int, int]] = (0, 0)
    weights: ClassVar[int] = 0

    rows: Size
    cols: Size
    dtype: str = "bf16"
    direction: str = "fwd"

    @property
    def flops(self) -> Count:
        forward, backward = self.operations
        return product(self.rows, self.cols) * (forward if self.direction == "fwd" else backward)

    @property
    def bytes_read(self) -> Count:
        tensors = 1 if self.direction == "fwd" else 2
        # the shift of a layer norm is not needed by its backward pass
        weights = self.weights if self.direction == "fwd" else min(self.weights, 1)
        elements = tensors * product(self.rows, self.cols) + weights * exact(self.cols)
        return storage(self.dtype, elements)

    @property
    def bytes_written(self) -> Count:
        weights = 0 if self.direction == "fwd" else self.weights
        return storage(self.dtype, product(self.rows, self.cols) + weights * exact(self.cols))


@dataclass(frozen=True, slots=True)
class RmsNorm(_Rows):
    """Root-mean-square norm with one weight row: 4 FLOP an element forward, 8 backward."""

    family: ClassVar[str] = "rmsnorm"
    operations: ClassVar[tuple[int, int]] = (4, 8)
    weights: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class LayerNorm(_Rows):
    """Layer norm with weight and bias rows: 7 FLOP an element forward, 11 backward."""

    family: ClassVar[str] = "layernorm"
    operations: ClassVar[tuple[int, int]] = (7, 11)
    weights: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Softmax(_Rows):
    """Softmax over each row: 5 FLOP an element (max, subtract, exp, sum, divide), 4 back."""

    family: ClassVar[str] = "softmax"
    operations: ClassVar[tuple[int, int]] = (5, 4)


@dataclass(frozen=True, slots=True)
class Embedding(Op):
    """Table look-up: gathers ``tokens`` rows of a vocab x dim table by 8-byte index.

    Backward reads the output gradient and writes a dense vocab x dim gradient.
    """

    family: ClassVar[str] = "embedding"
    choices: ClassVar[dict[str, tuple[str, ...]]] = _BOTH

    tokens: Size
    vocab: Size
    dim: Size
    dtype: str = "bf16"
    direction: str = "fwd"

    @property
    def flops(self) -> Count:
        return product(self.tokens, self.dim) * (0 if self.direction == "fwd" else 1)

    @property
    def bytes_read(self) -> Count:
        return storage(self.dtype, product(self.tokens, self.dim)) + 8 * exact(self.tokens)

    @property
    def bytes_written(self) -> Count:
        rows = self.tokens if self.direction == "fwd" else self.vocab
        return storage(self.dtype, product(rows, self.dim))


@dataclass(frozen=True, slots=True)
class CrossEntropy(Op):
    """Softmax cross-entropy of tokens x vocab logits in fp32: 5 FLOP a logit forward, 2 backward.

    Forward reads the logits and 8-byte targets and writes one fp32 loss a token; backward reads the
    logits and writes their gradient. The intermediate fp32 copy that an unfused implementation
    makes is no operand; a cost model charges it as passes.
    """

    family: ClassVar[str] = "cross_entropy"
    choices: ClassVar[dict[str, tuple[str, ...]]] = _BOTH

    tokens: Size
    vocab: Size
    dtype: str = "bf16"
    direction: str = "fwd"

    @property
    def flops(self) -> Count:
        return product(self.tokens, self.vocab) * (5 if self.direction == "fwd" else 2)

    @property
    def bytes_read(self) -> Count:
        logits = storage(self.dtype, product(self.tokens, self.vocab))
        return logits + 8 * exact(self.tokens)

    @property
    def bytes_written(self) -> Count:
        if self.direction == "fwd":
            return 4 * exact(self.tokens)
        return storage(self.dtype, product(self.tokens, self.vocab))


@dataclass(frozen=True, slots=True)
class Rope(Op):
    """Rotary position embedding of tokens x heads x head_dim: 6 FLOP for each pair of elements.

    Reads the tensor and one fp32 cosine and sine row a token; the backward pass is the same work.
    """

    family: ClassVar[str] = "rope"

    tokens: Size
    heads: Size
    head_dim: Size
    dtype: str = "bf16"

    @property
    def flops(self) -> Count:
        return 3 * product(self.tokens, self.heads, self.head_dim)

    @property
    def bytes_read(self) -> Count:
        tensor = storage(self.dtype, product(self.tokens, self.heads, self.head_dim))
        return tensor + 4 * product(self.tokens, self.head_dim)

    @property
    def bytes_written(self) -> Count:
        return storage(self.dtype, product(self.tokens, self.heads, self.head_dim))


@dataclass(frozen=True, slots=True)
class TopK(Op):
    """The ``k`` largest of each row and their 4-byte indices; a comparison a value."""

    family: ClassVar[str] = "topk"

    rows: Size
    cols: Size
    k: Size
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if np.any(np.asarray(self.k) > self.cols):
            raise WorkloadError(
                f"{self.family}: k",
                self.k,
                f"at most the values of a row, cols ({self.cols})",
                repair="choose fewer of them",
            )

    @property
    def flops(self) -> Count:
        return product(self.rows, self.cols)

    @property
    def bytes_read(self) -> Count:
        return storage(self.dtype, product(self.rows, self.cols))

    @property
    def bytes_written(self) -> Count:
        chosen = product(self.rows, self.k)
        return storage(self.dtype, chosen) + 4 * chosen


@dataclass(frozen=True, slots=True)
class Permute(Op):
    """Rows gathered into another order by a 4-byte index (tokens to experts and back).

    ``source`` is the number of distinct rows that are read, where several copies of one are
    written; 0 means as many as are written.
    """

    family: ClassVar[str] = "permute"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"source"})

    rows: Size
    cols: Size
    dtype: str = "bf16"
    source: Size = 0

    @property
    def flops(self) -> Count:
        return 0 * product(self.rows, self.cols)

    @property
    def bytes_read(self) -> Count:
        return storage(self.dtype, product(self._distinct, self.cols)) + 4 * exact(self.rows)

    @property
    def _distinct(self) -> Size:
        if isinstance(self.source, int):
            return self.source if self.source > 0 else self.rows
        return np.where(self.source > 0, self.source, self.rows)

    @property
    def bytes_written(self) -> Count:
        return storage(self.dtype, product(self.rows, self.cols))


@dataclass(frozen=True, slots=True)
class ScatterAdd(Op):
    """Rows added in place to ``targets`` rows, each at its 8-byte index: messages into nodes.

    One addition a value. At most as many target rows are read and written as rows arrive.

    Parameters
    ----------
    rows, cols : int
        What is added.
    targets : int
        Rows that it may be added to.
    dtype : str
        Format of both.
    kind : str
        ``"index_add"`` where each row has one index, ``"scatter_add"`` where each value looks its
        own up (an index that is expanded along the row).
    """

    family: ClassVar[str] = "scatter_add"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"kind": ("index_add", "scatter_add")}

    rows: Size
    cols: Size
    targets: Size
    dtype: str = "fp32"
    kind: str = "index_add"

    @property
    def flops(self) -> Count:
        return product(self.rows, self.cols)

    @property
    def bytes_read(self) -> Count:
        values = storage(self.dtype, product(self.rows, self.cols))
        return values + 8 * exact(self.rows) + self.bytes_written

    @property
    def bytes_written(self) -> Count:
        touched: Size
        if isinstance(self.rows, int) and isinstance(self.targets, int):
            touched = min(self.rows, self.targets)
        else:
            touched = np.minimum(self.rows, self.targets)
        return storage(self.dtype, product(touched, self.cols))
