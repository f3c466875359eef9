"""An unread draw of well-known models in code that no other run has, and small compiled steps."""

from __future__ import annotations

from validate.bench.models import draws
from validate.bench.models.cases import Case
from validate.bench.models.draws import PURE, SGD, Changes, Draw

CHECKPOINT: Changes = {"checkpoint": True}
SMALL = Draw(
    last=("resnet50", "convnext_tiny", "googlenet", "mobilenet_v3_small", "efficientnet_b1",
          "regnet_y_1_6gf", "resnet18"),
    trained=(),
    inferred=(
        ("bert_base", 1, 128), ("gpt2_small", 1, 128), ("clip_vit_b32", 1, 0),
        ("whisper_tiny_encoder", 1, 0), ("convnext_tiny", 1, 0), ("swin_t", 1, 0),
        ("googlenet", 1, 0), ("mobilenet_v3_small", 8, 0), ("efficientnet_b1", 1, 0),
        ("regnet_y_1_6gf", 1, 0), ("resnet50", 8, 0), ("tinyllama_hf", 1, 128),
        ("vit_b_16", 1, 0), ("mixer_b16_224", 1, 0), ("resnet18", 1, 0),
    ),
    decoded=(),
    compiled=("tinyllama_hf", "efficientnet_b1", "regnet_y_1_6gf", "clip_vit_b32", "swin_t",
              "gpt2_small", "bert_base", "googlenet", "convnext_tiny", "mobilenet_v3_small",
              "resnet50", "whisper_tiny_encoder", "vit_b_16", "mixer_b16_224", "resnet18"),
    trained_compiled=(),
    held_gb=1.5,
)  # fmt: skip
"""Models of earlier runs, compiled, in batches so small that the host holds them up."""
UNREAD = Draw(
    last=("resnet50_hf", "mobilenet_v2_hf", "efficientnet_b0_hf", "convnext_tiny_hf",
          "regnet_y_040_hf", "unet_resizing"),
    trained=(
        ("gpt_nano_124m", 8, 512, 6.0, {}),
        ("vit_base_hf", 32, 0, 6.0, {}),
        ("resnet50_hf", 64, 0, 6.0, SGD),
        ("llama_fast_03b", 2, 1024, 8.0, PURE),
        ("unet_resizing", 8, 0, 6.0, {}),
        ("vit_plain_base", 32, 0, 6.0, {}),
        ("bert_mlm", 16, 128, 6.0, {}),
        ("gpt_nano_355m", 4, 512, 10.0, CHECKPOINT),
        ("llama_hf_300m", 4, 512, 8.0, {}),
        ("efficientnet_b0_hf", 32, 0, 6.0, {"benchmark": False}),
        ("swin_tiny_hf", 16, 0, 5.0, {}),
    ),
    inferred=(
        ("resnet50_hf", 1, 0), ("vit_base_hf", 8, 0), ("gpt_nano_355m", 1, 1024),
        ("mobilenet_v2_hf", 8, 0), ("bert_mlm", 8, 128), ("convnext_tiny_hf", 64, 0),
        ("llama_hf_300m", 1, 512), ("vit_plain_base", 8, 0), ("unet_resizing", 8, 0),
        ("t5_base", 8, 128), ("swin_tiny_hf", 8, 0), ("efficientnet_b0_hf", 64, 0),
        ("whisper_base", 1, 32), ("regnet_y_040_hf", 8, 0), ("gpt_nano_124m", 64, 256),
    ),
    decoded=(("llama_fast_1b", 1, 1024, 4.0), ("llama_fast_8b", 8, 1024, 19.0),
             ("llama_fast_03b", 32, 512, 3.0)),
    compiled=("resnet50_hf", "vit_base_hf", "gpt_nano_355m", "mobilenet_v2_hf", "bert_mlm",
              "convnext_tiny_hf", "vit_plain_base", "llama_hf_300m", "unet_resizing"),
    trained_compiled=("gpt_nano_124m", "vit_base_hf", "resnet50_hf", "llama_fast_03b",
                      "unet_resizing", "bert_mlm", "vit_plain_base"),
    held_gb=1.5,
)  # fmt: skip
"""Models that nothing had recorded before."""
PREFILLED = (("llama_fast_1b", 1, 1024), ("llama_fast_8b", 1, 512))


def compiled() -> list[Case]:
    """Steps that are compiled."""
    return [*draws.compiled(SMALL), *draws.compiled(UNREAD)]


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    prefilled = [Case("prefill", model, "eager", batch, seq) for model, batch, seq in PREFILLED]
    return [*draws.eager(UNREAD), *prefilled]
