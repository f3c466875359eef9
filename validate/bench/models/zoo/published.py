"""Usual models in the sizes in which they were published: a check that nothing had recorded."""

from __future__ import annotations

from typing import Any

from validate.bench.models.zoo import gpt, llama
from validate.bench.models.zoo.entry import Entry, of_tokens
from validate.bench.models.zoo.fresh import named

_LLAMA = {
    "llama_11b": llama.Shape(22, 2048, 32, 4, 5632, 32000),
    "llama_360m": llama.Shape(32, 960, 15, 5, 2560, 49152),
    "qwen_7b": llama.Shape(28, 3584, 28, 4, 18944, 152064),
}
_GPT = {"gpt_13b": gpt.Shape(24, 2048, 32)}
_NEOX = {"vocab_size": 50304, "use_cache": False}
_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm_l6": ("BertModel", {
        "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536}),
    "xlm_roberta_base": ("XLMRobertaModel", {"vocab_size": 250002, "num_hidden_layers": 12}),
    "roberta_large": ("RobertaModel", {
        "vocab_size": 50265, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096}),
    "pythia_70m": ("GPTNeoXForCausalLM", _NEOX | {
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6,
        "num_attention_heads": 8}),
    "pythia_410m": ("GPTNeoXForCausalLM", _NEOX | {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16}),
    "gpt2_large": ("GPT2LMHeadModel", {
        "n_layer": 36, "n_embd": 1280, "n_head": 20, "use_cache": False}),
    "llama32_1b": ("LlamaForCausalLM", {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "tie_word_embeddings": True, "use_cache": False}),
    "qwen25_15b": ("Qwen2ForCausalLM", {
        "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
        "tie_word_embeddings": True, "use_cache": False}),
}  # fmt: skip
_TIMM = {
    "vit_base_patch16_224": 224, "vit_large_patch16_224": 224, "deit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224, "mixer_s16_224": 224, "mobilenetv2_100": 224,
    "mobilenetv3_small_100": 224, "regnety_016": 224, "tf_efficientnetv2_s": 300,
    "resnet18d": 224, "seresnext50_32x4d": 224, "convnext_pico": 224,
}  # fmt: skip


ENTRIES: dict[str, Entry] = {
    **of_tokens(_LLAMA, llama.TINY, llama.Llama),
    **of_tokens(_GPT, gpt.TINY, gpt.Gpt),
    **named(_TEXT, {}, _TIMM),
}
