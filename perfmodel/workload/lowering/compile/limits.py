"""When a map is stored: thresholds and steps of torch/_inductor/config.py and ir.py."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

READS_ON_REUSE: Final = 4
READS_IN_ALL: Final = 8
OPERATIONS: Final = 30
TWICE: Final = frozenset(
    ["silu", "hardswish", "gelu", "mish", "silu_backward", "gelu_backward", "hardswish_backward"]
)
"""Steps that are decomposed into several, of which more than one takes the operand."""

COUNTED: Final = MappingProxyType(
    {
        "batch_norm": 24, "cat": 6, "sin": 4, "cos": 4, "roll": 18, "constant_pad_nd": 10,
        "group_norm_backward": 14, "of groups": 6, "norm": 9, "rstd": 7, "upsample_nearest2d": 8,
    }
)  # fmt: skip
"""Steps that are expressions of many operations, loads and constants and casts counted."""

LAST, HEADS = "heads last", "heads"
"""Attention's operands and results as they are kept, heads innermost, and in rows."""

BY_GROUP: Final = frozenset(["group_norm_backward", "of groups", LAST, HEADS])
"""Steps of images whose channels are two axes, groups (or heads) and what is in one; these axes are
never merged."""

ANGLES: Final = frozenset(["sin", "cos"])
"""Steps that take long, and that rotary embeddings compute for every head."""

WRAPPED: Final = frozenset(["roll", "unpadded", "pad"])
"""Steps that begin again within an axis, or copy padded memory: no loop follows them."""

WINDOWS: Final = frozenset(["avg_pool2d", "avg_pool3d", "max_pool2d_with_indices"])
"""Steps that read an operand at every place of a window, two operations each."""
