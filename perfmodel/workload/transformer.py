"""Transformers as operators: the one import for everything a planner asks of a model.

A block on one rank becomes :class:`Call` s (forward, backward, recomputed), :class:`Message` s
(collectives), parameters and bytes of activations. Every size may be a NumPy array, so a
:class:`Shard` can stand for a whole grid of plans.
"""

from perfmodel.workload.activations import (
    BlockActivations,
    block_activation_bytes,
    embedding_activation_bytes,
    head_activation_bytes,
    stage_gradient_bytes,
)
from perfmodel.workload.adapter import Adapter
from perfmodel.workload.backward import (
    block_backward,
    clear_gradients,
    embedding_backward,
    head_backward,
    optimizer_calls,
)
from perfmodel.workload.blocks import block_forward, embedding_forward, head_forward
from perfmodel.workload.flops import forward_flops, hardware_flops, matmul_flops, model_flops
from perfmodel.workload.layer import Call, LayerKind, Shard, layer_kinds, shard_faults
from perfmodel.workload.messages import (
    Message,
    end_collectives,
    layer_collectives,
    messages_bytes,
)
from perfmodel.workload.model import ModelConfig, bundled_models, load_model
from perfmodel.workload.precision import BF16, Precision, load_precision
from perfmodel.workload.recompute import (
    MODULES,
    RECOMPUTE,
    recompute_calls,
    recompute_modules,
)
from perfmodel.workload.stack import Stack, bundled_stacks, load_stack, stack_of
from perfmodel.workload.weights import (
    active_parameters,
    adapter_parameters,
    embedding_parameters,
    head_parameters,
    layer_parameters,
    parameters,
)

__all__ = [
    "BF16",
    "MODULES",
    "RECOMPUTE",
    "Adapter",
    "BlockActivations",
    "Call",
    "LayerKind",
    "Message",
    "ModelConfig",
    "Precision",
    "Shard",
    "Stack",
    "active_parameters",
    "adapter_parameters",
    "block_activation_bytes",
    "block_backward",
    "block_forward",
    "bundled_models",
    "bundled_stacks",
    "clear_gradients",
    "embedding_activation_bytes",
    "embedding_backward",
    "embedding_forward",
    "embedding_parameters",
    "end_collectives",
    "forward_flops",
    "hardware_flops",
    "head_activation_bytes",
    "head_backward",
    "head_forward",
    "head_parameters",
    "layer_collectives",
    "layer_kinds",
    "layer_parameters",
    "load_model",
    "load_precision",
    "load_stack",
    "matmul_flops",
    "messages_bytes",
    "model_flops",
    "optimizer_calls",
    "parameters",
    "recompute_calls",
    "recompute_modules",
    "shard_faults",
    "stack_of",
    "stage_gradient_bytes",
]
