"""Reads an ONNX file as a graph that can be walked: one level of functions, known versions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perfmodel.errors import WorkloadError, nearest_name

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET: Final = 11
LARGEST_FILE: Final = 2**31
"""Protocol buffers end at 2 GiB; larger models keep their weights beside the file."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A parsed model and what the walk needs to know of it."""

    model: onnx.ModelProto
    path: Path
    opsets: dict[str, int]

    @property
    def graph(self) -> onnx.GraphProto:
        """The main graph."""
        return self.model.graph

    @property
    def origin(self) -> str:
        """Who wrote the file, with which operator set."""
        producer = f"{self.model.producer_name} {self.model.producer_version}".strip()
        return f"onnx opset {self.opsets['']}" + (f", {producer}" if producer else "")


def require_onnx() -> Any:
    """The onnx package.

    Raises
    ------
    WorkloadError
        If it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise WorkloadError(
            "ONNX importer",
            "<the onnx package is not installed>",
            "an environment with the extra onnx",
            repair="pip install 'perfmodel[onnx]'",
        ) from None
    return onnx


def read_onnx(path: Path) -> OnnxFile:
    """Parse a file; weights stored beside it are not needed and not read.

    Raises
    ------
    WorkloadError
        If the file is missing, too large, not ONNX, or of an operator set that is not covered.
    """
    if not path.is_file():
        raise WorkloadError(str(path), "<no such file>", "an ONNX file", repair="check the path")
    onnx = require_onnx()
    size = path.stat().st_size
    if size >= LARGEST_FILE:
        raise WorkloadError(
            str(path),
            f"<{size} bytes>",
            "less than 2 GiB, the limit of the format",
            repair="keep the weights beside it: onnx.save(..., save_as_external_data=True)",
        )
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as error:  # whatever the parser makes of a file that is none
        raise _not_onnx(path, f"<{error}>") from None
    if not model.graph.node and not model.graph.output:
        raise _not_onnx(path, "<a file without a graph>")
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    _check_opset(path, opsets, onnx.defs.onnx_opset_version())
    if model.functions:
        model = _inlined(model, path)
    return OnnxFile(model, path, opsets)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; byte strings become text."""
    import onnx

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
            value = list(value)
        elif attribute.type == onnx.AttributeProto.STRINGS:
            value = [text.decode("utf-8", "replace") for text in value]
        found[attribute.name] = value
    return found


def in_order(nodes: Iterable[onnx.NodeProto], known: set[str], where: str) -> list[onnx.NodeProto]:
    """Nodes so that every tensor is made before it is read.

    Raises
    ------
    WorkloadError
        If a tensor is made twice, never, or depends on itself.
    """
    listed = list(nodes)
    maker = _makers(listed, known, where)
    order: list[int] = []
    state = [0] * len(listed)  # 0 unseen, 1 open, 2 done
    for root in range(len(listed)):
        stack = [root]
        while stack:
            index = stack[-1]
            if state[index]:
                stack.pop()
                if state[index] == 1:
                    state[index] = 2
                    order.append(index)
                continue
            state[index] = 1
            for before in _sources(listed[index], maker, known, where):
                if state[before] == 1:
                    raise WorkloadError(
                        f"{where}: node {_name(listed[index])}",
                        "<it depends on itself>",
                        "a graph without cycles",
                        repair="check the names of its inputs and outputs",
                    )
                if state[before] == 0:
                    stack.append(before)
    return [listed[index] for index in order]


def _makers(nodes: list[onnx.NodeProto], known: set[str], where: str) -> dict[str, int]:
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in maker or name in known:
                raise WorkloadError(
                    where,
                    f"<the tensor {name!r} is made twice>",
                    "every tensor made by one node, initializer or input",
                    repair="rename one of the two",
                )
            maker[name] = index
    return maker


def _sources(node: onnx.NodeProto, maker: dict[str, int], known: set[str], where: str) -> list[int]:
    """Nodes that must run before."""
    found = []
    for name in reads_of(node):
        if name in maker:
            found.append(maker[name])
        elif name not in known and name in node.input:
            raise WorkloadError(
                f"{where}: node {_name(node)}",
                f"<reads {name!r}, which nothing makes>",
                "inputs that are a graph input, an initializer or another node's output",
                nearest=nearest_name(name, (*maker, *known)),
                repair="check that the file is complete (onnx.checker.check_model)",
            )
    return found


def reads_of(node: onnx.NodeProto) -> list[str]:
    """Tensors that a node reads, those that its sub-graphs take from outside included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (*attribute.graphs, attribute.g) if attribute.HasField("g") else ():
            inner = {value.name for value in (*graph.input, *graph.initializer)}
            for child in graph.node:
                names += [name for name in reads_of(child) if name not in inner]
                inner.update(child.output)
    return names


def _name(node: onnx.NodeProto) -> str:
    return repr(node.name or (node.output[0] if node.output else node.op_type))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _check_opset(path: Path, opsets: dict[str, int], newest: int) -> None:
    version = opsets.get("")
    accepted = f"operator set {OLDEST_OPSET} to {newest} of the default domain"
    if version is None:
        raise WorkloadError(
            str(path), "<no opset_import>", accepted, repair="state the operator set in the file"
        )
    if version < OLDEST_OPSET:
        raise WorkloadError(
            f"{path}: opset_import",
            version,
            accepted,
            repair="convert it: onnx.version_converter.convert_version(model, 17)",
        )
    if version > newest:
        raise WorkloadError(
            f"{path}: opset_import",
            version,
            accepted,
            repair="install a newer onnx, or export with an older opset_version",
        )


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the C++ side raises what it likes
        raise WorkloadError(
            f"{path}: functions",
            f"<{error}>",
            "functions that call each other without a cycle",
            repair="inline them when exporting",
        ) from None


def _not_onnx(path: Path, got: str) -> WorkloadError:
    return WorkloadError(
        str(path),
        got,
        "an ONNX model (ModelProto)",
        repair="write it again with onnx.save or torch.onnx.export",
    )
