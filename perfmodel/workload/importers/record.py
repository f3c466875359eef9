"""Record one step of a PyTorch module as a :class:`~perfmodel.workload.program.Program`.

The module is mirrored on the meta device (no weights, no accelerator) and run once; a dispatch mode
writes down every operator below autograd as a CUDA device would get it, weak references on storages
give the lifetimes that PyTorch's frames and autograd produce.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.importers.launch import LAUNCHES, Again, asks, launched
from perfmodel.workload.importers.training import (
    Training,
    checkpointed,
    loss_of,
    make_optimizer,
)
from perfmodel.workload.program import Program

if TYPE_CHECKING:
    from perfmodel.workload.importers.stream import Stream

ROUTES: Final = ("record", "export")
FORMATS: Final = ("bf16", "fp16")
BACKENDS: Final = ("cudnn", "flash", "efficient", "math")


def trace(
    module: Any,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    training: Training | None = None,
    autocast: str | None = None,
    via: str = "record",
    attention: Sequence[str] = BACKENDS,
    launch: str = "eager",
    name: str | None = None,
) -> Program:
    """Record what one step of a module dispatches.

    Parameters
    ----------
    module : torch.nn.Module
        On any device; the meta device (``with torch.device("meta"): ...``) needs no memory. It is
        copied without its weights and left as it is.
    example_inputs : tensor or tuple
        Positional arguments of ``forward``, on any device; only shapes and formats matter, but the
        values of small integer and boolean tensors on the CPU (ids, masks) are followed, so a model
        may look at them.
    kwargs : mapping, optional
        Keyword arguments of ``forward``.
    training : Training, optional
        Record forward, backward and optimizer; without it, a forward pass in evaluation mode under
        ``no_grad``.
    autocast : str, optional
        ``"bf16"`` or ``"fp16"``: run forward and loss under CUDA autocast.
    via : str
        ``"record"`` the module itself, or ``"export"`` it by ``torch.export`` first.
    attention : sequence of str
        Order in which PyTorch tries the kernels of ``scaled_dot_product_attention``. The default is
        that of compute capability 9.0 with cuDNN above 9.15; elsewhere ``("flash", "efficient",
        "math")``.
    launch : str
        ``"eager"``, ``"graph"`` or ``"compiled"``: how the step will be launched, for modules that
        ask (masks of ``transformers``, the fused path of ``nn.MultiheadAttention``).
    name : str, optional
        Name of the program; the class of the module by default.

    Returns
    -------
    Program

    Raises
    ------
    WorkloadError
        If torch is missing, an argument is unusable, or the step depends on data; with the user's
        line and a way round.

    Examples
    --------
    >>> import torch                                              # doctest: +SKIP
    >>> with torch.device("meta"):                                # doctest: +SKIP
    ...     model = torch.nn.Linear(64, 10, dtype=torch.bfloat16)
    >>> trace(model, torch.empty(8, 64, device="meta", dtype=torch.bfloat16))  # doctest: +SKIP
    """
    torch = _torch()
    _check(torch, module, training, autocast, via, attention, launch)
    _check_positional(module, example_inputs)
    name = name or type(module).__name__

    def recorded(how: str) -> tuple[Program, list[str]]:
        with launched(how) as asked:
            step = module
            if via == "export":
                from perfmodel.workload.importers.export import exported

                step = exported(module, example_inputs, kwargs, training)
            found = record(
                step,
                example_inputs,
                kwargs,
                training=training,
                autocast=autocast,
                via=via,
                attention=attention,
                name=name,
            )
            return found, asked

    program, asked = recorded(launch)
    if launch == "eager" and asks(program, asked):
        program = replace(program, again=Again(program, lambda how: recorded(how)[0]))
    return program


def record(
    module: Any,
    example_inputs: Any,
    kwargs: Mapping[str, Any] | None,
    *,
    name: str,
    training: Training | None = None,
    autocast: str | None = None,
    via: str = "record",
    attention: Sequence[str] = BACKENDS,
) -> Program:
    """Record arguments that have been checked; see :func:`trace`."""
    import torch
    import torch._dynamo  # within a step, this import leaves cycles that keep its tensors alive

    args = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)

    from perfmodel.workload.importers.autocast import emulated
    from perfmodel.workload.importers.device import as_cuda, composites
    from perfmodel.workload.importers.explain import explained
    from perfmodel.workload.importers.mirror import inputs_on_meta, on_meta
    from perfmodel.workload.importers.stream import Stream
    from perfmodel.workload.importers.watch import watched

    model, values = on_meta(module)
    memo: dict[int, Any] = {}
    call = (
        inputs_on_meta(tuple(args), values, memo),
        inputs_on_meta(dict(kwargs or {}), values, memo),
    )
    targets = inputs_on_meta(training.targets, values, memo) if training else ()
    stream = Stream(composites(tuple(attention)))
    stream.exported = via == "export"
    inputs = _hold(stream, model, *call, targets)
    while values:
        stream.knows(*values.pop())
    memo.clear()  # so that a cache that grows lets go of what it held
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(autocast or "")
    with (
        as_cuda(stream.table),
        emulated(dtype) as region,
        _quiet(),
        watched(stream, model),
    ):
        try:
            if training is None:
                outputs = _infer(stream, model, call, region)
                gradients: set[int] = set()
            else:
                outputs, gradients = _train(stream, model, call, targets, training, region, name)
        except Exception as fault:
            raise explained(fault, name, stream.failed) from fault
    tensors, nodes = stream.frozen(gradients)
    return Program(
        name=name,
        tensors=tensors,
        nodes=nodes,
        inputs=inputs,
        outputs=outputs,
        origin=_origin(via),
        module_calls=stream.module_calls,
        python_calls=stream.python_calls if via == "record" else 0,
        outside_calls=stream.outside_calls if via == "record" else None,
        storages=tuple(stream.storages.sizes),
        assumptions=tuple(stream.assumptions),
    )


def _infer(stream: Stream, model: Any, call: Any, region: Any) -> tuple[str, ...]:
    import torch

    from perfmodel.workload.importers.python_calls import python_calls
    from perfmodel.workload.importers.schema import tensors_in

    model.eval()
    with torch.no_grad(), stream, region(), python_calls(stream):
        output = model(*call[0], **call[1])
    stream.seal()
    return tuple(dict.fromkeys(stream.name_of(tensor) for tensor in tensors_in(output)))


def _train(
    stream: Stream,
    model: Any,
    call: Any,
    targets: tuple[Any, ...],
    training: Training,
    region: Any,
    name: str,
) -> tuple[tuple[str, ...], set[int]]:
    import torch

    from perfmodel.workload.importers.python_calls import python_calls

    model.train()
    checkpointed(model, training.checkpoint)
    trained = [(path, p) for path, p in model.named_parameters() if p.requires_grad]
    parameters = [parameter for _, parameter in trained]
    if not parameters:
        raise WorkloadError(
            f"trace {name}: training",
            "<no parameter with requires_grad>",
            "at least one parameter to train",
            repair="leave out training=, or set requires_grad",
        )
    optimizer = make_optimizer(training, parameters)
    for path, parameter in trained:
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                stream.hold(value, f"{path}.{key}", "state")
    with stream:
        with region(), python_calls(stream):
            loss = loss_of(training, model(*call[0], **call[1]), targets, f"trace {name}")
        stream.phase = "backward"
        with python_calls(stream):
            loss.backward()
        stream.seal()
        output = stream.name_of(loss)
        gradients = {stream.storages.number(p.grad)[0] for p in parameters if p.grad is not None}
        stream.phase = "optimizer"
        if training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    stream.seal()
    return (output,), gradients


def _hold(
    stream: Stream, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], targets: Any
) -> tuple[str, ...]:
    """Register what exists before the step; returns the names of the inputs."""
    from perfmodel.workload.importers.schema import tensors_in

    for path, parameter in model.named_parameters():
        stream.hold(parameter, path, "parameter")
    for path, buffer in model.named_buffers():
        stream.hold(buffer, path, "buffer")
    labelled = [(f"input{place}", value) for place, value in enumerate(args)]
    labelled += list(kwargs.items())
    labelled += [(f"target{place}", value) for place, value in enumerate(targets)]
    names = []
    for label, value in labelled:
        found = list(tensors_in(value))
        for place, tensor in enumerate(found):
            names.append(
                stream.hold(tensor, label if len(found) == 1 else f"{label}.{place}", "input")
            )
    return tuple(names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection (it would decide lifetimes), no compiling, no warnings about meta."""
    import warnings

    import torch

    compiling = "torch._dynamo" in sys.modules
    stance = torch.compiler.set_stance("force_eager") if compiling else contextlib.nullcontext()
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with stance, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if was_enabled:
            gc.enable()


def _origin(via: str) -> str:
    import torch

    versions = [f"torch {torch.__version__}"]
    for package in ("transformers", "torchvision", "timm"):
        if package in sys.modules:
            versions.append(f"{package} {getattr(sys.modules[package], '__version__', '?')}")
    return f"torch.{via} ({', '.join(versions)})"


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise WorkloadError(
            "trace",
            "<torch is not installed>",
            "PyTorch (extra torch; tested with 2.13)",
            repair="pip install 'perfmodel[torch]', or load a saved graph with load_graph",
        ) from None
    return torch


def _check_positional(module: Any, example_inputs: Any) -> None:
    """Refuse a mapping by the names of ``forward`` (what a tokenizer returns) in their place."""
    if not isinstance(example_inputs, Mapping) or not example_inputs:
        return
    taken = inspect.signature(module.forward).parameters
    if all(name in taken for name in example_inputs):
        raise WorkloadError(
            "trace: example_inputs",
            f"<{type(example_inputs).__name__} of {', '.join(map(str, example_inputs))}>",
            "the positional arguments of forward",
            repair="pass it as kwargs: trace(module, (), inputs)",
        )


def _check(
    torch: Any,
    module: Any,
    training: Training | None,
    autocast: str | None,
    via: str,
    attention: Sequence[str],
    launch: str,
) -> None:
    if not isinstance(module, torch.nn.Module):
        raise WorkloadError(
            "trace: module",
            f"<{type(module).__name__}>"
            if not isinstance(module, type)
            else f"class {module.__name__}",
            "a torch.nn.Module",
            repair="make an instance of a class, wrap a function in a module that calls it; "
            "read saved graphs with load_graph",
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise WorkloadError(
            "trace: module",
            f"<{type(module).__name__}>",
            "a torch.nn.Module in Python",
            repair="pass the module that was scripted",
        )
    if training is not None and not isinstance(training, Training):
        raise WorkloadError(
            "trace: training",
            training,
            "Training(...) or None",
            repair="write training=pm.Training() for AdamW, or give its arguments",
        )
    for field, value, known in (
        ("via", via, ROUTES),
        ("autocast", autocast, FORMATS),
        ("launch", launch, LAUNCHES),
        *(("attention", entry, BACKENDS) for entry in attention),
    ):
        if value is not None and value not in known:
            raise WorkloadError(
                f"trace: {field}",
                value,
                ", ".join(known),
                nearest=nearest_name(str(value), known),
                repair="use one of these names",
            )
