"""A last unread draw: usual models at small batches, trained, run and decoded."""

from __future__ import annotations

from validate.bench.models import draws
from validate.bench.models.cases import Case
from validate.bench.models.draws import FOREACH, PURE, SGD, Changes, Draw

LAST = ("convnextv2_tiny", "ghostnet_100", "seresnet50", "res2net50_26w_4s", "repvgg_a2",
        "mobilenetv4_conv_small", "cspdarknet53", "efficientformer_l1", "vgg13_bn",
        "resnext101_64x4d", "densenet161", "mobilevit_small", "cvt_13",
        "poolformer_s12")  # fmt: skip
"""Networks that run channels last."""
TRAINED: tuple[tuple[str, int, int, float, Changes], ...] = (
    ("bloom_560m", 2, 512, 12.0, {}),
    ("electra_base", 16, 128, 5.0, {}),
    ("convnextv2_tiny", 32, 0, 6.0, {}),
    ("mistral_small", 2, 1024, 6.0, PURE),
    ("beit_base", 16, 0, 6.0, {}),
    ("bart_base", 8, 256, 6.0, {}),
    ("seresnet50", 32, 0, 5.0, SGD),
    ("stablelm_small", 4, 256, 9.0, FOREACH),
    ("qwen3_06b", 1, 512, 7.0, PURE | {"checkpoint": True}),
    ("swin_v2_t", 16, 0, 5.0, {}),
    ("dinov2_base_hf", 16, 0, 6.0, PURE),
    ("falcon_small", 4, 512, 9.0, {"checkpoint": True}),
    ("mpnet_base", 8, 256, 5.0, FOREACH),
    ("mobilevit_small", 32, 0, 5.0, {}),
    ("vgg13_bn", 32, 0, 6.0, SGD),
    ("deit_base_hf", 16, 0, 6.0, {"implementation": "for-loop"}),
    ("resnext101_64x4d", 16, 0, 6.0, SGD | {"implementation": "fused"}),
    ("densenet161", 16, 0, 6.0, SGD),
    ("cvt_13", 32, 0, 5.0, {}),
    ("poolformer_s12", 32, 0, 5.0, {}),
    ("yolos_small", 4, 0, 4.0, {}),
    ("twins_pcpvt_small", 16, 0, 4.0, {}),
)
"""Model, batch, sequence, GB, and what differs from fused AdamW under autocast."""
INFERRED = (
    ("bloom_560m", 2, 256), ("electra_base", 8, 128), ("mistral_small", 2, 512),
    ("stablelm_small", 1, 256), ("qwen3_06b", 1, 512), ("falcon_small", 4, 256),
    ("gpt_neo_125m", 2, 512), ("mpnet_base", 4, 256), ("bart_base", 4, 256),
    ("beit_base", 4, 0), ("dinov2_base_hf", 8, 0), ("deit_base_hf", 2, 0), ("yolos_small", 2, 0),
    ("poolformer_s12", 8, 0), ("cvt_13", 8, 0), ("mobilevit_small", 8, 0),
    ("convnextv2_tiny", 8, 0), ("cait_xxs24_224", 8, 0), ("twins_pcpvt_small", 8, 0),
    ("ghostnet_100", 16, 0), ("seresnet50", 16, 0), ("res2net50_26w_4s", 16, 0),
    ("repvgg_a2", 16, 0), ("mobilenetv4_conv_small", 32, 0), ("cspdarknet53", 16, 0),
    ("efficientformer_l1", 16, 0), ("swin_v2_t", 4, 0), ("vgg13_bn", 16, 0),
    ("resnext101_64x4d", 8, 0), ("densenet161", 8, 0),
    ("qwen3_decode", 2, 512), ("mistral_decode", 8, 1024),
)  # fmt: skip
DECODED = (
    ("llama_13b", 4, 768, 4.0), ("llama_4b", 1, 1536, 9.5), ("llama_05b", 16, 512, 2.5),
    ("gpt_27b", 2, 1024, 7.0), ("gpt_80m", 8, 384, 1.5),
)  # fmt: skip
COMPILED = ("bloom_560m", "electra_base", "mistral_small", "qwen3_06b", "beit_base", "cvt_13",
            "mobilevit_small", "convnextv2_tiny", "seresnet50", "swin_v2_t",
            "qwen3_decode", "mistral_decode")  # fmt: skip
TRAINED_COMPILED = ("electra_base", "mistral_small", "beit_base", "bart_base", "stablelm_small",
                    "seresnet50", "dinov2_base_hf", "convnextv2_tiny", "qwen3_06b",
                    "mpnet_base", "deit_base_hf")  # fmt: skip
DRAW = Draw(LAST, TRAINED, INFERRED, DECODED, COMPILED, TRAINED_COMPILED)


def compiled() -> list[Case]:
    """Steps that are compiled."""
    return draws.compiled(DRAW)


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return draws.eager(DRAW)
