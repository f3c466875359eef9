"""A third unread draw of decoders unlike the others, and networks of small scripts to train."""

from __future__ import annotations

from validate.bench.models.draws import PURE, SGD, Draw

DRAW = Draw(
    last=("script_segments",),
    trained=(
        ("script_mini_gpt", 32, 256, 3.0, {}), ("script_stories", 16, 512, 3.0, PURE),
        ("script_encoder", 32, 128, 3.0, {}), ("script_resnet56", 128, 0, 3.0, SGD),
        ("script_segments", 8, 0, 3.0, {}), ("script_simple_vit", 16, 0, 3.0, {}),
    ),
    inferred=(),
    decoded=(
        ("hand_distant", 4, 512, 2.0), ("hand_repeated", 2, 1024, 2.0),
        ("hand_retained", 8, 1, 2.0), ("hand_blended", 4, 768, 2.0),
        ("hand_adapted", 4, 512, 2.0), ("hand_picked", 8, 512, 2.0),
        ("hand_local", 2, 1024, 2.0), ("hand_filtered", 4, 512, 2.0),
        ("gpt_160m", 2, 768, 2.0), ("gpt_700m", 1, 1024, 4.0),
        ("llama_90m", 8, 768, 2.0), ("llama_900m", 2, 1536, 4.0),
    ),
    compiled=(),
    trained_compiled=(),
)  # fmt: skip
