"""Any saved graph by its suffix: graph JSON, a ``torch.export`` program, ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.units import whole
from perfmodel.workload.program import Program, load_program

SUFFIXES: Final = (".json", ".json.gz", ".pt2", ".onnx")


def load_graph(
    path: str | Path, *, batch_size: int | None = None, dims: Mapping[str, int] | None = None
) -> Program:
    """Read a saved graph.

    Parameters
    ----------
    path : str or Path
        ``.json`` or ``.json.gz`` (graph JSON), ``.pt2`` (``torch.export.save``) or ``.onnx``.
    batch_size : int, optional
        The batch where the file leaves it open (a symbolic first dimension). A file that fixes it
        is an error if the two differ.
    dims : mapping of str to int, optional
        Sizes of other dynamic dimensions of an ONNX file, by name.

    Raises
    ------
    WorkloadError
        If the suffix is unknown, the file cannot be read, or its batch is another one.
    """
    if not isinstance(path, str | Path):
        raise WorkloadError(
            "load_graph: path",
            f"<{type(path).__name__}>",
            "the path of a file",
            repair="trace a module of your own with pm.trace(module, example_inputs)",
        )
    path = Path(path)
    name = path.name.lower()
    if batch_size is not None:
        batch_size = whole(given := batch_size)
        if batch_size is None or batch_size < 1:
            raise WorkloadError(
                f"{path}: batch_size",
                given,
                "a whole number above zero",
                repair="give the batch that is run, or leave it out",
            )
    if dims and not name.endswith(".onnx"):
        raise WorkloadError(
            f"{path}: --dim",
            ", ".join(dims),
            "no sizes: only an ONNX file has dynamic dimensions by name",
            repair="trace the model again with example inputs of these sizes",
        )
    if name.endswith((".json", ".json.gz")):
        program = load_program(path)
        _check_batch(program, batch_size, path)
        return program
    if name.endswith(".pt2"):
        from perfmodel.workload.importers.export import load_export

        return load_export(path, batch_size=batch_size)
    if name.endswith(".onnx"):
        from perfmodel.workload.importers.onnx import load_onnx

        return load_onnx(path, batch_size=batch_size, dims=dims)
    raise WorkloadError(
        str(path),
        path.suffix or "<no suffix>",
        ", ".join(SUFFIXES),
        nearest=nearest_name(path.suffix, SUFFIXES) if path.suffix else None,
        repair="save the graph in one of these formats",
    )


def _check_batch(program: Program, batch_size: int | None, path: Path) -> None:
    shapes = [program.tensor(name).shape for name in program.inputs]
    sizes = {shape[0] for shape in shapes if shape}
    if batch_size is None or not sizes or batch_size in sizes:
        return
    raise WorkloadError(
        f"{path}: batch_size",
        batch_size,
        f"the batch the graph was recorded with: {', '.join(map(str, sorted(sizes)))}",
        repair="trace the model again with example inputs of that batch",
    )
