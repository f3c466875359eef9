"""An unread draw of decoders with other blocks and caches, decoding one token, compiled and not."""

from __future__ import annotations

from validate.bench.models.draws import Draw

DRAW = Draw(
    last=(),
    trained=(),
    inferred=(),
    decoded=(
        ("hand_parallel", 4, 512, 2.0), ("hand_one_key", 8, 1024, 2.0),
        ("hand_sandwich", 2, 1024, 2.0), ("hand_written", 4, 512, 2.0),
        ("hand_experts", 2, 512, 2.0), ("hand_latent", 8, 1024, 2.0),
        ("hand_gated", 8, 1, 2.0), ("hand_selective", 4, 1, 2.0),
    ),
    compiled=(),
    trained_compiled=(),
)  # fmt: skip
