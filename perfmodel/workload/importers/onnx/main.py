"""From a parsed file to a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.workload.importers.onnx.builder import Builder
from perfmodel.workload.importers.onnx.dims import input_specs, named_sizes
from perfmodel.workload.importers.onnx.file import OnnxFile, read_onnx
from perfmodel.workload.importers.onnx.values import Value
from perfmodel.workload.importers.onnx.walk import Env, Walk
from perfmodel.workload.program import Program


def read_program(path: Path, *, batch_size: int | None, dims: Mapping[str, int]) -> Program:
    """See :func:`perfmodel.workload.importers.onnx.load_onnx`."""
    file = read_onnx(path)
    walk = Walk(Builder(), file.opsets, str(path.parent))
    try:
        return _walked(file, walk, batch_size, dims)
    except PerfmodelError:
        raise
    except Exception as error:  # an attribute that is missing or of another type, a broken name
        raise WorkloadError(
            f"{path.name}: node {walk.build.node_name!r}",
            f"<{type(error).__name__}: {error}>",
            "an operator with the attributes and inputs that its definition asks for",
            repair="check that the file is valid (onnx.checker.check_model)",
        ) from error


def _walked(file: OnnxFile, walk: Walk, batch_size: int | None, dims: Mapping[str, int]) -> Program:
    path, graph = file.path, file.graph
    weights = {tensor.name for tensor in graph.initializer}
    free = [value for value in graph.input if value.name not in weights]
    specs = input_specs(free, batch_size=batch_size, dims=dims, where=path.name)
    walk.sizes.update(named_sizes(free, specs))
    env: Env = {}
    inputs = []
    for name, spec in specs.items():
        value = walk.build.value(spec, "input", name=name)
        env[name] = value
        inputs.append(value)
    walk.initializers(graph, env)
    walk.graph(graph, env)
    outputs = []
    for result in graph.output:
        found = env.get(result.name)
        if not isinstance(found, Value):
            raise WorkloadError(
                f"{path.name}: output {result.name}",
                "<a sequence>" if isinstance(found, list) else "<nothing makes it>",
                "a tensor that a node makes",
                repair="check that the file is complete (onnx.checker.check_model)",
            )
        walk.build.rename(found, result.name)
        outputs.append(found)
    return walk.build.finish(path.stem, inputs, outputs, file.origin)
