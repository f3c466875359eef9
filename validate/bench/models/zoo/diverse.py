"""Kinds of models that differ from each other: one step of many, for what calls cost."""

from __future__ import annotations

from typing import Any

from validate.bench.models.zoo.entry import Entry
from validate.bench.models.zoo.fresh import named

_SMALL: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 12, "use_cache": False,
}  # fmt: skip
_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "roformer_base": ("RoFormerModel", {"vocab_size": 32000}),
    "squeezebert_base": ("SqueezeBertModel", {"vocab_size": 30528}),
    "mobilebert": ("MobileBertModel", {"vocab_size": 30522}),
    "xlnet_base": ("XLNetModel", {
        "vocab_size": 32000, "d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}),
    "codegen_small": ("CodeGenForCausalLM", {
        "vocab_size": 50400, "n_embd": 1024, "n_layer": 12, "n_head": 16, "rotary_dim": 32,
        "use_cache": False}),
    "mpt_small": ("MptForCausalLM", {
        "vocab_size": 50368, "d_model": 768, "n_layers": 12, "n_heads": 12, "use_cache": False}),
    "modernbert_base": ("ModernBertModel", {"vocab_size": 50368}),
    "nystromformer_base": ("NystromformerModel", {"vocab_size": 30000}),
    "megatronbert_small": ("MegatronBertModel", {
        "vocab_size": 29056, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072}),
    "ernie_base": ("ErnieModel", {"vocab_size": 30522}),
    "openai_gpt": ("OpenAIGPTModel", {"vocab_size": 40478}),
    "cohere_small": ("CohereForCausalLM", _SMALL),
    "helium_small": ("HeliumForCausalLM", _SMALL | {"head_dim": 64}),
    "olmo_small": ("OlmoForCausalLM", _SMALL),
    "glm_small": ("GlmForCausalLM", _SMALL | {"head_dim": 64, "pad_token_id": 0}),
    "nemotron_small": ("NemotronForCausalLM", _SMALL),
    "persimmon_small": ("PersimmonForCausalLM", _SMALL),
}  # fmt: skip
_PIXELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit_msn_small": ("ViTMSNModel", 224, {
        "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}),
    "glpn_nyu": ("GLPNModel", 224, {}),
    "bit_50": ("BitModel", 224, {}),
    "pvt_tiny_hf": ("PvtModel", 224, {}),
    "dinov2_registers_small": ("Dinov2WithRegistersModel", 224, {
        "hidden_size": 384, "num_attention_heads": 6, "image_size": 224}),
}  # fmt: skip
_TIMM = {
    "bat_resnext26ts": 256, "botnet26t_256": 256, "halonet26t": 256,
    "eca_nfnet_l0": 224, "visformer_small": 224, "crossvit_9_240": 240, "convit_tiny": 224,
    "efficientvit_b0": 224, "efficientvit_m0": 224, "hiera_tiny_224": 224, "nest_tiny": 224,
    "repvit_m1": 224, "resmlp_12_224": 224, "rexnet_100": 224, "rdnet_tiny": 224,
    "skresnet18": 224, "swiftformer_xs": 224, "tiny_vit_5m_224": 224, "xception41": 299,
    "ghostnetv2_100": 224, "davit_tiny": 224, "maxxvit_rmlp_nano_rw_256": 256,
    "gcresnet33ts": 256, "regnetz_b16": 224, "mobilevitv2_050": 256, "levit_128s": 224,
    "sequencer2d_s": 224, "coat_tiny": 224, "fbnetv3_b": 224,
    "inception_next_tiny": 224, "inception_v4": 299, "poolformerv2_s12": 224, "mixnet_s": 224,
    "nextvit_small": 224, "tnt_s_patch16_224": 224, "twins_svt_small": 224, "volo_d1_224": 224,
    "mambaout_tiny": 224, "eva02_tiny_patch14_224": 224, "efficientformerv2_s0": 224,
    "hrnet_w18_small": 224, "resnet50_gn": 224, "selecsls42b": 224, "tinynet_a": 192,
    "vit_relpos_small_patch16_224": 224, "starnet_s1": 224,
}  # fmt: skip


def _entries() -> dict[str, Entry]:
    return named(_TEXT, _PIXELS, _TIMM)


ENTRIES = _entries()
