"""Usual models that no earlier run held: another draw for a check."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from validate.bench.models.zoo.entry import Entry, image, tokens
from validate.bench.models.zoo.language import plain_masks
from validate.bench.models.zoo.wide import Step, past, timm_model, torchvision_model

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
# architecture, what its configuration is given, and the depth that a dry run keeps
_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom_560m": ("BloomForCausalLM", {
        "vocab_size": 50304, "hidden_size": 1024, "n_layer": 24, "n_head": 16,
        "use_cache": False}),
    "falcon_small": ("FalconForCausalLM", {
        "vocab_size": 50304, "hidden_size": 1024, "num_hidden_layers": 16,
        "num_attention_heads": 16, "use_cache": False}),
    "mistral_small": ("MistralForCausalLM", {
        "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 3584,
        "num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 8,
        "use_cache": False}),
    "stablelm_small": ("StableLmForCausalLM", {
        "vocab_size": 50304, "hidden_size": 1024, "intermediate_size": 2816,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16,
        "use_cache": False}),
    "qwen3_06b": ("Qwen3ForCausalLM", {
        "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "tie_word_embeddings": True, "use_cache": False}),
    "gpt_neo_125m": ("GPTNeoForCausalLM", {
        "hidden_size": 768, "num_layers": 12, "num_heads": 12, "use_cache": False,
        "attention_types": [[["global", "local"], 6]]}),
    "electra_base": ("ElectraModel", {
        "vocab_size": 30522, "hidden_size": 768, "embedding_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072}),
    "mpnet_base": ("MPNetModel", {"num_hidden_layers": 12}),
}  # fmt: skip
_TINY = {
    "BloomForCausalLM": {"n_layer": 2},
    "GPTNeoForCausalLM": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
}
_PIXELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "beit_base": ("BeitForImageClassification", 224, {}),
    "dinov2_base_hf": ("Dinov2Model", 224, {"image_size": 224}),
    "deit_base_hf": ("DeiTForImageClassification", 224, {}),
    "yolos_small": ("YolosModel", 512, {
        "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536,
        "image_size": [512, 512]}),
    "poolformer_s12": ("PoolFormerForImageClassification", 224, {}),
    "cvt_13": ("CvtForImageClassification", 224, {}),
    "mobilevit_small": ("MobileViTForImageClassification", 256, {}),
}  # fmt: skip
_TIMM = {
    "convnextv2_tiny": 224, "cait_xxs24_224": 224, "twins_pcpvt_small": 224, "ghostnet_100": 224,
    "seresnet50": 224, "res2net50_26w_4s": 224, "repvgg_a2": 224, "mobilenetv4_conv_small": 256,
    "cspdarknet53": 256, "efficientformer_l1": 224,
}  # fmt: skip
_TORCHVISION = {"swin_v2_t": 256, "vgg13_bn": 224, "resnext101_64x4d": 224, "densenet161": 224}


_WORDS = 30000
"""Token ids are drawn below this, where a model has as many."""


def transformers_model(name: str, options: dict[str, Any], tiny: bool) -> Any:
    """A model of token ids by the name of its class, with a configuration of one's own."""
    import transformers

    plain_masks()
    made = getattr(transformers, name)
    small = _TINY.get(name, {"num_hidden_layers": 2}) if tiny else {}
    return made(made.config_class(**(options | small)))


def pixel_model(name: str, options: dict[str, Any], tiny: bool) -> Any:
    """A model of images by the name of its class."""
    import transformers

    del tiny
    made = getattr(transformers, name)
    return made(made.config_class(**options))


def _bart(tiny: bool) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    layers = 2 if tiny else 6
    config = BartConfig(
        vocab_size=50265, d_model=768, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=12, decoder_attention_heads=12, encoder_ffn_dim=3072,
        decoder_ffn_dim=3072, use_cache=False,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def _qwen3_step(tiny: bool) -> Any:
    options = _TEXT["qwen3_06b"][1] | {"use_cache": True}
    return Step(transformers_model("Qwen3ForCausalLM", options, tiny), 2 if tiny else 28, 8, 128)


def _mistral_step(tiny: bool) -> Any:
    options = _TEXT["mistral_small"][1] | {"use_cache": True}
    return Step(transformers_model("MistralForCausalLM", options, tiny), 2 if tiny else 20, 8, 64)


def _pair(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del dtype, tiny
    ids = torch.randint(3, 50000, (batch, seq))
    out = torch.randint(3, 50000, (batch, seq // 2))
    return (), {"input_ids": ids, "decoder_input_ids": out}


def named(
    text: Mapping[str, tuple[str, dict[str, Any]]],
    pixels: Mapping[str, tuple[str, int, dict[str, Any]]],
    timm: Mapping[str, int],
) -> dict[str, Entry]:
    """Entries of models by the names of their classes, or by timm's own names.

    Parameters
    ----------
    text, pixels : mapping
        Class of `transformers`, side of the images, and what its configuration is given.
    timm : mapping
        Side of the images.
    """
    table = {}
    for name, (made, options) in text.items():
        build = functools.partial(transformers_model, made, options)
        least = min(_WORDS, int(options.get("vocab_size", _WORDS)))
        table[name] = Entry(build, functools.partial(tokens, least))
    for name, (made, side, options) in pixels.items():
        build = functools.partial(pixel_model, made, options)
        table[name] = Entry(build, functools.partial(image, side))
    for name, side in timm.items():
        table[name] = Entry(functools.partial(timm_model, name), functools.partial(image, side))
    return table


def _entries() -> dict[str, Entry]:
    table = {
        "bart_base": Entry(_bart, _pair),
        "qwen3_decode": Entry(_qwen3_step, functools.partial(past, 28, 8, 128, words=_WORDS)),
        "mistral_decode": Entry(_mistral_step, functools.partial(past, 20, 8, 64, words=_WORDS)),
    }
    table |= named(_TEXT, _PIXELS, _TIMM)
    for name, side in _TORCHVISION.items():
        build = functools.partial(torchvision_model, name)
        table[name] = Entry(build, functools.partial(image, side))
    return table


ENTRIES = _entries()
