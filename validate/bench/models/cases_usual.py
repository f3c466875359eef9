"""Usual models at usual sizes: other shapes of known ones, and an unread draw of new ones."""

from __future__ import annotations

from validate.bench.models import draws
from validate.bench.models.cases import Case
from validate.bench.models.draws import FOREACH, PURE, SGD, Changes, Draw

CHECKPOINT: Changes = {"checkpoint": True}
SHAPES = Draw(
    last=("unet2d", "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"),
    trained=(
        ("gpt_355m", 2, 256, 7.0, CHECKPOINT),
        ("llama_03b", 2, 1024, 6.0, PURE | CHECKPOINT),
        ("gpt_124m", 8, 256, 4.0, {}),
        ("llama_03b", 2, 512, 6.0, {}),
        ("vit_b_16", 16, 0, 4.0, {}),
        ("gpt_355m", 2, 512, 5.0, PURE),
        ("deit_small_patch16_224", 32, 0, 3.0, PURE),
        ("llama_06b", 1, 768, 12.0, {}),
        ("gpt2_medium", 2, 256, 8.0, {}),
        ("unet2d", 4, 0, 4.0, {}),
        ("t5_small", 4, 256, 4.0, {}),
        ("llama_15b", 1, 512, 18.0, PURE),
        ("resnet18", 32, 0, 3.0, SGD),
        ("tinyllama_hf", 1, 512, 12.0, PURE),
        ("gpt2_small", 4, 512, 4.0, {}),
        ("bert_base", 8, 256, 4.0, {}),
        ("resnet50", 32, 0, 5.0, SGD),
        ("llama_135m", 2, 1024, 4.0, PURE),
        ("swin_t", 8, 0, 4.0, {}),
        ("convnext_tiny", 16, 0, 4.0, {}),
    ),
    inferred=(),
    decoded=(("llama_03b", 32, 1024, 3.0), ("llama_15b", 4, 1024, 4.8), ("llama_3b", 1, 1024, 8.5),
             ("gpt_355m", 2, 512, 2.5), ("llama_06b", 16, 512, 3.0), ("gpt_124m", 4, 1024, 1.5),
             ("llama_8b", 4, 1024, 19.0)),
    compiled=(),
    trained_compiled=("gpt_124m", "llama_03b", "vit_b_16", "deit_small_patch16_224", "unet2d",
                      "t5_small", "gpt2_small", "resnet18", "bert_base", "gpt2_medium"),
)  # fmt: skip
"""Other shapes of models of earlier runs."""
UNREAD = Draw(
    last=("resnet50d", "resnet34d", "convnext_nano", "efficientnet_lite0",
          "mobilenetv3_large_100", "regnetx_016", "resnext50d_32x4d", "unet2d_narrow"),
    trained=(
        ("distilgpt2", 8, 512, 4.0, {}),
        ("llama_hf_small", 4, 512, 5.0, PURE),
        ("vit_tiny_patch16_224", 64, 0, 3.0, {}),
        ("gpt_500m", 2, 512, 8.0, {}),
        ("deit_base_patch16_224", 32, 0, 5.0, {}),
        ("llama_350m", 4, 512, 6.0, {}),
        ("unet2d_narrow", 8, 0, 4.0, {}),
        ("distilroberta", 16, 128, 4.0, FOREACH),
        ("resnet50d", 32, 0, 5.0, SGD),
        ("gpt2_wide8", 4, 512, 4.0, PURE),
        ("llama_700m", 1, 1024, 6.0, PURE | CHECKPOINT),
        ("bert_large", 4, 256, 8.0, {}),
        ("vit_base_patch32_224", 64, 0, 4.0, PURE),
        ("gpt_60m", 16, 256, 3.0, {}),
        ("llama_1b_deep", 1, 512, 9.0, PURE),
    ),
    inferred=(
        ("llama_hf_small", 1, 512), ("deit_base_patch16_224", 8, 0), ("resnet50d", 64, 0),
        ("distilgpt2", 8, 256), ("mobilenetv3_large_100", 8, 0), ("bert_large", 1, 256),
        ("vit_tiny_patch16_224", 256, 0), ("resnet34d", 1, 0), ("distilroberta", 64, 128),
        ("convnext_nano", 8, 0), ("efficientnet_lite0", 64, 0), ("regnetx_016", 1, 0),
        ("vit_base_patch32_224", 1, 0), ("resnext50d_32x4d", 8, 0), ("unet2d_narrow", 1, 0),
    ),
    decoded=(("llama_350m", 4, 1024, 2.0), ("llama_26b", 2, 1024, 6.5),
             ("gpt_500m", 8, 512, 2.5), ("llama_700m", 1, 2048, 2.5), ("llama_65b", 1, 1024, 15.0),
             ("llama_1b_deep", 8, 768, 4.0), ("gpt_60m", 1, 512, 1.5)),
    compiled=("llama_hf_small", "deit_base_patch16_224", "resnet50d", "distilgpt2",
              "mobilenetv3_large_100", "bert_large", "distilroberta", "resnet34d"),
    trained_compiled=("distilgpt2", "llama_hf_small", "vit_tiny_patch16_224", "unet2d_narrow",
                      "distilroberta", "gpt2_wide8", "gpt_60m", "deit_base_patch16_224",
                      "resnet50d", "llama_350m"),
    held_gb=2.0,
)  # fmt: skip
"""Models that nothing had recorded before."""
PREFILLED = (("llama_350m", 4, 512), ("llama_26b", 1, 1024), ("llama_1b_deep", 2, 512))


def _prefilled() -> list[Case]:
    return [Case("prefill", model, "eager", batch, seq) for model, batch, seq in PREFILLED]


def compiled() -> list[Case]:
    """Steps that are compiled."""
    return [*draws.compiled(SHAPES), *draws.compiled(UNREAD)]


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return [*draws.eager(SHAPES), *draws.eager(UNREAD), *_prefilled()]
