"""Further kinds of models that nothing had recorded: another draw for a check."""

from __future__ import annotations

import functools
from typing import Any

import torch

from validate.bench.models.zoo.entry import Entry
from validate.bench.models.zoo.fresh import named, pixel_model

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "convbert_base": ("ConvBertModel", {"vocab_size": 30522}),
    "gemma2_small": ("Gemma2ForCausalLM", {
        "vocab_size": 64000, "hidden_size": 1152, "intermediate_size": 4608,
        "num_hidden_layers": 16, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 144, "use_cache": False}),
    "gptj_small": ("GPTJForCausalLM", {
        "vocab_size": 50400, "n_embd": 1024, "n_layer": 16, "n_head": 16, "rotary_dim": 64,
        "use_cache": False}),
    "starcoder2_small": ("Starcoder2ForCausalLM", {
        "vocab_size": 49152, "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 2,
        "use_cache": False}),
}  # fmt: skip
_TIMM = {
    "mvitv2_tiny": 224, "focalnet_tiny_srf": 224, "gmlp_s16_224": 224, "pit_s_224": 224,
    "resnest50d": 224, "inception_v3": 299, "edgenext_small": 256, "caformer_s18": 224,
    "gcvit_xxtiny": 224, "dpn68": 224,
}  # fmt: skip


def _video(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del seq, tiny
    return (torch.randn(batch, 16, 3, 224, 224).to(dtype),), {}


def _spectrogram(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del seq, tiny
    return (torch.randn(batch, 1024, 128).to(dtype),), {}


def _entries() -> dict[str, Entry]:
    video = functools.partial(pixel_model, "VideoMAEModel", {"hidden_size": 384,
        "num_attention_heads": 6, "intermediate_size": 1536})  # fmt: skip
    sound = functools.partial(pixel_model, "ASTModel", {})
    table = named(_TEXT, {}, _TIMM)
    table["videomae_small"] = Entry(video, _video)
    table["ast_base"] = Entry(sound, _spectrogram)
    return table


ENTRIES = _entries()
