r"""Attention in full precision whose queries share keys: PyTorch has no fused kernel for it.

Products, softmax and what stands between them run one after another, over all scores with or
without a mask. With :math:`S` scores, :math:`Q` and :math:`K` values of queries and of keys (each
repeated for its queries, from :math:`K / g`), :math:`b` tiles of 64 x 64 results on :math:`U` units
and :math:`F_b` operations of one,

.. math::

    t = \sum \max\left(1, \frac{b}{U}\right) \frac{U F_b}{\eta P} +
        \frac{4 (p_S S + p_Q Q + p_K K)}{\eta_b W} + n t_0

with passes :math:`p` and kernels :math:`n` as PyTorch's code has them: forward the scaling of
queries and keys, copies of keys and values, a product, the mask, a softmax that looks for rows of
which nothing is left, and a product; backward four products, the softmax's gradient, and sums of
the gradients over the queries of a key.

Reference
---------
PyTorch, aten/src/ATen/native/transformers/attention.cpp, ``_scaled_dot_product_attention_math``;
its operators one by one as a dispatcher of PyTorch 2.13 lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS: Final = {
    "compute_efficiency": "share of the vector peak that the products reach",
    "bandwidth_efficiency": "share of the memory peak that the steps between them reach",
    "kernel_seconds": "start and end of one kernel in a stream [s]",
}
_TILE: Final = 64.0
_BYTES: Final = 4.0
_FORWARD, _MASK, _BACKWARD = 7.5, 2.0, 7.0
_KERNELS, _MASK_KERNELS, _KERNELS_BACK = 10.0, 6.0, 9.0


def shares_keys(sizes: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where queries share keys, shape (N,)."""
    return np.asarray(sizes["q_heads"] > sizes["kv_heads"])


def steps_parts(
    s: Mapping[str, Floats],
    device: Device,
    coefficients: Mapping[str, float],
    *,
    backward: bool,
) -> Parts:
    """Time of all kernels one after another, and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    s : mapping of array
        Sizes as :func:`perfmodel.cost.attention.attention_parts` takes them, ``causal`` among them,
        and ``all_keys`` where a mask leaves out some of ``kv_len``.
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    backward : bool
        Of the gradients.
    """
    c = coefficients
    heads, q, width = s["batch"] * s["q_heads"], s["q_len"], s["head_dim"]
    kv = s.get("all_keys", s["kv_len"])  # whatever a mask leaves of them
    scores, queries, keys = heads * q * kv, heads * q * width, heads * kv * width
    single = s["kv_heads"] / s["q_heads"]
    masked = np.where((s["causal"] > 0.0) & (not backward), 1.0, 0.0)
    each = (_BACKWARD if backward else _FORWARD) + _MASK * masked
    of_queries, of_keys = (6.0, 8.0) if backward else (4.0, 6.0)
    passes = each * scores + of_queries * queries + (of_keys + 2.0 * single) * keys
    kernels = (_KERNELS_BACK if backward else _KERNELS) + _MASK_KERNELS * masked
    rate = device.peak * c["compute_efficiency"]
    work = _product(heads, q, kv, width, device) + _product(heads, q, width, kv, device)
    if backward:
        work = work + _product(heads, kv, width, q, device) * 2.0
    memory = _BYTES * passes / (device.bandwidth * c["bandwidth_efficiency"])
    return combine(work / rate, memory, np.zeros_like(work), kernels * c["kernel_seconds"], 1.0)


def _product(heads: Floats, rows: Floats, cols: Floats, depth: Floats, device: Device) -> Floats:
    """Operations that pass while the tiles of a batch of products are worked on, shape (N,).

    A single row goes to kernels without tiles (:mod:`perfmodel.cost.gemm_thin`).
    """
    tiles = heads * np.ceil(rows / _TILE) * np.ceil(cols / _TILE)
    alone = 2.0 * _TILE * _TILE * depth * np.maximum(tiles, device.units)
    own = 2.0 * heads * rows * cols * depth
    return np.asarray(np.where(rows > 1.0, np.maximum(alone, own), own))
