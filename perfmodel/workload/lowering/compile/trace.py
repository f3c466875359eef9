"""From a program to a graph without mutation or aliases.

An operator that writes in place makes a new value; every other view of the memory is made again
from it when it is next asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from perfmodel.workload.lowering.compile import complexes, resampled, scatter
from perfmodel.workload.lowering.compile import decompositions as parts
from perfmodel.workload.lowering.compile.autocast import autocast_format, cast_product
from perfmodel.workload.lowering.compile.buffers import base_of
from perfmodel.workload.lowering.compile.calls import extern
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.compile.kept_images import KeptImages, last_convolution
from perfmodel.workload.lowering.compile.limits import ANGLES
from perfmodel.workload.lowering.compile.names import Names
from perfmodel.workload.lowering.compile.padding import padded
from perfmodel.workload.lowering.compile.places import follow
from perfmodel.workload.lowering.compile.turned import attended_straight
from perfmodel.workload.lowering.compile.views import repeated, view_value
from perfmodel.workload.lowering.eager.conv import convolution_backward
from perfmodel.workload.lowering.eager.gemm import is_odd_transposed
from perfmodel.workload.lowering.eager.inside import recomputed
from perfmodel.workload.lowering.eager.names import base_name, group_of, operations
from perfmodel.workload.lowering.eager.pointwise import flops_each
from perfmodel.workload.lowering.eager.reduction import taps
from perfmodel.workload.lowering.eager.table import eager_work
from perfmodel.workload.lowering.site import Site, numel
from perfmodel.workload.program import Program, Tensor

_MAPS = ("pointwise", "cast", "move", "join", "view_gradient", "lookup", "gather")
_RANDOM = 30  # ten rounds of Philox
_ANGLE = 19
"""Operations of a sine or cosine: rotary embeddings compute them for every element (profiled)."""
_UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "empty_permuted")
_FILLED = ("zeros", "ones")
_INTERPOLATION = ("bilinear", "bicubic", "linear1d", "trilinear", "grid_sampler")


def trace(program: Program, sites: Iterable[Site], *, channels_last: bool) -> tuple[Graph, Names]:
    """Forward and backward of a program as one graph."""
    found = tuple(sites)
    joint = any(site.node.phase == "backward" for site in found)
    graph = Graph(autocast=autocast_format(found), joint=joint)
    names = Names(program, graph)
    graph.unfolded = frozenset() if joint else _unfolded(program)
    again = recomputed(program) if joint else frozenset()
    images = KeptImages(names, last_convolution(found) if joint and channels_last else -1)
    for site in found:
        if any(t.host for t in (*site.inputs, *site.outputs)) and all(
            t.host for t in (*site.inputs, *site.outputs)
        ):
            continue
        graph.node, graph.backward = site.index, site.node.phase == "backward"
        graph.again = site.index in again
        _node(names, site, images, channels_last=channels_last)
    return graph, names


def _unfolded(program: Program) -> frozenset[int]:
    """Copies that fold the first axes of a linear layer's operand for one product.

    Where no weight wants a gradient the compiler takes the operand as it lies, image by image
    (torch/_decomp/decompositions.py, ``should_fold``).
    """
    takers: dict[str, list[int]] = {}
    for at, node in enumerate(program.nodes):
        for name in node.inputs:
            takers.setdefault(name, []).append(at)

    def only(name: str, target: str) -> str:
        found = takers.get(name, [])
        node = program.nodes[found[0]] if len(found) == 1 else None
        return node.outputs[0] if node and node.target == target and node.inputs[0] == name else ""

    return frozenset(
        at
        for at, node in enumerate(program.nodes)
        if node.target == "aten.clone"
        and len(program.tensor(node.outputs[0]).shape) == 3
        and only(only(node.outputs[0], "aten._unsafe_view"), "aten.mm")
    )


def _node(names: Names, site: Site, images: KeptImages, *, channels_last: bool) -> None:
    graph, name = names.graph, site.name
    group = group_of(name).rstrip("_0123456789")
    complex_ = complexes.touches(site)
    if group == "view" and site.inputs:
        graph.views += complex_
        for place, tensor in enumerate(site.outputs):
            parent = site.node.inputs[0]
            value = view_value(graph, site, names.get(parent), place)
            names.put_view(tensor.name, parent, site, place, value)
        return
    if group == "alias" and site.inputs:
        for tensor in site.outputs[:1]:
            parent = site.node.inputs[0]
            if tensor.name != parent:
                same = replace(site, node=replace(site.node, target="aten.view"))
                value = graph.view(names.get(parent), tensor.shape)
                names.put_view(tensor.name, parent, same, 0, value)
        return
    args = [names.get(tensor) for tensor in site.node.inputs]
    if group == "attention":
        later = zip(site.node.inputs[:3], args, strict=False)
        graph.saved |= {arg for name, arg in later if name in names.later}
    if group in ("attention", "attention_backward"):
        args = images.operands(site, args)
    called = None
    if complex_:
        whole = base_of(graph, args[0]).number if args else -1
        called = complexes.called(graph, site, args, whole)
    results = called or _values(names, site, group, args, channels_last=channels_last)
    if group in ("attention", "attention_backward"):
        results = images.results(site, results)
    in_place = name.endswith("_") and not name.endswith("__") and site.inputs
    if in_place:
        names.write(site.node.inputs[0], results[0])
        targets: Sequence[str] = [n for n in site.node.outputs if n != site.node.inputs[0]]
        for target in targets[:1]:
            same = replace(site, node=replace(site.node, target="aten.view"))
            names.put_view(target, site.node.inputs[0], same, 0, results[0])
        return
    for tensor, value in zip(site.outputs, results, strict=False):
        names.put(tensor.name, value)


def _values(
    names: Names, site: Site, group: str, args: list[int], *, channels_last: bool
) -> Sequence[int]:
    """The values of a node's outputs (of its first operand's successor, if it works in place)."""
    graph = names.graph
    if group == "batch_norm":
        results, running = parts.batch_norm(graph, site, args)
        for tensor, value in zip(site.node.inputs[3:5], running, strict=False):
            names.write(tensor, value)
        return results
    if group in ("convolution", "convolution_backward"):
        rule = _convolution if group == "convolution" else _convolution_backward
        return rule(graph, site, args, channels_last=channels_last)
    if group == "pool_gradient" and resampled.is_decomposed(graph, site):
        return resampled.gradient(graph, site, args[0])
    if group == "pool_gradient" and any(word in site.name for word in _INTERPOLATION):
        group = ""
    return _RULES.get(group, _extern)(graph, site, args)


def _extern(graph: Graph, site: Site, args: list[int]) -> list[int]:
    return extern(graph, site, args, eager_work(site))


def _constant(graph: Graph, site: Site, args: list[int]) -> list[int]:
    """Memory, a constant or random numbers: nothing is read."""
    random = group_of(site.name) == "random"
    out = (site.outputs or site.inputs)[0]
    step = base_name(site.name)
    # of a step with gradients equal operators are one, in both passes
    one = graph.joint and not random and step not in _UNWRITTEN
    plain = step.removeprefix("new_").removesuffix("_like")
    step = plain if one and plain in _FILLED else step
    numbers = "" if plain in _FILLED else repr(sorted(site.node.attributes.items(), key=str))
    told = (numbers, "" if one else site.node.name)
    known = graph.known.get((step, (), out.shape, out.dtype, told, False)) if one else None
    if known is not None:
        return [known]
    work = _RANDOM if random else 0
    return [graph.map(step, (), out.shape, out.dtype, work, arguments=told, random=random)]


def _pool(graph: Graph, site: Site, args: list[int]) -> list[int]:
    """Windows over an image; where a largest value stood is kept as its place in the window."""
    each = 2 * min(taps(site), 16)
    if resampled.is_decomposed(graph, site):
        sizes = graph.values[args[0]].shape[2:], site.outputs[0].shape[2:]
        args = [args[0], *resampled.tables(graph, site, *sizes)]
    if "bilinear2d" in site.name and "backward" not in site.name:
        return [parts.bilinear(graph, site, args)]
    if any(word in site.name for word in _INTERPOLATION):
        # weights and partial sums are fp32, and so is what is kept of them
        out = site.outputs[0]
        wide = graph.map(site.name, args, out.shape, parts.compute_dtype(out.dtype), each,
                         window=True, heavy=True)  # fmt: skip
        return [graph.map("cast", (wide,), out.shape, out.dtype, 0)]
    beside: tuple[int, ...] = ()
    if site.name.startswith("max_pool") and "with_indices_backward" in site.name:
        beside, args = (args[1],), [args[0], *args[2:]]  # of the image only its shape matters
    offsets = site.name.startswith("max_pool") and site.name.endswith("with_indices")
    return [
        graph.map(site.name, args, t.shape, "int8" if offsets and place else t.dtype, each,
                  arguments=place, window="nearest" not in site.name, heavy=bool(beside),
                  beside=beside)
        for place, t in enumerate(site.outputs)
    ]  # fmt: skip


def _lookup_gradient(graph: Graph, site: Site, args: list[int]) -> list[int]:
    """Summed in fp32, whatever the table's format (torch/_decomp/decompositions.py)."""
    out = site.outputs[0]
    wide = parts.compute_dtype(out.dtype)
    zero = graph.map("zeros", (), out.shape, wide, 0, arguments=site.node.name)
    total = scatter.add(graph, zero, args[:2], wide, scatter.crowded(site))
    if wide != out.dtype:
        total = graph.map("cast", (total,), out.shape, out.dtype, 0)
    return [total]


def _scattered(graph: Graph, site: Site, args: list[int]) -> list[int]:
    if scatter.by_library(site):
        return _extern(graph, scatter.functional(site), args)
    out = (site.outputs or site.inputs)[0]
    base = args[0]
    constant = graph.joint and base_of(graph, base).lazy and not base_of(graph, base).inputs
    if not site.name.endswith("_") or constant:
        base = scatter.target(graph, base, site.node.name)
    if scatter.is_sum(site):
        return [scatter.add(graph, base, args[1:], out.dtype, scatter.crowded(site))]
    return [scatter.put(graph, base, args[1:], out.dtype)]


def _loss(graph: Graph, site: Site, args: list[int]) -> Sequence[int]:
    return parts.loss(graph, site, args, operations(site.name))


def _reduction(graph: Graph, site: Site, args: list[int]) -> Sequence[int]:
    return parts.reduction(graph, site, args, operations(site.name))


def _map(graph: Graph, site: Site, args: list[int]) -> list[int]:
    outs = site.outputs or site.inputs[:1]
    name = base_name(site.name)
    if name == "native_dropout":
        rand = graph.map("rand", (), outs[0].shape, "fp32", _RANDOM, random=True)
        keep = graph.map("gt", (rand,), outs[0].shape, "bool", 1)
        return [graph.map("dropout", (args[0], keep), outs[0].shape, outs[0].dtype, 2), keep]
    if name in ("copy", "_copy_from") and len(args) > 1:
        args = args[1:2]
    same = _unchanged(graph, site, name, args)
    if same:
        return same
    if name in ("cat", "stack") and len(args) > scatter.JOINED:
        return [scatter.joined(graph, args, outs[0].shape, outs[0].dtype, site.node.name)]
    if name == "cat" and len(set(args)) == 1 and len(args) > 1:
        one = repeated(graph, args[0], int(site.attribute("dim", 0)), len(args))
        return [graph.map("clone", (one,), outs[0].shape, outs[0].dtype, 0)]
    group = group_of(site.name)
    each = flops_each(site.name, site.attribute("exponent")) if "pointwise" in group else 0
    each = _ANGLE if name in ANGLES else each
    numbers = repr(sorted(site.node.attributes.items(), key=str))
    return [
        graph.map(name, args, t.shape, t.dtype, each, arguments=(numbers, place))
        for place, t in enumerate(outs)
    ]


def _unchanged(graph: Graph, site: Site, name: str, args: list[int]) -> list[int]:
    """The operand itself of a step that changes nothing; empty where it does.

    Padding by nothing, joining to nothing (a copy that lies as its operand does), a copy of what
    attention has left in that order (torch/_inductor/fx_passes/post_grad.py, ``remove_noop_ops``).
    """
    out = (site.outputs or site.inputs[:1])[0]
    if site.index in graph.unfolded:
        return args[:1]
    if name == "constant_pad_nd" and out.shape == graph.values[args[0]].shape:
        return args[:1]
    if name == "cat":
        full = [arg for arg in args if graph.values[arg].numel]
        if len(full) == 1 < len(args):
            return [graph.map("to", full, out.shape, out.dtype, 0)]
    straight = name == "clone" and out.layout == "contiguous"
    return args[:1] if straight and attended_straight(graph, args[0]) else []


def _product(graph: Graph, site: Site, args: list[int]) -> list[int]:
    """A product; a bias is a map behind it, which may or may not stay in the library call."""
    site, args = cast_product(graph, site, args, graph.autocast)
    work = eager_work(site)
    work = replace(work, kernels=tuple(k for k in work.kernels if k.kind == "gemm"))
    base = base_name(site.name)
    with_bias = base in ("addmm", "baddbmm", "addmv") and len(args) > 2
    operands, left = (args[1:] if with_bias else args), site.inputs[1 if with_bias else 0]
    shape = (site.outputs or site.inputs)[0].shape
    turned = is_odd_transposed(left, shape[-1] if shape else 1)
    right = site.inputs[2 if with_bias else 1] if len(operands) == 2 else left
    across = len(right.shape) == 2 and right.layout == "strided"
    operands, wide = padded(graph, operands, work, turned=turned, across=across)
    more = {} if wide is work else {"layout": "padded"}
    work = wide
    if with_bias:
        out = site.outputs[0] if site.outputs else site.inputs[0]
        (first,) = extern(graph, site, operands, work, **more)[:1]
        return [graph.map(f"{base} bias", (first, args[0]), out.shape, out.dtype, 1)]
    return extern(graph, site, operands, work, **more)


def _image(graph: Graph, number: int, taker: int = -1) -> int:
    """An image that is a view of something else has that in memory first, and is turned then.

    Every call turns its own (torch/_inductor/ir.py, ``ExternKernel.require_strides``).
    """
    value, base = graph.values[number], base_of(graph, number)
    rank = len(value.shape)
    if value.kind != "view" or base.kind == "source" or rank != 4 or len(base.shape) == rank:
        return number
    if value.shape[1] == 1 or numel(value.shape[2:]) == 1:
        return number
    points = np.array([0, numel(value.shape[2:])])  # two neighbouring channels
    while value.kind == "view":
        points = follow(value.index, points)
        value = graph.values[value.inputs[0]]
    if points[1] - points[0] == 1:
        return number
    if base.lazy:
        graph.values[base.number] = replace(base, heavy=True)
    seen = graph.values[number]
    return graph.map(
        "channels_last", (number,), seen.shape, seen.dtype, 0, heavy=True, arguments=taker
    )


def _last(tensor: Tensor) -> Tensor:
    return replace(tensor, layout="channels_last") if len(tensor.shape) == 4 else tensor


def _convolution(graph: Graph, site: Site, args: list[int], *, channels_last: bool) -> list[int]:
    """The library call without bias; operands that stood before are turned to channels last."""
    operands = list(args[:2])
    if channels_last:
        operands[0] = _image(graph, operands[0], -1 if graph.joint else site.index)
        site = replace(
            site, inputs=tuple(map(_last, site.inputs)), outputs=tuple(map(_last, site.outputs))
        )
        for place, arg in enumerate(operands):
            value = graph.values[arg]
            stood = value
            while stood.kind == "view":
                stood = graph.values[stood.inputs[0]]
            turned = len(value.shape) == 4 and value.shape[1] > 1 and numel(value.shape[2:]) > 1
            if stood.kind == "source" and turned and stood.layout != "channels_last":
                operands[place] = graph.map(
                    "channels_last", (arg,), value.shape, value.dtype, 0, heavy=True
                )
    work = eager_work(replace(site, inputs=site.inputs[:2]))
    outputs = extern(graph, site, operands, work)
    if len(args) > 2:
        shape = graph.values[outputs[0]].shape
        bias = graph.view(args[2], (shape[1], *(1 for _ in shape[2:])))
        out = graph.map("bias", (outputs[0], bias), shape, site.outputs[0].dtype, 1)
        return [out]
    return outputs


def _convolution_backward(
    graph: Graph, site: Site, args: list[int], *, channels_last: bool
) -> list[int]:
    """Both gradients in one call; the bias gradient is a sum of its own."""
    if channels_last:
        site = replace(site, inputs=tuple(map(_last, site.inputs)))
    mask = list(site.attribute("output_mask", (True, True, False)))
    attributes: Mapping[str, object] = dict(site.node.attributes) | {
        "output_mask": [*mask[:2], False]
    }
    plain = replace(site, node=replace(site.node, attributes=attributes))
    count = sum(mask[:2])
    results: list[int] = []
    if count:
        cut = replace(plain, outputs=site.outputs[:count])
        results += extern(graph, cut, args[:3], convolution_backward(cut))
    if len(mask) > 2 and mask[2]:
        out = site.outputs[count]
        shape = graph.values[args[0]].shape
        over = [axis for axis in range(len(shape)) if axis != 1]
        total = graph.reduce("sum", args[0], over, parts.compute_dtype(out.dtype), keepdim=False)
        if graph.values[total].dtype != out.dtype:
            total = graph.map("cast", (total,), out.shape, out.dtype, 0)
        results.append(total)
    return results


_RULES: Final[Mapping[str, Callable[[Graph, Site, list[int]], Sequence[int]]]] = MappingProxyType(
    dict.fromkeys(_MAPS, _map)
    | {
        "allocate": _constant,
        "fill": _constant,
        "random": _constant,
        "layer_norm": parts.layer_norm,
        "rms_norm": parts.layer_norm,
        "norm_backward": parts.norm_backward,
        "batch_norm_backward": parts.batch_norm_backward,
        "group_norm": parts.group_norm,
        "group_norm_backward": parts.group_norm_backward,
        "softmax": parts.softmax,
        "weight_norm": parts.weight_norm,
        "safe_softmax": parts.softmax,
        "softmax_backward": parts.softmax_backward,
        "nll": parts.nll,
        "loss": _loss,
        "reduction": _reduction,
        "pool": _pool,
        "pool_gradient": _pool,
        "lookup_gradient": _lookup_gradient,
        "scatter": _scattered,
        "product": _product,
    }
)
"""Rules by group of ``operators.toml``; whatever is not listed stays a library call."""
