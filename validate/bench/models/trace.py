"""Programs of the measured cases, recorded without a device."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from validate.bench.models import cases
from validate.bench.models.cases import Case


def name_of(case: Case) -> str:
    """File stem of a case's program; modes share one."""
    parts = [p for p in case.key.split("/") if p not in (case.mode, "nobench")]
    return "-".join(parts)


def program(case: Case) -> Any:
    """Record one step of `case` with meta tensors."""
    import torch

    import perfmodel as pm
    from validate.bench.models.session import Session, loss_of
    from validate.bench.models.zoo import logits

    session = Session("cpu", False)
    session.name = "meta"
    session.build(case)
    model, training, kwargs = session._model, None, {}
    if case.kind == "decode":
        with torch.device("meta"):
            args: Any = session.decode_example(case.batch, case.seq, session.dtype(case))
    else:
        args, kwargs = session.example(case)
    if case.kind == "train":
        from perfmodel.workload.importers.training import Training

        loss = None

        def first(output: Any) -> Any:
            nonlocal loss
            value = logits(output)
            if loss is None:
                loss = loss_of(value)
            return loss(value)

        training = Training(
            optimizer=case.optimizer,
            implementation=case.implementation,
            loss=first,
            checkpoint="none",
        )
    cast = {"bf16": "bf16", "fp16": "fp16"}.get(case.dtype) if case.autocast else None
    return pm.trace(model, args, kwargs, training=training, autocast=cast)


def main(argv: list[str]) -> int:
    """Write the programs of all cases; 0 when each could be recorded."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench.models trace")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args(argv)
    from perfmodel.workload.program import save_program

    options.out.mkdir(parents=True, exist_ok=True)
    failed, seen = 0, set()
    for case in [*cases.eager(), *cases.compiled()]:
        name = name_of(case)
        if name in seen or options.only not in case.key:
            continue
        seen.add(name)
        path = options.out / f"{name}.json.gz"
        if path.exists():
            continue
        try:
            save_program(program(case), path)
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}"[:300], flush=True)
    print(f"{len(seen)} programs, {failed} failed")
    return 1 if failed else 0
