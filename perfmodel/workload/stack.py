"""Software stacks: what is fused, which copies of the weights exist, what a launch costs.

A stack is data (``stacks/*.toml``): it decides which kernels a layer becomes and how far a step is
from the sum of its matrix products. Reading one needs no physics.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.units import parse
from perfmodel.workload.bundled import bundled
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.ops.base import check_choice


class Stack(BaseModel):
    """How software runs a model.

    Attributes
    ----------
    attention : str
        ``"flash"`` never stores the scores, ``"materialised"`` does.
    fused_softmax, fused_norm, fused_rope, fused_activation, fused_residual, fused_residual_norm,
    fused_cross_entropy, fused_wgrad_accumulation : bool
        Whether the chain is one kernel: scale, mask and softmax; a norm; the rotation; bias and
        activation; bias, dropout and residual; residual and the norm after it; the loss; weight
        gradient and its accumulation.
    dropout : bool
        Whether dropout is on in training.
    weight_dtype, grad_dtype, master_dtype, moment_dtype : str
        Formats held for each parameter; ``master_dtype`` empty means no separate copy.
    optimizer : str
        ``"fused"`` is one kernel over all parameters, ``"unfused"`` a chain of passes.
    host_launch : float
        Host time to launch one operator in eager mode [s]; 0 where a graph is replayed.
    graph : bool
        Whether launches are captured and replayed.
    mode : str
        How a traced program becomes kernels: ``"eager"`` runs each operator's own, ``"compile"``
        fuses them as Inductor does.
    compile_optimizer : bool
        Whether the optimizer's step is compiled too, instead of run eagerly.
    compile_loss : bool
        Whether a loss that the caller computes from the model's output is compiled with it.
    layout_optimization : bool
        Whether the compiler turns convolutional networks to channels last.
    matmul_fp32, convolution_fp32 : str
        What fp32 products and convolutions multiply in; PyTorch's defaults are ``"fp32"`` and
        ``"tf32"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    source: str
    attention: str = "flash"
    fused_softmax: bool = True
    fused_norm: bool = True
    fused_rope: bool = True
    fused_activation: bool = True
    fused_residual: bool = True
    fused_residual_norm: bool = False
    fused_cross_entropy: bool = True
    fused_wgrad_accumulation: bool = False
    fused_quantise: bool = True
    dropout: bool = False
    weight_dtype: str = "bf16"
    grad_dtype: str = "fp32"
    master_dtype: str = "fp32"
    moment_dtype: str = "fp32"
    optimizer: str = "fused"
    host_launch: float = Field(ge=0, allow_inf_nan=False)
    graph: bool = False
    mode: Literal["eager", "compile"] = "eager"
    compile_optimizer: bool = False
    compile_loss: bool = False
    layout_optimization: bool = True
    matmul_fp32: Literal["fp32", "tf32"] = "fp32"
    convolution_fp32: Literal["fp32", "tf32"] = "tf32"

    @field_validator(
        "attention", "optimizer", "weight_dtype", "grad_dtype", "master_dtype", "moment_dtype"
    )
    @classmethod
    def _words(cls, value: str, info: Any) -> str:
        if info.field_name == "attention":
            check_choice(value, ("flash", "materialised"), "stack: attention")
        elif info.field_name == "optimizer":
            check_choice(value, ("fused", "unfused"), "stack: optimizer")
        elif value or info.field_name != "master_dtype":
            bytes_per_element(value, where=f"stack: {info.field_name}")
        return value

    @field_validator("host_launch", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        if isinstance(value, str):
            return parse(value, "seconds", where="stack: host_launch")
        return value

    @property
    def master_bytes(self) -> float:
        """Bytes of the separate optimizer copy of a weight [B]; 0 without one."""
        return bytes_per_element(self.master_dtype) if self.master_dtype else 0.0

    @property
    def optimizer_bytes(self) -> float:
        """Optimizer state of a parameter: master copy and two moments [B]."""
        return self.master_bytes + 2 * bytes_per_element(self.moment_dtype)

    @property
    def state_bytes(self) -> float:
        """Everything held for a parameter without sharding: weight, gradient, optimizer [B]."""
        weight, grad = bytes_per_element(self.weight_dtype), bytes_per_element(self.grad_dtype)
        return weight + grad + self.optimizer_bytes


def bundled_stacks() -> tuple[str, ...]:
    """Names that :func:`load_stack` knows without a file."""
    return bundled("stacks", ".toml")


def load_stack(name_or_path: str | Path) -> Stack:
    """A software stack by bundled name or from a TOML file.

    Raises
    ------
    WorkloadError
        If the name is unknown or the file is not a stack.
    """
    text = str(name_or_path)
    names = bundled_stacks()
    if text in names:
        content = (resources.files("perfmodel.workload") / "stacks" / f"{text}.toml").read_text()
    elif (path := Path(name_or_path)).is_file() and path.stat().st_size <= 2**20:
        content = _text_of(path)
    else:
        raise WorkloadError(
            "stack",
            text,
            f"{', '.join(names)}, or the path of a small TOML file",
            nearest=nearest_name(text, names),
            repair="use a bundled stack, or write one",
        )
    try:
        return Stack.model_validate({"name": text} | tomllib.loads(content))
    except tomllib.TOMLDecodeError as error:
        raise WorkloadError(text, f"<{error}>", "TOML", repair="correct the file") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        missing = first["type"] == "missing"
        raise WorkloadError(
            f"{text}: {key}",
            f"<no {key}>" if missing else first["input"],
            f"{first['msg'].lower()}; the fields are {', '.join(Stack.model_fields)}",
            nearest=None if missing else nearest_name(key, Stack.model_fields),
            repair=f"{'add' if missing else 'correct'} {key}",
        ) from None


def stack_of(given: Stack | str | Path) -> Stack:
    """A stack as a caller names it: a value, a bundled name, or the path of a TOML file.

    Raises
    ------
    WorkloadError
        If it is none of these.
    """
    if isinstance(given, Stack):
        return given
    if not isinstance(given, str | Path):
        raise WorkloadError(
            "stack",
            f"<{type(given).__name__}>",
            "a Stack, a bundled name, or the path of a small TOML file",
            repair='give for example "torch-eager"',
        )
    return load_stack(given)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise WorkloadError(
            str(path), "<not UTF-8 text>", "a TOML file in UTF-8", repair="save it as UTF-8 text"
        ) from None
