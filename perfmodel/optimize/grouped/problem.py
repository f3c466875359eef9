"""A convolution of groups, equal or not, disjoint or overlapping; and the tiles that compute it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.errors import WorkloadError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
ELEMENT_BYTES = {"bf16": 2, "fp16": 2}


@dataclass(frozen=True, slots=True)
class Group:
    """Input channels (indices, in the order of the weights) and how many outputs they feed."""

    channels: tuple[int, ...]
    outputs: int

    @property
    def contiguous(self) -> bool:
        """Whether the channels are a run ``c0, c0 + 1, ...``."""
        first = self.channels[0]
        return self.channels == tuple(range(first, first + len(self.channels)))


@dataclass(frozen=True, slots=True)
class GroupedConv:
    """One layer: an NHWC input of ``in_channels``, and groups whose outputs lie side by side."""

    batch: int
    height: int
    width: int
    in_channels: int
    groups: tuple[Group, ...]
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    dtype: str = "bf16"
    name: str = ""

    def __post_init__(self) -> None:
        where = self.name or "grouped convolution"
        if self.dtype not in ELEMENT_BYTES:
            raise WorkloadError(
                f"{where}: dtype",
                self.dtype,
                ", ".join(ELEMENT_BYTES),
                repair="choose a 16-bit matrix type",
            )
        if not self.groups:
            raise WorkloadError(
                f"{where}: groups", self.groups, "at least one group", repair="add a group"
            )
        for key in ("batch", "height", "width", "in_channels", "kernel", "stride", "dilation"):
            if getattr(self, key) < 1:
                raise WorkloadError(
                    f"{where}: {key}", getattr(self, key), "1 or more", repair=f"set {key} above 0"
                )
        if self.padding < 0 or min(self.out_height, self.out_width) < 1:
            raise WorkloadError(
                f"{where}: padding",
                self.padding,
                "0 or more, and enough that the output is not empty",
                repair="raise padding, or enlarge the input",
            )
        for index, group in enumerate(self.groups):
            spot = f"{where}: groups[{index}]"
            if group.outputs < 1 or not group.channels:
                raise WorkloadError(
                    spot,
                    (len(group.channels), group.outputs),
                    "at least one input channel and one output",
                    repair="drop the empty group",
                )
            if min(group.channels) < 0 or max(group.channels) >= self.in_channels:
                raise WorkloadError(
                    f"{spot}.channels",
                    [c for c in group.channels if not 0 <= c < self.in_channels],
                    f"indices in 0..{self.in_channels - 1}",
                    repair="correct the indices or in_channels",
                )
            if len(set(group.channels)) != len(group.channels):
                raise WorkloadError(
                    f"{spot}.channels",
                    group.channels,
                    "each index once",
                    repair="drop the repeated indices",
                )

    @property
    def out_height(self) -> int:
        """Rows of the output image."""
        return (self.height + 2 * self.padding - self._reach) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Columns of the output image."""
        return (self.width + 2 * self.padding - self._reach) // self.stride + 1

    @property
    def _reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    @property
    def rows(self) -> int:
        """M: output pixels of the batch."""
        return self.batch * self.out_height * self.out_width

    @property
    def out_channels(self) -> int:
        """Outputs of all groups."""
        return sum(group.outputs for group in self.groups)

    @property
    def inputs(self) -> Integers:
        """Input channels of each group."""
        return np.array([len(group.channels) for group in self.groups])

    @property
    def outputs(self) -> Integers:
        """Outputs of each group."""
        return np.array([group.outputs for group in self.groups])

    @property
    def flops(self) -> int:
        """2 M k^2 sum C_g O_g."""
        return int(2 * self.rows * self.kernel**2 * (self.inputs * self.outputs).sum())

    @property
    def compulsory_bytes(self) -> int:
        """Each used input element, weight and output once [B]."""
        used = len({channel for group in self.groups for channel in group.channels})
        weights = self.kernel**2 * int((self.inputs * self.outputs).sum())
        elements = self.batch * self.height * self.width * used + weights
        return ELEMENT_BYTES[self.dtype] * (elements + self.rows * self.out_channels)

    @property
    def overlapping(self) -> bool:
        """Whether a channel feeds more than one group."""
        every = [channel for group in self.groups for channel in group.channels]
        return len(set(every)) < len(every)

    @property
    def equal(self) -> bool:
        """Whether this is what a framework calls ``groups=g``: equal, contiguous, in order."""
        width = len(self.groups[0].channels)
        return (
            width * len(self.groups) == self.in_channels
            and len(set(self.outputs.tolist())) == 1
            and all(
                group.channels == tuple(range(i * width, (i + 1) * width))
                for i, group in enumerate(self.groups)
            )
        )

    @property
    def input_run(self) -> int:
        """Channels that can be loaded at once: 8, 4, 2 or 1 aligned neighbours; 0 if gathered."""
        if not all(group.contiguous for group in self.groups):
            return 0
        common = math.gcd(self.in_channels, *(group.channels[0] for group in self.groups))
        return math.gcd(8, common, *self.inputs.tolist())

    @property
    def output_run(self) -> int:
        """Outputs that can be stored at once: 8, 4, 2 or 1."""
        return math.gcd(8, *self.outputs.tolist())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, as :func:`grouped_conv_from_dict` reads it."""
        return {
            "name": self.name,
            "batch": self.batch,
            "height": self.height,
            "width": self.width,
            "in_channels": self.in_channels,
            "kernel": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "dtype": self.dtype,
            "groups": [
                {"channels": list(group.channels), "outputs": group.outputs}
                for group in self.groups
            ],
        }


def contiguous_groups(widths: Sequence[int], outputs: Sequence[int]) -> tuple[Group, ...]:
    """Disjoint groups side by side: group g takes the next ``widths[g]`` channels."""
    starts = np.concatenate([[0], np.cumsum(widths)])
    return tuple(
        Group(tuple(range(int(start), int(start) + int(width))), int(made))
        for start, width, made in zip(starts[:-1], widths, outputs, strict=True)
    )


def equal_groups(in_channels: int, out_channels: int, groups: int) -> tuple[Group, ...]:
    """The groups of a framework's ``groups=g`` convolution.

    Raises
    ------
    WorkloadError
        If ``groups`` does not divide both channel counts.
    """
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise WorkloadError(
            "groups",
            groups,
            f"a divisor of {in_channels} and of {out_channels}",
            repair="choose a common divisor",
        )
    return contiguous_groups([in_channels // groups] * groups, [out_channels // groups] * groups)
