"""The kernels that a stack makes of a norm, an activation, a residual or a linear layer."""

from __future__ import annotations

from perfmodel.workload.layer import Call
from perfmodel.workload.ops.base import Op, Size
from perfmodel.workload.ops.dense import Gemm
from perfmodel.workload.ops.rowwise import LayerNorm, RmsNorm, Rope, Softmax
from perfmodel.workload.ops.streams import Elementwise, Fused
from perfmodel.workload.precision import Precision
from perfmodel.workload.stack import Stack

# bytes read and written an element by each kernel of an unfused RMS norm (fp32 inside, 2-byte
# ends): cast, square, mean, scale, cast back, weight
_NORM_STEPS = ((2, 4), (4, 4), (4, 0), (4, 4), (4, 2), (2, 2))


def linear(
    name: str, m: Size, n: Size, k: Size, module: str, precision: Precision, *, cast: bool
) -> tuple[Call, ...]:
    """A product with a weight, after a quantising kernel where the format needs one.

    ``cast`` false means that the producer of the input already wrote it quantised.
    """
    product = Call(name, Gemm(m, n, k, dtype=precision.gemm), module=module)
    if not (precision.quantised and cast):
        return (product,)
    return (Call(f"{name}_cast", quantise(m * k, precision), module=module), product)


def quantise(numel: Size, precision: Precision) -> Op:
    """One pass that writes a quantised tensor and its transpose (for the weight gradient)."""
    written = 1 if precision.gemm in ("fp4", "int4") else 2
    return Fused("quantise", numel, precision.element, written, 2)


def norm(
    name: str, which: str, rows: Size, cols: Size, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """A norm over rows x cols; layer norm is always one kernel."""
    if which == "layernorm":
        return (Call(name, LayerNorm(rows, cols, dtype=precision.compute), module="norm"),)
    if stack.fused_norm:
        return (Call(name, RmsNorm(rows, cols, dtype=precision.compute), module="norm"),)
    return tuple(
        Call(f"{name}_{step}", Fused("rmsnorm_step", rows * cols, *ends, 1), module="norm")
        for step, ends in enumerate(_NORM_STEPS)
    )


def residual_norm(
    name: str, which: str, rows: Size, cols: Size, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """A norm that also adds the residual, where the stack fuses them."""
    if not stack.fused_residual_norm:
        return norm(name, which, rows, cols, stack, precision)
    e = precision.element
    op = Fused("residual+norm", rows * cols, 2 * e, 2 * e, 5, precision.compute, rows)
    return (Call(name, op, module="norm"),)


def rotation(
    tokens: Size, heads: Size, head_dim: Size, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Rotary embedding: one kernel, or rotate, two products and a sum."""
    if stack.fused_rope:
        op = Rope(tokens, heads, head_dim, dtype=precision.compute)
        return (Call("rope", op, module="attention"),)
    numel = tokens * heads * head_dim
    e = precision.element
    return (
        Call("rope_rotate", Fused("rotate", numel, e, e, 1), module="attention"),
        Call("rope_scale", Fused("scale", numel, e, e, 1), 2, "attention"),
        Call("rope_add", Elementwise("add", numel, precision.compute), module="attention"),
    )


def softmax(rows: Size, cols: Size, stack: Stack, precision: Precision) -> tuple[Call, ...]:
    """Softmax of stored scores: one kernel, or scale, mask and softmax."""
    op = Softmax(rows, cols, dtype=precision.compute)
    main = Call("softmax", op, module="attention", core=True)
    if stack.fused_softmax:
        return (main,)
    numel = rows * cols
    e = precision.element
    scale = Call("score_scale", Fused("scale", numel, e, e, 1), module="attention", core=True)
    mask = Call("score_mask", Fused("mask", numel, e, e, 1), module="attention", core=True)
    return (scale, mask, main)


def activation(
    name: str, numel: Size, gated: bool, kind: str, module: str, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """The non-linearity between two linear layers, over ``numel`` outputs."""
    e = precision.element
    if stack.fused_activation:
        if gated:
            return (Call(name, Fused("gated", numel, 2 * e, e, 6), module=module),)
        return (Call(name, Fused("activation", numel, e, e, 9), module=module),)
    calls = [Call(name, Elementwise(kind, numel, precision.compute), module=module)]
    if gated:
        calls.append(
            Call(f"{name}_gate", Elementwise("mul", numel, precision.compute), module=module)
        )
    return tuple(calls)


def residual(
    name: str, numel: Size, module: str, stack: Stack, precision: Precision, *, branches: int = 1
) -> tuple[Call, ...]:
    """Adds ``branches`` outputs to the residual stream, with dropout where the stack has it."""
    e, mask = precision.element, int(stack.dropout)
    if stack.fused_residual_norm and not stack.dropout:
        return ()
    if stack.fused_residual:
        op = Fused("dropout+residual" if mask else "residual", numel, (1 + branches) * e, e + mask)
        return (Call(name, op, module=module),)
    calls = [Call(name, Elementwise("add", numel, precision.compute), branches, module)]
    if mask:
        drop = Call(f"{name}_dropout", Fused("dropout", numel, e, e + 1, 2), branches, module)
        calls.insert(0, drop)
    return tuple(calls)
