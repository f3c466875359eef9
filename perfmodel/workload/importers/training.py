"""How a training step is run: optimizer, loss, clipping, activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.units import number

if TYPE_CHECKING:
    import torch

OPTIMIZERS: Final = ("adamw", "adam", "sgd")
IMPLEMENTATIONS: Final = ("foreach", "fused", "for-loop")


@dataclass(frozen=True, slots=True)
class Training:
    """A training step: forward, loss, backward, optimizer.

    The step recorded is a later one, so the optimizer's states exist, and gradients are set to None
    at its end. The model's output is not kept once the loss is computed.

    Parameters
    ----------
    optimizer : str
        ``adamw``, ``adam`` or ``sgd`` (with ``momentum``).
    implementation : str
        ``foreach`` (PyTorch's default on CUDA), ``fused`` or ``for-loop``.
    loss : callable, optional
        ``loss(output, *targets)``, a scalar tensor; by default the output's own loss.
    targets : tuple
        Tensors that ``loss`` takes beside the output.
    momentum : float
        Of ``sgd``.
    clip_norm : float, optional
        Clip the gradients to this norm before the optimizer runs.
    checkpoint : tuple of str
        Patterns of module paths (``"model.layers.*"``) whose activations backward recomputes.

    Raises
    ------
    WorkloadError
        If a name is unknown, or an argument of another kind.
    """

    optimizer: str = "adamw"
    implementation: str = "foreach"
    loss: Callable[..., Any] | None = None
    targets: tuple[Any, ...] = ()
    momentum: float = 0.9
    clip_norm: float | None = None
    checkpoint: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("implementation", self.implementation, IMPLEMENTATIONS),
        ):
            if value not in known:
                raise WorkloadError(
                    f"Training: {field}",
                    value,
                    ", ".join(known),
                    nearest=nearest_name(str(value), known),
                    repair="use one of these names",
                )
        if self.loss is not None and not callable(self.loss):
            raise WorkloadError(
                "Training: loss",
                self.loss,
                "a function of the output and the targets",
                repair="give the function itself, such as torch.nn.functional.mse_loss",
            )
        if not isinstance(self.targets, tuple | list):
            raise WorkloadError(
                "Training: targets",
                f"<{type(self.targets).__name__}>",
                "a tuple of what the loss takes beside the output",
                repair="write (targets,) for one alone",
            )
        if isinstance(self.checkpoint, str):
            raise WorkloadError(
                "Training: checkpoint",
                self.checkpoint,
                "a tuple of patterns of module paths",
                repair=f"write ({self.checkpoint!r},), or () for none",
            )
        for field, size in (("momentum", self.momentum), ("clip_norm", self.clip_norm or 0.0)):
            if (given := number(size)) is None or given < 0:
                raise WorkloadError(
                    f"Training: {field}", size, "a number from 0 on", repair="give a number"
                )


def make_optimizer(training: Training, parameters: list[torch.nn.Parameter]) -> Any:
    """The optimizer, with its states as they are after a first step."""
    import torch

    how: dict[str, Any] = {
        "foreach": {"foreach": True},
        "fused": {"fused": True},
        "for-loop": {"foreach": False, "fused": False},
    }[training.implementation]
    optimizer: Any
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=training.momentum, **how)
    else:
        kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(parameters, lr=1e-3, **how)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def loss_of(training: Training, output: Any, targets: tuple[Any, ...], where: str) -> Any:
    """The scalar that backward starts from."""
    import torch

    if training.loss is not None:
        loss = training.loss(output, *targets)
    elif isinstance(output, torch.Tensor):
        loss = output
    elif isinstance(output, dict) or hasattr(output, "loss"):
        loss = output["loss"] if isinstance(output, dict) and "loss" in output else None
        loss = getattr(output, "loss", None) if loss is None else loss
    else:
        loss = None
    if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad:
        return loss
    shape = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(output).__name__
    raise WorkloadError(
        f"{where}: training",
        f"<no scalar loss: {shape}>",
        "a model that returns its loss, or a loss function that gives a scalar with a gradient",
        repair="pass labels in kwargs, or Training(loss=lambda output, y: ..., targets=(y,))",
    )


def checkpointed(module: Any, patterns: tuple[str, ...]) -> None:
    """Recompute the activations of the modules whose paths match, in place."""
    from torch.utils.checkpoint import checkpoint

    if not patterns:
        return
    paths = [path for path, _ in module.named_modules() if path]
    for pattern in patterns:
        matching = [path for path in paths if fnmatchcase(path, pattern) and _exact(path, pattern)]
        if not matching:
            raise WorkloadError(
                "Training: checkpoint",
                pattern,
                "a pattern that matches paths of modules",
                nearest=nearest_name(pattern, paths),
                repair="see [name for name, _ in module.named_modules()]",
            )
        for path in matching:
            part = module.get_submodule(path)
            inner = part.forward

            def forward(*args: Any, inner: Any = inner, **kwargs: Any) -> Any:
                return checkpoint(inner, *args, use_reentrant=False, **kwargs)

            part.forward = forward


def _exact(path: str, pattern: str) -> bool:
    """``*`` stands for one part of a path, so a pattern does not match modules inside a match."""
    return path.count(".") == pattern.count(".")
