"""A second unread draw of decoders unlike the others, and of small networks that are trained."""

from __future__ import annotations

from validate.bench.models.draws import Draw

DRAW = Draw(
    last=("hand_codes",),
    trained=(
        ("hand_points", 32, 0, 3.0, {}), ("hand_columns", 128, 0, 3.0, {}),
        ("hand_codes", 32, 0, 3.0, {}), ("hand_latents", 16, 0, 3.0, {}),
    ),
    inferred=(),
    decoded=(
        ("hand_ring", 4, 512, 2.0), ("hand_eight", 2, 1024, 2.0),
        ("hand_against", 4, 512, 2.0), ("hand_beside", 8, 256, 2.0),
        ("hand_masked", 2, 512, 2.0), ("hand_delta", 8, 1, 2.0),
        ("hand_blend", 4, 1, 2.0), ("hand_cell", 8, 1, 2.0),
    ),
    compiled=(),
    trained_compiled=(),
)  # fmt: skip
