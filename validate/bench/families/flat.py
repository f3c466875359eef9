"""Element-wise kernels, compiled chains and optimizer steps: work over flat arrays."""

from __future__ import annotations

from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F

from validate.bench.ops import Op, traffic
from validate.bench.pool import Pool
from validate.bench.timing import Call

_UNARY = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu, "copy": torch.clone}
_BINARY = {"add": torch.add, "mul": torch.mul}


def make_elementwise(op: Op, pool: Pool) -> list[Call]:
    """One eager kernel: add and mul read two arrays, the rest one."""
    kind, numel, dtype = op["kind"], op["numel"], op["dtype"]
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        x = pool.take(dtype, numel)
        if kind in _BINARY:
            y = pool.take(dtype, numel)
            calls.append(lambda x=x, y=y, f=_BINARY[kind]: f(x, y))
        else:
            calls.append(lambda x=x, f=_UNARY[kind]: f(x))
    return calls


def _silu_mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.silu(x) * y


def _bias_gelu(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.gelu(x + y[0])


def _add_rmsnorm(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x + y, (x.shape[-1],), None, 1e-6)


def _add_layernorm(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x + y, (x.shape[-1],))


_CHAINS = {
    "silu_mul": _silu_mul,
    "bias_gelu": _bias_gelu,
    "add_rmsnorm": _add_rmsnorm,
    "add_layernorm": _add_layernorm,
}
_DYNAMIC = "_dynamic"


@lru_cache(maxsize=4096)
def _compiled(kind: str, rows: int, cols: int, dtype: str) -> Any:
    """The chain compiled for the shapes it meets first, as a training step's are.

    With dynamic shapes (kinds that end in ``_dynamic``) a kernel is laid out for the shape that it
    met first, in an earlier process even, and no operator says which: no fit reads those. Every
    operator has code of its own: past a few shapes of one the compiler would fall back to eager
    kernels in silence. What was compiled stays, so that processes that take turns compile together
    and time alone.
    """
    own = _own(kind, f"{kind}_{rows}_{cols}_{dtype}")
    return torch.compile(own, dynamic=kind.endswith(_DYNAMIC))


def _own(kind: str, name: str) -> FunctionType:
    """The chain's function with code of its own, which bears that name."""
    chain = _CHAINS[kind.removesuffix(_DYNAMIC)]
    return FunctionType(chain.__code__.replace(co_name=name), chain.__globals__, name)


def make_chain(op: Op, pool: Pool) -> list[Call]:
    """A few element-wise operators fused by torch.compile."""
    shape = (op["rows"], op["cols"])
    f = _compiled(op["kind"], *shape, op["dtype"])
    pairs = [
        (pool.take(op["dtype"], *shape), pool.take(op["dtype"], *shape))
        for _ in range(pool.sets(traffic(op)[0]))
    ]
    return [lambda x=x, y=y: f(x, y) for x, y in pairs]


def make_optimizer(op: Op, pool: Pool) -> list[Call]:
    """step() of a fused torch.optim AdamW, or SGD with momentum, on one fp32 tensor."""
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        p = pool.take("fp32", op["numel"]).clone().requires_grad_()
        p.grad = pool.take("fp32", op["numel"])
        if op["op"] == "adamw":
            capturable = pool.device == "cuda"
            opt: Any = torch.optim.AdamW([p], lr=1e-4, fused=True, capturable=capturable)
        else:
            opt = torch.optim.SGD([p], lr=1e-4, momentum=0.9, fused=True)
        opt.step()  # creates the state
        calls.append(opt.step)
    return calls
