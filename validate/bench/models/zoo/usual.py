"""Usual models in sizes that no earlier run held: decoders, encoders, image models, a U-Net."""

from __future__ import annotations

import functools
from typing import Any

from validate.bench.models.zoo import gpt, llama
from validate.bench.models.zoo.entry import Entry, image, of_tokens
from validate.bench.models.zoo.fresh import named
from validate.bench.models.zoo.nets import UNet2d

_LLAMA = {
    "llama_350m": llama.Shape(20, 1152, 18, 6, 3072),
    "llama_700m": llama.Shape(24, 1280, 20, 5, 4352, 49152),
    "llama_26b": llama.Shape(26, 2304, 36, 9, 6656, 100352),
    "llama_65b": llama.Shape(30, 4096, 32, 8, 12288, 64000),
    "llama_1b_deep": llama.Shape(32, 1536, 24, 8, 4096, 32000),
}
_GPT = {
    "gpt_60m": gpt.Shape(6, 704, 11),
    "gpt_500m": gpt.Shape(20, 1408, 22),
}
_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "distilgpt2": ("GPT2LMHeadModel", {
        "n_layer": 6, "n_embd": 768, "n_head": 12, "use_cache": False}),
    "gpt2_wide8": ("GPT2LMHeadModel", {
        "n_layer": 8, "n_embd": 1024, "n_head": 16, "use_cache": False}),
    "bert_large": ("BertModel", {
        "vocab_size": 30522, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096}),
    "distilroberta": ("RobertaModel", {"vocab_size": 50265, "num_hidden_layers": 6}),
    "llama_hf_small": ("LlamaForCausalLM", {
        "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8,
        "use_cache": False}),
}  # fmt: skip
_TIMM = {
    "vit_tiny_patch16_224": 224, "deit_base_patch16_224": 224, "vit_base_patch32_224": 224,
    "resnet50d": 224, "resnet34d": 224, "convnext_nano": 224, "efficientnet_lite0": 224,
    "mobilenetv3_large_100": 224, "regnetx_016": 224, "resnext50d_32x4d": 224,
}  # fmt: skip


class NarrowUNet(UNet2d):
    """The U-Net with 48 to 384 channels."""

    def __init__(self, tiny: bool) -> None:
        super(UNet2d, self).__init__(2, 3, 2, [8, 16] if tiny else [48, 96, 192, 384])


ENTRIES: dict[str, Entry] = {
    **of_tokens(_LLAMA, llama.TINY, llama.Llama),
    **of_tokens(_GPT, gpt.TINY, gpt.Gpt),
    **named(_TEXT, {}, _TIMM),
    "unet2d_narrow": Entry(NarrowUNet, functools.partial(image, 256)),
}
