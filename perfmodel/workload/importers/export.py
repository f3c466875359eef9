"""``torch.export``: saved programs (``.pt2``), and exporting a module before it is recorded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perfmodel.errors import WorkloadError
from perfmodel.workload.importers.training import Training
from perfmodel.workload.program import Program


def exported(
    module: Any, example_inputs: Any, kwargs: Mapping[str, Any] | None, training: Training | None
) -> Any:
    """The module that ``torch.export`` makes of ``module``.

    Raises
    ------
    WorkloadError
        If it cannot be exported: the reason, the line, and the way round.
    """
    import torch

    from perfmodel.workload.importers.explain import way_round
    from perfmodel.workload.importers.frames import failing_line, written_line
    from perfmodel.workload.importers.mirror import inputs_on_meta, on_meta

    name = type(module).__name__
    model, _ = on_meta(module)
    model.train(training is not None)
    args = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    memo: dict[int, Any] = {}
    try:
        program = torch.export.export(
            model,
            inputs_on_meta(tuple(args), [], memo),
            inputs_on_meta(dict(kwargs or {}), [], memo),
            strict=False,
        )
        return program.module()
    except Exception as fault:
        reason = str(fault).strip().split("\n")[0]
        line = failing_line(fault.__traceback__) or written_line(str(fault))
        way = way_round(fault, line)
        raise WorkloadError(
            f"trace {name}: {line or 'torch.export'}",
            f"<{type(fault).__name__}: {reason}>",
            "a module that torch.export can export with strict=False",
            repair=(f"{way}; or " if way else "")
            + 'record it directly: trace(module, inputs, via="record")',
        ) from fault


def load_export(path: str | Path, *, batch_size: int | None = None) -> Program:
    """Record the forward pass of a program that ``torch.export.save`` wrote.

    Parameters
    ----------
    batch_size : int, optional
        The batch to run, where the program was exported with a dynamic first dimension; by default
        that of its example inputs.

    Raises
    ------
    WorkloadError
        If torch is missing, the file cannot be read, has no example inputs, or the batch is fixed.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkloadError(
            str(path),
            "<no such file>",
            "a file that torch.export.save wrote",
            repair="check the path",
        )
    try:
        import torch
    except ImportError:
        raise WorkloadError(
            str(path),
            "<torch is not installed>",
            "PyTorch, to read a .pt2 file",
            repair="pip install 'perfmodel[torch]', or save the graph as JSON where torch is",
        ) from None
    from torch.export.passes import move_to_device_pass

    from perfmodel.workload.importers.record import record

    try:
        with _quietly():
            program = torch.export.load(path)
    except Exception as fault:
        raise WorkloadError(
            str(path),
            f"<{': '.join([type(fault).__name__, *str(fault).strip().splitlines()[:1]])}>",
            "a file that torch.export.save wrote with this version of PyTorch",
            repair="save it again with torch.export.save(torch.export.export(...), path)",
        ) from None
    if program.example_inputs is None:
        raise WorkloadError(
            str(path),
            "<no example inputs>",
            "a program saved with its example inputs",
            repair="export it again and save it as it is",
        )
    args, kwargs = program.example_inputs
    if batch_size is not None:
        args, kwargs = _rebatched((args, kwargs), batch_size, program, path)
    with _quietly():
        program = move_to_device_pass(program, "meta")  # what the graph makes names a device too
    return record(program.module(), args, kwargs, name=path.stem, via="export")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without PyTorch's own log of a fault, which is told once, or its notes on its own formats."""
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _rebatched(inputs: Any, batch_size: int, program: Any, path: Path) -> Any:
    import torch
    from torch.utils._pytree import tree_map

    sizes = {
        value.shape[0]
        for value in torch.utils._pytree.tree_leaves(inputs)
        if isinstance(value, torch.Tensor) and value.dim()
    }
    if sizes == {batch_size}:
        return inputs
    if len(sizes) != 1 or not program.range_constraints:
        raise WorkloadError(
            f"{path}: batch_size",
            batch_size,
            f"the batch the program was exported with, {sorted(sizes)}",
            repair="export it with dynamic_shapes for the first dimension, or leave out batch_size",
        )

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.dim():
            return value
        return torch.empty((batch_size, *value.shape[1:]), dtype=value.dtype, device="meta")

    return tree_map(resized, inputs)
