"""Other shapes of known models once more, and an unread draw of models at published sizes."""

from __future__ import annotations

from validate.bench.models import draws
from validate.bench.models.cases import Case
from validate.bench.models.draws import FOREACH, PURE, SGD, Changes, Draw

CHECKPOINT: Changes = {"checkpoint": True}
SHAPES = Draw(
    last=("unet2d", "unet2d_narrow", "resnet18", "resnet34", "resnet101", "mobilenet_v3_large",
          "regnet_y_1_6gf", "efficientnet_b0", "efficientnet_v2_s", "densenet121",
          "googlenet"),
    trained=(
        ("gpt2_small", 8, 256, 4.0, {}),
        ("gpt_wide", 2, 512, 8.0, {}),
        ("llama_135m", 4, 512, 4.0, {}),
        ("bert_base", 16, 128, 4.0, PURE),
        ("clip_vit_b32", 16, 0, 4.0, {}),
        ("resnet101", 16, 0, 5.0, SGD),
        ("vit_small_patch16_224", 32, 0, 3.0, {}),
        ("mobilenet_v3_large", 32, 0, 3.0, SGD),
        ("regnet_y_1_6gf", 32, 0, 4.0, SGD),
        ("whisper_tiny_encoder", 16, 0, 3.0, {}),
        ("llama_1b", 1, 1024, 10.0, PURE),
        ("gpt_355m", 2, 384, 7.0, {}),
        ("llama_03b", 2, 768, 5.0, PURE),
        ("deit_small_patch16_224", 64, 0, 4.0, {}),
        ("t5_small", 8, 128, 4.0, {}),
        ("efficientnet_b0", 32, 0, 4.0, {}),
        ("resnet34", 32, 0, 4.0, SGD),
        ("tinyllama_hf", 1, 256, 12.0, PURE),
        ("gpt2_medium", 4, 128, 8.0, FOREACH),
        ("vit_b_16", 32, 0, 5.0, PURE),
    ),
    inferred=(),
    decoded=(),
    compiled=(),
    trained_compiled=("gpt2_small", "gpt_wide", "llama_135m", "bert_base", "clip_vit_b32",
                      "vit_small_patch16_224", "mobilenet_v3_large", "whisper_tiny_encoder",
                      "llama_1b", "llama_03b", "deit_small_patch16_224", "t5_small", "resnet34",
                      "gpt_355m", "vit_b_16"),
)  # fmt: skip
"""Other shapes of models of earlier runs."""
UNREAD = Draw(
    last=("mobilenetv2_100", "mobilenetv3_small_100", "regnety_016", "tf_efficientnetv2_s",
          "resnet18d", "seresnext50_32x4d", "convnext_pico"),
    trained=(
        ("vit_base_patch16_224", 32, 0, 5.0, {}),
        ("minilm_l6", 32, 128, 2.5, {}),
        ("llama32_1b", 1, 512, 11.0, PURE),
        ("mobilenetv2_100", 64, 0, 4.0, SGD),
        ("pythia_70m", 8, 512, 4.0, {}),
        ("swin_tiny_patch4_window7_224", 16, 0, 4.0, {}),
        ("xlm_roberta_base", 8, 128, 6.0, FOREACH),
        ("deit_tiny_patch16_224", 32, 0, 2.5, PURE),
        ("llama_360m", 2, 512, 6.0, {}),
        ("tf_efficientnetv2_s", 16, 0, 5.0, {}),
        ("roberta_large", 4, 256, 9.0, {}),
        ("pythia_410m", 2, 512, 6.0, PURE),
        ("regnety_016", 32, 0, 4.0, SGD),
        ("gpt2_large", 1, 512, 16.0, CHECKPOINT),
        ("llama_11b", 1, 1024, 12.0, PURE | CHECKPOINT),
        ("seresnext50_32x4d", 32, 0, 5.0, SGD),
    ),
    inferred=(
        ("vit_base_patch16_224", 1, 0), ("minilm_l6", 64, 128), ("llama32_1b", 1, 256),
        ("mobilenetv2_100", 1, 0), ("pythia_410m", 1, 256), ("swin_tiny_patch4_window7_224", 32, 0),
        ("xlm_roberta_base", 16, 64), ("regnety_016", 64, 0), ("vit_large_patch16_224", 4, 0),
        ("mobilenetv3_small_100", 32, 0), ("resnet18d", 16, 0), ("qwen25_15b", 1, 128),
        ("seresnext50_32x4d", 8, 0), ("mixer_s16_224", 16, 0), ("deit_tiny_patch16_224", 1, 0),
        ("gpt2_large", 4, 128), ("roberta_large", 2, 256), ("convnext_pico", 16, 0),
        ("tf_efficientnetv2_s", 8, 0), ("pythia_70m", 4, 256),
    ),
    decoded=(("llama_11b", 8, 1024, 3.5), ("llama_360m", 1, 512, 2.0), ("gpt_13b", 2, 1024, 4.0),
             ("qwen_7b", 1, 1024, 17.0)),
    compiled=("vit_base_patch16_224", "minilm_l6", "llama32_1b", "mobilenetv2_100", "pythia_410m",
              "swin_tiny_patch4_window7_224", "xlm_roberta_base", "regnety_016",
              "mobilenetv3_small_100", "resnet18d", "mixer_s16_224"),
    trained_compiled=("vit_base_patch16_224", "minilm_l6", "llama32_1b", "mobilenetv2_100",
                      "pythia_70m", "swin_tiny_patch4_window7_224", "xlm_roberta_base",
                      "deit_tiny_patch16_224", "regnety_016"),
    held_gb=1.5,
)  # fmt: skip
"""Models that nothing had recorded before."""


def compiled() -> list[Case]:
    """Steps that are compiled."""
    return [*draws.compiled(SHAPES), *draws.compiled(UNREAD)]


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return [*draws.eager(SHAPES), *draws.eager(UNREAD)]
