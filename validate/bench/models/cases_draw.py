"""An unread draw of models that nothing had recorded before: trained, run and decoded."""

from __future__ import annotations

from validate.bench.models import draws
from validate.bench.models.cases import Case
from validate.bench.models.draws import FOREACH, PURE, SGD, Changes, Draw

LAST = ("inception_next_tiny", "dla60", "ese_vovnet39b", "edgenext_small", "resnetv2_50",
        "nextvit_small", "caformer_s18", "tf_efficientnetv2_b0", "focalnet_tiny",
        "davit_tiny")  # fmt: skip
"""Networks that run channels last."""
TRAINED: tuple[tuple[str, int, int, float, Changes], ...] = (
    ("gpt_bigcode_small", 4, 512, 7.0, {}),
    ("siglip_base", 16, 0, 5.0, {}),
    ("phi3_small", 2, 512, 6.0, PURE),
    ("dla60", 32, 0, 5.0, SGD),
    ("camembert_base", 8, 256, 5.0, {}),
    ("davit_tiny", 16, 0, 5.0, {}),
    ("gpt_210m", 4, 256, 5.0, {}),
    ("inception_next_tiny", 32, 0, 5.0, {}),
    ("smollm3_small", 2, 512, 5.0, FOREACH),
    ("esm2_35m", 8, 256, 3.0, {}),
    ("deit3_small_patch16_224", 32, 0, 4.0, PURE),
    ("biogpt_small", 4, 256, 5.0, {"checkpoint": True}),
    ("llama_260m", 2, 1024, 6.0, PURE),
    ("resnetv2_50", 32, 0, 5.0, SGD),
    ("rembert_small", 8, 128, 4.0, {}),
)
"""Model, batch, sequence, GB, and what differs from fused AdamW under autocast."""
INFERRED = (
    ("granite_small", 2, 256), ("siglip_base", 4, 0), ("levit_256", 8, 0),
    ("phi3_small", 1, 512), ("ese_vovnet39b", 16, 0), ("camembert_base", 4, 128),
    ("caformer_s18", 8, 0), ("resmlp_24_224", 8, 0), ("gpt_bigcode_small", 2, 256),
    ("edgenext_small", 16, 0), ("esm2_35m", 4, 256), ("focalnet_tiny", 8, 0),
    ("tf_efficientnetv2_b0", 32, 0), ("nextvit_small", 8, 0), ("vit_mae_like", 8, 0),
)  # fmt: skip
DECODED = (("llama_18b", 2, 1024, 6.0), ("gpt_210m", 4, 768, 2.0), ("llama_260m", 8, 512, 2.0))
COMPILED = ("granite_small", "siglip_base", "ese_vovnet39b", "camembert_base", "resmlp_24_224")
TRAINED_COMPILED = ("gpt_bigcode_small", "siglip_base", "dla60", "camembert_base", "gpt_210m",
                    "smollm3_small", "llama_260m", "deit3_small_patch16_224")  # fmt: skip
DRAW = Draw(LAST, TRAINED, INFERRED, DECODED, COMPILED, TRAINED_COMPILED)


def compiled() -> list[Case]:
    """Steps that are compiled."""
    return draws.compiled(DRAW)


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return draws.eager(DRAW)
