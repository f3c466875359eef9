"""Well-known models in other hands: the code in which others wrote them, and that of transformers.

Nothing here shares a line with the models of the other runs: a decoder with dropouts and a fused
projection, one with interleaved rotary positions and a cache that is written by index, a vision
transformer that multiplies and softmaxes its attention itself, a U-Net that resizes its maps.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from validate.bench.models.zoo.entry import Entry, image, of_tokens
from validate.bench.models.zoo.fresh import named
from validate.bench.models.zoo.language import plain_masks

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class GptShape:
    """Sizes of a decoder with learned positions."""

    layers: int
    hidden: int
    heads: int
    vocab: int = 50304
    positions: int = 1024


class SelfAttention(nn.Module):
    """One projection for queries, keys and values; causal."""

    def __init__(self, s: GptShape) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(s.hidden, 3 * s.hidden), nn.Linear(s.hidden, s.hidden)
        self.resid_dropout = nn.Dropout(0.0)
        self.heads, self.hidden = s.heads, s.hidden

    def forward(self, x: Any) -> Any:
        """(batch, length, hidden) to the same."""
        b, n, wide = x.size()
        q, k, v = self.c_attn(x).split(self.hidden, dim=2)
        k = k.view(b, n, self.heads, wide // self.heads).transpose(1, 2)
        q = q.view(b, n, self.heads, wide // self.heads).transpose(1, 2)
        v = v.view(b, n, self.heads, wide // self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
        y = y.transpose(1, 2).contiguous().view(b, n, wide)
        return self.resid_dropout(self.c_proj(y))


class Feed(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, s: GptShape) -> None:
        super().__init__()
        self.c_fc, self.gelu = nn.Linear(s.hidden, 4 * s.hidden), nn.GELU()
        self.c_proj, self.dropout = nn.Linear(4 * s.hidden, s.hidden), nn.Dropout(0.0)

    def forward(self, x: Any) -> Any:
        """(batch, length, hidden) to the same."""
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class GptBlock(nn.Module):
    """Attention and a feed-forward, each in a module of its own behind a norm."""

    def __init__(self, s: GptShape) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.attn, self.mlp = SelfAttention(s), Feed(s)

    def forward(self, x: Any) -> Any:
        """(batch, length, hidden) to the same."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    """A decoder as in small training scripts."""

    def __init__(self, s: GptShape) -> None:
        super().__init__()
        self.recompute = False
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(s.vocab, s.hidden), "wpe": nn.Embedding(s.positions, s.hidden),
            "drop": nn.Dropout(0.0), "h": nn.ModuleList(GptBlock(s) for _ in range(s.layers)),
            "ln_f": nn.LayerNorm(s.hidden),
        })  # fmt: skip
        self.lm_head = nn.Linear(s.hidden, s.vocab, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute every block in the backward pass."""
        self.recompute = True

    def forward(self, ids: Any) -> Any:
        """Logits of every position."""
        at = torch.arange(0, ids.size(1), dtype=torch.long, device=ids.device)
        parts = self.transformer
        x = parts.drop(parts.wte(ids) + parts.wpe(at))
        for block in parts.h:
            if self.recompute and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.lm_head(parts.ln_f(x))


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a decoder with rotary positions."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int = 32000


class Rms(nn.Module):
    """Root-mean-square norm, written out."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Any) -> Any:
        """The norm in fp32, scaled in the type of `x`."""
        wide = x.float()
        wide = wide * torch.rsqrt(torch.mean(wide * wide, dim=-1, keepdim=True) + 1e-5)
        return wide.type_as(x) * self.weight


def interleaved(x: Any, rotary: Any) -> Any:
    """Rotate neighbouring pairs of (batch, length, heads, width)."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    table = rotary.view(1, pairs.size(1), 1, pairs.size(3), 2)
    turned = torch.stack([
        pairs[..., 0] * table[..., 0] - pairs[..., 1] * table[..., 1],
        pairs[..., 1] * table[..., 0] + pairs[..., 0] * table[..., 1],
    ], -1)  # fmt: skip
    return turned.flatten(3).type_as(x)


class LlamaAttention(nn.Module):
    """Queries of several heads share keys and values, which are repeated."""

    def __init__(self, s: LlamaShape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = s.heads, s.kv_heads, s.hidden // s.heads
        self.wq = nn.Linear(s.hidden, s.hidden, bias=False)
        self.wk = nn.Linear(s.hidden, s.kv_heads * self.width, bias=False)
        self.wv = nn.Linear(s.hidden, s.kv_heads * self.width, bias=False)
        self.wo = nn.Linear(s.hidden, s.hidden, bias=False)

    def forward(self, x: Any, rotary: Any, mask: Any, cache: Any, at: Any) -> Any:
        """(batch, length, hidden) to the same; rows `at` of `cache` are replaced."""
        b, n, wide = x.shape
        q = interleaved(self.wq(x).view(b, n, self.heads, self.width), rotary)
        k = interleaved(self.wk(x).view(b, n, self.kv_heads, self.width), rotary)
        v = self.wv(x).view(b, n, self.kv_heads, self.width)
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        if cache is not None:
            keys, values = cache
            keys[:, :, at] = k
            values[:, :, at] = v
            k, v = keys, values
        k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
        v = v.repeat_interleave(self.heads // self.kv_heads, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.wo(y.transpose(1, 2).contiguous().view(b, n, wide))


class LlamaBlock(nn.Module):
    """Attention and a gated feed-forward."""

    def __init__(self, s: LlamaShape) -> None:
        super().__init__()
        self.attention = LlamaAttention(s)
        self.w1, self.w3 = (nn.Linear(s.hidden, s.ffn, bias=False) for _ in range(2))
        self.w2 = nn.Linear(s.ffn, s.hidden, bias=False)
        self.attention_norm, self.ffn_norm = Rms(s.hidden), Rms(s.hidden)

    def forward(self, x: Any, rotary: Any, mask: Any = None, cache: Any = None, at: Any = None) -> Any:  # noqa: E501  # fmt: skip
        """(batch, length, hidden) to the same."""
        h = x + self.attention(self.attention_norm(x), rotary, mask, cache, at)
        inner = self.ffn_norm(h)
        return h + self.w2(F.silu(self.w1(inner)) * self.w3(inner))


class FastLlama(nn.Module):
    """A decoder as in small inference scripts: a mask and a rotary table are read by position."""

    def __init__(self, s: LlamaShape, positions: int = 2048) -> None:
        super().__init__()
        self.s, self.recompute = s, False
        self.tok_embeddings = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(LlamaBlock(s) for _ in range(s.layers))
        self.norm = Rms(s.hidden)
        self.output = nn.Linear(s.hidden, s.vocab, bias=False)
        width = s.hidden // s.heads
        rate = 10000.0 ** (-torch.arange(0, width, 2).float() / width)
        angle = torch.outer(torch.arange(positions).float(), rate)
        rotary = torch.stack([angle.cos(), angle.sin()], dim=-1)
        self.register_buffer("rotary", rotary, persistent=False)
        mask = torch.tril(torch.ones(positions, positions, dtype=torch.bool))
        self.register_buffer("mask", mask, persistent=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute every block in the backward pass."""
        self.recompute = True

    def forward(self, ids: Any, cache: Any = None, at: Any = None, last: bool = False) -> Any:
        """Logits; `at` (length,) are the positions of `ids` (0.. when None)."""
        x = self.tok_embeddings(ids)
        if at is None:
            rotary, mask = self.rotary[: ids.shape[1]], None
        else:
            rotary, mask = self.rotary[at], self.mask[None, None, at, : cache[0][0].shape[2]]
        for i, layer in enumerate(self.layers):
            if self.recompute and self.training:
                x = checkpoint(layer, x, rotary, use_reentrant=False)
            else:
                x = layer(x, rotary, mask, None if cache is None else cache[i], at)
        return self.output(self.norm(x[:, -1:] if last else x))

    def new_cache(self, batch: int, length: int, dtype: Any) -> list[Any]:
        """Keys and values of each layer, (batch, kv_heads, length, width of a head)."""
        shape = (batch, self.s.kv_heads, length, self.s.hidden // self.s.heads)
        return [(torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype))
                for _ in range(self.s.layers)]  # fmt: skip


class PlainAttention(nn.Module):
    """Attention of products and a softmax."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (hidden // heads) ** -0.5
        self.norm, self.attend = nn.LayerNorm(hidden), nn.Softmax(dim=-1)
        self.to_qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.to_out = nn.Sequential(nn.Linear(hidden, hidden), nn.Dropout(0.0))

    def forward(self, x: Any) -> Any:
        """(batch, length, hidden) to the same."""
        b, n, wide = x.shape
        parts = self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (one.reshape(b, n, self.heads, -1).permute(0, 2, 1, 3) for one in parts)
        weights = self.attend(torch.matmul(q, k.transpose(-1, -2)) * self.scale)
        y = torch.matmul(weights, v).permute(0, 2, 1, 3).reshape(b, n, wide)
        return self.to_out(y)


class PlainVit(nn.Module):
    """A vision transformer whose patches are cut by views."""

    def __init__(self, layers: int, hidden: int, heads: int, side: int = 224) -> None:
        super().__init__()
        self.patch, dim = 16, 3 * 16 * 16
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.LayerNorm(hidden))
        self.token = nn.Parameter(torch.randn(1, 1, hidden))
        self.position = nn.Parameter(torch.randn(1, (side // 16) ** 2 + 1, hidden))
        self.layers = nn.ModuleList(
            nn.ModuleList([
                PlainAttention(hidden, heads),
                nn.Sequential(
                    nn.LayerNorm(hidden), nn.Linear(hidden, 4 * hidden), nn.GELU(),
                    nn.Dropout(0.0), nn.Linear(4 * hidden, hidden), nn.Dropout(0.0),
                ),
            ]) for _ in range(layers)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, 1000)

    def forward(self, images: Any) -> Any:
        """Class scores of (batch, 3, side, side)."""
        b, c, high, wide = images.shape
        p = self.patch
        cut = images.reshape(b, c, high // p, p, wide // p, p).permute(0, 2, 4, 3, 5, 1)
        x = self.embed(cut.reshape(b, (high // p) * (wide // p), p * p * c))
        x = torch.cat((self.token.expand(b, -1, -1), x), dim=1) + self.position
        for attend, feed in self.layers:
            x = attend(x) + x
            x = feed(x) + x
        return self.head(self.norm(x)[:, 0])


def _twice(c_in: int, c_out: int, middle: int = 0) -> nn.Sequential:
    middle = middle or c_out
    return nn.Sequential(
        nn.Conv2d(c_in, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True), nn.Conv2d(middle, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out), nn.ReLU(inplace=True),
    )  # fmt: skip


class ResizingUNet(nn.Module):
    """A U-Net of 64 to 512 channels that goes up by bilinear resizing."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        w = [8, 16, 16] if tiny else [64, 128, 256, 512, 512]
        self.inc = _twice(3, w[0])
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _twice(a, b)) for a, b in itertools.pairwise(w)
        )
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        falling = [*w[-3::-1], w[0]]
        self.merge = nn.ModuleList(
            _twice(skip + low, out, (skip + low) // 2)
            for skip, low, out in zip(w[-2::-1], [w[-1], *falling], falling, strict=False)
        )
        self.outc = nn.Conv2d(w[0], 2, 1)

    def forward(self, x: Any) -> Any:
        """Class scores of every pixel."""
        maps = [self.inc(x)]
        for step in self.down:
            maps.append(step(maps[-1]))
        x = maps.pop()
        for merge in self.merge:
            x, skip = self.up(x), maps.pop()
            high, wide = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
            x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
            x = merge(torch.cat([skip, x], dim=1))
        return self.outc(x)


def _whisper(tiny: bool) -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    layers = 2 if tiny else 6
    config = WhisperConfig(
        d_model=512, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, use_cache=False,
    )  # fmt: skip
    plain_masks()
    return WhisperForConditionalGeneration(config)


def _sound(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del tiny
    words = torch.randint(0, 50000, (batch, seq))
    sound = torch.randn(batch, 80, 3000).to(dtype)
    return (), {"input_features": sound, "decoder_input_ids": words}


def _t5(tiny: bool) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=768, d_ff=3072, num_layers=2 if tiny else 12, num_heads=12, use_cache=False,
        decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _pair(batch: int, seq: int, dtype: Any, tiny: bool) -> Inputs:
    del dtype, tiny
    ids, out = torch.randint(0, 32000, (batch, seq)), torch.randint(0, 32000, (batch, seq // 4))
    return (), {"input_ids": ids, "decoder_input_ids": out}


def _vit(tiny: bool) -> Any:
    return PlainVit(2 if tiny else 12, 768, 12)


_GPT = {
    "gpt_nano_124m": GptShape(12, 768, 12),
    "gpt_nano_355m": GptShape(24, 1024, 16),
}
_LLAMA = {
    "llama_fast_03b": LlamaShape(18, 1024, 16, 8, 3072),
    "llama_fast_1b": LlamaShape(22, 2048, 32, 4, 5632),
    "llama_fast_8b": LlamaShape(32, 4096, 32, 8, 14336, 128256),
}
_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "bert_mlm": ("BertForMaskedLM", {"vocab_size": 30522, "num_hidden_layers": 12}),
    "llama_hf_300m": ("LlamaForCausalLM", {
        "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 14, "num_attention_heads": 16, "num_key_value_heads": 16,
        "use_cache": False}),
}  # fmt: skip
_PIXELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "resnet50_hf": ("ResNetForImageClassification", 224, {}),
    "mobilenet_v2_hf": ("MobileNetV2ForImageClassification", 224, {}),
    "efficientnet_b0_hf": ("EfficientNetForImageClassification", 224, {
        "image_size": 224, "width_coefficient": 1.0, "depth_coefficient": 1.0,
        "hidden_dim": 1280}),
    "convnext_tiny_hf": ("ConvNextForImageClassification", 224, {}),
    "vit_base_hf": ("ViTForImageClassification", 224, {}),
    "swin_tiny_hf": ("SwinForImageClassification", 224, {}),
    "regnet_y_040_hf": ("RegNetForImageClassification", 224, {}),
}  # fmt: skip

ENTRIES: dict[str, Entry] = {
    **of_tokens(_GPT, GptShape(2, 128, 4, 1000, 64), NanoGpt),
    **of_tokens(_LLAMA, LlamaShape(2, 128, 4, 2, 256, 1000), FastLlama),
    **named(_TEXT, _PIXELS, {}),
    "vit_plain_base": Entry(_vit, functools.partial(image, 224)),
    "unet_resizing": Entry(ResizingUNet, functools.partial(image, 256)),
    "whisper_base": Entry(_whisper, _sound),
    "t5_base": Entry(_t5, _pair),
}
