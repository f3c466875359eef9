"""Reads a Hugging Face ``config.json``: aliases of keys, families of models, clear refusals.

What a family leaves unsaid (gated MLP, which norm, which biases) is data in ``families.toml``. A
``model_type`` that is not listed is an error, not a guess. The native type ``"transformer"`` takes
the fields of :class:`~perfmodel.workload.model.ModelConfig` as they are.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.model import DEEPEST, ModelConfig

NATIVE: Final = "transformer"
_HIDDEN: Final = ("hidden_size", "n_embd", "d_model")
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS: Final = ("num_key_value_heads", "n_head_kv", "num_kv_heads")
_FFN: Final = ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size")
_POSITIONS: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
)
_EXPERTS: Final = ("num_local_experts", "n_routed_experts", "num_experts")
_TOP_K: Final = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k")
_EXPERT_FFN: Final = ("moe_intermediate_size", "expert_ffn_hidden_size")


@lru_cache(maxsize=1)
def _families() -> dict[str, Any]:
    text = (resources.files("perfmodel.workload") / "families.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def known_model_types() -> tuple[str, ...]:
    """Every ``model_type`` that can be read."""
    return (*sorted(_families()), NATIVE)


def model_from_config(config: Any, *, name: str = "", where: str = "config") -> ModelConfig:
    """The shape that a ``config.json`` describes.

    Parameters
    ----------
    config : dict
        Its contents.
    name : str
        The model's name; the configuration's own where empty.
    where : str
        Named in errors.

    Raises
    ------
    WorkloadError
        For an unknown ``model_type``, a missing key, or a value that is no size.
    """
    if not isinstance(config, dict):
        raise WorkloadError(
            where, config, "a JSON object", repair="give a Hugging Face config.json"
        )
    config = _inner(config)
    kind = config.get("model_type")
    if kind not in known_model_types():
        known = known_model_types()
        raise WorkloadError(
            f"{where}: model_type",
            kind if "model_type" in config else "<no key model_type>",
            ", ".join(known),
            nearest=nearest_name(kind, known),
            repair='use one of the known types, or describe the model with "transformer"',
        )
    if kind == NATIVE:
        return _native(config, name, where)
    reader = _Reader(config, where)
    family = _families()[kind]
    values = _shape(reader, family, kind)
    values["name"] = name or config.get("_name_or_path") or kind
    values["source"] = str(config.get("source", ""))
    return ModelConfig(**values)


def _inner(config: dict[str, Any]) -> dict[str, Any]:
    """The text model of a multimodal wrapper."""
    text = config.get("text_config")
    if isinstance(text, dict) and config.get("model_type") not in _families():
        return {"tie_word_embeddings": config.get("tie_word_embeddings", False)} | text
    return config


def _native(config: dict[str, Any], name: str, where: str) -> ModelConfig:
    known = {field.name: field for field in fields(ModelConfig)}
    values = {key: value for key, value in config.items() if key != "model_type"}
    values.setdefault("name", name)
    for key in values:
        if key not in known:
            raise WorkloadError(
                f"{where}: {key}",
                f"<the key {key!r}>",
                f"the fields {', '.join(known)}",
                nearest=nearest_name(key, known),
                repair="correct the spelling of the key, or remove it",
            )
    missing = [
        key for key, field in known.items() if field.default is MISSING and key not in values
    ]
    if missing:
        raise WorkloadError(
            where, f"<no {', '.join(missing)}>", "every size of the model", repair="add these keys"
        )
    for key in ("windowed", "moe"):
        if key in values:
            if not isinstance(values[key], list):
                raise WorkloadError(
                    f"{where}: {key}",
                    values[key],
                    "a list of true and false",
                    repair="write a list",
                )
            values[key] = tuple(values[key])
    return ModelConfig(**values)


class _Reader:
    """Integers of a config by any of their aliases, or an error that names them all."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def get(self, *aliases: str) -> int | None:
        """The first alias that is present and not null."""
        for alias in aliases:
            value = self.config.get(alias)
            if value is None:
                continue
            if type(value) is not int or value < 0:
                raise WorkloadError(
                    f"{self.where}: {alias}",
                    value,
                    "a whole number, not negative",
                    repair="write the size without quotes or a decimal point",
                )
            return value
        return None

    def need(self, *aliases: str) -> int:
        """As :meth:`get`, but absence is an error."""
        value = self.get(*aliases)
        if value is None:
            raise WorkloadError(
                f"{self.where}: {aliases[0]}",
                f"<no key {aliases[0]}>",
                f"one of the keys {', '.join(aliases)}",
                nearest=nearest_name(
                    aliases[0], [key for key in self.config if isinstance(key, str)]
                ),
                repair=f"add {aliases[0]}",
            )
        return value

    def depth(self, *aliases: str) -> int:
        """A number of layers, small enough to list them."""
        layers = self.need(*aliases)
        if layers > DEEPEST:
            raise WorkloadError(
                f"{self.where}: {aliases[0]}",
                layers,
                f"at most {DEEPEST} layers",
                repair="correct the number of layers",
            )
        return layers

    def places(self, key: str) -> list[int]:
        """A list of layer numbers; absent is empty."""
        value = self.config.get(key) or []
        if not isinstance(value, list) or any(type(item) is not int for item in value):
            raise WorkloadError(
                f"{self.where}: {key}", value, "a list of layer numbers", repair="write a list"
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean key."""
        value = self.config.get(key, default)
        if value is None:
            return default
        if type(value) is not bool:
            raise WorkloadError(
                f"{self.where}: {key}", value, "true or false", repair="write true or false"
            )
        return value


def _shape(reader: _Reader, family: dict[str, Any], kind: str) -> dict[str, Any]:
    plain = {field.name for field in fields(ModelConfig)}
    values = {key: value for key, value in family.items() if key in plain}
    if kind == "vit":
        return values | _vision(reader, values)
    if kind == "t5":
        return values | _t5(reader)
    hidden, layers, heads = reader.need(*_HIDDEN), reader.depth(*_LAYERS), reader.need(*_HEADS)
    has_moe = "moe_layout" in family
    values |= {
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "vocab": reader.need("vocab_size"),
        "ffn": _ffn(reader, family, kind, hidden),
        "kv_heads": _kv_heads(reader, kind, heads),
        "head_dim": reader.get("head_dim") or family.get("head_dim_default", 0),
        "tied": reader.flag("tie_word_embeddings", family["tied_default"]),
    }
    positions = reader.get(*_POSITIONS) or 0
    values["max_positions"] = positions + family.get("extra_positions", 0)
    values |= _biases(reader, family)
    if key := family.get("parallel_block_key"):
        values["parallel_block"] = reader.flag(key, True)
    if kind == "bert":
        values["token_types"] = reader.get("type_vocab_size") or 0
    values |= _windows(reader, family, layers)
    if has_moe:
        values |= _moe(reader, family, layers, values["ffn"])
    if reader.get("kv_lora_rank"):
        values |= _latent(reader)
    return values


def _ffn(reader: _Reader, family: dict[str, Any], kind: str, hidden: int) -> int:
    if kind == "mpt":
        ratio = reader.get("expansion_ratio")
        return hidden * (4 if ratio is None else ratio)
    if kind == "llama4_text":
        return reader.get("intermediate_size_mlp") or reader.need(*_FFN)
    if kind in ("gpt2", "bloom"):
        return reader.get(*_FFN) or 4 * hidden
    return reader.need(*_FFN)


def _kv_heads(reader: _Reader, kind: str, heads: int) -> int:
    attention = reader.config.get("attn_config")
    if kind == "mpt" and isinstance(attention, dict):
        return _Reader(attention, f"{reader.where}: attn_config").get("kv_n_heads") or heads
    return reader.get(*_KV_HEADS) or heads


def _biases(reader: _Reader, family: dict[str, Any]) -> dict[str, bool]:
    names = family.get("biases", [])
    on = True
    if key := family.get("bias_key"):
        inverted = family.get("bias_inverted", False)
        on = reader.flag(key, family.get("bias_default", True)) != inverted
    values = dict.fromkeys(names, on)
    if "mlp_bias" in reader.config and "mlp_bias" not in names:
        values["mlp_bias"] = reader.flag("mlp_bias", False)
    return values


def _windows(reader: _Reader, family: dict[str, Any], layers: int) -> dict[str, Any]:
    rule = family.get("windows", "none")
    window = reader.get("sliding_window") or 0
    kinds = reader.config.get("layer_types")
    if isinstance(kinds, list) and "chunked_attention" in kinds:
        window = reader.need("attention_chunk_size")
    if not window or (rule == "opt-in" and not reader.flag("use_sliding_window", False)):
        return {}
    if isinstance(kinds, list):
        return {"window": window, "windowed": tuple(kind != "full_attention" for kind in kinds)}
    if rule == "alternate":
        return {"window": window, "windowed": tuple(i % 2 == 0 for i in range(layers))}
    if rule.startswith("pattern:"):
        period = reader.get("sliding_window_pattern") or int(rule.split(":")[1])
        return {"window": window, "windowed": tuple((i + 1) % period != 0 for i in range(layers))}
    if rule == "opt-in":
        first = reader.get("max_window_layers") or 0
        return {"window": window, "windowed": tuple(i >= first for i in range(layers))}
    return {"window": window} if rule == "all" else {}


def _moe(reader: _Reader, family: dict[str, Any], layers: int, ffn: int) -> dict[str, Any]:
    experts = reader.need(*_EXPERTS)
    values: dict[str, Any] = {
        "experts": experts,
        "experts_per_token": reader.need(*_TOP_K),
        "expert_ffn": reader.get(*_EXPERT_FFN) or ffn,
    }
    shared = reader.get("n_shared_experts") or 0
    values["shared_ffn"] = shared * values["expert_ffn"]
    if width := reader.get("shared_expert_intermediate_size"):
        values["shared_ffn"] = width
    layout = family["moe_layout"]
    if layout == "first-dense":
        first = reader.get("first_k_dense_replace") or 0
        every = reader.get("moe_layer_freq") or 1
        values["moe"] = tuple(i >= first and i % every == 0 for i in range(layers))
    elif layout == "sparse-step":
        step = reader.get("decoder_sparse_step") or 1
        only = reader.places("mlp_only_layers")
        values["moe"] = tuple(i not in only and (i + 1) % step == 0 for i in range(layers))
    elif layout == "interleave":
        step = reader.get("interleave_moe_layer_step") or 1
        values["moe"] = tuple((i + 1) % step == 0 for i in range(layers))
        # one shared expert of the routed width; experts use intermediate_size
        values["expert_ffn"] = values["shared_ffn"] = reader.need("intermediate_size")
    return values


def _latent(reader: _Reader) -> dict[str, Any]:
    return {
        "kv_lora_rank": reader.need("kv_lora_rank"),
        "q_lora_rank": reader.get("q_lora_rank") or 0,
        "head_dim": reader.need("qk_nope_head_dim"),
        "qk_rope_head_dim": reader.need("qk_rope_head_dim"),
        "v_head_dim": reader.need("v_head_dim"),
    }


def _vision(reader: _Reader, values: dict[str, Any]) -> dict[str, Any]:
    labels = reader.config.get("id2label")
    classes = reader.get("num_labels")
    if classes is None:
        classes = len(labels) if isinstance(labels, dict) else 1000
    on = reader.flag("qkv_bias", True)
    return {
        "hidden": reader.need(*_HIDDEN),
        "layers": reader.depth(*_LAYERS),
        "heads": reader.need(*_HEADS),
        "ffn": reader.need(*_FFN),
        "vocab": 0,
        "image": reader.need("image_size"),
        "patch": reader.need("patch_size"),
        "channels": reader.get("num_channels") or 3,
        "classes": classes,
        "qkv_bias": on,
        "output_bias": True,
        "mlp_bias": True,
    }


def _t5(reader: _Reader) -> dict[str, Any]:
    layers, heads = reader.depth("num_layers"), reader.need("num_heads")
    gated = str(reader.config.get("feed_forward_proj", "relu")).startswith("gated")
    buckets = reader.get("relative_attention_num_buckets") or 32
    return {
        "hidden": reader.need("d_model"),
        "layers": reader.get("num_decoder_layers") or layers,
        "encoder_layers": layers,
        "heads": heads,
        "head_dim": reader.need("d_kv"),
        "ffn": reader.need("d_ff"),
        "vocab": reader.need("vocab_size"),
        "gated": gated,
        "activation": "gelu" if gated else "relu",
        "tied": reader.flag("tie_word_embeddings", True),
        # one table of relative position biases each for encoder and decoder
        "extra_parameters": 2 * buckets * heads,
    }
