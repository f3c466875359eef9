"""LSTM, GRU and plain RNN: cuDNN's one call for a layer and its directions, as PyTorch makes it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from perfmodel.workload.importers.onnx.call import Call
from perfmodel.workload.importers.onnx.values import Spec, Value

_MODES: Final = MappingProxyType({"RNN": 1, "LSTM": 2, "GRU": 3})
_RELU: Final = 0


def recurrent(call: Call) -> list[Value]:
    """All directions; sequences are taken at full length."""
    build, x = call.build, call.x
    if call.attributes.get("layout"):
        x = build.permute(x, [1, 0, 2])
    weight, again = call.input(1), call.input(2)
    directions, hidden = weight.shape[0], again.shape[2]
    steps, batch, _ = x.shape
    if call.get(4) is not None:
        build.assume("recurrent layers run every sequence at its full length")
    states = Spec((directions, batch, hidden), x.dtype)
    count = 2 if call.op == "LSTM" else 1
    start = [_start(call, 5 + place, states) for place in range(count)]
    none = Spec((0,), x.dtype)
    specs = [
        Spec((steps, batch, directions * hidden), x.dtype),
        states,
        states if count > 1 else none,
        Spec((0,), "uint8"),
        none,
    ]
    attributes = {
        "mode": _mode(call), "hidden_size": hidden, "proj_size": 0, "num_layers": 1,
        "batch_first": False, "dropout": 0.0, "train": False, "bidirectional": directions > 1,
        "batch_sizes": [],
    }  # fmt: skip
    inputs = [x, weight, again, call.get(3), *start]
    whole, *ends = build.emit("aten._cudnn_rnn", inputs, specs, attributes)[: count + 1]
    split = build.reshape(whole, (steps, batch, directions, hidden))
    together = build.permute(split, [0, 2, 1, 3])
    if call.attributes.get("layout"):
        together = build.permute(together, [2, 0, 1, 3])
        ends = [build.permute(one, [1, 0, 2]) for one in ends]
    return [together, *ends[: max(0, len(call.outputs) - 1)]]


def _mode(call: Call) -> int:
    """CuDNN's number of the kind of cell."""
    named = [str(word).lower() for word in call.attributes.get("activations") or ()]
    return _RELU if call.op == "RNN" and "relu" in named else _MODES[call.op]


def _start(call: Call, index: int, spec: Spec) -> Value:
    given = call.get(index)
    if given is not None:
        return given
    return call.build.one("aten.zeros", [], spec, {"size": list(spec.shape)})


RULES: Final = MappingProxyType(dict.fromkeys(_MODES, recurrent))
