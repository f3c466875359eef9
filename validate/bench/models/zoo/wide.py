"""Models of many other kinds, for checks: none of them is near one that a fit read."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from validate.bench.models.zoo import diffusion, operators
from validate.bench.models.zoo.entry import Entry, image, tokens
from validate.bench.models.zoo.language import plain_masks

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_SIDES = {
    "hrnet_w18": 224, "xcit_small_12_p16_224": 224, "coatnet_0_rw_224": 224, "fastvit_t8": 256,
    "vit_small_patch14_dinov2": 518, "pvt_v2_b1": 224, "dm_nfnet_f0": 256,
    "maxvit_t": 224, "deeplabv3_resnet50": 512,
}  # fmt: skip
_VIDEO = {"r3d_18": (3, 16, 112, 112), "swin3d_t": (3, 16, 224, 224)}


def timm_model(name: str, tiny: bool) -> Any:
    """A model of timm by name."""
    import timm

    del tiny
    return timm.create_model(name, pretrained=False)


def torchvision_model(name: str, tiny: bool) -> Any:
    """A model of torchvision by name."""
    from torchvision import models

    del tiny
    if name in _VIDEO:
        return getattr(models.video, name)(weights=None)
    if name.startswith("deeplab"):
        return getattr(models.segmentation, name)(weights=None, weights_backbone=None)
    return getattr(models, name)(weights=None)


def _deberta(tiny: bool) -> Any:
    from transformers import DebertaV2Config, DebertaV2Model

    config = DebertaV2Config(
        vocab_size=128100, hidden_size=768, num_hidden_layers=2 if tiny else 12,
        num_attention_heads=12, intermediate_size=3072, relative_attention=True,
        pos_att_type=["p2c", "c2p"], position_buckets=256, norm_rel_ebd="layer_norm",
        share_att_key=True, position_biased_input=False, max_relative_positions=-1,
        type_vocab_size=0,
    )  # fmt: skip
    return DebertaV2Model(config)


def _albert(tiny: bool) -> Any:
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        hidden_size=768, num_hidden_layers=2 if tiny else 12, num_attention_heads=12,
        intermediate_size=3072,
    )  # fmt: skip
    return AlbertModel(config)


def _gemma3(tiny: bool) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=262144, hidden_size=1152, intermediate_size=6912,
        num_hidden_layers=2 if tiny else 26, num_attention_heads=4, num_key_value_heads=1,
        head_dim=256, sliding_window=512, use_cache=False,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


def _mamba2(tiny: bool) -> Any:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=50280, hidden_size=768, num_hidden_layers=2 if tiny else 24, num_heads=24,
        head_dim=64, state_size=128, n_groups=1, chunk_size=256, use_cache=False,
    )  # fmt: skip
    return Mamba2ForCausalLM(config)


def _wav2vec2(tiny: bool) -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        num_hidden_layers=2 if tiny else 12, apply_spec_augment=False, layerdrop=0.0
    )
    return Wav2Vec2ForCTC(config)


def _sam(tiny: bool) -> Any:
    from transformers import SamVisionConfig, SamVisionModel

    return SamVisionModel(SamVisionConfig(num_hidden_layers=3 if tiny else 12))


class Step(nn.Module):
    """One decoding step of a causal model behind keys and values that are given."""

    def __init__(self, model: Any, layers: int, heads: int, head_dim: int) -> None:
        # Not in `forward`: an import from the lazy package breaks a compiled graph in two.
        from transformers import DynamicCache

        super().__init__()
        self.model, self.layers, self.heads, self.head_dim = model, layers, heads, head_dim
        self.fresh_cache = DynamicCache

    def forward(self, ids: Any, keys: Any, values: Any) -> Any:
        """Logits of the next token."""
        cache = self.fresh_cache()
        for layer in range(self.layers):
            cache.update(keys[layer], values[layer], layer)
        return self.model(ids, past_key_values=cache, use_cache=True).logits


def _phi(tiny: bool) -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    layers = 2 if tiny else 24
    config = PhiConfig(
        vocab_size=51200, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=32,
    )  # fmt: skip
    return Step(PhiForCausalLM(config), layers, 32, 64)


def _olmo2(tiny: bool) -> Any:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        vocab_size=100352, hidden_size=2048, intermediate_size=8192,
        num_hidden_layers=2 if tiny else 16, num_attention_heads=16, num_key_value_heads=16,
        use_cache=False,
    )  # fmt: skip
    return Olmo2ForCausalLM(config)


def _clip(shape: tuple[int, ...], batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del seq, tiny
    return (torch.randn(batch, *shape).to(dtype),), {}


def past(
    layers: int,
    heads: int,
    dim: int,
    batch: int,
    seq: int,
    dtype: Any,
    tiny: bool,
    *,
    words: int = 50000,
) -> Inputs:
    """A token of each of `batch` texts, and the keys and values of `seq` tokens before it."""
    layers = 2 if tiny else layers
    keys = torch.randn(layers, batch, heads, seq, dim).to(dtype)
    values = torch.randn(layers, batch, heads, seq, dim).to(dtype)
    return (torch.randint(0, words, (batch, 1)), keys, values), {}


def _sound(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del tiny
    return (torch.randn(batch, seq).to(dtype),), {}


def _latents(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    side, width = (16, 32) if tiny else (64, 768)
    del seq
    text = torch.randn(batch, 77, width).to(dtype)
    return (torch.randn(batch, 4, side, side).to(dtype), torch.rand(batch), text), {}


def _labelled(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del seq, tiny
    labels = torch.randint(0, 1000, (batch,))
    return (torch.randn(batch, 4, 32, 32).to(dtype), torch.rand(batch), labels), {}


def _field(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del tiny
    return (torch.randn(batch, seq, seq, 3).to(dtype),), {}


def _graph(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del tiny
    nodes, edges = batch * seq, batch * seq * 16
    ends = [torch.randint(0, nodes, (edges,)) for _ in range(2)]
    return (torch.randn(nodes, 128).to(dtype), *ends), {}


def _plain(build: Any, tiny: bool) -> Any:
    plain_masks()
    return build(tiny)


def _entries() -> dict[str, Entry]:
    table = {
        "deberta_v3_base": Entry(_deberta, functools.partial(tokens, 128000)),
        "albert_base": Entry(functools.partial(_plain, _albert), functools.partial(tokens, 30000)),
        "gemma3_1b": Entry(functools.partial(_plain, _gemma3), functools.partial(tokens, 262000)),
        "olmo2_1b": Entry(functools.partial(_plain, _olmo2), functools.partial(tokens, 100000)),
        "mamba2_130m": Entry(_mamba2, functools.partial(tokens, 50000)),
        "phi_decode": Entry(functools.partial(_plain, _phi), functools.partial(past, 24, 32, 64)),
        "wav2vec2_base": Entry(_wav2vec2, _sound),
        "sam_encoder": Entry(_sam, functools.partial(image, 1024)),
        "latent_unet": Entry(diffusion.LatentUNet, _latents),
        "dit_b": Entry(diffusion.DiT, _labelled),
        "fno2d": Entry(operators.Fno2d, _field),
        "hyena": Entry(operators.Hyena, functools.partial(tokens, 50000)),
        "gat": Entry(operators.Gat, _graph),
    }
    for name, side in _SIDES.items():
        maker = torchvision_model if name in ("maxvit_t", "deeplabv3_resnet50") else timm_model
        inputs = functools.partial(image, side)
        table[name] = Entry(functools.partial(maker, name), inputs)
    for name, shape in _VIDEO.items():
        table[name] = Entry(
            functools.partial(torchvision_model, name), functools.partial(_clip, shape)
        )
    return table


ENTRIES = _entries()
