"""Programs of the measured cases, recorded without a device.

The modes of a case mostly run one program. Eager and captured steps differ where a model asks
whether a stream is being captured (transformers then builds masks that it leaves out otherwise),
compiled ones also where modules have a fused path that compilation leaves (nn.MultiheadAttention).
So each case is recorded eagerly, and once more as captured or compiled where that differs.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from validate.bench.models import plans
from validate.bench.models.cases import Case

CAPTURED = "-captured"
"""Suffix of a program that a step runs only while a stream is captured or the step compiled."""
COMPILED = "-compiled"
"""Suffix of a program that only a compiled step runs."""
LOOPS = ("mamba_130m",)
"""Models whose loops over positions make huge programs: one of their cases is recorded."""


def name_of(case: Case) -> str:
    """File stem of a case's program; modes share one."""
    parts = case.key.split("/")
    return "-".join(part for part in [*parts[:2], *parts[3:]] if part != "nobench")


def recordings() -> list[Case]:
    """A case for each program, eager ones first, in the order of the measurement."""
    first: dict[str, Case] = {}
    for case in plans.every():
        first.setdefault(name_of(case), replace(case, mode="eager"))
    kept, loops = [], set()
    for case in first.values():
        if case.model in LOOPS:
            if case.model in loops:
                continue
            loops.add(case.model)
        kept.append(case)
    return kept


def build(case: Case) -> Any:
    """The model of a case on the meta device."""
    import torch

    from validate.bench.models import zoo
    from validate.bench.models.session import DTYPES

    dtype = torch.float32 if case.autocast else DTYPES[case.dtype]
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype if case.model.startswith("llama") else torch.float32)
        model = _built(zoo.entry(case.model).build)
    finally:
        torch.set_default_dtype(default)
    model = model.to(dtype=dtype)
    if case.layout == "channels_last":
        last = torch.channels_last_3d if "3d" in case.model else torch.channels_last
        model = model.to(memory_format=last)
    model.train(case.kind == "train")
    model.requires_grad_(case.kind == "train")
    if case.checkpoint:
        model.gradient_checkpointing_enable()
    return model


def _built(build: Any) -> Any:
    """A model without weights; one that computes widths with tensors is built with them first."""
    import torch

    try:
        with torch.device("meta"):
            return build(False)
    except NotImplementedError:
        return build(False).to("meta")


def inputs(case: Case, model: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs: floating-point tensors on the meta device, small integers with values."""
    import torch
    from torch.utils._pytree import tree_map

    from validate.bench.models import zoo
    from validate.bench.models.session import DTYPES

    held = torch.float32 if case.autocast else DTYPES[case.dtype]

    def real(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.is_floating_point():
            return value
        return torch.ones(value.shape, dtype=value.dtype)

    with torch.device("meta"):
        if case.kind == "decode":
            cache = model.new_cache(case.batch, case.seq, held)
        else:
            args, kwargs = zoo.entry(case.model).inputs(case.batch, case.seq, held, False)
    if case.kind == "decode":
        ids = torch.ones(case.batch, 1, dtype=torch.int64)
        return (ids, cache, torch.tensor([case.seq - 1])), {}
    if case.kind == "prefill":
        kwargs = kwargs | {"last": True}
    if case.layout == "channels_last":
        args = tuple(_channels_last(a) if isinstance(a, torch.Tensor) else a for a in args)
    return tree_map(real, args), tree_map(real, kwargs)


def _channels_last(tensor: Any) -> Any:
    import torch

    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return tensor if form is None else tensor.contiguous(memory_format=form)


def _training(case: Case, model: Any, args: Any, kwargs: Any) -> Any:
    """The measured training step: cross-entropy over the class axis, targets made beforehand."""
    import torch

    import perfmodel as pm
    from validate.bench.models import zoo
    from validate.bench.models.session import COMPUTE, classes_of, loss_over

    compute = COMPUTE.get(case.dtype, torch.bfloat16)
    ids = torch.utils._pytree.tree_map(
        lambda v: v.to("meta") if isinstance(v, torch.Tensor) else v, (args, kwargs)
    )
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=compute, enabled=False):
            output = zoo.logits(model(*ids[0], **ids[1]))
    except RuntimeError:  # a model that looks at a value, which the recorder keeps
        output = _result(model, args, kwargs)
    axis, classes, rows = classes_of(output)

    def loss(value: Any, target: Any) -> Any:
        return loss_over(zoo.logits(value), target, axis, classes)

    return pm.Training(
        optimizer=case.optimizer,
        implementation=case.implementation,
        loss=loss,
        targets=(torch.zeros(rows, dtype=torch.int64, device="meta"),),
    )


def _result(model: Any, args: Any, kwargs: Any) -> Any:
    """A tensor like the model's, by a recording of its forward pass."""
    import torch

    import perfmodel as pm
    from validate.bench.models import zoo

    class Result(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return zoo.logits(self.model(*args, **kwargs))

    found = pm.trace(Result(), args, kwargs)
    return torch.empty(found.tensor(found.outputs[0]).shape, device="meta")


def program(case: Case) -> Any:
    """Record one step of `case` with meta tensors, launched operator by operator."""
    import perfmodel as pm

    model = build(case)
    args, kwargs = inputs(case, model)
    training = _training(case, model, args, kwargs) if case.kind == "train" else None
    cast = {"bf16": "bf16", "fp16": "fp16"}.get(case.dtype) if case.autocast else None
    return pm.trace(model, args, kwargs, training=training, autocast=cast, name=name_of(case))


def differs(one: Any, other: Any) -> bool:
    """Whether two programs run other operators."""
    return [n.target for n in one.nodes] != [n.target for n in other.nodes]


def _record(case: Case, folder: Path, again: bool) -> str:
    from perfmodel.workload.program import save_program

    path = folder / f"{name_of(case)}.json.gz"
    if path.exists() and not again:
        return ""
    begin = time.monotonic()
    plain = program(case)
    save_program(plain, path)
    words = f"{len(plain.nodes)} nodes"
    before = plain
    for mode, suffix in _others(case, plain).items():
        held = plain.again(mode)
        if differs(before, held):
            save_program(held, folder / f"{name_of(case)}{suffix}.json.gz")
            words += f", {len(held.nodes)} {mode}"
            before = held
    return f"{words}, {time.monotonic() - begin:.1f} s, {path.stat().st_size >> 10} KiB"


def _others(case: Case, plain: Any) -> dict[str, str]:
    """Other ways of launching that may run other programs, with the suffixes of those.

    ``plain`` tells whether anything in the model asked how it is launched.
    """
    if plain.again is None or case.kind not in ("infer", "train"):
        return {}
    if case.kind == "train":
        return {"compiled": COMPILED}
    return {"graph": CAPTURED, "compiled": COMPILED}


def main(argv: list[str]) -> int:
    """Write the programs of all cases; 0 when each could be recorded."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench.models trace")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="substring of the names to record")
    parser.add_argument("--measured", type=Path, action="append", default=[], help="a cases.csv")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in recordings() if options.only in name_of(case)]
    if options.measured:
        from validate.bench.models import files

        names = {
            "-".join(p for i, p in enumerate(key.split("/")) if i != 2 and p != "nobench")
            for path in options.measured
            for key in files.done(path)
        }
        chosen = [case for case in chosen if name_of(case) in names]
    failed = 0
    for case in chosen:
        try:
            done = _record(case, options.out, options.again)
        except Exception as error:
            failed += 1
            done = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        if done:
            print(f"{name_of(case)}: {done}", flush=True)
    print(f"{len(chosen)} programs, {failed} failed")
    return 1 if failed else 0
