"""Stacks of recurrent layers as ``torch.nn.LSTM`` and its kin run them: one call of cuDNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from validate.bench.ops import Op, traffic
from validate.bench.pool import TORCH_DTYPE, Pool
from validate.bench.timing import Call

_STACKS: dict[str, Callable[..., Any]] = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "rnn_tanh": torch.nn.RNN,
}
_MODES = {"rnn_tanh": 1, "lstm": 2, "gru": 3}
_MOST_SETS = 12  # each has weights of its own, which PyTorch draws one by one


def make(op: Op, pool: Pool) -> list[Call]:
    """Pass ``fwd`` is inference, ``train`` the forward pass that keeps what the gradients need.

    Pass ``bwd`` is the backward pass alone: gradients of the input and of all weights. cuDNN writes
    over what the forward pass kept, so that later calls find other numbers there; no branch depends
    on them.
    """
    torch.backends.cudnn.allow_tf32 = op["dtype"] == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = op["dtype"] == "tf32"
    which, calls = op.get("pass", "fwd"), []
    for _ in range(min(_MOST_SETS, pool.sets(traffic(op)[0]))):
        stack = _STACKS[op["kind"]](
            op["width"], op["hidden"], op["layers"], bidirectional=op["ways"] == 2,
            device=pool.device, dtype=TORCH_DTYPE[op["dtype"]],
        )  # fmt: skip
        stack.train(which != "fwd")
        x = pool.take(op["dtype"], op["steps"], op["batch"], op["width"])
        if which != "bwd":
            start = _start(op, x)
            calls.append(lambda x=x, start=start, stack=stack: stack(x, start))
        elif pool.device == "cuda":
            calls.append(_backward(op, pool, stack, x))
        else:
            calls.append(_by_autograd(op, pool, stack, x))
    return calls


def _start(op: Op, x: torch.Tensor) -> Any:
    """States before the first step, made once: their fill is no part of the call."""
    state = x.new_zeros(op["layers"] * op["ways"], op["batch"], op["hidden"])
    return (state, state) if op["kind"] == "lstm" else state


def _backward(op: Op, pool: Pool, stack: Any, x: torch.Tensor) -> Call:
    """Only cuDNN's backward pass; autograd would copy what the forward pass kept each time."""
    mode, hidden, layers = _MODES[op["kind"]], op["hidden"], op["layers"]
    ways, flat, aten = op["ways"], stack._flat_weights, torch.ops.aten
    states = _start(op, x)
    start, cell = states if isinstance(states, tuple) else (states, None)
    how = (mode, hidden, 0, layers, False, 0.0, True, ways == 2, [], None)
    out, _, _, kept, packed = aten._cudnn_rnn(x, flat, 4, None, start, cell, *how)
    grad = pool.take(op["dtype"], *out.shape)
    mask = [True, False, False, True]

    def call() -> Any:
        return aten._cudnn_rnn_backward(
            x, flat, 4, packed, start, cell, out, grad, None, None, *how, kept, mask
        )

    return call


def _by_autograd(op: Op, pool: Pool, stack: Any, x: torch.Tensor) -> Call:
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = stack(leaf)[0]
    grad = pool.take(op["dtype"], *out.shape)
    wanted = (leaf, *stack.parameters())
    return lambda: torch.autograd.grad(out, wanted, grad, retain_graph=True)
