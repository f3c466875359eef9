"""Sizes of a graph's inputs: fixed in the file, the batch, or named by the user."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.units import whole
from perfmodel.workload.importers.onnx.values import DTYPES, Spec

if TYPE_CHECKING:
    import onnx

_BATCH: Final = re.compile(
    r"b|n|bs|nb|bsz|batch|batch_?(size|dim|axis|num)|n_?batch|num_?(batch|samples|images)",
    re.IGNORECASE,
)
_ANONYMOUS: Final = re.compile(r"|\?|-1|none|unk__\d+|s\d+|.*_dynamic_axes_\d+|dynamic_?\d*", re.I)
_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.FloorDiv: operator.floordiv,
    }
)
LARGEST_BATCH: Final = 2**31


def input_specs(
    inputs: Sequence[onnx.ValueInfoProto],
    *,
    batch_size: int | None,
    dims: Mapping[str, int],
    where: str,
) -> dict[str, Spec]:
    """Shape and format of every input.

    A dimension is what the file fixes; else what ``dims`` says of its name (or of
    ``"input.axis"``); else, if it is called batch (or N, or is the nameless first axis), the batch
    size. Sums and products of named dimensions are worked out.

    Raises
    ------
    WorkloadError
        If a dimension stays unknown, a name in ``dims`` does not occur, or ``batch_size`` differs
        from a batch that the file fixes.
    """
    dims = {name: _size(size, f"{where}: {name}") for name, size in dims.items()}
    if batch_size is not None:
        batch_size = _size(batch_size, f"{where}: batch_size")
    symbols = _symbols(inputs, where)
    batch = {
        symbol
        for places in symbols.values()
        for axis, symbol in enumerate(places)
        if isinstance(symbol, str)
        and (_BATCH.fullmatch(symbol) or (axis == 0 and _ANONYMOUS.fullmatch(symbol)))
    }
    named = {symbol for places in symbols.values() for symbol in places if isinstance(symbol, str)}
    _check_names(dims, named, symbols, where)
    known = dict(dims)
    if batch_size is not None:
        known = {**dict.fromkeys(batch, batch_size), **known}
    specs: dict[str, Spec] = {}
    missing: dict[str, str] = {}
    needs_batch = False
    for value in inputs:
        shape = []
        for axis, symbol in enumerate(symbols[value.name]):
            found = _resolved(symbol, f"{value.name}.{axis}", known)
            if found is None:
                needs_batch |= symbol in batch
                missing.setdefault(str(symbol) or f"{value.name}.{axis}", f"{value.name}[{axis}]")
            shape.append(found or 0)
        dtype = _dtype(value, where)
        specs[value.name] = Spec(tuple(shape), dtype)
    if missing:
        _complain(missing, named, needs_batch and batch_size is None, where)
    if batch_size is not None and not batch and symbols:
        _check_baked(specs, batch_size, where)
    return specs


def named_sizes(inputs: Sequence[onnx.ValueInfoProto], specs: Mapping[str, Spec]) -> dict[str, int]:
    """Sizes of the dimensions that inputs name, once :func:`input_specs` has told theirs."""
    return {
        dim.dim_param: size
        for value in inputs
        for dim, size in zip(value.type.tensor_type.shape.dim, specs[value.name].shape, strict=True)
        if dim.dim_param
    }


def _size(given: object, where: str) -> int:
    size = whole(given)
    if size is None or not 1 <= size <= LARGEST_BATCH:
        raise WorkloadError(where, given, "a positive integer", repair="give a whole number")
    return size


def _symbols(inputs: Sequence[onnx.ValueInfoProto], where: str) -> dict[str, tuple[int | str, ...]]:
    found: dict[str, tuple[int | str, ...]] = {}
    for value in inputs:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type" or not value.type.tensor_type.HasField("shape"):
            got = "no shape" if kind == "tensor_type" else kind or "no type"
            raise WorkloadError(
                f"{where}: input {value.name}",
                f"<{got}>",
                "a tensor with a rank",
                repair="export it with tensor inputs whose shapes are stated",
            )
        found[value.name] = tuple(
            dim.dim_value
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0
            else dim.dim_param
            for dim in value.type.tensor_type.shape.dim
        )
    return found


def _dtype(value: onnx.ValueInfoProto, where: str) -> str:
    code = value.type.tensor_type.elem_type
    if code not in DTYPES:
        raise WorkloadError(
            f"{where}: input {value.name}",
            f"<element type {code}>",
            f"a tensor of {', '.join(dict.fromkeys(DTYPES.values()))}",
            repair="cut text processing out of the graph (onnx.utils.extract_model)",
        )
    return DTYPES[code]


def _check_names(
    dims: Mapping[str, int],
    named: set[str],
    symbols: Mapping[str, tuple[int | str, ...]],
    where: str,
) -> None:
    places = {
        f"{name}.{axis}"
        for name, shape in symbols.items()
        for axis, symbol in enumerate(shape)
        if isinstance(symbol, str)
    }
    words = {word for symbol in named for word in re.findall(r"[A-Za-z_]\w*", symbol)}
    accepted = sorted((named | words | places) - {""})
    for name in dims:
        if name not in accepted:
            raise WorkloadError(
                f"{where}: --dim",
                name,
                f"a dynamic dimension of the file: {', '.join(accepted) or 'it has none'}",
                nearest=nearest_name(name, accepted),
                repair="use the name that the file gives it, or input.axis",
            )


def _resolved(symbol: int | str, place: str, known: Mapping[str, int]) -> int | None:
    if isinstance(symbol, int):
        return symbol
    return known[place] if place in known else size_of(symbol, known)


def size_of(symbol: str, known: Mapping[str, int]) -> int | None:
    """Size of a named dimension, or of a sum or product of such; ``None`` if it is not known."""
    return known[symbol] if symbol in known else _worked_out(symbol, known)


def _worked_out(text: str, known: Mapping[str, int]) -> int | None:
    """``"past + seq"`` from its terms; ``None`` if it is no such sum or a term is unknown."""
    try:
        tree = ast.parse(text, mode="eval").body if 0 < len(text) < 200 else None
    except (SyntaxError, ValueError, RecursionError):
        return None

    def value(node: ast.AST | None) -> int | None:
        if isinstance(node, ast.Constant):
            return node.value if type(node.value) is int else None
        if isinstance(node, ast.Name):
            return known.get(node.id)
        work = _ARITHMETIC.get(type(node.op)) if isinstance(node, ast.BinOp) else None
        if work is None or not isinstance(node, ast.BinOp):
            return None
        left, right = value(node.left), value(node.right)
        return None if left is None or right is None else work(left, right)

    try:
        size = value(tree) if isinstance(tree, ast.BinOp) else None
    except (ZeroDivisionError, RecursionError):
        return None
    return size if size is not None and size >= 0 else None


def _complain(missing: Mapping[str, str], named: set[str], batch: bool, where: str) -> None:
    first, place = next(iter(missing.items()))
    flags = " ".join(f"--dim {name}=..." for name in missing if not _BATCH.fullmatch(name))
    if batch:
        flags = f"--batch-size ... {flags}".strip()
    raise WorkloadError(
        f"{where}: input {place}",
        f"<the dynamic dimension {first!r}>",
        f"a size for {', '.join(missing)}",
        nearest=nearest_name(first, named - {first}),
        repair=f"state it: {flags or f'--dim {first}=...'} (dims={{'name': size}} in Python)",
    )


def _check_baked(specs: Mapping[str, Spec], batch_size: int, where: str) -> None:
    name, spec = next(iter(specs.items()))
    if spec.shape and spec.shape[0] != batch_size:
        raise WorkloadError(
            f"{where}: batch_size",
            batch_size,
            f"{spec.shape[0]}, the batch that is fixed in the file (input {name} is {spec.shape})",
            repair="export it again with that batch, or with a dynamic one: torch.onnx.export(...,"
            " dynamo=True, dynamic_shapes={...: {0: 'batch'}})",
        )
