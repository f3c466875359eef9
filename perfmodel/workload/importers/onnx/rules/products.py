"""Matrix products, as ``torch.matmul`` and ``torch.einsum`` break them down."""

from __future__ import annotations

from math import prod
from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.builder import Builder
from perfmodel.workload.importers.onnx.call import Call, nonzero, same
from perfmodel.workload.importers.onnx.rules.pointwise import combine, scaled
from perfmodel.workload.importers.onnx.values import Shape, Spec, Value, broadcast


def transposed(build: Builder, value: Value) -> Value:
    """The last two axes exchanged, as a view."""
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    if value.rank == 2:
        shape, strides = value.shape[::-1], value.strides[::-1]
        return build.view("aten.t", value, shape, strides)
    return build.permute(value, order)


def product(build: Builder, left: Value, right: Value, dtype: str | None = None) -> Value:
    """``torch.matmul``: what it reshapes, copies and calls depends on the ranks and strides."""
    _check(build, left, right)
    dtype = dtype or left.dtype
    if 1 in (left.rank, right.rank):
        return _with_vector(build, left, right, dtype)
    if left.rank == 2 and right.rank == 2:
        spec = Spec((left.shape[0], right.shape[1]), dtype)
        return build.one("aten.mm", [left, right], spec)
    if right.rank == 2:
        rows = build.reshape(left, (prod(left.shape[:-1]), left.shape[-1]))
        spec = Spec((rows.shape[0], right.shape[1]), dtype)
        made = build.one("aten.mm", [rows, right], spec)
        return build.reshape(made, (*left.shape[:-1], right.shape[1]))
    return _batched(build, left, right, dtype)


def _with_vector(build: Builder, left: Value, right: Value, dtype: str) -> Value:
    if left.rank == 1 and right.rank == 1:
        return build.one("aten.dot", [left, right], Spec((), dtype))
    if right.rank == 1 and left.rank == 2:
        return build.one("aten.mv", [left, right], Spec(left.shape[:1], dtype))
    if left.rank == 1:
        row = build.reshape(left, (1, left.shape[0]))
        made = product(build, row, right, dtype)
        return build.reshape(made, (*made.shape[:-2], made.shape[-1]))
    column = build.reshape(right, (right.shape[0], 1))
    made = product(build, left, column, dtype)
    return build.reshape(made, made.shape[:-1])


def _batched(build: Builder, left: Value, right: Value, dtype: str) -> Value:
    where = f"node {build.node_name!r}"
    outer = broadcast(left.shape[:-2], right.shape[:-2], where=where)
    (m, k), n = left.shape[-2:], right.shape[-1]
    batch = prod(outer)
    a = build.reshape(build.expand(left, (*outer, m, k)), (batch, m, k))
    b = build.reshape(build.expand(right, (*outer, k, n)), (batch, k, n))
    made = build.one("aten.bmm", [a, b], Spec((batch, m, n), dtype))
    return build.reshape(made, (*outer, m, n))


def _check(build: Builder, left: Value, right: Value) -> None:
    inner = right.shape[-2] if right.rank > 1 else right.shape[-1] if right.rank else None
    if left.rank == 0 or inner is None or left.shape[-1] != inner:
        broadcast((left.numel, 2), (right.numel, 3), where=f"node {build.node_name!r}: inner sizes")


def matmul(call: Call) -> list[Value]:
    """``MatMul``."""
    return [product(call.build, call.input(0), call.input(1))]


def linear(call: Call, bias: Value) -> Value:
    """``MatMul`` by a weight and the ``Add`` of a bias: one ``aten.addmm`` on flattened rows."""
    x, weight = call.x, call.input(1)
    _check(call.build, x, weight)
    width = weight.shape[1]
    rows = call.build.reshape(x, (prod(x.shape[:-1]), x.shape[-1]))
    spec = Spec((rows.shape[0], width), x.dtype)
    made = call.build.one("aten.addmm", [bias, rows, weight], spec, {"beta": 1, "alpha": 1})
    return call.build.reshape(made, (*x.shape[:-1], width))


def gemm(call: Call) -> list[Value]:
    """``Gemm``: ``aten.addmm``, or ``aten.mm`` without a third operand."""
    a, b, c = call.input(0), call.input(1), nonzero(call.get(2))
    if call.attributes.get("transA"):
        a = transposed(call.build, a)
    if call.attributes.get("transB"):
        b = transposed(call.build, b)
    _check(call.build, a, b)
    spec = Spec((a.shape[0], b.shape[1]), a.dtype)
    alpha, beta = call.attributes.get("alpha", 1.0), call.attributes.get("beta", 1.0)
    if c is None or beta == 0:
        made = call.build.one("aten.mm", [a, b], spec)
        return [made if alpha == 1 else scaled(call.build, "mul", made, alpha)]
    return [call.build.one("aten.addmm", [c, a, b], spec, {"beta": beta, "alpha": alpha})]


def fused_matmul(call: Call) -> list[Value]:
    """``com.microsoft.FusedMatMul``: transposes and a factor in one operator."""
    a, b = call.input(0), call.input(1)
    if call.attributes.get("transA"):
        a = transposed(call.build, a)
    if call.attributes.get("transB"):
        b = transposed(call.build, b)
    made = product(call.build, a, b)
    alpha = call.attributes.get("alpha", 1.0)
    return [made if alpha == 1 else scaled(call.build, "mul", made, alpha)]


def einsum(call: Call) -> list[Value]:
    """``Einsum``: operands from left to right, each pair as one batched product."""
    text = str(call.attributes.get("equation", "")).replace(" ", "")
    values = call.rest()
    terms, result = _terms(call, text, values)
    value, term = values[0], terms[0]
    for index, (other, other_term) in enumerate(zip(values[1:], terms[1:], strict=True), 2):
        later = set(result).union(*terms[index:])
        value, term = _contract(call.build, value, term, other, other_term, later)
    value, term = _summed(call.build, value, term, set(result))
    return [call.build.permute(value, [term.index(letter) for letter in result])]


def _terms(call: Call, text: str, values: list[Value]) -> tuple[list[str], str]:
    left, arrow, result = text.partition("->")
    terms = left.split(",")
    spare = iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    used = set(left)
    dots = ""
    for term, value in zip(terms, values, strict=False):
        if "..." in term:
            wanted = value.rank - (len(term) - 3)
            while len(dots) < wanted:
                dots = next(letter for letter in spare if letter not in used) + dots
    terms = [
        term.replace("...", dots[len(dots) - (value.rank - len(term) + 3) :])
        for term, value in zip(terms, values, strict=False)
    ]
    if not arrow:
        letters = "".join(terms)
        result = dots + "".join(sorted(one for one in set(letters) if letters.count(one) == 1))
    result = result.replace("...", dots)
    good = len(terms) == len(values) and all(
        len(set(term)) == len(term) == value.rank for term, value in zip(terms, values, strict=True)
    )
    if not good or not set(result) <= set("".join(terms)) or len(set(result)) != len(result):
        raise call.refuse(
            f"the equation {text!r}",
            "one letter an axis, none twice in an operand",
            "write it as products and reductions",
        )
    return terms, result


def _summed(build: Builder, value: Value, term: str, kept: set[str]) -> tuple[Value, str]:
    gone = [k for k, letter in enumerate(term) if letter not in kept]
    if not gone:
        return value, term
    shape = tuple(size for k, size in enumerate(value.shape) if k not in gone)
    spec = same(value, shape=shape)
    made = build.one("aten.sum", [value], spec, {"dim": gone, "keepdim": False})
    return made, "".join(letter for letter in term if letter in kept)


def _contract(
    build: Builder, a: Value, at: str, b: Value, bt: str, later: set[str]
) -> tuple[Value, str]:
    """One pair: shared letters that stay are the batch, shared ones that go are summed."""
    a, at = _summed(build, a, at, later | set(bt))
    b, bt = _summed(build, b, bt, later | set(at))
    batch = [one for one in at if one in bt and one in later]
    inner = [one for one in at if one in bt and one not in later]
    rows, columns = [one for one in at if one not in bt], [one for one in bt if one not in at]
    size = dict(zip(bt, b.shape, strict=True)) | dict(zip(at, a.shape, strict=True))
    size |= {one: b.shape[bt.index(one)] for one in bt if size[one] == 1}
    term = "".join([*batch, *rows, *columns])
    if not inner and not (rows and columns):  # a product element by element
        left = _aligned(build, a, at, term)
        right = _aligned(build, b, bt, term)
        return combine(build, "mul", left, right), term

    def flat(letters: list[str]) -> int:
        return prod(size[one] for one in letters)

    a = build.permute(a, [at.index(one) for one in [*batch, *rows, *inner]])
    b = build.permute(b, [bt.index(one) for one in [*batch, *inner, *columns]])
    a = build.expand(a, tuple(size[one] for one in [*batch, *rows, *inner]))
    b = build.expand(b, tuple(size[one] for one in [*batch, *inner, *columns]))
    a = build.reshape(a, (flat(batch), flat(rows), flat(inner)))
    b = build.reshape(b, (flat(batch), flat(inner), flat(columns)))
    spec = Spec((flat(batch), flat(rows), flat(columns)), a.dtype)
    made = build.one("aten.bmm", [a, b], spec)
    return build.reshape(made, tuple(size[one] for one in term)), term


def _aligned(build: Builder, value: Value, have: str, want: str) -> Value:
    value = build.permute(value, [have.index(one) for one in want if one in have])
    shape: Shape = tuple(value.shape[[w for w in want if w in have].index(one)] if one in have
                         else 1 for one in want)  # fmt: skip
    return build.reshape(value, shape)


RULES: Final = MappingProxyType(
    {
        "MatMul": matmul,
        "Gemm": gemm,
        "Einsum": einsum,
        "com.microsoft.FusedMatMul": fused_matmul,
    }
)
