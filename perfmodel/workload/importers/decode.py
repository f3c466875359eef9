"""Inputs of one decoding step of a transformers model: a token and a filled key-value cache."""

from __future__ import annotations

from typing import Any

from perfmodel.errors import WorkloadError
from perfmodel.units import whole


def decode_inputs(
    model: Any, *, batch_size: int, past_length: int, new_tokens: int = 1, static: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments that make a causal language model of transformers decode.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        On any device; only its configuration and the format of its parameters are read.
    batch_size, past_length : int
        Sequences, and tokens of each that are cached already.
    new_tokens : int
        Tokens of each sequence to compute.
    static : bool
        ``StaticCache`` of ``past_length + new_tokens`` positions, written in place, instead of
        ``DynamicCache``, which is copied as it grows.

    Returns
    -------
    tuple
        Positional and keyword arguments for :func:`~perfmodel.workload.importers.record.trace`.

    Raises
    ------
    WorkloadError
        If the model keeps no key-value cache, or a size is not positive.
    """
    import torch

    batch_size = _size("batch_size", batch_size)
    past_length, new_tokens = _size("past_length", past_length), _size("new_tokens", new_tokens)
    config = _config(model)
    layers = config.num_hidden_layers
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    from transformers import DynamicCache, StaticCache

    cache: Any
    if static:
        cache = StaticCache(config=config, max_cache_len=past_length + new_tokens)
        cache.early_initialization(
            batch_size=batch_size,
            num_heads=heads,
            head_dim=width,
            dtype=dtype,
            device=torch.device("meta"),
        )
        for layer in cache.layers:
            layer.cumulative_length = torch.tensor(past_length)
    else:
        cache = DynamicCache(config=config)
        shape = (batch_size, heads, past_length, width)
        for index in range(layers):
            pair = [torch.empty(shape, dtype=dtype, device="meta") for _ in range(2)]
            cache.update(*pair, index)
    tokens = torch.zeros(batch_size, new_tokens, dtype=torch.long)
    return (tokens,), {"past_key_values": cache, "use_cache": True}


def _size(field: str, given: object) -> int:
    size = whole(given)
    if size is None or size < 1:
        raise WorkloadError(
            f"decode_inputs: {field}", given, "a positive integer", repair="give its size"
        )
    return size


def _config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if text is None or not hasattr(text, "num_attention_heads"):
        raise WorkloadError(
            "decode_inputs: model",
            f"<{type(model).__name__}>",
            "a causal language model of transformers with attention",
            repair="pass the model's own cache as an input of trace",
        )
    return text
