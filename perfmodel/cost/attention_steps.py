r"""Attention in full precision whose queries share keys: PyTorch has no fused kernel for it.

Products, softmax and what stands between them run one after another, over all scores with or
without a mask. With :math:`S` scores, :math:`F` operations of the products, :math:`Q` and :math:`K`
values of queries and of keys (each repeated for its queries, from :math:`K / g`),

.. math::

    t = \frac{F}{\eta P} + \frac{4 (p_S S + p_Q Q + p_K K)}{\eta_b W} + n t_0

with passes :math:`p` and kernels :math:`n` as PyTorch's code has them: forward the scaling of
queries and keys, copies of keys and values, a product, the mask, a softmax that looks for rows of
which nothing is left, and a product; backward four products, the softmax's gradient, and sums of
the gradients over the queries of a key.

Reference
---------
PyTorch, aten/src/ATen/native/transformers/attention.cpp, ``_scaled_dot_product_attention_math``;
its operators one by one as a dispatcher of PyTorch 2.13 lists them. No such attention is among the
measurements: rate, bandwidth and start are those of products and streams in full precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats

_RATE, _STREAMED, _START = 0.8, 0.91, 1.7e-6
"""Shares of the peaks that batched products and streams reach, and the start of a kernel [s]."""
_BYTES: Final = 4.0
_FORWARD, _MASK, _BACKWARD = 7.5, 2.0, 7.0
_KERNELS, _MASK_KERNELS, _KERNELS_BACK = 10.0, 6.0, 9.0


def shares_keys(sizes: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where queries share keys, shape (N,)."""
    return np.asarray(sizes["q_heads"] > sizes["kv_heads"])


def steps_seconds(s: Mapping[str, Floats], device: Device, *, backward: bool) -> Floats:
    """Time of all kernels one after another, shape (N,) [s].

    Parameters
    ----------
    s : mapping of array
        Sizes as :func:`perfmodel.cost.attention.attention_parts` takes them, ``causal`` among them.
    device : Device
        The chip.
    backward : bool
        Of the gradients.
    """
    heads = s["batch"] * s["q_heads"]
    scores = heads * s["q_len"] * s["kv_len"]
    queries, keys = (heads * s[length] * s["head_dim"] for length in ("q_len", "kv_len"))
    single = s["kv_heads"] / s["q_heads"]
    masked = np.where((s["causal"] > 0.0) & (not backward), 1.0, 0.0)
    each = (_BACKWARD if backward else _FORWARD) + _MASK * masked
    of_queries, of_keys, count = (6.0, 8.0, 8.0) if backward else (4.0, 6.0, 4.0)
    passes = each * scores + of_queries * queries + (of_keys + 2.0 * single) * keys
    kernels = (_KERNELS_BACK if backward else _KERNELS) + _MASK_KERNELS * masked
    work = count * scores * s["head_dim"] / (device.peak * _RATE)
    return np.asarray(work + _BYTES * passes / (device.bandwidth * _STREAMED) + kernels * _START)
