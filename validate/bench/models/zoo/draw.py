"""Usual models that nothing had recorded or run before this draw: a check."""

from __future__ import annotations

from typing import Any

from validate.bench.models.zoo.fresh import named

_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_bigcode_small": ("GPTBigCodeForCausalLM", {
        "vocab_size": 49152, "n_embd": 1024, "n_layer": 16, "n_head": 16, "multi_query": True,
        "use_cache": False}),
    "phi3_small": ("Phi3ForCausalLM", {
        "vocab_size": 32064, "hidden_size": 1024, "intermediate_size": 2816,
        "num_hidden_layers": 18, "num_attention_heads": 16, "num_key_value_heads": 16,
        "pad_token_id": 0, "use_cache": False}),
    "granite_small": ("GraniteForCausalLM", {
        "vocab_size": 49152, "hidden_size": 1024, "intermediate_size": 2816,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 4,
        "use_cache": False}),
    "smollm3_small": ("SmolLM3ForCausalLM", {
        "vocab_size": 49152, "hidden_size": 768, "intermediate_size": 2304,
        "num_hidden_layers": 20, "num_attention_heads": 12, "num_key_value_heads": 4,
        "pad_token_id": 0, "use_cache": False}),
    "biogpt_small": ("BioGptForCausalLM", {
        "vocab_size": 42384, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "use_cache": False}),
    "esm2_35m": ("EsmModel", {
        "vocab_size": 33, "hidden_size": 480, "num_hidden_layers": 12,
        "num_attention_heads": 20, "intermediate_size": 1920, "pad_token_id": 1,
        "position_embedding_type": "rotary", "token_dropout": False}),
    "rembert_small": ("RemBertModel", {
        "vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "input_embedding_size": 256}),
    "camembert_base": ("CamembertModel", {"vocab_size": 32005}),
}  # fmt: skip
_PIXELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "siglip_base": ("SiglipVisionModel", 224, {}),
    "focalnet_tiny": ("FocalNetForImageClassification", 224, {}),
    "vit_mae_like": ("ViTForImageClassification", 224, {
        "hidden_size": 512, "num_hidden_layers": 14, "num_attention_heads": 8,
        "intermediate_size": 2048}),
}  # fmt: skip
_TIMM = {
    "davit_tiny": 224, "inception_next_tiny": 224, "dla60": 224, "resmlp_24_224": 224,
    "deit3_small_patch16_224": 224, "ese_vovnet39b": 224, "levit_256": 224,
    "edgenext_small": 256, "resnetv2_50": 224, "nextvit_small": 224, "caformer_s18": 224,
    "tf_efficientnetv2_b0": 192,
}  # fmt: skip


ENTRIES = named(_TEXT, _PIXELS, _TIMM)
