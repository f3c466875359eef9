"""ModelConfig: the shape of a transformer, and where it comes from.

A model is a bundled name (``"llama-3-70b"``) or the path of a Hugging Face ``config.json``. Only
shapes are kept: what decides FLOPs, bytes and parameters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.files import unique_keys
from perfmodel.workload.bundled import bundled
from perfmodel.workload.ops.base import check_choice, checked_size

LARGEST_CONFIG: Final = 4 * 2**20
"""A model description above this is refused unread [B]."""

DEEPEST: Final = 10_000
"""Most layers of a model."""

_SHOWN: Final = 6  # of the names that begin as a name that is not known

_CHOICES: Final = (
    ("architecture", ("decoder", "encoder", "encoder-decoder")),
    ("activation", ("gelu", "silu", "relu")),
    ("norm", ("rmsnorm", "layernorm")),
    ("positions", ("learned", "rope", "alibi", "relative", "none")),
)
_ZERO: Final = frozenset(
    {
        "kv_heads",
        "head_dim",
        "ffn",
        "vocab",
        "max_positions",
        "norms_per_layer",
        "window",
        "experts",
        "experts_per_token",
        "expert_ffn",
        "shared_ffn",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_rope_head_dim",
        "v_head_dim",
        "encoder_layers",
        "patch",
        "image",
        "channels",
        "classes",
        "token_types",
        "predictions",
        "extra_parameters",
    }
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of one transformer.

    Parameters
    ----------
    name : str
        For the reader.
    layers, hidden, heads, ffn, vocab : int
        Blocks, model width, query heads, width of a dense MLP, rows of the embedding table (0 for
        a vision model).
    kv_heads, head_dim : int
        Key and value heads (0: ``heads``); width of a head (0: ``hidden / heads``). With MLA
        ``head_dim`` is the part of a query-key head without position.
    gated : bool
        Three MLP matrices (SwiGLU, GeGLU) instead of two.
    parallel_block : bool
        Attention and MLP read the same normalised input and are added together.
    norms_per_layer : int
        Norms of width ``hidden`` in a decoder or encoder block.
    qkv_bias, output_bias, mlp_bias, head_bias, norm_bias, qk_norm, final_norm : bool
        Which small parameters exist.
    tied : bool
        The output head shares the embedding table.
    window, windowed : int, tuple of bool
        Sliding-window size and, layer by layer, who uses it (empty: every layer if window > 0).
    experts, experts_per_token, expert_ffn, shared_ffn, moe : int, ..., tuple of bool
        Routed experts, how many a token visits, width of each, total width of shared experts, and
        which layers are MoE (empty: all of them if there are experts).
    q_lora_rank, kv_lora_rank, qk_rope_head_dim, v_head_dim : int
        Multi-head latent attention; ``kv_lora_rank`` 0 means ordinary attention.
    encoder_layers : int
        For encoder-decoder models: encoder blocks (``layers`` counts the decoder's).
    patch, image, channels, classes : int
        For vision models: patch and image side, colour channels, output classes.
    token_types : int
        Rows of the segment embedding (BERT).
    predictions : int
        Positions of a sequence whose token the head predicts (masked language models that gather
        them first); 0 is all.
    extra_parameters : int
        Parameters outside the blocks that no field describes (a pooler, say).
    """

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    kv_heads: int = 0
    head_dim: int = 0
    max_positions: int = 0
    architecture: str = "decoder"
    gated: bool = False
    activation: str = "gelu"
    norm: str = "layernorm"
    norms_per_layer: int = 2
    parallel_block: bool = False
    positions: str = "learned"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    norm_bias: bool = True
    qk_norm: bool = False
    final_norm: bool = True
    embedding_norm: bool = False
    mlm_head: bool = False
    tied: bool = False
    window: int = 0
    windowed: tuple[bool, ...] = ()
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    shared_gate: bool = False
    expert_bias: bool = False
    router_bias: bool = False
    attention_sinks: bool = False
    moe: tuple[bool, ...] = ()
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    encoder_layers: int = 0
    patch: int = 0
    image: int = 0
    channels: int = 3
    classes: int = 0
    token_types: int = 0
    predictions: int = 0
    extra_parameters: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        where = f"model {self.name!r}"
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                checked_size(value, f"{where}: {field.name}", zero=field.name in _ZERO)
            elif field.type == "bool" and type(value) is not bool:
                raise WorkloadError(
                    f"{where}: {field.name}", value, "true or false", repair="write true or false"
                )
            elif field.type == "str" and not isinstance(value, str):
                raise WorkloadError(
                    f"{where}: {field.name}", value, "a string", repair="put it in quotes"
                )
        for name in ("layers", "encoder_layers"):
            self._need(getattr(self, name) <= DEEPEST, name, f"at most {DEEPEST} layers")
        for name, accepted in _CHOICES:
            check_choice(getattr(self, name), accepted, f"{where}: {name}")
        if self.kv_heads == 0:
            object.__setattr__(self, "kv_heads", self.heads)
        if self.head_dim == 0:
            self._need(self.hidden % self.heads == 0, "hidden", f"a multiple of heads {self.heads}")
            object.__setattr__(self, "head_dim", self.hidden // self.heads)
        if self.v_head_dim == 0:
            object.__setattr__(self, "v_head_dim", self.head_dim)
        for name in ("windowed", "moe"):
            flags = tuple(bool(flag) for flag in getattr(self, name))
            object.__setattr__(self, name, flags)
            self._need(len(flags) in (0, self.layers), name, f"{self.layers} flags, one a layer")
        self._need(self.heads % self.kv_heads == 0, "kv_heads", f"a divisor of heads {self.heads}")
        if self.experts:
            most = f"a number from 1 to experts {self.experts}"
            self._need(1 <= self.experts_per_token <= self.experts, "experts_per_token", most)
            self._need(self.expert_ffn > 0, "expert_ffn", "the width of an expert, above 0")
        dense = not self.experts or not all(self.moe or (True,))
        self._need(not dense or self.ffn > 0, "ffn", "the width of the MLP, above 0")
        self._need(self.vocab > 0 or self.patch > 0, "vocab", "an integer above 0")
        if self.patch:
            self._need(self.image >= self.patch, "image", "at least one patch wide")

    def _need(self, holds: bool, name: str, accepted: str) -> None:
        if not holds:
            raise WorkloadError(
                f"model {self.name!r}: {name}",
                getattr(self, name),
                accepted,
                repair=f"correct {name}, or the field that it must agree with",
            )

    @property
    def is_moe(self) -> bool:
        """Whether any layer has routed experts."""
        return self.experts > 0 and (not self.moe or any(self.moe))

    @property
    def is_mla(self) -> bool:
        """Whether attention is multi-head latent attention."""
        return self.kv_lora_rank > 0

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key head as the attention kernel sees it."""
        return self.head_dim + (self.qk_rope_head_dim if self.is_mla else 0)

    @property
    def image_tokens(self) -> int:
        """Sequence length of a vision model: patches and the class token."""
        return (self.image // self.patch) ** 2 + 1 if self.patch else 0

    def to_dict(self) -> dict[str, Any]:
        """The native JSON description, without fields at their defaults."""
        record: dict[str, Any] = {"model_type": "transformer"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                record[field.name] = list(value) if isinstance(value, tuple) else value
        return record


def bundled_models() -> tuple[str, ...]:
    """Names that :func:`load_model` knows without a file."""
    return bundled("models", ".json")


def load_model(name_or_path: str | Path) -> ModelConfig:
    """A model by bundled name or from a Hugging Face ``config.json``.

    Parameters
    ----------
    name_or_path : str or Path
        One of :func:`bundled_models`, the path of a file, or of a folder that holds config.json.

    Raises
    ------
    WorkloadError
        If the name is unknown, or the file is missing, too large, not JSON, of an unknown
        ``model_type``, or lacks keys.
    """
    from perfmodel.workload.huggingface import model_from_config

    text = str(name_or_path)
    if text in (names := bundled_models()):
        folder = resources.files("perfmodel.workload") / "models"
        config = json.loads((folder / f"{text}.json").read_text(encoding="utf-8"))
        return model_from_config(config, name=text, where=text)
    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise WorkloadError(
            "model",
            text,
            "a bundled name, or the path of a Hugging Face config.json",
            nearest=", ".join(_longer(text, names)[:_SHOWN]) or nearest_name(text, names),
            repair="give a path, or a name that `perfmodel models` lists",
        )
    config = _read_json(path)
    name = path.parent.name if path.name == "config.json" else path.stem
    return model_from_config(config, name=name or path.stem, where=str(path))


def _longer(text: str, names: Sequence[str]) -> list[str]:
    """Names that begin with ``text``, whatever stands between its letters and digits."""

    def plain(name: str) -> str:
        return "".join(filter(str.isalnum, name.lower()))

    return [name for name in names if plain(text) and plain(name).startswith(plain(text))]


def model_of(given: ModelConfig | str | Path) -> ModelConfig:
    """A model as a caller names it: a value, a bundled name, or the path of a ``config.json``."""
    if isinstance(given, ModelConfig):
        return given
    if not isinstance(given, str | Path):
        raise WorkloadError(
            "model",
            f"<{type(given).__name__}>",
            "a ModelConfig, a bundled name, or the path of a Hugging Face config.json",
            repair='give for example "llama-3-8b"',
        )
    return load_model(given)


def _read_json(path: Path) -> Any:
    size = path.stat().st_size
    if size > LARGEST_CONFIG:
        raise WorkloadError(
            str(path),
            f"<{size} bytes>",
            f"a config.json of at most {LARGEST_CONFIG} bytes",
            repair="give the configuration file, not the weights",
        )
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(
            str(path), f"<{error}>", "a JSON object in UTF-8", repair="correct the JSON"
        ) from None
