"""Normalisations, softmax and losses as maps and reductions.

Each function appends to the graph and answers the values of the operator's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.workload.lowering.compile.graph import Graph, Index
from perfmodel.workload.lowering.eager.norm import is_training
from perfmodel.workload.lowering.site import Site, item_bytes, numel

Values = tuple[int, ...]


def compute_dtype(dtype: str) -> str:
    """Statistics of half-precision tensors are kept in fp32."""
    return "fp32" if item_bytes(dtype) < 4 else dtype


def layer_norm(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Mean and variance of each row in one pass, then the map."""
    x = args[0]
    shape, dtype = graph.values[x].shape, graph.values[x].dtype
    normalized = site.attribute("normalized_shape", shape[-1:])
    over = range(len(shape) - len(normalized), len(shape))
    moments = graph.reduce("moments", x, over, compute_dtype(dtype), keepdim=True, operations=4)
    stat_shape = graph.values[moments].shape
    rstd = graph.map("rstd", (moments,), stat_shape, compute_dtype(dtype), 4)
    if "rms" in site.name and graph.joint:  # the same step as in the backward pass
        hat = graph.map("normalized", (x, rstd), shape, compute_dtype(dtype), 2)
        out = graph.map("norm", (hat, *args[1:]), shape, site.outputs[0].dtype, 2)
        return out, rstd
    out = graph.map("norm", (x, moments, rstd, *args[1:]), shape, site.outputs[0].dtype, 4)
    if "rms" in site.name:
        return out, rstd
    return out, moments, rstd


def norm_backward(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Two row sums and the input gradient; two column sums for weight and bias."""
    grad, x = args[0], args[1]
    shape, dtype = graph.values[x].shape, graph.values[x].dtype
    rms = "rms" in site.name
    stats = args[2:3] if rms else args[2:4]
    weights = args[3:4] if rms else args[4:5]
    normalized = site.attribute("normalized_shape", shape[-1:])
    first = len(shape) - len(normalized)
    wide = compute_dtype(dtype)
    mask = list(site.attribute("output_mask", (True,) * len(site.outputs)))
    outputs: list[int] = []
    scaled = graph.map("mul", (grad, *weights), shape, wide, 1)
    hat = graph.map("normalized", (x, *stats), shape, wide, 2)
    if mask[0]:
        inner = range(first, len(shape))
        product = graph.map("mul", (scaled, hat), shape, wide, 1)
        sums = [graph.reduce("sum", product, inner, wide, keepdim=True)]
        if not rms:
            sums.append(graph.reduce("sum", scaled, inner, wide, keepdim=True))
        operands = (scaled, hat, *sums, stats[-1])
        outputs.append(graph.map("norm_backward", operands, shape, site.outputs[0].dtype, 5))
    outer = range(first)
    for place, wanted in enumerate(mask[1:], start=1):
        if not wanted or len(outputs) >= len(site.outputs):
            continue
        out = site.outputs[len(outputs)]
        term = graph.map("mul", (grad, hat), shape, wide, 1) if place == 1 else grad
        total = graph.reduce("sum", term, outer, wide, keepdim=False)
        outputs.append(_as(graph, total, out.dtype))
    return tuple(outputs)


def batch_norm(graph: Graph, site: Site, args: Sequence[int]) -> tuple[Values, Values]:
    """The outputs, and the new running statistics (empty in evaluation)."""
    x = args[0]
    value = graph.values[x]
    shape, wide = value.shape, compute_dtype(value.dtype)
    channels = (1, shape[1], *(1 for _ in shape[2:])) if len(shape) > 1 else shape
    if not is_training(site):
        rest = [graph.view(arg, channels) if _fits(graph, arg, channels) else arg
                for arg in args[1:]]  # fmt: skip
        out = graph.map("batch_norm", (x, *rest), shape, site.outputs[0].dtype, 16)
        return (out,), ()
    over = [axis for axis in range(len(shape)) if axis != 1]
    moments = graph.reduce("moments", x, over, wide, keepdim=True, operations=4)
    rstd = graph.map("rstd", (moments,), channels, wide, 4)
    affine = [graph.view(arg, channels) for arg in args[1:3] if _fits(graph, arg, channels)]
    out = graph.map("batch_norm", (x, moments, rstd, *affine), shape, site.outputs[0].dtype, 4)
    running = tuple(
        graph.map(
            "running", (graph.view(moments, graph.values[arg].shape), arg),
            graph.values[arg].shape, graph.values[arg].dtype, 3,
        )
        for arg in args[3:5]
    )  # fmt: skip
    stats = tuple(
        graph.view(stat, tensor.shape) if numel(tensor.shape) else stat
        for stat, tensor in zip((moments, rstd), site.outputs[1:3], strict=False)
    )
    return (out, *stats), running


def batch_norm_backward(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Two sums a channel, then the input gradient."""
    grad, x = (args[1], args[0]) if "cudnn" in site.name else (args[0], args[1])
    shape, wide = graph.values[x].shape, compute_dtype(graph.values[x].dtype)
    channels = (1, shape[1], *(1 for _ in shape[2:]))
    over = [axis for axis in range(len(shape)) if axis != 1]
    stats = [graph.view(arg, channels) for arg in args[2:] if _fits(graph, arg, channels)]
    centred = graph.map("centred", (grad, x, *stats[-2:-1]), shape, wide, 2)
    sums = [
        graph.reduce("sum", grad, over, wide, keepdim=True),
        graph.reduce("sum", centred, over, wide, keepdim=True),
    ]
    kept = (*stats[-2:], *stats[:1])
    out = graph.map(
        "batch_norm_backward", (grad, x, *sums, *kept), shape, site.outputs[0].dtype, 6
    )  # fmt: skip
    scale = graph.map("mul", (sums[1], *stats[-1:]), channels, wide, 1)
    rest = (
        _as(graph, graph.view(value, tensor.shape), tensor.dtype)
        for value, tensor in zip((scale, sums[0]), site.outputs[1:], strict=False)
    )
    return (out, *rest)


def group_norm(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Moments of each group, then the map."""
    x = args[0]
    value = graph.values[x]
    wide = compute_dtype(value.dtype)
    groups = max(1, int(site.attribute("group", site.attribute("num_groups", 1))))
    batch, channels = value.shape[0], value.shape[1]
    inner = value.numel // max(1, batch * channels)
    folded = graph.view(x, (batch, groups, channels // groups, inner))
    moments = graph.reduce("moments", folded, (2, 3), wide, keepdim=True, operations=4)
    rstd = graph.map("rstd", (moments,), (batch, groups, 1, 1), wide, 4)
    lead = (batch, channels, *(1 for _ in value.shape[2:]))
    spread = [_spread(graph, stat, lead) for stat in (moments, rstd)]
    affine = [graph.view(arg, lead[1:]) for arg in args[1:] if _fits(graph, arg, lead[1:])]
    out = graph.map("group_norm", (x, *spread, *affine), value.shape, site.outputs[0].dtype, 4)
    stats = tuple(
        graph.view(stat, tensor.shape)
        for stat, tensor in zip((moments, rstd), site.outputs[1:], strict=False)
    )
    return (out, *stats)


def group_norm_backward(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Two sums for each image and channel, two for each group; from them all three gradients."""
    grad, x, mean, rstd, *weight = args[:5]
    value = graph.values[x]
    wide = compute_dtype(value.dtype)
    batch, channels = value.shape[:2]
    groups = graph.values[mean].shape[-1]
    lead = (batch, channels, *(1 for _ in value.shape[2:]))
    each = (batch, groups, channels // groups)
    product = graph.map("mul", (grad, x), value.shape, wide, 1)
    over = range(2, len(value.shape))
    sums = [graph.reduce("sum", term, over, wide, keepdim=False) for term in (product, grad)]
    scaled = [graph.map("mul", (total, *weight), lead[:2], wide, 1) for total in sums]
    grouped = [
        graph.reduce("sum", graph.view(term, each), (2,), wide, keepdim=False) for term in scaled
    ]
    second = graph.map("fold", (*grouped, mean, rstd), each[:2], wide, 6)
    third = graph.map("fold", (second, grouped[1], mean, rstd), each[:2], wide, 5)
    spread = [_spread(graph, stat, lead) for stat in (rstd, second, third)]
    scale = [graph.view(one, (1, *lead[1:])) for one in weight]
    terms = graph.map("group_norm_backward", (grad, x, *spread[:2], *scale), value.shape, wide, 4)
    whole = graph.map("of groups", (terms, spread[2]), value.shape, wide, 1)
    out = _as(graph, whole, site.outputs[0].dtype)
    stats = [graph.view(stat, (*each[:2], 1)) for stat in (mean, rstd)]
    rows = [graph.view(total, each) for total in sums]
    centred = graph.map("centred", (*rows, *stats), each, wide, 3)
    rest = []
    for term, tensor in zip((centred, rows[1]), site.outputs[1:], strict=False):
        total = graph.reduce("sum", term, (0,), wide, keepdim=False)
        rest.append(_as(graph, graph.view(total, tensor.shape), tensor.dtype))
    return (out, *rest)


def weight_norm(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Lengths over all axes but one, and the weight over its length times another."""
    weight, length = args[:2]
    value = graph.values[weight]
    wide, kept = compute_dtype(value.dtype), int(site.attribute("dim", 0)) % len(value.shape)
    over = [axis for axis in range(len(value.shape)) if axis != kept]
    total = graph.reduce("norm", weight, over, wide, keepdim=True, operations=2)
    shape = graph.values[total].shape
    norm = graph.map("finish", (total,), shape, wide, 2)
    scale = graph.map("div", (graph.view(length, shape), norm), shape, wide, 1)
    out = graph.map("mul", (weight, scale), value.shape, site.outputs[0].dtype, 1)
    return out, graph.view(norm, site.outputs[1].shape)


def softmax(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Largest entry, sum of exponentials, quotient."""
    x = args[0]
    value, dim = graph.values[x], (int(site.attribute("dim", -1)),)
    wide = compute_dtype(value.dtype)
    top = graph.reduce("amax", x, dim, wide, keepdim=True)
    power = graph.map("exp", (x, top), value.shape, wide, 5)
    total = graph.reduce("sum", power, dim, wide, keepdim=True)
    operands = (x, top, total) if "log" in site.name else (power, total)
    return (graph.map("softmax", operands, value.shape, site.outputs[0].dtype, 4),)


def softmax_backward(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """One sum a row."""
    grad, out = args[0], args[1]
    value, dim = graph.values[out], (int(site.attribute("dim", -1)),)
    wide = compute_dtype(value.dtype)
    product = grad
    if "log" not in site.name:
        product = graph.map("mul", (grad, out), value.shape, wide, 1)
    total = graph.reduce("sum", product, dim, wide, keepdim=True)
    operands = (grad, out, total)
    return (graph.map("softmax_backward", operands, value.shape, site.outputs[0].dtype, 3),)


def nll(graph: Graph, site: Site, args: Sequence[int]) -> Values:
    """Forward: one entry a row, and their mean. Backward: one entry a row of a zeroed tensor."""
    out = site.outputs[0]
    if "backward" in site.name:
        return (graph.map("nll_backward", (args[0], args[2]), out.shape, out.dtype, 3),)
    scores, target = args[0], args[1]
    rows = graph.values[target].shape
    picked = graph.map("gather", (target, scores), rows, graph.values[scores].dtype, 2)
    if numel(out.shape) == numel(rows) and rows:
        return (picked, picked)
    over = range(len(rows))
    total = graph.reduce("sum", picked, over, out.dtype, keepdim=False)
    count = graph.reduce("sum", target, over, out.dtype, keepdim=False)
    return (graph.map("div", (total, count), out.shape, out.dtype, 1), count)


def loss(graph: Graph, site: Site, args: Sequence[int], operations: int) -> Values:
    """A map, and its mean where the result is one number."""
    shape = max((graph.values[arg].shape for arg in args), key=numel)
    out = site.outputs[0]
    wide = compute_dtype(out.dtype)
    each = graph.map(site.name, args, shape, wide, operations)
    if numel(out.shape) == numel(shape):
        return (each,)
    total = graph.reduce("sum", each, range(len(shape)), wide, keepdim=False)
    return (graph.map("div", (total,), out.shape, out.dtype, 1),)


def reduction(graph: Graph, site: Site, args: Sequence[int], operations: int) -> Values:
    """A sum, mean, extremum, variance ... over the axes that the arguments name."""
    x = args[0]
    value, out = graph.values[x], site.outputs[0]
    dims = site.attribute("dim", site.attribute("dims"))
    axes = [dims] if isinstance(dims, int) else list(dims or range(len(value.shape)))
    wide = compute_dtype(out.dtype) if out.dtype in ("bf16", "fp16") else out.dtype
    total = graph.reduce(site.name, x, axes, wide, keepdim=False, operations=operations)
    results = []
    for tensor in site.outputs:
        last = graph.view(total, tensor.shape)
        if site.name in ("mean", "norm", "linalg_vector_norm", "std") or tensor.dtype != wide:
            last = graph.map("finish", (last,), tensor.shape, tensor.dtype, 1)
        results.append(last)
    return tuple(results)


def bilinear(graph: Graph, site: Site, args: Sequence[int]) -> int:
    """Bilinear resampling of an image, in fp32.

    Differences of neighbours times their weights are long expressions, which the compiler stores:
    ``(v01 - v00) w`` and ``(b - a) h`` of ``a + (b - a) h``; the rest is computed where it is used.
    Doubling takes fewer operations (0.5 is scale and offset), and is stored whole in the format of
    the result; so is an image that keeps its size, in fp32.

    ``args`` are the image and, where they are stored, the tables of places and weights.

    Reference
    ---------
    torch/_decomp/decompositions.py, ``_upsample_linear``; checked against generated code.
    """
    out, (x, *tables) = site.outputs[0], args
    wide, shape, before = compute_dtype(out.dtype), out.shape, graph.values[x].shape
    factors = {size / old for size, old in zip(shape[2:], before[2:], strict=True)}
    if not factors.isdisjoint((1.0, 2.0)):
        kept = 1.0 in factors
        whole = graph.map("bilinear", (x, *tables), shape, wide, 9, window=True, heavy=kept)
        return graph.map("cast", (whole,), shape, out.dtype, 0, heavy=not kept)
    corner = graph.map("corner", (x,), shape, wide, 0)
    across = graph.map("across", (x, *tables), shape, wide, 2, window=True, heavy=True)
    down = graph.map("down", (corner, across, x), shape, wide, 5, heavy=True)
    total = graph.map("bilinear", (corner, across, down), shape, wide, 2)
    return graph.map("cast", (total,), shape, out.dtype, 0)


def _as(graph: Graph, value: int, dtype: str) -> int:
    """The value in another format."""
    if graph.values[value].dtype == dtype:
        return value
    return graph.map("cast", (value,), graph.values[value].shape, dtype, 0)


def _fits(graph: Graph, value: int, shape: Sequence[int]) -> bool:
    return graph.values[value].numel == numel(shape)


def _spread(graph: Graph, stat: int, lead: tuple[int, ...]) -> int:
    """A value a group repeated for each channel of the group."""
    batch, groups = graph.values[stat].shape[:2]
    each = max(1, lead[1] // groups)
    repeated = graph.view(stat, (batch, groups, each), Index((batch, groups, each), (groups, 1, 0)))
    return graph.view(repeated, lead)
