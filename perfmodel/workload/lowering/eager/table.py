"""Which rule lowers which aten operator in eager mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from perfmodel.errors import PerfmodelError
from perfmodel.workload.lowering.eager import (
    attention,
    conv,
    copies,
    fft,
    gemm,
    group_norm,
    index,
    linalg,
    norm,
    optimizer,
    pointwise,
    pooling,
    recurrent,
    reduction,
    unknown,
    views,
    weight_norm,
)
from perfmodel.workload.lowering.eager.names import group_of
from perfmodel.workload.lowering.malformed import MALFORMED, malformed
from perfmodel.workload.lowering.site import Site, Work

Rule = Callable[[Site], Work]


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "view": views.view,
        "alias": views.alias,
        "allocate": views.allocate,
        "fill": views.fill,
        "random": views.random,
        "pointwise": pointwise.pointwise,
        "cast": copies.cast,
        "move": copies.move,
        "join": copies.join,
        "view_gradient": copies.view_gradient,
        "product": gemm.product,
        "grouped_product": gemm.grouped,
        "sparse_product": gemm.sparse,
        "convolution": conv.convolution,
        "convolution_backward": conv.convolution_backward,
        "layer_norm": norm.layer_norm,
        "rms_norm": norm.rms_norm,
        "norm_backward": norm.norm_backward,
        "batch_norm": norm.batch_norm,
        "batch_norm_backward": norm.batch_norm_backward,
        "group_norm": group_norm.group_norm,
        "group_norm_backward": group_norm.group_norm_backward,
        "softmax": norm.softmax,
        "softmax_backward": norm.softmax_backward,
        "weight_norm": weight_norm.weight_norm,
        "safe_softmax": norm.safe_softmax,
        "reduction": reduction.reduction,
        "scan": reduction.scan,
        "loss": reduction.loss,
        "nll": reduction.nll,
        "pool": pooling.pool,
        "pool_gradient": reduction.pool_gradient,
        "recurrent": recurrent.recurrent,
        "recurrent_backward": recurrent.recurrent_backward,
        "attention": attention.attention,
        "attention_backward": attention.attention_backward,
        "lookup": index.lookup,
        "lookup_gradient": index.lookup_gradient,
        "gather": index.gather,
        "scatter": index.scatter,
        "sort": index.sort,
        "topk": index.topk,
        "count": index.count,
        "sync": index.sync,
        "fft": fft.transform,
        "factorization": linalg.factorization,
        "triangular": linalg.triangular,
        "packed_product": linalg.packed_product,
        "distance": linalg.distance,
        "fused_optimizer": optimizer.fused,
        "unscale": optimizer.unscale,
        "scale_update": optimizer.scale_update,
    }
)
"""A rule for each group of ``operators.toml``; a count at the end of a group's name is left out."""


def rule_of(target: str) -> Rule:
    """The rule of an operator; :func:`unknown.unknown` where no table knows it."""
    name = target.removeprefix("aten.")
    if name.startswith(("profiler.", "prim.")):
        return views.alias
    if name.startswith("_foreach_"):
        return optimizer.foreach
    group = group_of(name)
    return RULES[group.rstrip("_0123456789")] if group else unknown.unknown


def eager_work(site: Site) -> Work:
    """What one node does in eager mode."""
    tensors = (*site.inputs, *site.outputs)
    if tensors and all(tensor.host for tensor in tensors):
        return Work("host_tensor")
    try:
        return rule_of(site.node.target)(site)
    except PerfmodelError:
        raise
    except MALFORMED as error:
        raise malformed(site.node, site.inputs, error) from error
