"""The model of a row: a bundled one where the name is known, else from its sizes.

Sizes that the row states always win; what it leaves out comes from the bundled model, or from the
conventions of its family, and is then listed as assumed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from perfmodel.errors import PerfmodelError, WorkloadError, nearest_name
from perfmodel.study.training_csv import Row
from perfmodel.workload.transformer import ModelConfig, bundled_models, load_model

# spellings of tables -> bundled name; patterns over lower-case letters and digits
_NAMES: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"llama-?3(\.1)?-?405b", "llama-3.1-405b"),
        (r"llama-?3(\.[13])?-?70b", "llama-3-70b"),
        (r"llama-?3(\.1)?-?8b", "llama-3-8b"),
        (r"llama-?3\.2-?([13])b", r"llama-3.2-\1b"),
        (r"llama-?2-?(7|13|70)b", r"llama-2-\1b"),
        (r"llama-?(1-)?(7|13|30|65)b", r"llama-\2b"),
        (r"llama-?4-?(scout|maverick)", r"llama-4-\1"),
        (r"mixtral-?(8x7b|8x22b)", r"mixtral-\1"),
        (r"mistral-?7b", "mistral-7b"),
        (r"deepseek-?v?2-?lite", "deepseek-v2-lite"),
        (r"deepseek-?(v3|v2|r1)", r"deepseek-\1"),
        (r"qwen-?3-?(30b-a3b|235b-a22b|[0-9.]+b)", r"qwen3-\1"),
        (r"qwen-?2\.5-?([0-9]+b)", r"qwen2.5-\1"),
        (r"gpt-?oss-?(120|20)b", r"gpt-oss-\1b"),
        (r"kimi-?k2", "kimi-k2"),
        (r"nemotron-?4-?(15|340)b", r"nemotron-4-\1b"),
        (r"gemma-?2-?27b", "gemma-2-27b"),
        (r"gemma-?7b", "gemma-7b"),
        (r"gpt-?neox-?20b", "gpt-neox-20b"),
        (r"palm-?540b", "palm-540b"),
        (r"opt-?([0-9.]+[mb])", r"opt-\1"),
        (r"mpt-?([0-9]+[mb])", r"mpt-\1"),
        (r"bloom-?176b", "bloom-176b"),
        (r"bloom-?7b1", "bloom-7b1"),
        (r"gpt-?3?-?175b", "gpt3-175b"),
        (r"(?:gpt|megatron)-?(18|22|39|76|145|310|530)(?:\.\d)?b", r"megatron-\1b"),
        (r"(?:gpt|megatron)-?(1\.7|3\.6|7\.5)b", r"megatron-\1b"),
        (r"(?:gpt|megatron)-?1t", "megatron-1t"),
        (r"gpt-?2-?(medium|large|xl)", r"gpt2-\1"),
        (r"mt-?nlg-?530b", "mt-nlg-530b"),
        (r"bert-?(4|20|100)b", r"nemo-bert-\1b"),
        (r"bert-?(large|base)", r"bert-\1"),
        (r"m?t5-?(xxl|11b)", "t5-11b"),
        (r"vit-?([blh])-?(1[46])", r"vit-\1-\2"),
    )
)
_REMADE: Final = {"deepseek-r1": "deepseek-v3"}
# a decoder's column -> the field of ModelConfig
_SIZES: Final = (
    ("layers", "layers"),
    ("hidden", "hidden"),
    ("heads", "heads"),
    ("kv_heads", "kv_heads"),
    ("head_dim", "head_dim"),
    ("ffn", "ffn"),
    ("vocab", "vocab"),
    ("experts", "experts"),
    ("topk", "experts_per_token"),
    ("moe_ffn", "expert_ffn"),
)
_NOT_TRANSFORMERS: Final = (
    ("cnn", "a convolutional network that is not among the known ones"),
    ("resnet", "a convolutional network that is not among the known ones"),
    ("unet", "a convolutional network that is not among the known ones"),
    ("lstm", "a recurrent network"),
    ("gnmt", "a recurrent network"),
    ("rnn", "a recurrent network"),
    ("mamba", "a state-space model"),
    ("dlrm", "a recommender"),
    ("diffusion", "a diffusion model"),
)
_GPT: Final[dict[str, Any]] = {
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "tied": True,
}
_LLAMA: Final[dict[str, Any]] = {
    "gated": True,
    "activation": "silu",
    "norm": "rmsnorm",
    "norm_bias": False,
    "positions": "rope",
}
# words of the arch column -> field; the last that occurs decides
_TRAITS: Final[tuple[tuple[str, str, Any], ...]] = (
    ("alibi", "positions", "alibi"),
    ("rotary", "positions", "rope"),
    ("rope", "positions", "rope"),
    ("bloom", "embedding_norm", True),
    ("(relu)", "activation", "relu"),
    ("parallel block", "parallel_block", True),
    ("parallel,", "parallel_block", True),
    ("tied-emb", "tied", True),
    ("tied emb", "tied", True),
    ("untied", "tied", False),
)
_LATENT: Final[dict[str, Any]] = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "head_dim": 128,
    "v_head_dim": 128,
}


def model_of(row: Row, seq_len: int | None) -> tuple[ModelConfig, tuple[str, ...]]:
    """The model a row trained, and the names of the columns that were filled in.

    Raises
    ------
    WorkloadError
        If it is no transformer, or its sizes are neither given nor known by name.
    """
    words = f"{row.lower('arch')} {row.lower('model')}"
    for word, what in _NOT_TRANSFORMERS:
        if re.search(rf"\b{re.escape(word)}", words):
            raise WorkloadError(
                f"{row.where}: arch",
                row.text("arch") or row.text("model"),
                "a transformer, or a convolutional network that `perfmodel conv` knows",
                repair=f"leave the row out: {what} has no training model here",
            )
    if re.search(r"\blora\b|\bqlora\b|\bpeft\b", words):
        raise WorkloadError(
            f"{row.where}: model",
            row.text("model"),
            "a model whose parameters are all trained",
            repair="leave the row out: the step of low-rank adapters is not modelled",
        )
    known = _known(row)
    if known is not None:
        return _corrected(known, row)
    return _from_sizes(row, words, seq_len)


def _known(row: Row) -> ModelConfig | None:
    """The bundled model that the name means; sizes that contradict its depth and width say no."""
    text = _plain(row.lower("model"))
    names = bundled_models()
    found = text if text in names else None
    for pattern, name in _NAMES:
        if found is None and (match := pattern.match(text)):
            wanted = match.expand(name)
            wanted = _REMADE.get(wanted, wanted)
            found = wanted if wanted in names else None
    if found is None and "t5" in row.lower("arch") and "t5-3b" in text:
        found = "nemo-t5-3b" if "nemo" in row.lower("software") else "t5-3b"
    if found is None:
        return None
    model = _bundled(found)
    same = all(
        row.count(name) in (None, getattr(model, name)) for name in ("layers", "hidden", "heads")
    )
    return model if same or model.is_mla else None


def _plain(name: str) -> str:
    """A name without its publisher and punctuation: ``"Qwen/Qwen3 8B"`` -> ``"qwen3-8b"``."""
    name = re.sub(r"^[\w.\-]+/(?=[a-z])", "", name)
    name = re.sub(r"[\s_/()]+", "-", name).strip("-")
    return name.removeprefix("meta-")


@lru_cache(maxsize=128)
def _bundled(name: str) -> ModelConfig:
    return load_model(name)


def _corrected(model: ModelConfig, row: Row) -> tuple[ModelConfig, tuple[str, ...]]:
    """A bundled model with the sizes that the row states."""
    changes: dict[str, Any] = {}
    for column, name in _SIZES:
        value = row.count(column)
        if value is None or value == getattr(model, name):
            continue
        if model.is_mla and column in ("head_dim", "kv_heads"):
            continue  # tables count the rotated part, or the heads before compression
        if not model.experts and column in ("experts", "topk", "moe_ffn"):
            continue
        changes[name] = value
    layers = changes.get("layers", model.layers)
    for name in ("moe", "windowed"):
        flags = getattr(model, name)
        if flags and layers != model.layers:
            longer = (*flags, *(flags[-1:] * max(layers - len(flags), 0)))
            changes[name] = longer[:layers]
    if changes.keys() & {"hidden", "heads"} and not model.is_mla:
        changes.setdefault("head_dim", 0)
        changes.setdefault("v_head_dim", 0)
    elif "head_dim" in changes:
        changes["v_head_dim"] = changes["head_dim"]
    named = tuple(
        column
        for column, name in (("layers", "layers"), ("hidden", "hidden"), ("vocab", "vocab"))
        if row.count(column) is None and getattr(model, name)
    )
    if not changes:
        return model, named
    try:
        return replace(model, **changes), named
    except PerfmodelError as error:
        raise _bad_sizes(row, error) from None


def _from_sizes(row: Row, words: str, seq_len: int | None) -> tuple[ModelConfig, tuple[str, ...]]:
    assumed: list[str] = []
    if row.count("layers") is None or row.count("hidden") is None:
        name = row.text("model")
        raise WorkloadError(
            f"{row.where}: model",
            name or "<blank>",
            "a bundled model, or layers and hidden in their columns",
            nearest=nearest_name(name, bundled_models()) if name else None,
            repair="fill in layers, hidden, heads, ffn and vocab",
        )

    def fill(column: str, value: int) -> int:
        given = row.count(column)
        if given is None:
            assumed.append(column)
            return value
        return given

    hidden = row.count("hidden") or 0
    moe = row.count("experts") is not None
    encoder = "bert" in words or "encoder-only" in words
    pair = "enc-dec" in words or "encoder-decoder" in words or "t5" in words
    gated = _gated(words)
    heads = fill("heads", max(hidden // (row.count("head_dim") or 128), 1))
    values: dict[str, Any] = {
        "name": row.text("model") or "unnamed",
        "layers": row.count("layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": row.count("kv_heads") or 0,
        "head_dim": row.count("head_dim") or 0,
        "vocab": fill("vocab", 30522 if encoder else 32000 if gated else 51200),
    }
    values |= _family(words, gated=gated, encoder=encoder, pair=pair)
    if pair:
        values["encoder_layers"] = values["layers"]
    wide = -(-8 * hidden // 3 // 256) * 256 if gated else 4 * hidden
    values["ffn"] = fill("ffn", wide)
    if values.get("positions") == "learned":
        values["max_positions"] = seq_len or 2048
    if moe:
        values["experts"] = row.count("experts")
        values["experts_per_token"] = fill("topk", 1)
        values["expert_ffn"] = row.count("moe_ffn") or values["ffn"]
    if "mla" in words:
        values |= _LATENT | {"kv_heads": 0}
        assumed.append("latent widths")
    try:
        return ModelConfig(**values), tuple(assumed)
    except PerfmodelError as error:
        raise _bad_sizes(row, error) from None


def _gated(words: str) -> bool:
    if "swiglu" in words or "geglu" in words or "gated" in words:
        return True
    if "gelu" in words or "relu" in words:
        return False
    modern = ("llama", "qwen", "mistral", "mixtral", "deepseek", "moe", "gemma", "yi-", "phi-3")
    return any(word in words for word in modern)


def _family(words: str, *, gated: bool, encoder: bool, pair: bool) -> dict[str, Any]:
    """What the conventions of a family say beyond its sizes."""
    values: dict[str, Any]
    if encoder:
        values = _GPT | {
            "architecture": "encoder",
            "head_bias": True,
            "final_norm": False,
            "embedding_norm": True,
            "mlm_head": True,
            "token_types": 2,
        }
    elif gated:
        values = dict(_LLAMA)
    elif "mpt" in words:
        values = {"norm_bias": False, "tied": True, "positions": "alibi"}
    elif "maxtext" in words:
        values = {"norm": "rmsnorm", "norm_bias": False, "positions": "rope", "activation": "relu"}
    else:
        values = dict(_GPT)
    if pair:
        values["architecture"] = "encoder-decoder"
    for word, name, value in _TRAITS:
        if word in words:
            values[name] = value
    return values


def _bad_sizes(row: Row, error: PerfmodelError) -> WorkloadError:
    return WorkloadError(
        f"{row.where}: {error.where}",
        error.got,
        error.accepted,
        nearest=error.nearest,
        repair=error.repair,
    )
