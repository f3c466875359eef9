"""Model builders by name: random weights on the ambient device (``with torch.device(...)``)."""

from __future__ import annotations

from typing import Any

from validate.bench.models.zoo import (
    diverse,
    draw,
    fresh,
    further,
    gpt,
    hands,
    hands_further,
    hands_more,
    language,
    llama,
    other,
    published,
    scripts,
    usual,
    vision,
    wide,
)
from validate.bench.models.zoo.entry import Entry

ENTRIES: dict[str, Entry] = {
    **vision.ENTRIES, **language.ENTRIES, **llama.ENTRIES, **gpt.ENTRIES, **wide.ENTRIES,
    **fresh.ENTRIES, **draw.ENTRIES, **usual.ENTRIES, **published.ENTRIES,
    **other.ENTRIES, **further.ENTRIES, **diverse.ENTRIES, **hands.ENTRIES,
    **hands_more.ENTRIES, **hands_further.ENTRIES, **scripts.ENTRIES,
}  # fmt: skip


def entry(name: str) -> Entry:
    """The builder of a model.

    Raises
    ------
    ValueError
        For a name that the zoo does not hold.
    """
    if name not in ENTRIES:
        raise ValueError(f"{name!r} is not in the zoo; it holds {', '.join(sorted(ENTRIES))}")
    return ENTRIES[name]


def logits(output: Any) -> Any:
    """The tensor that a loss reads: logits, last hidden state, or the first output."""
    for name in ("logits", "last_hidden_state", "logits_per_image", "out"):
        value = getattr(output, name, None)
        if value is None and isinstance(output, dict):
            value = output.get(name)
        if value is not None:
            return value
    return output[0] if isinstance(output, (tuple, list)) else output
