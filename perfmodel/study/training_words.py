"""What the words of a table mean: precision, recomputation, sharding, software.

Every function is total: a spelling that it does not know gives ``None`` and the caller decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from perfmodel.study.training_csv import Row

YES: Final = frozenset(("yes", "y", "true", "1", "on", "enabled"))
NO: Final = frozenset(("no", "n", "false", "0", "off", "disabled", "none"))


def switch(text: str) -> bool | None:
    """Whether a word means on or off."""
    word = text.strip().lower()
    return True if word in YES else False if word in NO else None


def precisions(text: str) -> tuple[str, ...]:
    """Formats of the matrix products that a dtype column names, the narrowest first.

    Several where the table leaves the choice open; empty where nothing is recognised.

    Examples
    --------
    >>> precisions("fp16/fp8 mixed (submitter choice)")
    ('fp8', 'fp16')
    >>> precisions("fp32 (TF32 off)"), precisions("MXFP8"), precisions("bfloat16")
    (('fp32',), ('fp8',), ('bf16',))
    """
    words = text.lower().replace("float", "f").replace("bff", "bf")
    found: list[str] = []
    for pattern, name in (
        (r"(nv|mx)?(fp?|e2m1)_?4\b|nvfp4|mxfp4", "fp4"),
        (r"(mx)?fp?_?8|e4m3|e5m2|hybrid", "fp8"),
        (r"int_?8|aqt", "int8"),
        (r"bf_?16|\bbf\b", "bf16"),
        (r"(?<!b)f(p|loat)?_?16|\bhalf\b", "fp16"),
        (r"tf_?32(?!\s*off)", "tf32"),
        (r"(?<!t)f(p|loat)?_?32|\bsingle\b", "fp32"),
    ):
        if re.search(pattern, words):
            found.append(name)
    if "/" not in words and " or " not in words:
        found = _dominant(words, found)
    return tuple(found)


def _dominant(words: str, found: list[str]) -> list[str]:
    """The format that a phrase such as ``"bf16 (fp32 grad accumulation)"`` is about: its first."""
    if len(found) < 2:
        return found
    head = re.split(r"[(,;+]", words, maxsplit=1)[0]
    inner = [name for name in found if name in precisions(head)] if head != words else found
    return (inner or found)[:1]


@dataclass(frozen=True, slots=True)
class Again:
    """What is recomputed: the candidates, the modules of ``selective``, and whether it is known."""

    words: tuple[str, ...]
    modules: tuple[str, ...] = ("core",)
    known: bool = True


_EVERYTHING: Final = ("none", "selective", "full")
# the first pattern that matches decides
_RECOMPUTED: Final = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"$|custom", Again(_EVERYTHING, known=False)),
        (r"(none|no|false|0|off|disabled|n)\b", Again(("none",))),
        (r"full|yes|y$|true|on\b|uniform|block|all\b|1$|.*qkv_proj", Again(("full",))),
        # every second matrix product is kept; the closest that a plan can say
        (r".*(per-op|\bsac\b)", Again(("selective",), ("norm", "mlp"))),
        # matrix products are kept, everything else is repeated
        (r"minimal", Again(("selective",), ("core", "norm", "activation"))),
        (r"sel.*norm.*up-proj", Again(("selective",), ("norm", "activation"))),
        (r"sel.*norm", Again(("selective",), ("norm",))),
        (r"(sel|core|attn|attention).*mlp", Again(("selective",), ("core", "mlp"))),
        (r"(sel|core|attn|attention)", Again(("selective",))),
    )
)


def recomputation(text: str) -> Again:
    """The meaning of a recompute column; blank, custom and unknown words leave all three open."""
    word = text.strip().lower()
    for pattern, meaning in _RECOMPUTED:
        if pattern.match(word):
            return meaning
    return Again(_EVERYTHING, known=False)


@dataclass(frozen=True, slots=True)
class Sharding:
    """ZeRO stages to consider, the shard group that the words name, and whether they are known."""

    stages: tuple[int, ...]
    group: int | None = None
    known: bool = True


_SHARDED: Final = tuple(
    (re.compile(pattern), stage)
    for pattern, stage in (
        (r".*zero-1/2|.*grad_op", 2),
        (r".*zero[\s\-_]*(?:stage[\s\-_]*)?3|3$", 3),
        (r".*zero[\s\-_]*(?:stage[\s\-_]*)?2|2$", 2),
        (r".*zero[\s\-_]*(?:stage[\s\-_]*)?1|1$", 1),
        (r".*zero[\s\-_]*(?:stage[\s\-_]*)?0|0$", 0),
        (r".*(fsdp|hsdp|fully|full_shard)", 3),
        (r".*(distributed opt|dist[_-]opt)", 1),
        (r"none|ddp|no\b|false|off|disabled", 0),
    )
)


def sharding(text: str) -> Sharding:
    """The meaning of a zero_fsdp column.

    Examples
    --------
    >>> sharding("DDP + distributed optimizer").stages, sharding("FSDP2 (shard 32)")
    ((1,), Sharding(stages=(3,), group=32, known=True))
    """
    word = text.strip().lower()
    for pattern, stage in _SHARDED:
        if word and pattern.match(word):
            size = re.search(r"(?:shard|ici|fsdp)\s+(\d+)|(\d+)-way fully", word)
            group = int(size[1] or size[2]) if size and stage == 3 else None
            return Sharding((stage,), group)
    return Sharding((0, 1), known=False)


@dataclass(frozen=True, slots=True)
class Software:
    """How the software of a row runs: stack, attention, overlap.

    Parameters
    ----------
    stack : str
        A bundled software stack.
    known : bool
        Whether the software column said so.
    overlap : tuple of str
        Communication that hides behind computation.
    context : str
        How context parallelism exchanges.
    accumulates : bool
        Whether a step may be cut into micro-batches.
    """

    stack: str
    known: bool
    overlap: tuple[str, ...]
    context: str = "ring"
    accumulates: bool = True


def software(row: Row, flash: bool | None) -> Software:
    """The stack and habits of a row's software."""
    name, notes = row.lower("software"), row.lower("notes")
    early = flash is False
    stack, known = _stack(name, notes, row, early=early)
    jax = stack == "maxtext-jax"
    overlap = ["gradients", "weights", "pipeline"]
    before = re.search(r"megatron-lm \(202[0-3]\)|megatron-deepspeed|gpt-neox|metaseq", name)
    if re.search(r"no dp overlap|not overlapped|no overlap|without overlap", notes) or before:
        overlap.remove("gradients")
    tensor = re.search(r"tp[\- ]comm[\- ]overlap|async[\- ]?tp", f"{notes} {name}")
    if "dualpipe" in name:
        overlap.append("experts")
    if tensor or jax or re.search(r"megatron-bridge|nemo (2[4-9]|30)|nemo framework", name):
        overlap.append("tensor")
    gathered = jax or "meta internal" in name
    return Software(
        stack=stack,
        known=known,
        overlap=tuple(overlap),
        context="all_gather" if gathered else "ring",
        accumulates=not jax,
    )


# words of the software column -> stack, whether that is certain; the first that matches decides
_STACKS: Final = tuple(
    (re.compile(pattern), stack, known)
    for pattern, stack, known in (
        (r"foundry|composer", "llm-foundry", True),
        (r"maxtext|jax|t5x|pathways|xla", "maxtext-jax", True),
        (r"cuda[- ]graph", "cuda-graph", True),
        (r"(torchtitan|fsdp2).*compile", "torch-compile", True),
        (r"torchtitan|fsdp2", "torch-eager", True),
        (r"megatron|nemo|primus|deepspeed", "megatron", True),
        (r"transformers|eager|accelerate", "torch-eager", True),
        (r"compile", "torch-compile", True),
        (r"ngc|dle|apex", "megatron-2022", False),
    )
)


def _stack(name: str, notes: str, row: Row, *, early: bool) -> tuple[str, bool]:
    if "mlperf" in row.lower("model") and "bert" in row.lower("model"):
        # submissions fuse, remove padding and replay the step from a graph
        return "cuda-graph", False
    if row.lower("chip").startswith("tpu"):
        name = f"xla {name}"
    for pattern, stack, known in _STACKS:
        if pattern.search(f"{name}; {notes}" if "torchtitan" in name else name):
            return ("megatron-2022" if early and stack == "megatron" else stack), known
    return ("megatron-2022" if early else "megatron"), False
