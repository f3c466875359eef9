r"""Stacks of recurrent layers as cuDNN runs them: one persistent kernel a layer, or steps.

Small cells stay in one kernel for a whole layer and direction. A block takes one sequence (eight of
them with half precision on matrix units) and keeps the weights of :math:`w` bytes in its registers
as far as there is room for :math:`r`; what does not fit comes from the cache at every step, for all
:math:`n` blocks that run at once:

.. math::

    t_\text{cell} = \lceil \text{blocks} / U \rceil \left( t_p + t_m + \frac{\min(w, r)}{b_r}
        + \max(0, w - r) \left(\frac{1}{b_s} + \frac{n}{b_a}\right) \right)

where :math:`w` counts cells in whole rows of 32, and :math:`t_m` is paid on matrix units alone.

All other cells are a product of the last state with the recurrent weights and a kernel for the
gates. Cells of the :math:`L` layers and :math:`D` directions run beside each other:

.. math::

    t_\text{cell} = \frac{1}{1 + 2 \sigma (1 - 1 / (L D))} \left( t_q + \frac{e\, k}{b_k} +
        \left\lVert \frac{2 B G H^2}{\eta P}, \frac{w}{b_c} \right\rVert_p
        + \frac{e\, B G H}{b_g} \right)

On matrix units a product whose rows do not start on 16 bytes takes a share :math:`o` longer. Where
PyTorch asks for one kernel that spreads the weights over all units (fp16, one layer, even widths),
a step takes 1.6 us: two stacks of 768 and 896 were seen.
After a backward pass one kernel a layer and direction adds up the gradients of the biases, 32
columns a block, row after row: :math:`T B G t_s`. PyTorch copies weights in bf16 in every call.
A sum has :math:`k = H` terms, in the backward pass :math:`k = G H`: few rows leave most units
without work, and the rest walk along it. Products of whole sequences stand beside the
:math:`T L D` cells of both: the inputs of every layer, and in the backward pass the gradients of
inputs and of weights.

Reference
---------
Appleyard, Kocisky, Blunsom, "Optimizing Performance of Recurrent Neural Networks on GPUs", 2016.
Diamos et al., "Persistent RNNs: Stashing Recurrent Weights On-Chip", 2016. Which kernel runs, and
its blocks: names of the kernels of 80 stacks on an H100 (cuDNN 9.19).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine, soft_max
from perfmodel.workload.ops.recurrent import GATES

COEFFICIENTS: Final = {
    "persist_seconds": "a step of a persistent kernel beside its arithmetic [s]",
    "persist_matrix_seconds": "what a step on matrix units takes longer [s]",
    "persist_bytes_per_second": "rate at which a block goes through weights that it keeps [B/s]",
    "persist_room": "bytes of weights that a block can keep [B]",
    "spill_bytes_per_second": "rate at which a block reads the others again [B/s]",
    "spill_all_bytes_per_second": "rate at which all blocks together do [B/s]",
    "step_seconds": "a step's product and gates, where neither has much to do [s]",
    "depth_bytes_per_second": "rate at which a product walks along one row of its sum [B/s]",
    "odd_share": "time that products of rows off 16 bytes take longer, as a share",
    "cache_bytes_per_second": "rate at which all units read a step's weights [B/s]",
    "gate_bytes_per_second": "rate at which gates are read and written [B/s]",
    "side_share": "time that cells beside each other save, as a share of the rest",
    "sum_seconds": "a row of one gate's gradients in the sum for its biases [s]",
    "copy_seconds": "start and end of a copy of one tensor of weights [s]",
    "product_seconds": "start and end of a product of whole sequences [s]",
    "compute_efficiency": "share of the peak that products reach",
    "static_seconds": "a step of a kernel whose weights are spread over all units [s]",
    "floor_seconds": "start and end of the call [s]",
    "overlap_exponent": "how sharply arithmetic and memory overlap",
}
# Terms that older fits leave out.
_WITHOUT: Final = {
    "persist_matrix_seconds": 0.0,
    "odd_share": 0.0,
    "static_seconds": 1.6e-6,
    "sum_seconds": 0.0,
    "copy_seconds": 0.0,
}
WIDEST: Final = MappingProxyType({"lstm": 192.0, "gru": 192.0, "rnn": 384.0})
"""Widest cells of persistent kernels; cuDNN has none for bf16."""
WIDEST_BACK: Final = MappingProxyType({"lstm": 128.0, "gru": 128.0, "rnn": 256.0})
"""PyTorch asks for them up to these widths (``use_rnn_persist_small_h`` of its RNN.cpp)."""
STATIC_UNITS: Final = 98
"""Units of a chip from which on PyTorch asks for weights spread over all of them."""
COPIED: Final = "bf16"
"""PyTorch takes weights in this format for none that cuDNN knows, and copies them in every call."""
TENSORS: Final = 4.0
"""Of weights and biases, of a layer and direction."""
ROWS: Final = 32.0
"""Persistent kernels hold cells in whole rows of so many: 129 take as long as 160."""
SEQUENCES: Final = 8.0
"""Sequences of a block on matrix units, which take fp16 in whole eights; others keep fp32."""
_GATE_VALUES: Final = {"fwd": 2.0, "train": 3.0, "bwd": 5.0}
_PRODUCTS: Final = {"fwd": 1.0, "train": 1.0, "bwd": 3.0}


def persistent(kind: str, direction: str, hidden: Floats, dtype: str) -> NDArray[np.bool_]:
    """Where one kernel runs all steps of a layer, shape (N,)."""
    widest = (WIDEST_BACK if direction == "bwd" else WIDEST)[kind]
    return np.asarray((hidden <= widest) & (dtype != "bf16"))


def spread_over_units(
    sizes: Mapping[str, Floats], words: Mapping[str, str], dtype: str, device: Device
) -> NDArray[np.bool_]:
    """Where one kernel on all units runs the steps of a wide layer in fp16, shape (N,).

    Forward alone: gradients ask for it too, and take no less than steps of their own.

    Reference
    ---------
    PyTorch, aten/src/ATen/native/cudnn/RNN.cpp, ``use_persist_common_heuristics`` and
    ``use_persist_device_heuristics``.
    """
    s, kind = sizes, words["kind"]
    if dtype != "fp16" or words["direction"] == "bwd" or kind == "gru":
        return np.zeros(s["hidden"].shape, dtype=bool)
    fits = (s["layers"] * s["ways"] == 1.0) & (s["hidden"] <= 1024.0)
    fits &= (s["hidden"] % 128.0 == 0.0) & (s["width"] % 128.0 == 0.0)
    fits &= (s["batch"] % SEQUENCES == 0.0) & (s["batch"] <= 128.0)
    if kind == "rnn":
        fits &= (s["batch"] < 96.0) | (s["hidden"] < 896.0)
    return np.asarray(fits & (device.units >= STATIC_UNITS))


def recurrent_parts(
    sizes: Mapping[str, Floats],
    words: Mapping[str, str],
    dtype: str,
    element: float,
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """Time of stacks of recurrent layers and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    sizes : mapping of array
        ``steps batch width hidden layers ways flops read written`` of the operator.
    words : mapping of str
        ``kind`` and ``direction``.
    dtype : str
        Format of the operands.
    element : float
        Bytes of one value [B].
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    """
    c, s = _WITHOUT | dict(coefficients), sizes
    gates, direction = float(GATES[words["kind"]]), words["direction"]
    batch, hidden = s["batch"], s["hidden"]
    each = s["layers"] * s["ways"]
    cells = s["steps"] * each
    rate = device.peak * c["compute_efficiency"]
    weights = gates * hidden**2 * element
    kept = persistent(words["kind"], direction, hidden, dtype)

    matrix = (batch % SEQUENCES == 0.0) & (dtype == "fp16")
    held = gates * (np.ceil(hidden / ROWS) * ROWS) ** 2 * np.where(matrix, 2.0, 4.0)
    blocks = np.where(matrix, batch / SEQUENCES, batch)
    room = np.minimum(held, c["persist_room"])
    crowd = np.minimum(blocks, device.units) / c["spill_all_bytes_per_second"]
    step = c["persist_seconds"] + np.where(matrix, c["persist_matrix_seconds"], 0.0)
    step += room / c["persist_bytes_per_second"]
    step += (held - room) * (1.0 / c["spill_bytes_per_second"] + crowd)
    one_kernel = np.ceil(blocks / device.units) * step

    in_step = 2.0 * batch * gates * hidden**2 / rate
    moved = soft_max((in_step, weights / c["cache_bytes_per_second"]), c["overlap_exponent"])
    gate_bytes = _GATE_VALUES[direction] * batch * gates * hidden * element
    depth = hidden * (gates if direction == "bwd" else 1.0) * element
    stepwise = c["step_seconds"] + depth / c["depth_bytes_per_second"]
    stepwise += moved + gate_bytes / c["gate_bytes_per_second"]
    odd = (hidden * element % 16.0 > 0.0) & (dtype != "fp32")
    stepwise *= np.where(odd, 1.0 + c["odd_share"], 1.0)
    stepwise /= 1.0 + c["side_share"] * 2.0 * (1.0 - 1.0 / each)
    stepwise = np.where(spread_over_units(s, words, dtype, device), c["static_seconds"], stepwise)

    in_steps = 2.0 * cells * batch * gates * hidden**2
    beside = np.maximum(s["flops"] - in_steps, 0.0) / rate
    start = each * _PRODUCTS[direction] * c["product_seconds"] + c["floor_seconds"]
    if direction == "bwd":
        start = start + each * s["steps"] * batch * gates * c["sum_seconds"]
    elif dtype == COPIED:
        inputs = np.where(s["layers"] > 1.0, (s["layers"] - 1.0) * s["ways"] * hidden, 0.0)
        kept_bytes = each * weights + s["ways"] * gates * hidden * (s["width"] + inputs) * element
        start = start + each * TENSORS * c["copy_seconds"] + 2.0 * kept_bytes / device.bandwidth
    waiting = cells * np.where(kept, one_kernel, stepwise)
    memory = (s["read"] + s["written"]) / device.bandwidth
    none = np.zeros_like(cells)
    return combine(
        beside, memory, none, start + waiting, c["overlap_exponent"], kept.astype(np.float64)
    )
