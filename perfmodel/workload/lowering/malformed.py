"""Nodes whose tensors and attributes are not those of their operator's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perfmodel.errors import WorkloadError
from perfmodel.workload.program import Node, Tensor

MALFORMED: Final = (TypeError, ValueError, LookupError, ArithmeticError, StopIteration)
"""What rules of operators raise over such a node."""


def malformed(node: Node, inputs: Sequence[Tensor], error: Exception) -> WorkloadError:
    """The error that names the node, what it holds, and what a rule stumbled over."""
    shapes = ", ".join(str(tensor.shape) for tensor in inputs)
    return WorkloadError(
        f"node {node.name} ({node.target})",
        f"<inputs {shapes or 'none'}, attributes {dict(node.attributes)}:"
        f" {type(error).__name__}: {error}>",
        "the tensors and attributes of the operator's schema",
        repair="trace the model again, or correct the node in the file",
    )
