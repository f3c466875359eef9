"""Job: what a launch needs beside the plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """Batch, sequence and devices of a launch.

    Parameters
    ----------
    global_batch_size, seq_len : int, optional
        Sequences in a step, tokens in a sequence.
    devices_per_node : int
        Devices that one node gives.
    script : str
        What to run.
    name : str
        For the batch system.
    """

    global_batch_size: int | None = None
    seq_len: int | None = None
    devices_per_node: int = 8
    script: str = "pretrain_gpt.py"
    name: str = "train"

    def nodes(self, world: int) -> tuple[int, int]:
        """Nodes, and devices in each, for a world size."""
        if world <= self.devices_per_node:
            return 1, world
        return -(-world // self.devices_per_node), self.devices_per_node
