"""Further kinds of models, trained and run: an unread draw."""

from __future__ import annotations

from validate.bench.models import draws
from validate.bench.models.cases import Case
from validate.bench.models.draws import PURE, SGD, Draw

DRAW = Draw(
    last=("resnest50d", "inception_v3", "edgenext_small", "dpn68"),
    trained=(
        ("convbert_base", 8, 256, 5.0, {}),
        ("gptj_small", 2, 512, 7.0, {}),
        ("gmlp_s16_224", 32, 0, 3.0, {}),
        ("focalnet_tiny_srf", 16, 0, 4.0, {}),
        ("starcoder2_small", 2, 512, 6.0, PURE),
        ("mvitv2_tiny", 16, 0, 4.0, {}),
        ("resnest50d", 16, 0, 4.0, SGD),
        ("videomae_small", 2, 0, 4.0, {}),
    ),
    inferred=(
        ("convbert_base", 8, 128), ("gemma2_small", 2, 512),
        ("gptj_small", 2, 256), ("starcoder2_small", 1, 512), ("ast_base", 2, 0),
        ("videomae_small", 2, 0), ("mvitv2_tiny", 8, 0), ("focalnet_tiny_srf", 16, 0),
        ("gmlp_s16_224", 16, 0), ("pit_s_224", 16, 0), ("caformer_s18", 8, 0),
        ("gcvit_xxtiny", 16, 0), ("resnest50d", 16, 0), ("inception_v3", 16, 0),
        ("edgenext_small", 16, 0), ("dpn68", 16, 0),
    ),
    decoded=(),
    compiled=("convbert_base", "gptj_small", "mvitv2_tiny", "gmlp_s16_224"),
    trained_compiled=("convbert_base", "gptj_small", "starcoder2_small", "gmlp_s16_224"),
)  # fmt: skip


def compiled() -> list[Case]:
    """Steps that are compiled."""
    return draws.compiled(DRAW)


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return draws.eager(DRAW)
