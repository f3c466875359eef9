"""Compiled PyTorch: decomposed operators fused on the graph as Inductor's scheduler does.

``trace`` turns a program into a graph of maps, reductions and library calls without mutation;
``partition`` decides what the backward pass keeps and what it computes again; ``realize`` decides
which values get memory; ``fusion`` groups them into kernels; ``order`` and ``reuse`` decide when
they run and which of them share a block; ``emit`` writes kernels, host calls and memory events.

References
----------
Ansel et al., PyTorch 2 (ASPLOS 2024), sections 4 and 5; torch/_inductor/scheduler.py and ir.py;
torch/_functorch/partitioners.py.
"""

from perfmodel.workload.lowering.compile.emit import lower_compiled

__all__ = ["lower_compiled"]
