"""Backward pass: every forward call's gradients, split into input and weight halves.

Each product y = x W has two: dx = dy W' and dW = x' dy, so the products of a backward pass have
exactly twice the FLOPs of the forward pass; attention's fused kernel has 2.5 times, because it
recomputes the scores.
"""

from __future__ import annotations

from dataclasses import replace

from perfmodel.workload.adapter import Adapter
from perfmodel.workload.blocks import block_forward, embedding_forward, head_forward
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.kernels import quantise
from perfmodel.workload.layer import Call, LayerKind, Shard
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Op, Size
from perfmodel.workload.ops.dense import Attention, Gemm, GroupedGemm
from perfmodel.workload.ops.rowwise import (
    CrossEntropy,
    Embedding,
    LayerNorm,
    Permute,
    RmsNorm,
    Rope,
    Softmax,
    TopK,
)
from perfmodel.workload.ops.streams import AdamW, Elementwise, Fused
from perfmodel.workload.precision import BF16, Precision
from perfmodel.workload.stack import Stack

# Formats whose matrix products take operands in either order.
_EITHER_ORDER = ("bf16", "fp16", "fp32", "tf32")
# The producer of this gradient writes it quantised where casts are fused.
_CAST_FUSED = ("fc1", "shared_fc1", "expert_fc1")


def block_backward(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    *,
    precision: Precision = BF16,
    adapter: Adapter | None = None,
) -> tuple[Call, ...]:
    """Every operator of one block's backward pass on one rank, in order.

    ``Call.grad`` is ``"input"`` or ``"weight"``. Recomputation is not included: see
    :func:`~perfmodel.workload.blocks.recompute_calls`.
    """
    forward = block_forward(model, kind, shard, stack, precision=precision, adapter=adapter)
    return gradients(forward, stack, precision, frozen=adapter is not None)


def embedding_backward(
    model: ModelConfig, shard: Shard, stack: Stack, *, precision: Precision = BF16
) -> tuple[Call, ...]:
    """Gradients of the embedding; the look-up writes a dense gradient of the table."""
    return gradients(embedding_forward(model, shard, stack, precision=precision), stack, precision)


def head_backward(
    model: ModelConfig, shard: Shard, stack: Stack, *, precision: Precision = BF16
) -> tuple[Call, ...]:
    """Gradients of loss, logits and final norm."""
    return gradients(head_forward(model, shard, stack, precision=precision), stack, precision)


def gradients(
    forward: tuple[Call, ...], stack: Stack, precision: Precision, *, frozen: bool = False
) -> tuple[Call, ...]:
    """The backward calls of a forward sequence, last call first.

    ``frozen`` keeps only the weight gradients of adapters.
    """
    calls: list[Call] = []
    for call in reversed(forward):
        calls += _gradient(call, stack, precision, frozen)
    return tuple(calls)


def _gradient(  # noqa: PLR0911 - one return for each family
    call: Call, stack: Stack, precision: Precision, frozen: bool
) -> tuple[Call, ...]:
    op = call.op
    if isinstance(op, Gemm | GroupedGemm):
        return _products(call, op, stack, precision, frozen and "_lora_" not in call.name)
    if isinstance(op, Attention | RmsNorm | LayerNorm | Softmax | CrossEntropy):
        return (_named(call, replace(op, direction="bwd")),)
    if isinstance(op, Embedding):
        return () if frozen else (_named(call, replace(op, direction="bwd"), "weight"),)
    if isinstance(op, Rope | Permute):
        return (_named(call, op),)
    if isinstance(op, TopK):
        return ()
    if isinstance(op, Elementwise):
        return _elementwise(call, op)
    if isinstance(op, Fused):
        return _chain(call, op, precision)
    return ()


def _named(call: Call, op: Op, grad: str = "input") -> Call:
    return replace(call, name=f"{call.name}_{grad}_grad", op=op, grad=grad)


def _products(
    call: Call, op: Gemm | GroupedGemm, stack: Stack, precision: Precision, frozen: bool
) -> tuple[Call, ...]:
    """Both gradients of a product; two operands of attention are both inputs.

    A linear layer's weight is stored n x k: dx = dy W reads both factors as they lie, dW = dy' x
    the gradient transposed. Products in 8-bit formats keep the one order that libraries have.
    """
    left: Op
    right: Op
    if isinstance(op, GroupedGemm):
        left, right = replace(op, n=op.k, k=op.n), replace(op, direction="wgrad")
    else:
        one = isinstance(op.batch, int) and op.batch == 1
        plain = one and not call.core and op.dtype in _EITHER_ORDER
        turns = ("nn", "nt") if plain else (None, None)
        left = replace(op, n=op.k, k=op.n, trans=turns[0])
        right = Gemm(op.n, op.k, op.m, batch=op.batch, dtype=op.dtype, trans=turns[1])
    calls = [_named(call, left)]
    if call.core:
        other = _named(call, right)
        return (calls[0], replace(other, name=f"{call.name}_input2_grad"))
    if not frozen and call.name != "patches":
        calls.append(_named(call, right, "weight"))
    elif not frozen:
        return (_named(call, right, "weight"),)
    if precision.quantised and op.dtype == precision.gemm:
        fused = stack.fused_quantise and call.name in _CAST_FUSED
        if not fused:
            rows: Size = op.rows if isinstance(op, GroupedGemm) else op.m
            cast = quantise(rows * op.n, precision)
            calls.insert(0, _named(replace(call, name=f"{call.name}_cast"), cast))
    return tuple(calls)


def _elementwise(call: Call, op: Elementwise) -> tuple[Call, ...]:
    if op.kind == "mul":
        return (replace(_named(call, op), count=2 * call.count),)
    if op.kind == "add":
        # the two branches' gradients are summed where they meet
        return (_named(call, op),)
    width = int(bytes_per_element(op.dtype))
    return (_named(call, Fused(f"{op.kind}_grad", op.numel, 2 * width, width, 10)),)


def _chain(call: Call, op: Fused, precision: Precision) -> tuple[Call, ...]:
    """Backward of a fused chain: gradient and saved tensors in, gradients out."""
    e = precision.element
    ends = {
        "activation": (2 * e, e, 12),
        "gated": (3 * e, 2 * e, 12),
        "residual": (2 * e, e, 1),
        "dropout+residual": (3 * e + 1, 2 * e, 3),
        "residual+norm": (3 * e, e, 9),
        "dropout": (e + 1, e, 2),
        "weighted_sum": (2 * e, e, 2),
        "rmsnorm_step": (op.written + op.read, op.read, 2),
        "cast_up": (4, e, 0),
        "concatenate": (e, e, 0),
        "rotate": (e, e, 1),
        "scale": (e, e, 1),
        "mask": (0, 0, 0),
        "positions": (e, 4, 1),
        "lora_add": (e, e, 1),
        # dequantised again for the input gradient
        "dequantise": (op.read, op.written, op.operations),
    }
    if op.chain not in ends:
        return ()
    read, written, operations = ends[op.chain]
    if isinstance(read, int) and read == 0:
        return ()
    return (_named(call, replace(op, read=read, written=written, operations=operations)),)


def optimizer_calls(numel: Size, stack: Stack, *, precision: Precision = BF16) -> tuple[Call, ...]:
    """One AdamW step over the ``numel`` parameters whose state this rank holds, with clipping.

    The gradient norm reads every gradient once. A separate low-precision weight is written where
    the stack keeps a master copy; quantised weights are cast once a step.
    """
    grad = int(bytes_per_element(stack.grad_dtype))
    calls = [Call("grad_norm", Fused("square_sum", numel, grad, 0, 2), module="optimizer")]
    copy = stack.weight_dtype if stack.master_dtype else ""
    master = stack.master_dtype or stack.weight_dtype
    if stack.optimizer == "fused":
        step = AdamW(numel, master, stack.grad_dtype, stack.moment_dtype, copy)
        calls.append(Call("adamw", step, module="optimizer"))
    else:
        # decay, two moment updates, root, division, update: six passes over fp32 tensors
        width = int(bytes_per_element(master))
        steps = Fused("adam_pass", numel, 2 * width, width, 2)
        calls.append(Call("adamw", steps, 6, "optimizer"))
    if precision.quantised:
        calls.append(Call("weight_cast", quantise(numel, precision), module="optimizer"))
    return tuple(calls)


def clear_gradients(numel: Size, stack: Stack) -> tuple[Call, ...]:
    """Setting the gradient buffer of ``numel`` parameters to zero, once a step."""
    op = Elementwise("zero", numel, stack.grad_dtype)
    return (Call("clear_gradients", op, module="optimizer"),)
