"""Precisions: the format of activations and of the operands of linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perfmodel.errors import WorkloadError, nearest_name
from perfmodel.workload.dtype import bytes_per_element, short_name


@dataclass(frozen=True, slots=True)
class Precision:
    """Which format is used where.

    Parameters
    ----------
    name : str
        ``"bf16"``, ``"fp8"`` ...
    compute : str
        Format of activations, attention, norms and the output head.
    gemm : str
        Format of the operands of linear layers inside the blocks; where it is narrower than
        ``compute``, inputs and output gradients are quantised.
    """

    name: str = "bf16"
    compute: str = "bf16"
    gemm: str = "bf16"

    @property
    def element(self) -> int:
        """Bytes of one activation [B]."""
        return int(bytes_per_element(self.compute))

    @property
    def quantised(self) -> bool:
        """Whether linear layers need casts."""
        return bytes_per_element(self.gemm) < bytes_per_element(self.compute)


PRECISIONS: Final = tuple(
    Precision(name, compute, gemm)
    for name, compute, gemm in (
        ("bf16", "bf16", "bf16"),
        ("fp16", "fp16", "fp16"),
        ("fp32", "fp32", "fp32"),
        ("tf32", "tf32", "tf32"),
        ("fp8", "bf16", "fp8_e4m3"),
        ("int8", "bf16", "int8"),
        ("fp4", "bf16", "fp4"),
    )
)
BF16: Final = PRECISIONS[0]


def precision_name(word: str) -> str:
    """The precision that is meant: its name, its format or a framework's word for that.

    Any other value is returned as it is, to be refused by name.

    Examples
    --------
    >>> precision_name("fp8_e4m3"), precision_name("bfloat16")
    ('fp8', 'bf16')
    """
    if not isinstance(word, str):
        return word
    short = short_name(word)
    return next((one.name for one in PRECISIONS if short in (one.name, one.gemm)), word)


def load_precision(name: str) -> Precision:
    """The precision of that name, of that format of products, or of a framework's word for it.

    Raises
    ------
    WorkloadError
        If it is not known.
    """
    meant = precision_name(name)
    for precision in PRECISIONS:
        if isinstance(name, str) and precision.name == meant:
            return precision
    names = [precision.name for precision in PRECISIONS]
    raise WorkloadError(
        "precision",
        name,
        ", ".join(names),
        nearest=nearest_name(name, names),
        repair="use one of the accepted precisions",
    )


def unquantised(precision: Precision) -> Precision:
    """The same activations with linear layers in their format."""
    return Precision(precision.compute, precision.compute, precision.compute)
