"""Graph JSON: the file form of a program, its JSON Schema, and reading and writing it.

``python -m perfmodel.workload.program_file`` writes the schema; a test compares it with the
committed file.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.files import write_bytes
from perfmodel.workload.program import ELEMENT_BYTES, Node, Program, Tensor

FORMAT: Final = "perfmodel-program"
VERSION: Final = 1
SCHEMA: Final = Path(__file__).parent / "schema" / "program.json"
LARGEST_FILE: Final = 1 << 30
LARGEST_TENSOR: Final = 1 << 50

_PRODUCTS: Final = {
    "aten.mm": (0, 2),
    "aten.bmm": (0, 2),
    "aten.addmm": (1, 3),
    "aten.baddbmm": (1, 3),
}
"""Where the factors stand, and how many tensors there are."""

_Size = Annotated[int, Field(ge=0, le=2**53, strict=True)]
_Number = Annotated[int, Field(ge=0, strict=True)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorFile(_File):
    """A view of a storage."""

    name: str = Field(min_length=1, description="unique in the file")
    shape: tuple[_Size, ...]
    dtype: str = Field(
        description="number format", json_schema_extra={"enum": [*sorted(ELEMENT_BYTES)]}
    )
    role: Literal["parameter", "buffer", "input", "activation", "gradient", "state", "constant"] = (
        "activation"
    )
    storage: _Number = Field(description="index into storages; equal numbers share memory")
    layout: Literal["contiguous", "channels_last", "strided", "sparse"] = "contiguous"
    host: bool = Field(default=False, description="lies in host memory")


class NodeFile(_File):
    """One operator, as the host calls it."""

    name: str = Field(min_length=1, description="unique: module path and operator")
    target: str = Field(min_length=1, description='"aten.addmm", "aten.add_", "mylib.op"')
    inputs: tuple[str, ...] = Field(default=(), description="tensor names, schema order")
    outputs: tuple[str, ...] = ()
    attributes: dict[str, Any] = Field(
        default_factory=dict, description="arguments that are no tensors, by schema name"
    )
    phase: Literal["forward", "backward", "optimizer"] = "forward"
    module: str = ""
    source: str = Field(default="", description='"file.py:123"')
    frees: tuple[_Number, ...] = Field(default=(), description="storages that die after it")


class ProgramFile(_File):
    """One step of a model: operators in the order of the host's calls."""

    format: Literal["perfmodel-program"]
    version: Literal[1]
    name: str = Field(min_length=1)
    origin: str = Field(default="json", description="what made the file, with versions")
    module_calls: _Number = Field(default=0, description="how many Module.__call__ ran")
    python_calls: _Number = Field(
        default=0, description="how many Python functions ran; 0 where nobody counted"
    )
    outside_calls: _Number | None = Field(
        default=None, description="how many of these are no part of PyTorch"
    )
    storages: tuple[_Size, ...] = Field(description="size of each storage in bytes")
    tensors: tuple[TensorFile, ...]
    nodes: tuple[NodeFile, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


def to_dict(program: Program) -> dict[str, Any]:
    """Graph JSON of a program; what equals its default is left out of tensors and nodes."""
    tensors = []
    for tensor in program.tensors:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "storage": tensor.storage,
        }
        if tensor.role != "activation":
            entry["role"] = tensor.role
        if tensor.layout != "contiguous":
            entry["layout"] = tensor.layout
        if tensor.host:
            entry["host"] = True
        tensors.append(entry)
    nodes = []
    for node in program.nodes:
        entry = {"name": node.name, "target": node.target, "phase": node.phase}
        for key in ("inputs", "outputs", "frees"):
            if getattr(node, key):
                entry[key] = list(getattr(node, key))
        if node.attributes:
            entry["attributes"] = dict(node.attributes)
        for key in ("module", "source"):
            if getattr(node, key):
                entry[key] = getattr(node, key)
        nodes.append(entry)
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": program.name,
        "origin": program.origin,
        "module_calls": program.module_calls,
        "python_calls": program.python_calls,
        "outside_calls": program.outside_calls,
        "assumptions": list(program.assumptions),
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "storages": list(program.storages),
        "tensors": tensors,
        "nodes": nodes,
    }


def from_dict(data: Any, *, where: str = "program") -> Program:
    """A program from graph JSON."""
    try:
        file = ProgramFile.model_validate(data)
    except ValidationError as fault:
        raise _explained(fault, where) from None
    tensors = []
    for index, entry in enumerate(file.tensors):
        if entry.dtype not in ELEMENT_BYTES:
            raise WorkloadError(
                f"{where}: tensors.{index}.dtype",
                entry.dtype,
                ", ".join(sorted(ELEMENT_BYTES)),
                nearest=nearest_name(entry.dtype, ELEMENT_BYTES),
                repair="use the short name of the number format",
            )
        tensors.append(
            Tensor(
                entry.name,
                entry.shape,
                entry.dtype,
                entry.role,
                entry.storage,
                entry.layout,
                entry.host,
            )
        )
    for tensor in tensors:
        if tensor.numel > LARGEST_TENSOR:
            raise WorkloadError(
                f"{where}: tensor {tensor.name}: shape",
                tensor.shape,
                "at most 2**50 elements",
                repair="correct the sizes",
            )
    nodes = tuple(
        Node(
            entry.name,
            entry.target,
            entry.inputs,
            entry.outputs,
            entry.attributes,
            entry.phase,
            entry.module,
            entry.source,
            entry.frees,
        )
        for entry in file.nodes
    )
    program = Program(
        name=file.name,
        tensors=tuple(tensors),
        nodes=nodes,
        inputs=file.inputs,
        outputs=file.outputs,
        origin=file.origin,
        module_calls=file.module_calls,
        python_calls=file.python_calls,
        outside_calls=file.outside_calls,
        storages=file.storages,
        assumptions=file.assumptions,
    )
    _check_order(program, where)
    _check_storages(program, where)
    _check_products(program, where)
    return program


def _check_order(program: Program, where: str) -> None:
    """Every tensor is made once, before it is read; so there are no cycles."""
    seen: set[str] = set(program.inputs)
    for index, node in enumerate(program.nodes):
        seen.update(node.inputs)
        for name in node.outputs:
            if name in seen:
                raise WorkloadError(
                    f"{where}: nodes.{index} ({node.name}): outputs",
                    name,
                    "a tensor that no node up to here reads or makes",
                    repair="list the nodes in the order of the calls; a result of an in-place"
                    " operator is a tensor of its own with the same storage",
                )
            seen.add(name)


def _check_storages(program: Program, where: str) -> None:
    """A tensor without gaps or repeats lies inside its storage."""
    for tensor in program.tensors:
        dense = tensor.layout in ("contiguous", "channels_last")
        has = program.storages[tensor.storage]
        needs = tensor.numel * ELEMENT_BYTES[tensor.dtype]
        if dense and needs > has:
            raise WorkloadError(
                f"{where}: tensor {tensor.name}: storage {tensor.storage}",
                f"{has} bytes",
                f"at least {needs:.0f}, for shape {list(tensor.shape)} of {tensor.dtype}",
                repair="correct the size under storages; what is expanded has the layout strided",
            )


def _check_products(program: Program, where: str) -> None:
    """Factors and result of a matrix product fit together."""
    for index, node in enumerate(program.nodes):
        if node.target not in _PRODUCTS:
            continue
        first, count = _PRODUCTS[node.target]
        given = [program.tensor(name).shape for name in node.inputs]
        if len(given) == count and len(node.outputs) == 1:
            left, right = given[first : first + 2]
            wanted = (*left[:-1], *right[-1:])
            same = len(left) == len(right) and left[-1:] == right[-2:-1] and len(left) > 1
            if same and left[:-2] == right[:-2] and program.tensor(node.outputs[0]).shape == wanted:
                continue
        raise WorkloadError(
            f"{where}: nodes.{index} ({node.name}): {node.target}",
            " x ".join(str(list(shape)) for shape in given) or "<no inputs>",
            f"{count} inputs, of which [..., m, k] x [..., k, n] make the one output [..., m, n]",
            repair="list the tensors in the order of the operator's schema, a bias first",
        )


def save(program: Program, path: Path) -> None:
    """Write to a temporary name beside ``path``, then move."""
    text = json.dumps(to_dict(program), separators=(",", ":"), allow_nan=False).encode()
    if path.name.endswith(".gz"):
        text = gzip.compress(text, 6, mtime=0)
    write_bytes(path, text)


def load(path: Path) -> Program:
    """Read ``.json`` or ``.json.gz``."""
    where = path.name
    try:
        raw = path.read_bytes()
        if path.name.endswith(".gz"):
            raw = _inflated(raw, where)
        data = json.loads(raw)
    except OSError as fault:
        raise WorkloadError(
            str(path),
            fault.strerror or str(fault),
            "a readable graph JSON file",
            repair="check the path",
        ) from None
    except (ValueError, RecursionError, EOFError, zlib.error) as fault:
        raise WorkloadError(
            where,
            str(fault),
            "graph JSON (.json) or the same compressed (.json.gz)",
            repair="write it with perfmodel.workload.program.save_program",
        ) from None
    return from_dict(data, where=where)


def _inflated(raw: bytes, where: str) -> bytes:
    engine = zlib.decompressobj(wbits=31)
    text = engine.decompress(raw, LARGEST_FILE)
    if engine.unconsumed_tail:
        raise WorkloadError(
            where,
            f"more than {LARGEST_FILE} bytes when unpacked",
            f"at most {LARGEST_FILE} bytes",
            repair="trace a smaller model or fewer steps",
        )
    if not engine.eof:
        raise EOFError("the compressed file is cut short")
    return text


def _explained(fault: ValidationError, where: str) -> WorkloadError:
    first = fault.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    nearest = None
    if first["type"] == "extra_forbidden":
        owners: dict[str, type[BaseModel]] = {"tensors": TensorFile, "nodes": NodeFile}
        owner = owners.get(str(first["loc"][0]), ProgramFile)
        nearest = nearest_name(str(first["loc"][-1]), owner.model_fields)
    return WorkloadError(
        f"{where}: {path}" if path else where,
        None if first["type"] == "missing" else first["input"],
        first["msg"][0].lower() + first["msg"][1:],
        nearest=nearest,
        repair="follow the graph JSON schema in docs/importing.md",
    )


def schema_text() -> str:
    """The JSON Schema, as the committed file holds it."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ProgramFile.model_json_schema(),
        "title": "perfmodel program",
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA.parent.mkdir(parents=True, exist_ok=True)
    draft = SCHEMA.with_name(".program.json.part")
    draft.write_text(schema_text(), encoding="utf-8")
    draft.replace(SCHEMA)
