"""Matrix products, attention and sparse-dense products."""

# ruff: noqa: D102 - flops and bytes are documented once, on Op
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.dtype import output_dtype
from perfmodel.workload.ops.base import Count, Flag, Op, Size, exact, product, storage


@dataclass(frozen=True, slots=True)
class Gemm(Op):
    """``batch`` products of an m x k by a k x n matrix.

    FLOPs ``2 m n k batch``. Reads both operands in ``dtype``; writes the result in
    :func:`~perfmodel.workload.dtype.output_dtype`.

    ``trans`` says how the factors lie in memory, in BLAS words for column-major libraries: first
    the right factor (``t``: stored n x k, as the weight of a linear layer; ``n``: k x n), then the
    left one (``n``: m x k; ``t``: k x m). A linear layer is ``tn``, its input gradient ``nn``, its
    weight gradient ``nt``. Left open, it is a linear layer or, batched, ``nn``.
    """

    family: ClassVar[str] = "gemm"
    in_place: ClassVar[bool] = False
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"trans": ("tn", "nn", "nt", "tt")}

    m: Size
    n: Size
    k: Size
    batch: Size = 1
    dtype: str = "bf16"
    trans: str | None = None

    @property
    def flops(self) -> Count:
        return 2 * product(self.m, self.n, self.k, self.batch)

    @property
    def bytes_read(self) -> Count:
        operands = product(self.m, self.k, self.batch) + product(self.n, self.k, self.batch)
        return storage(self.dtype, operands)

    @property
    def bytes_written(self) -> Count:
        return storage(output_dtype(self.dtype), product(self.m, self.n, self.batch))


@dataclass(frozen=True, slots=True)
class GroupedGemm(Op):
    """``groups`` products with a weight matrix each (the experts of one MoE layer).

    ``m`` is the mean number of rows of a group. Where rows do not divide evenly, ``rows`` gives
    the exact total; 0 means ``groups * m``. Direction ``"fwd"`` reads rows x k and the weights and
    writes rows x n; ``"wgrad"`` reads rows x k and rows x n and writes ``groups`` n x k gradients.
    The input gradient is the forward product with n and k exchanged.
    """

    family: ClassVar[str] = "grouped_gemm"
    in_place: ClassVar[bool] = False
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"rows"})
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"direction": ("fwd", "wgrad")}

    groups: Size
    m: Size
    n: Size
    k: Size
    rows: Size = 0
    direction: str = "fwd"
    dtype: str = "bf16"

    @property
    def total_rows(self) -> Count:
        """Rows of all groups together."""
        if isinstance(self.rows, int):
            return self.rows if self.rows > 0 else product(self.groups, self.m)
        return np.where(self.rows > 0, exact(self.rows), product(self.groups, self.m))

    @property
    def flops(self) -> Count:
        return 2 * self.total_rows * product(self.n, self.k)

    @property
    def _weights(self) -> Count:
        return product(self.groups, self.n, self.k)

    @property
    def bytes_read(self) -> Count:
        inputs = self.total_rows * exact(self.k)
        other = self._weights if self.direction == "fwd" else self.total_rows * exact(self.n)
        return storage(self.dtype, inputs + other)

    @property
    def bytes_written(self) -> Count:
        result = self.total_rows * exact(self.n) if self.direction == "fwd" else self._weights
        return storage(output_dtype(self.dtype), result)


@dataclass(frozen=True, slots=True)
class Attention(Op):
    """Fused scaled-dot-product attention, which never stores the q_len x kv_len scores.

    Parameters
    ----------
    causal : bool
        Only the lower triangle is counted.
    window : int
        Keys that one query sees at most (sliding window); 0 is no limit.
    v_head_dim : int
        Width of a value head where it differs (MLA); 0 is ``head_dim``.
    aligned : str
        Where a causal mask of unequal lengths begins. ``"last"``: queries are the last positions of
        the keys (a prompt behind a cache). ``"first"``: they are the first, as PyTorch's
        ``is_causal`` has it; later keys are never read, later queries see all keys.
    direction : str
        ``"fwd"``: two products, ``2 pairs (d + dv)`` FLOP a head. ``"bwd"``: five products, since
        the scores are recomputed, ``2 pairs (3 d + 2 dv)``.

    Notes
    -----
    Bytes: forward reads Q, K, V and writes O. Backward reads Q, K, V, O, dO and writes dQ, dK, dV.
    The per-row log-sum-exp is left out (4 B a row). Softmax operations are not counted.

    References
    ----------
    Dao et al., FlashAttention (2022), section 3; Dao, FlashAttention-2 (2023), section 4.1.
    """

    family: ClassVar[str] = "attention"
    in_place: ClassVar[bool] = False
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"window", "v_head_dim"})
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "direction": ("fwd", "bwd"),
        "aligned": ("last", "first"),
    }

    batch: Size
    q_heads: Size
    kv_heads: Size
    q_len: Size
    kv_len: Size
    head_dim: Size
    causal: Flag = True
    direction: str = "fwd"
    dtype: str = "bf16"
    window: Size = 0
    v_head_dim: Size = 0
    aligned: str = "last"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if not np.all(self.q_heads % self.kv_heads == 0):
            raise WorkloadError(
                f"{self.family}: kv_heads",
                self.kv_heads,
                f"a divisor of q_heads ({self.q_heads})",
                repair="give every key-value head the same number of query heads",
            )

    def as_measured(self) -> Attention:
        """The same with the mask that PyTorch's ``is_causal`` gives it: from the first key on.

        A single query behind a cache is a step of decoding, which sees all keys.

        Raises
        ------
        WorkloadError
            If an array holds steps of decoding beside other lengths that differ: one word says
            where the masks of all of them begin.
        """
        masked = np.asarray(self.causal) & (np.asarray(self.q_len) != self.kv_len)
        single = masked & (np.asarray(self.q_len) == 1)
        if not np.any(masked & ~single):
            return self
        if np.any(single):
            raise WorkloadError(
                f"{self.family}: aligned",
                "<no word, with q_len 1 beside other lengths that are not kv_len>",
                "last or first, where causal masks of unequal lengths are of both kinds",
                repair="give aligned, or describe decoding apart",
            )
        return replace(self, aligned="first")

    @property
    def value_dim(self) -> Size:
        """Width of a value head."""
        if isinstance(self.v_head_dim, int):
            return self.v_head_dim or self.head_dim
        return np.where(self.v_head_dim > 0, self.v_head_dim, self.head_dim)

    @property
    def pairs(self) -> Count:
        """Query-key pairs of one head of one sequence."""
        if self.aligned == "last":
            return attention_pairs(self.q_len, self.kv_len, self.causal, self.window)
        # As many queries as keys see a triangle, all others what the last of them sees.
        met, q, window = self.keys_met, self.q_len, self.window
        if isinstance(met, int) and isinstance(q, int) and isinstance(window, int):
            square = attention_pairs(min(q, met), met, self.causal, window)
            return square + max(q - met, 0) * min(window or met, met)
        q, met, window = (np.asarray(size, dtype=np.float64) for size in (q, met, window))
        square = attention_pairs(np.minimum(q, met), met, self.causal, window)
        seen = np.where(window == 0.0, met, np.minimum(window, met))
        return np.asarray(square + np.maximum(q - met, 0.0) * seen)

    @property
    def keys_met(self) -> Size:
        """Keys of a sequence that any query sees."""
        if self.aligned == "last":
            return self.kv_len
        met = np.where(np.asarray(self.causal), np.minimum(self.q_len, self.kv_len), self.kv_len)
        return int(met) if met.ndim == 0 else met

    @property
    def flops(self) -> Count:
        d, dv = exact(self.head_dim), exact(self.value_dim)
        width = d + dv if self.direction == "fwd" else 3 * d + 2 * dv
        return 2 * product(self.batch, self.q_heads) * self.pairs * width

    @property
    def _queries(self) -> Count:
        return product(self.batch, self.q_heads, self.q_len)

    @property
    def _keys(self) -> Count:
        return product(self.batch, self.kv_heads, self.kv_len)

    @property
    def bytes_read(self) -> Count:
        d, dv = exact(self.head_dim), exact(self.value_dim)
        keys = product(self.batch, self.kv_heads, self.keys_met)
        elements = self._queries * d + keys * (d + dv)
        if self.direction == "bwd":
            elements = elements + 2 * self._queries * dv
        return storage(self.dtype, elements)

    @property
    def bytes_written(self) -> Count:
        d, dv = exact(self.head_dim), exact(self.value_dim)
        elements = self._queries * dv
        if self.direction == "bwd":
            elements = self._queries * d + self._keys * (d + dv)
        return storage(output_dtype(self.dtype), elements)


def attention_pairs(q_len: Size, kv_len: Size, causal: Flag, window: Size = 0) -> Count:
    """Query-key pairs of one head: what a mask leaves of ``q_len * kv_len``.

    A causal query at distance j from the end sees ``kv_len - j`` keys, at most ``window`` of them.
    Without causality a query sees ``min(kv_len, window)`` keys.

    Examples
    --------
    >>> attention_pairs(4, 4, True), attention_pairs(1, 4, True), attention_pairs(4, 4, True, 2)
    (10, 4, 7)
    """
    least: Any
    most: Any
    if all(isinstance(value, int) for value in (q_len, kv_len, causal, window)):
        least, most = min, max
        q, kv, w = q_len, kv_len, window or kv_len
    else:
        least, most = np.minimum, np.maximum
        q, kv, w = (np.asarray(value, dtype=np.float64) for value in (q_len, kv_len, window))
        w = np.where(w == 0.0, kv, w)
    w = least(w, kv)
    rows = least(q, kv)
    full = least(most(kv - w + 1, 0), rows)
    triangle = full * w + (rows - full) * kv - (rows * (rows - 1) - full * (full - 1)) // 2
    if isinstance(triangle, int):
        return triangle if causal else q * w
    return np.asarray(np.where(np.asarray(causal), triangle, q * w))


@dataclass(frozen=True, slots=True)
class Spmm(Op):
    """A sparse m x k matrix with ``nnz`` stored elements times a dense k x n matrix.

    FLOPs ``2 nnz n``. Reads values, 4-byte column indices and row pointers, and the dense operand.
    """

    family: ClassVar[str] = "spmm"

    m: Size
    n: Size
    k: Size
    nnz: Size
    dtype: str = "fp32"

    @property
    def flops(self) -> Count:
        return 2 * product(self.nnz, self.n)

    @property
    def bytes_read(self) -> Count:
        index = 4 * (exact(self.nnz) + exact(self.m) + 1)
        return storage(self.dtype, exact(self.nnz) + product(self.k, self.n)) + index

    @property
    def bytes_written(self) -> Count:
        return storage(output_dtype(self.dtype), product(self.m, self.n))
