"""Language, speech and multi-modal models of transformers, from their configurations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from validate.bench.models.zoo.entry import Entry, tokens

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def plain_masks() -> None:
    """Take every batch as unpacked: transformers otherwise reads a device value each forward.

    That check synchronises in eager mode and is left out under capture and compilation, where an
    explicit mask takes its place; without it the three modes run the same attention.
    """
    from transformers import masking_utils

    if hasattr(masking_utils, "find_packed_sequence_indices"):
        masking_utils.find_packed_sequence_indices = lambda position_ids: None


def _bert(tiny: bool) -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(num_hidden_layers=2 if tiny else 12))


def _gpt2(size: str, tiny: bool) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"small": (12, 768, 12), "medium": (24, 1024, 16)}[size]
    layers, width, heads = (2, 128, 4) if tiny else shape
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, use_cache=False)
    return GPT2LMHeadModel(config)


def _t5(tiny: bool) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=512, d_ff=2048, num_layers=2 if tiny else 6, num_heads=8, use_cache=False,
        decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _whisper(tiny: bool) -> Any:
    from transformers import WhisperConfig, WhisperModel

    layers = 2 if tiny else 4
    config = WhisperConfig(
        d_model=384, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536,
    )  # fmt: skip
    return WhisperModel(config).get_encoder()


def _clip(tiny: bool) -> Any:
    from transformers import CLIPConfig, CLIPModel

    layers = {"num_hidden_layers": 2} if tiny else {}
    return CLIPModel(CLIPConfig(text_config=layers, vision_config=layers))


def _segformer(tiny: bool) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    del tiny
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=150))


def _mamba(tiny: bool) -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        hidden_size=64 if tiny else 768, num_hidden_layers=2 if tiny else 24, use_cache=False
    )
    return MambaForCausalLM(config)


def _mixtral(tiny: bool) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=32000, hidden_size=128 if tiny else 1024,
        intermediate_size=256 if tiny else 3584,
        num_hidden_layers=2 if tiny else 8, num_attention_heads=4 if tiny else 16,
        num_key_value_heads=2 if tiny else 8, num_local_experts=8, num_experts_per_tok=2,
        use_cache=False,
    )  # fmt: skip
    config._experts_implementation = "grouped_mm"
    return MixtralForCausalLM(config)


def _qwen_moe(tiny: bool) -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=32000, hidden_size=128 if tiny else 1024,
        intermediate_size=256 if tiny else 3072,
        moe_intermediate_size=64 if tiny else 384, num_hidden_layers=2 if tiny else 12,
        num_attention_heads=4 if tiny else 16, num_key_value_heads=2 if tiny else 4,
        head_dim=32 if tiny else 64, num_experts=8 if tiny else 64,
        num_experts_per_tok=2 if tiny else 8, use_cache=False,
    )  # fmt: skip
    config._experts_implementation = "grouped_mm"
    return Qwen3MoeForCausalLM(config)


def _hf_llama(tiny: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000, hidden_size=128 if tiny else 2048,
        intermediate_size=256 if tiny else 5632,
        num_hidden_layers=2 if tiny else 22, num_attention_heads=4 if tiny else 32,
        num_key_value_heads=4, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _roberta(tiny: bool) -> Any:
    from transformers import RobertaConfig, RobertaModel

    return RobertaModel(RobertaConfig(vocab_size=30000, num_hidden_layers=2 if tiny else 12))


def _distilbert(tiny: bool) -> Any:
    from transformers import DistilBertConfig, DistilBertModel

    return DistilBertModel(DistilBertConfig(vocab_size=30000, n_layers=2 if tiny else 6))


def _neox(tiny: bool) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=768, intermediate_size=3072,
        num_hidden_layers=2 if tiny else 12, num_attention_heads=12, use_cache=False,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def _opt(tiny: bool) -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(OPTConfig(num_hidden_layers=2 if tiny else 12, use_cache=False))


def _qwen(tiny: bool) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=32000, hidden_size=896, intermediate_size=4864,
        num_hidden_layers=2 if tiny else 24, num_attention_heads=14, num_key_value_heads=2,
        use_cache=False,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def _pair(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del dtype, tiny
    ids, out = torch.randint(0, 32000, (batch, seq)), torch.randint(0, 32000, (batch, seq // 4))
    return (), {"input_ids": ids, "decoder_input_ids": out}


def _audio(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del seq, tiny
    return (torch.randn(batch, 80, 3000).to(dtype),), {}


def _image_text(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del seq, tiny
    ids = torch.randint(0, 49000, (batch, 77))
    return (), {"input_ids": ids, "pixel_values": torch.randn(batch, 3, 224, 224).to(dtype)}


def _pixels(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del seq
    side = 128 if tiny else 512
    return (torch.randn(batch, 3, side, side).to(dtype),), {}


def _entry(build: Callable[[bool], Any], vocab: int) -> Entry:
    def unmasked(tiny: bool) -> Any:
        plain_masks()
        return build(tiny)

    return Entry(unmasked, functools.partial(tokens, vocab))


ENTRIES = {
    "bert_base": _entry(_bert, 30000),
    "gpt2_small": _entry(functools.partial(_gpt2, "small"), 50257),
    "gpt2_medium": _entry(functools.partial(_gpt2, "medium"), 50257),
    "t5_small": Entry(_t5, _pair),
    "whisper_tiny_encoder": Entry(_whisper, _audio),
    "clip_vit_b32": Entry(_clip, _image_text),
    "segformer_b0": Entry(_segformer, _pixels),
    "mamba_130m": _entry(_mamba, 50000),
    "mixtral_small": _entry(_mixtral, 32000),
    "qwen3_moe_small": _entry(_qwen_moe, 32000),
    "tinyllama_hf": _entry(_hf_llama, 32000),
    "roberta_base": _entry(_roberta, 30000),
    "distilbert": _entry(_distilbert, 30000),
    "neox_160m": _entry(_neox, 50000),
    "opt_125m": _entry(_opt, 50000),
    "qwen2_05b": _entry(_qwen, 32000),
}
