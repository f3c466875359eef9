"""Which value each tensor of a program holds, while its operators are gone through."""

from __future__ import annotations

from dataclasses import dataclass, field

from perfmodel.workload.lowering.compile.complexes import is_complex, scattered
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.compile.views import view_value
from perfmodel.workload.lowering.site import Site, numel
from perfmodel.workload.program import Program, Tensor


@dataclass(slots=True)
class Names:
    """Which value each tensor of the program holds at this moment; `later`: backward reads them."""

    program: Program
    graph: Graph
    current: dict[str, int] = field(default_factory=dict)
    made_by: dict[str, tuple[str, Site, int]] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    owner: dict[int, str] = field(default_factory=dict)
    mutated: dict[int, str] = field(default_factory=dict)
    later: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        nodes = self.program.phase_nodes("backward")
        self.later = frozenset(name for node in nodes for name in node.inputs)

    def root(self, name: str) -> str:
        """The tensor that a chain of views starts from."""
        while name in self.made_by:
            name = self.made_by[name][0]
        return name

    def get(self, name: str) -> int:
        """The value of a tensor now."""
        if name not in self.current:
            self._adopt(name)
        root = self.root(name)
        if self.seen.get(name, 0) < self.changes.get(root, 0) and name in self.made_by:
            parent, site, place = self.made_by[name]
            self.current[name] = self._again(parent, site, place)
            self.seen[name] = self.changes[root]
        return self.current[name]

    def _again(self, parent: str, site: Site, place: int) -> int:
        return view_value(self.graph, site, self.get(parent), place)

    def _adopt(self, name: str) -> None:
        """A tensor that no node made: a source, one for each storage."""
        tensor = self.program.tensor(name)
        first = self.owner.get(tensor.storage)
        if first is not None and first != name:
            base = self.get(first)
            index = None
            self.current[name] = self.graph.view(base, tensor.shape, index) if (
                self.graph.values[base].numel == numel(tensor.shape)
            ) else self._part(base, tensor)  # fmt: skip
            return
        self.owner[tensor.storage] = name
        self.current[name] = self.graph.add(
            "source", (), tensor.shape, tensor.dtype, name, storage=tensor.storage,
            layout=tensor.layout,
        )  # fmt: skip

    def _part(self, base: int, tensor: Tensor) -> int:
        return self.graph.map("part", (base,), tensor.shape, tensor.dtype, 0)

    def put(self, name: str, value: int) -> None:
        """A new tensor."""
        self.current[name] = value
        self.owner.setdefault(self.program.tensor(name).storage, name)
        self.seen[name] = self.changes.get(name, 0)

    def put_view(self, name: str, parent: str, site: Site, place: int, value: int) -> None:
        """A new view of ``parent``."""
        if name == parent:
            return
        self.made_by[name] = (parent, site, place)
        self.current[name] = value
        self.seen[name] = self.changes.get(self.root(name), 0)

    def write(self, name: str, value: int) -> None:
        """A tensor changed in place; so does whatever it is a view of."""
        self.get(name)
        graph = self.graph
        if name in self.made_by:
            parent = self.made_by[name][0]
            old = self.get(parent)
            shape, dtype = graph.values[old].shape, graph.values[old].dtype
            if graph.values[old].numel == graph.values[value].numel:
                self.write(parent, graph.view(value, shape))
            elif is_complex(dtype):
                self.write(parent, scattered(graph, old, value))
            else:
                self.write(
                    parent,
                    graph.map("slice_scatter", (old, value), shape, dtype, 1,
                              scatter=self._in_memory(old)),
                )  # fmt: skip
            self.current[name] = value
            self.seen[name] = self.changes.get(self.root(name), 0)
            return
        self.changes[name] = self.changes.get(name, 0) + 1
        self.current[name] = value
        self.seen[name] = self.changes[name]
        storage = self.program.tensor(name).storage
        self.mutated[storage] = name

    def _in_memory(self, value: int) -> bool:
        """Whether a value is (a view of, or an update of) memory that stood before."""
        found = self.graph.values[value]
        while found.kind == "view" or found.scatter:
            found = self.graph.values[found.inputs[0]]
        return found.kind == "source"
