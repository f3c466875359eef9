"""LSTM, GRU and plain RNN: one product for all inputs, then a product and gates for each step."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call
from perfmodel.workload.importers.onnx.rules.pointwise import combine
from perfmodel.workload.importers.onnx.rules.products import transposed
from perfmodel.workload.importers.onnx.values import Spec, Value

_GATES: Final = MappingProxyType({"LSTM": 4, "GRU": 3, "RNN": 1})


def recurrent(call: Call) -> list[Value]:
    """All directions; sequences are taken at full length."""
    build, x = call.build, call.x
    if call.attributes.get("layout"):
        x = build.permute(x, [1, 0, 2])
    weight, again, bias = call.input(1), call.input(2), call.get(3)
    directions, hidden = weight.shape[0], again.shape[2]
    steps, batch, _ = x.shape
    if call.get(4) is not None:
        build.assume("recurrent layers run every sequence at its full length")
    whole, lasts, cells = [], [], []
    for way in range(directions):
        outputs, cell = _direction(call, x, weight, again, bias, way)
        reverse = way == 1 or call.attributes.get("direction") == "reverse"
        lasts.append(outputs[-1])
        if cell is not None:
            cells.append(cell)
        ordered = outputs[::-1] if reverse else outputs
        spec = Spec((steps, batch, hidden), x.dtype)
        whole.append(build.one("aten.stack", ordered, spec, {"dim": 0}))
    together = _stacked(call, whole, (steps, directions, batch, hidden), 1)
    ends = [
        _stacked(call, part, (directions, batch, hidden), 0)
        for part, name in zip((lasts, cells), call.outputs[1:], strict=False)
        if part and name
    ]
    if call.attributes.get("layout"):
        together = build.permute(together, [2, 0, 1, 3])
        ends = [build.permute(one, [1, 0, 2]) for one in ends]
    found = iter(ends)
    return [together, *(next(found, x) if name else x for name in call.outputs[1:])]


def _direction(
    call: Call, x: Value, weight: Value, again: Value, bias: Value | None, way: int
) -> tuple[list[Value], Value | None]:
    build, op = call.build, call.op
    steps, batch, width = x.shape
    gates, hidden = _GATES[op] * again.shape[2], again.shape[2]
    outside = build.folding
    build.folding = True  # each direction has a weight of its own in PyTorch
    w, r = (transposed(build, build.select(one, 0, way)) for one in (weight, again))
    shift = None if bias is None else build.slice(build.select(bias, 0, way), 0, 0, gates)
    build.folding = outside
    rows = build.reshape(x, (steps * batch, width))
    spec = Spec((steps * batch, gates), x.dtype)
    if shift is None:
        flat = build.one("aten.mm", [rows, w], spec)
    else:
        flat = build.one("aten.addmm", [shift, rows, w], spec, {"beta": 1, "alpha": 1})
    entries = build.reshape(flat, (steps, batch, gates))
    state = Spec((batch, hidden), x.dtype)
    hidden_state, cell = _start(call, 5, way, state), None
    if op == "LSTM":
        cell = _start(call, 6, way, state)
    backward = way == 1 or call.attributes.get("direction") == "reverse"
    outputs = []
    for step in range(steps):
        entry = build.select(entries, 0, steps - 1 - step if backward else step)
        product = build.one("aten.mm", [hidden_state, r], Spec((batch, gates), x.dtype))
        if op == "LSTM":
            specs = [state, state, Spec((batch, gates), x.dtype)]
            hidden_state, cell, _ = build.emit(
                "aten._thnn_fused_lstm_cell", [entry, product, cell], specs
            )
        elif op == "GRU":
            specs = [state, Spec((batch, 5 * hidden), x.dtype)]
            hidden_state, _ = build.emit(
                "aten._thnn_fused_gru_cell", [entry, product, hidden_state], specs
            )
        else:
            total = combine(build, "add", entry, product)
            hidden_state = build.one("aten.tanh", [total], state)
        outputs.append(hidden_state)
    return outputs, cell


def _start(call: Call, index: int, way: int, spec: Spec) -> Value:
    given = call.get(index)
    if given is not None:
        return call.build.select(given, 0, way)
    return call.build.one("aten.zeros", [], spec, {"size": list(spec.shape)})


def _stacked(call: Call, parts: list[Value], shape: tuple[int, ...], axis: int) -> Value:
    if len(parts) == 1:
        return call.build.reshape(parts[0], shape)
    return call.build.one("aten.stack", parts, Spec(shape, parts[0].dtype), {"dim": axis})


RULES: Final = MappingProxyType(dict.fromkeys(_GATES, recurrent))
