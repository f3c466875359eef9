"""The plans that a row may mean: one where it states every degree, a few where it leaves some open.

What a row leaves out is settled by rule, and listed: ``dp`` is what the other degrees leave of the
devices; fully sharded weights without degrees mean data parallelism alone; anything still open
(micro-batch, recomputation, degrees of an unexplained layout) keeps its candidates, and the fastest
that fits is taken, as whoever tuned the run would have.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from perfmodel.errors import PerfmodelError, PlanError
from perfmodel.hardware import Accelerator
from perfmodel.parallel.plan import PRECISIONS, Plan, faults
from perfmodel.study.training_csv import Row
from perfmodel.study.training_words import Again, Sharding, Software
from perfmodel.study.training_words import precisions as precisions_of
from perfmodel.workload.transformer import ModelConfig

DEGREES: Final = (1, 2, 4, 8)
"""Tensor parallel degrees tried where a row names none."""
STAGES: Final = (1, 2, 4, 8, 16, 32)
MICRO: Final = (1, 2, 4, 8, 16, 32, 64)
TOLERANCE: Final = 0.1
"""A batch that does not divide is rounded by this share at most."""
_PEAKS: Final = {"fp8": "fp8_e4m3"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Plans that a row may mean, and what was filled in.

    Parameters
    ----------
    plans : tuple of Plan
        Candidates, the simplest rule first; all valid for the model and ``batch``.
    batch : int
        Sequences in the modelled step: the row's, or the nearest number that divides.
    assumed : tuple of str
        Columns that were filled in.
    """

    plans: tuple[Plan, ...]
    batch: int
    assumed: tuple[str, ...]


def precision_of(row: Row, accelerator: Accelerator) -> tuple[str, tuple[str, ...]]:
    """Format of the matrix products, and what was assumed for it.

    Raises
    ------
    PlanError
        If the chip has no matrix peak for it, or no plan can say it.
    """
    text = row.text("dtype")
    names = precisions_of(text)
    assumed: tuple[str, ...] = () if len(names) == 1 else ("dtype",)
    usable = [name for name in names if name in PRECISIONS and _has_peak(accelerator, name)]
    if not names:
        usable = [name for name in ("bf16", "fp16") if _has_peak(accelerator, name)]
    if not usable:
        raise PlanError(
            f"{row.where}: dtype",
            text,
            f"one of {', '.join(n for n in PRECISIONS if _has_peak(accelerator, n))} "
            f"on {accelerator.name}",
            repair="correct dtype or chip, or leave the row out",
        )
    return usable[0], assumed


def _has_peak(accelerator: Accelerator, precision: str) -> bool:
    try:
        accelerator.peak(_PEAKS.get(precision, precision))
    except PerfmodelError:
        return False
    return True


def layout_of(
    row: Row,
    model: ModelConfig,
    devices: int,
    batch: int,
    seq_len: int,
    again: Again,
    shards: Sharding,
    how: Software,
    precision: str,
    flash: bool | None,
) -> Layout:
    """The plans that a row may mean.

    Raises
    ------
    PlanError
        If its degrees contradict the devices, the model or the batch.
    """
    assumed = [
        name
        for name, known in (("recompute", again.known), ("zero_fsdp", shards.known))
        if not known
    ]
    if not shards.known and not how.accumulates:
        shards = Sharding((3,))  # XLA programs shard parameters unless told otherwise
    open_degrees = list(_degrees(row, model, devices, shards, assumed))
    if not open_degrees:
        raise PlanError(
            f"{row.where}: tp, pp, dp, cp",
            ", ".join(f"{name}={row.count(name)}" for name in ("tp", "pp", "dp", "cp")),
            f"degrees whose product divides the {devices} devices",
            repair="correct a degree or chips_total",
        )
    split = _split_sequence(row, assumed, flash)
    fixed = {
        "precision": precision,
        "cp_method": how.context,
        "overlap": how.overlap,
        "recompute_modules": again.modules,
        "schedule": "1f1b",
    }
    if "dualpipe" in f"{row.lower('software')} {row.lower('notes')}":
        assumed.append("schedule")
    virtual = _virtual(row, model, assumed)
    stages = shards.stages if shards.known else (0, 1, 3)
    plans: dict[Plan, int] = {}
    reasons: list[PlanError] = []
    for tp, pp, dp, cp, ep in open_degrees:
        own, micros = _micro(row, batch, dp, how, len(open_degrees) > 1, assumed)
        zeros = _worth(stages, dp * cp)
        for micro, v, word, zero in itertools.product(micros, virtual, again.words, zeros):
            values: dict[str, Any] = fixed | {
                "tp": tp,
                "pp": pp,
                "dp": dp,
                "cp": cp,
                "ep": ep,
                "virtual_stages": v if pp > 1 else 1,
                "micro_batch_size": micro,
                "recompute": word,
                "zero": zero,
                "zero_group": _group(row, shards, dp, cp) if zero else None,
                "sequence_parallel": split and tp > 1,
            }
            try:
                plan = Plan(**values, layers_per_stage=_layers(row, model, pp, values))
                plan = _valid(plan, model, own, seq_len)
            except PlanError as error:
                reasons.append(error)
                continue
            if plan.virtual_stages != values["virtual_stages"]:
                assumed.append("vpp")
            plans.setdefault(plan, own)
    if not plans:
        raise _refusal(row, reasons[0])
    used = min(plans.values(), key=lambda own: abs(own - batch))
    if used != batch:
        assumed.append("global_batch")
    kept = tuple(plan for plan in plans if used % (plan.dp * plan.micro_batch_size) == 0)
    return Layout(kept, used, tuple(dict.fromkeys(assumed)))


def _worth(stages: tuple[int, ...], copies: int) -> tuple[int, ...]:
    """Stages that mean something: sharding over one rank is no sharding."""
    return stages if copies > 1 else (0,)


def _valid(plan: Plan, model: ModelConfig, batch: int, seq_len: int) -> Plan:
    """The plan, with fewer chunks where it has more than blocks; raises if it contradicts."""
    found = faults(plan, model, batch, seq_len)
    while found and plan.virtual_stages > 1 and _chunks_only(found):
        # embedding and head are chunks of their own there
        plan = replace(plan, virtual_stages=plan.virtual_stages - 1)
        found = faults(plan, model, batch, seq_len)
    if found:
        raise found[0]
    return plan


def _chunks_only(found: tuple[PlanError, ...]) -> bool:
    """Whether nothing but the number of chunks is wrong."""
    return all("virtual_stages" in f"{error.where} {error.got}" for error in found)


def _refusal(row: Row, error: PlanError) -> PlanError:
    return PlanError(
        f"{row.where}: {error.where.removeprefix('plan: ')}",
        error.got.strip("'\""),
        error.accepted,
        repair=error.repair,
    )


def _degrees(
    row: Row, model: ModelConfig, devices: int, shards: Sharding, assumed: list[str]
) -> Iterator[tuple[int, int, int, int, int]]:
    """tp, pp, dp, cp, ep that fill the devices: one set, or candidates where nothing is known."""
    tp, pp, dp = row.count("tp"), row.count("pp"), row.count("dp")
    cp = row.count("cp") or 1
    missing = [name for name in ("tp", "pp", "dp") if row.count(name) is None]
    if missing == ["dp"] or not missing:
        tensor, stages = tp or 1, pp or 1
        left = devices // (tensor * stages * cp)
        if not left or tensor * stages * cp * left != devices:
            return
        if dp != left and devices > 1:
            assumed.append("dp")
        options = [(tensor, stages, left)]
    elif _data_only(row, shards) or devices in (dp, 1):
        tensor, stages = tp or 1, pp or 1
        if devices % (tensor * stages * cp):
            return
        assumed += [name for name in missing if devices > 1]
        options = [(tensor, stages, devices // (tensor * stages * cp))]
    elif dp is not None and devices % (dp * cp) == 0 and (tp or pp):
        rest = devices // (dp * cp)
        tensor = tp or max(rest // (pp or 1), 1)
        stages = pp or max(rest // tensor, 1)
        if tensor * stages != rest:
            return
        assumed += missing
        options = [(tensor, stages, dp)]
    else:
        assumed += missing
        layers = model.layers + model.encoder_layers
        wide = [tp] if tp else [t for t in DEGREES if model.heads % t == 0]
        deep = [pp] if pp else [p for p in STAGES if p <= layers // 2 or p == 1]
        options = [
            (t, p, devices // (t * p * cp))
            for t, p in itertools.product(wide, deep)
            if devices % (t * p * cp) == 0 and dp in (None, devices // (t * p * cp))
        ]
    for tensor, stages, copies in options:
        ep = row.count("ep")
        if ep is None and model.is_moe and 3 not in shards.stages:
            assumed.append("ep")
            ep = _most_experts(model.experts, tensor * cp * copies)
        yield tensor, stages, copies, cp, ep or 1


def _data_only(row: Row, shards: Sharding) -> bool:
    """Whether the words say data parallelism, sharded or not, and no degree contradicts."""
    plain = row.lower("zero_fsdp").startswith(("ddp", "none (ddp"))
    return shards.known and (3 in shards.stages or plain)


def _most_experts(experts: int, devices: int) -> int:
    """The widest spread of experts within eight devices."""
    return max(d for d in (1, 2, 4, 8) if experts % d == 0 and devices % d == 0)


def _split_sequence(row: Row, assumed: list[str], flash: bool | None) -> bool:
    text = row.lower("seq_parallel")
    if text:
        return text.startswith(("y", "t", "1", "on"))
    if (row.count("tp") or 2) > 1:
        assumed.append("seq_parallel")
    return flash is not False  # habit since 2022, as flash attention


def _virtual(row: Row, model: ModelConfig, assumed: list[str]) -> tuple[int, ...]:
    given = row.count("vpp")
    if given is not None:
        return (given,)
    if re.search(r"interleav\w*[^;]*not|not[^;]*interleav", row.lower("notes")):
        assumed.append("vpp")
        pp = row.count("pp") or 1
        return tuple(v for v in (1, 2, 3, 4, 5) if v == 1 or model.layers % (pp * v) == 0)
    return (1,)


def _micro(
    row: Row, batch: int, dp: int, how: Software, searching: bool, assumed: list[str]
) -> tuple[int, tuple[int, ...]]:
    """The batch that divides, and the micro-batches to consider for one data parallel degree."""
    each = max(round(batch / dp), 1)
    if abs(each * dp - batch) > TOLERANCE * batch:
        return batch, (row.count("micro_batch") or 1,)
    stated = row.count("micro_batch")
    steps = row.count("grad_accum")
    if not how.accumulates:
        if stated is not None and stated != each:
            assumed.append("micro_batch")
        return each * dp, (each,)
    if stated is not None:
        own = dp * stated * max(round(batch / (dp * stated)), 1)
        if own != batch and dp * stated > 1.1 * batch:
            assumed.append("micro_batch")
            return each * dp, (each,)
        return own, (stated,)
    assumed.append("micro_batch")
    own = each * dp
    if steps is not None and each % steps == 0:
        return own, (each // steps,)
    most = 16 if searching else MICRO[-1]
    return own, tuple(m for m in MICRO if each % m == 0 and m <= most)


def _group(row: Row, shards: Sharding, dp: int, cp: int) -> int | None:
    """Ranks that share one copy: torchtitan names the data ranks only, and shards over cp too."""
    if shards.group is None:
        return None
    group = shards.group * (cp if "fsdp2" in row.lower("zero_fsdp") else 1)
    return group if group < dp * cp and dp * cp % group == 0 else None


def _layers(
    row: Row, model: ModelConfig, pp: int, values: dict[str, Any]
) -> tuple[int, ...] | None:
    """Layers of each stage where the row explains an uneven split."""
    notes, layers = row.lower("notes"), model.layers
    if pp == 1 or values["virtual_stages"] > 1 or model.encoder_layers:
        return None
    if "embedding gets its own slot" in notes and (layers + 2) % pp == 0:
        each = (layers + 2) // pp
        middle = (each,) * (pp - 2)
        return (each - 1, *middle, each - 1) if each > 1 else None
    if found := re.search(r"last stage (\d+) block", notes):
        last = int(found[1])
        if (layers - last) % (pp - 1) == 0:
            return (*((layers - last) // (pp - 1),) * (pp - 1), last)
    return None
