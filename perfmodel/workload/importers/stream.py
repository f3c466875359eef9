"""The dispatch mode that writes down what a step dispatches below autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from perfmodel.workload.importers.device import corrected, cuda_target, on_meta
from perfmodel.workload.importers.engine import in_place
from perfmodel.workload.importers.fastpath import FUSED
from perfmodel.workload.importers.frames import exported_origin, user_line
from perfmodel.workload.importers.memory import Storages, is_strided
from perfmodel.workload.importers.schema import (
    DTYPES,
    arguments,
    layout_of,
    target_of,
    tensors_in,
)
from perfmodel.workload.importers.values import (
    LARGEST,
    Unknown,
    Values,
    assumed,
    checked,
    drawn,
    picked,
    run_on_host,
    shaped_on_host,
)
from perfmodel.workload.program import Node, Tensor

_ATEN: Final = torch.ops.aten
_SILENT: Final = frozenset({"prim", "prims", "profiler", "debugprims", "_c10d_functional"})
_READS: Final = frozenset(
    {_ATEN._local_scalar_dense.default, _ATEN.equal.default, _ATEN.is_nonzero.default}
)
_OPENED: Final = frozenset(
    {
        _ATEN._trilinear.default,
        _ATEN._euclidean_dist.default,
    }
)
"""Operators with a derivative of their own whose kernel, on every device, calls other operators."""
_FINITE: Final = "activations are finite where the model looks for infinities or NaN"
_SOUND: Final = "checks of PyTorch's own operators find nothing wrong"
_KEPT: Final = "a single random number is one half: layers are dropped at rates above that only"
_BALANCED: Final = (
    "routing is balanced: a grouped product has the rows of all experts together, shared out evenly"
)
_BY_SIZE: Final = {1: "uint8", 2: "int16", 4: "int32", 8: "int64", 16: "complex128"}


class Stream(TorchDispatchMode):  # type: ignore[misc]
    """Records nodes, tensors and the death of storages.

    Parameters
    ----------
    table : mapping
        Composite operators with CUDA's branch; used where inference mode lets composites through.
    """

    def __init__(self, table: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.storages = Storages()
        self.storages.on_death = self._died
        self.values = Values()
        self.tensors: list[Tensor] = []
        self.nodes: list[list[Any]] = []
        self.phase = "forward"
        self.modules: list[str] = [""]
        self.module_calls = 0
        self.python_calls = self.outside_calls = 0
        self.detaching = False
        self.exported = False
        self.assumptions: dict[str, None] = {}
        self.failed: tuple[str, str, str] | None = None
        self._fault = 0
        self.table = {f: self._as_part(f, g) if f in FUSED else g for f, g in table.items()}
        self._within = ""
        self._composite: dict[Any, bool] = {}
        self._names: dict[int | None, dict[Any, str]] = {}
        self._roles: dict[int, str] = {}
        self._taken: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._forward: dict[int, tuple[str, str]] = {}

    # --- registering what exists before the step -------------------------------------------------
    def hold(self, tensor: torch.Tensor, name: str, role: str) -> str:
        """Register a tensor that exists before the step; returns its unique name."""
        number, new = self.storages.number(tensor)
        if new:
            self._roles[number] = role
        return self._add(tensor, number, name, self._roles[number])

    def knows(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Remember the value of a tensor that exists before the step."""
        self.values.set(tensor, value, self.storages.number(tensor)[0])

    def name_of(self, tensor: torch.Tensor) -> str:
        """The current name of a tensor; one never seen is a constant, or a view made by no node."""
        number, new = self.storages.number(tensor)
        self._roles.setdefault(number, "constant")  # one whose value is known may have none yet
        found = self._names.get(number, {}).get(_key(tensor))
        if found is not None:
            return found
        base = "constant" if new else next(iter(self._names.get(number, {}).values()), "view")
        return self._add(tensor, number, base, self._roles[number])

    def seal(self) -> None:
        """Attribute the storages that died since the last node to it."""
        dead = self.storages.flush()
        if self.nodes and dead:
            self.nodes[-1][-1].extend(dead)

    def frozen(self, gradients: set[int]) -> tuple[tuple[Tensor, ...], tuple[Node, ...]]:
        """The tensors and nodes; activations in the storages ``gradients`` become gradients."""
        tensors = tuple(
            Tensor(t.name, t.shape, t.dtype, "gradient", t.storage, t.layout, t.host)
            if t.storage in gradients and t.role == "activation"
            else t
            for t in self.tensors
        )
        nodes = []
        for *parts, frees in self.nodes:
            nodes.append(Node(*parts, tuple(frees)))  # type: ignore[call-arg]
        return tensors, tuple(nodes)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; saying so spares every call a wrapper."""
        return False

    # --- dispatch --------------------------------------------------------------------------------
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace in _SILENT:
            return func(*args, **kwargs)
        composite = self._composite_of(func)
        if composite is not None:
            with self:
                out = composite(*args, **kwargs)
            if out is not NotImplemented:
                return out
        self.seal()
        try:
            return self._run(func, args, kwargs)
        except Exception as fault:
            if self._fault != id(fault):  # the innermost operator; one that was caught is forgotten
                self._fault = id(fault)
                self.failed = (*self._origin(), target_of(func))
            raise

    def _composite_of(self, func: Any) -> Callable[..., Any] | None:
        """Inference mode lets composite operators through; they are taken apart here."""
        if func in self.table:
            return self.table[func]
        known = self._composite.get(func)
        if known is None:
            has = torch._C._dispatch_has_kernel_for_dispatch_key
            name = func.name()  # one with kernels of its own, silu_backward say, is left whole
            own = has(name, "CPU") or has(name, "Meta")
            known = self._composite[func] = has(name, "CompositeImplicitAutograd") and not own
        if func in _OPENED:
            return _opened(func)
        return func.decompose if known else None

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        tensors, attributes, written = arguments(func, args, kwargs)
        if func is _ATEN.detach.default and not self._real_detach():
            return func(*args, **kwargs)
        written_anyway = in_place(func, args, kwargs) if self.phase == "backward" else None
        if written_anyway is not None:
            self._note(written_anyway, tensors, attributes, [args[0]], [args[0]])
            return args[0]
        if any(tensor.is_meta for tensor in tensors):
            if func in _READS:
                value = self._answer(func, args, kwargs)
                self._note(target_of(func), tensors, attributes, [])
                return value
            if func is _ATEN._to_copy.default and _to(kwargs, "cpu"):
                return self._fetch(func, args, kwargs, tensors, attributes)
        known = self._known(tensors, kwargs)
        out, followed, value = self._both(func, args, kwargs, known)
        outputs = list(tensors_in(out))
        outputs += [t for t in written if all(t is not other for other in outputs)]
        target = cuda_target(func, args) or target_of(func)
        if target == "aten.cudnn_batch_norm" and self.nodes and _empty(self.nodes[-1]):
            self.nodes.pop()  # the native path's empty reserve
        self._note(target, tensors, attributes, outputs, written)
        if followed:
            for tensor, host in zip(tensors_in(out), tensors_in(value), strict=False):
                if tensor.is_meta:
                    self.knows(tensor, host)
        else:
            for tensor in written:
                self.values.forget(self.storages.number(tensor)[0])
        return out

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a look at a tensor finds."""
        known, value = run_on_host(func, args, kwargs, self._value)
        if known:
            return value
        if not checked(func, args):
            raise Unknown(target_of(func))
        self.assumptions[_SOUND] = None
        return False

    def _both(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], known: bool
    ) -> tuple[Any, bool, Any]:
        """Run on meta and, where the values are known and small, on the host."""
        try:
            out = on_meta(func, args, kwargs)
        except RuntimeError as fault:  # its shape follows from values, or it has no meta kernel
            sparse = any(not is_strided(tensor) for tensor in tensors_in(args))
            by_value = isinstance(fault, NotImplementedError) or "without output_size" in str(fault)
            if not by_value and not sparse:
                raise
            followed, value = run_on_host(func, args, kwargs, self._value)
            if not followed:
                out = picked(func, args, self._value)
                if out is None:
                    out = shaped_on_host(func, args, kwargs)
                return out, False, None
            made = tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, value)
            return made, True, value
        out = corrected(func, args, out)
        if not known and (guess := assumed(func, args)) is not None:
            self.assumptions[_FINITE] = None
            return out, True, guess
        if (number := drawn(func, args)) is not None and out.is_meta:
            self.assumptions[_KEPT] = None
            return out, True, number
        if known and all(t.is_meta and t.numel() <= LARGEST for t in tensors_in(out)):
            return out, *run_on_host(func, args, kwargs, self._value)
        return out, False, None

    def _known(self, tensors: list[torch.Tensor], kwargs: Mapping[str, Any]) -> bool:
        """Whether the result's value may be followed: every operand's value is known."""
        if self.phase == "optimizer" or (tensors and not self.values and not _to(kwargs, "meta")):
            return False
        if tensors and all(not t.is_meta for t in tensors) and not _to(kwargs, "meta"):
            return False
        return all(not t.is_meta or self._value(t) is not None for t in tensors)

    def _fetch(self, func: Any, args: Any, kwargs: Any, tensors: Any, attributes: Any) -> Any:
        """A copy to the host: the value where it is known, else a stand-in on meta."""
        known, value = run_on_host(func, args, kwargs, self._value)
        out = value if known else func(*args, **{**kwargs, "device": torch.device("meta")})
        self._note("aten._to_copy", tensors, {**attributes, "device": "cpu"}, [out])
        return out

    def _value(self, tensor: torch.Tensor) -> torch.Tensor | None:
        number = self.storages.find(tensor)
        if number is None or not is_strided(tensor):
            return None
        return self.values.get(tensor, number)

    def _as_part(self, func: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """A fused operator's own calls say whose they are: they cost the host less."""

        def parts(*args: Any, **kwargs: Any) -> Any:
            before, self._within = self._within, self._within or target_of(func)
            try:
                return function(*args, **kwargs)
            finally:
                self._within = before

        return parts

    def _real_detach(self) -> bool:
        """Saving a tensor for backward detaches it without a call to the dispatcher."""
        if self.detaching:
            return True
        node = torch._C._current_autograd_node()
        return node is not None and "AccumulateGrad" in node.name() and len(self.modules) == 1

    # --- writing down ----------------------------------------------------------------------------
    def _note(
        self,
        target: str,
        tensors: list[torch.Tensor],
        attributes: dict[str, Any],
        outputs: list[torch.Tensor],
        written: Sequence[torch.Tensor] = (),
    ) -> None:
        inputs = tuple(self.name_of(tensor) for tensor in tensors)
        if self._within:
            attributes["within"] = self._within
        if target == "aten._grouped_mm":
            self.assumptions[_BALANCED] = None
        module, source = self._origin()
        short = target.rpartition(".")[2]
        name = self._unique(f"{module}/{short}" if module else short, 0)
        names = []
        for place, tensor in enumerate(outputs):
            number, new = self.storages.number(tensor)
            if new:
                self._roles[number] = "activation"
            label = name if len(outputs) == 1 else f"{name}:{place}"
            over = any(tensor is other for other in written)
            names.append(self._add(tensor, number, label, self._roles[number], over=over))
        self.nodes.append(
            [name, target, inputs, tuple(names), attributes, self.phase, module, source, []]
        )

    def _origin(self) -> tuple[str, str]:
        if self.phase == "optimizer":
            return "", ""
        node = torch._C._current_autograd_node()
        if node is None or len(self.modules) > 1:
            found = exported_origin() if self.exported else None
            origin = found or (self.modules[-1], user_line())
            if torch.is_grad_enabled():
                self._forward.setdefault(torch.autograd._get_sequence_nr() - 1, origin)
            return origin
        variable = getattr(node, "variable", None)
        if variable is not None:
            known = self._names.get(self.storages.find(variable), {})
            name = known.get(_key(variable), "")
            return name.rpartition(".")[0], ""
        return self._forward.get(node._sequence_nr(), ("", ""))

    def _add(
        self, tensor: torch.Tensor, number: int, name: str, role: str, *, over: bool = False
    ) -> str:
        """A new tensor. A view never takes the name of what outlives the step from its readers."""
        unique = self._unique(name, 1)
        known = self._names.setdefault(number, {})
        if over or role == "activation" or _key(tensor) not in known:
            known[_key(tensor)] = unique
        dtype = DTYPES.get(tensor.dtype) or _BY_SIZE[tensor.element_size()]
        self.tensors.append(
            Tensor(
                unique,
                tuple(tensor.shape),
                dtype,
                role,
                number,
                layout_of(tensor),
                tensor.device.type == "cpu",
            )
        )
        return unique

    def _unique(self, name: str, space: int) -> str:
        """A name that no other node (space 0) or tensor (space 1) has."""
        taken = self._taken[space]
        count = taken.get(name, 0)
        taken[name] = count + 1
        return self._unique(f"{name}#{count}", space) if count else name

    def _died(self, number: int) -> None:
        self._names.pop(number, None)
        self.values.forget(number)


def _opened(func: Any) -> Callable[..., Any]:
    """The kernel of an operator, so that what it calls is recorded."""
    for key in ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"):
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key):
            return partial(func._op_dk, getattr(torch._C.DispatchKey, key))
    return cast("Callable[..., Any]", func)


def _key(tensor: torch.Tensor) -> Any:
    if not is_strided(tensor):
        return "sparse"
    return (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _empty(node: list[Any]) -> bool:
    return bool(node[1] == "aten.empty" and node[4].get("size") == [0])


def _to(kwargs: Mapping[str, Any], kind: str) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == kind
