"""LoRA and QLoRA: low-rank adapters beside frozen linear layers.

A target layer y = W x becomes y = W x + B (A x) with A of rank x k and B of n x rank. W stays
frozen: its weight gradient, its gradient buffer and its optimizer state vanish. QLoRA stores W in
4 bits and expands it before each product.

References
----------
Hu et al., LoRA (arXiv 2106.09685), section 4; Dettmers et al., QLoRA (arXiv 2305.14314), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.layer import Call
from perfmodel.workload.ops.base import check_choice, checked_size
from perfmodel.workload.ops.dense import Gemm
from perfmodel.workload.ops.streams import Fused
from perfmodel.workload.precision import Precision

TARGETS: Final = (
    "qkv",
    "proj",
    "fc1",
    "fc2",
    "q",
    "q_down",
    "q_up",
    "kv_down",
    "kv_up",
    "shared_fc1",
    "shared_fc2",
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank adapters on the named linear layers of every block.

    Parameters
    ----------
    rank : int
        Width of the bottleneck.
    targets : tuple of str
        Names of calls in :data:`TARGETS`.
    base_dtype : str
        Format of the frozen weights: ``"bf16"``, or ``"int4"`` for QLoRA.
    """

    rank: int
    targets: tuple[str, ...] = ("qkv", "proj")
    base_dtype: str = "bf16"

    def __post_init__(self) -> None:
        checked_size(self.rank, "adapter: rank")
        check_choice(
            self.base_dtype, ("bf16", "fp16", "int8", "int4", "fp4"), "adapter: base_dtype"
        )
        if not self.targets:
            raise WorkloadError(
                "adapter: targets", (), ", ".join(TARGETS), repair="name at least one layer"
            )
        for target in self.targets:
            if target not in TARGETS:
                raise WorkloadError(
                    "adapter: targets",
                    target,
                    ", ".join(TARGETS),
                    nearest=nearest_name(str(target), TARGETS),
                    repair="name linear layers of a block",
                )

    def targets_any(self, names: tuple[str, ...]) -> bool:
        """Whether any of these layers has an adapter."""
        return any(name in self.targets for name in names)


def adapted(
    calls: tuple[Call, ...], adapter: Adapter | None, precision: Precision
) -> tuple[Call, ...]:
    """The calls of a block with adapters beside their targets and 4-bit weights expanded."""
    if adapter is None:
        return calls
    result: list[Call] = []
    narrow = adapter.base_dtype in ("int4", "fp4")
    for call in calls:
        op = call.op
        weighted = isinstance(op, Gemm) and not call.core
        if weighted and narrow and isinstance(op, Gemm):
            # two weights a byte in, two activations' width out
            pairs = -(-(op.n * op.k) // 2)
            expand = Fused("dequantise", pairs, 1, 2 * precision.element, 2)
            result.append(Call(f"{call.name}_expand", expand, module=call.module))
        result.append(call)
        if weighted and call.name in adapter.targets and isinstance(op, Gemm):
            rank, compute = adapter.rank, precision.compute
            e = precision.element
            result += [
                Call(f"{call.name}_lora_a", Gemm(op.m, rank, op.k, dtype=compute), 1, call.module),
                Call(f"{call.name}_lora_b", Gemm(op.m, op.n, rank, dtype=compute), 1, call.module),
                Call(
                    f"{call.name}_lora_add",
                    Fused("lora_add", op.m * op.n, 2 * e, e, 2),
                    module=call.module,
                ),
            ]
    return tuple(result)
