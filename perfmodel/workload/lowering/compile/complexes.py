"""Complex numbers: no loops are generated for them, every step is a call of the library.

Views are called too, and launch nothing. What writes into a part of a tensor makes the whole of it
anew: once for the part, once more for every view that it is reached by.

Reference
---------
torch/_inductor/lowering.py, ``fallback_node_due_to_unsupported_type``; ATen/native/TensorShape.cpp,
``slice_scatter`` and ``clone_preserve_strides``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.calls import extern
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.eager.names import base_name, group_of
from perfmodel.workload.lowering.eager.table import eager_work
from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work
from perfmodel.workload.lowering.stream import stream

_VIEWS_OF_A_SUM: Final = 3


def is_complex(dtype: str) -> bool:
    """Whether a format is complex."""
    return dtype.startswith("complex")


def touches(site: Site) -> bool:
    """Whether an operator reads or makes complex numbers."""
    return any(is_complex(tensor.dtype) for tensor in (*site.inputs, *site.outputs))


def called(graph: Graph, site: Site, args: Sequence[int], base: int) -> list[int] | None:
    """The call of an operator on complex numbers; None for a sum of two, which is generated.

    ``base`` is what the first operand is a view of.
    """
    name = base_name(site.name)
    if name == "add" and len(args) > 1 and all(is_complex(t.dtype) for t in site.inputs):
        graph.views += _VIEWS_OF_A_SUM
        return None
    if name == "copy" and len(args) > 1:
        work = Work("copy", _copies(graph, base, args[1], "copy"))
        target = replace(site, outputs=site.inputs[:1])
        return _counted(graph, extern(graph, target, args[1:2], work))
    if group_of(site.name) == "alias":
        return None
    return _counted(graph, extern(graph, site, args, eager_work(site)))


def scattered(graph: Graph, whole: int, part: int) -> int:
    """A tensor with a part of it written anew."""
    value = graph.values[whole]
    work = Work("copy", _copies(graph, whole, part, "slice_scatter"))
    graph.views += 1
    number = graph.add("extern", (whole, part), value.shape, value.dtype, "slice_scatter",
                       work=work, heavy=True)  # fmt: skip
    return _counted(graph, [number])[0]


def _counted(graph: Graph, found: list[int]) -> list[int]:
    """Calls that view something stand in front of the next one that works."""
    first = graph.values[found[0]]
    graph.values[first.number] = replace(first, calls=graph.views)
    graph.views = 0
    return found


def _copies(graph: Graph, whole: int, part: int, name: str) -> tuple[Kernel, ...]:
    """A copy of all the memory, and the part on top of it."""
    moved = (graph.values[whole], graph.values[part])
    return tuple(
        Kernel(f"{name}: {what}", "copy", (stream(name, one.numel, one.bytes, one.bytes),), (), (),
               (graph.node,), "forward", "extern")
        for what, one in zip(("all", "part"), moved, strict=True)
    )  # fmt: skip
