"""Tables: prices that the plans of a grid share, and where each plan finds its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import SpecError
from perfmodel.hardware import Cluster
from perfmodel.parallel.layers import LayerTable
from perfmodel.parallel.states import ParameterBytes, StateTable
from perfmodel.workload.transformer import Stack

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Tables:
    """Prices shared by the plans of a grid, and where each plan finds its own.

    Parameters
    ----------
    layers : LayerTable
        By distinct shard; ``layer_of`` is the place of each plan.
    states : StateTable
        By distinct degrees; ``state_of`` is the place of each plan.
    width : ParameterBytes
        Bytes of a parameter.
    micro_batches : (n,) array
        Of one data parallel rank.
    """

    cluster: Cluster
    stack: Stack
    layers: LayerTable
    layer_of: Ints
    states: StateTable
    state_of: Ints
    width: ParameterBytes
    micro_batches: Floats

    def take(self, index: Any) -> Tables:
        """The same tables for some of the plans."""
        return Tables(
            self.cluster,
            self.stack,
            self.layers,
            self.layer_of[index],
            self.states,
            self.state_of[index],
            self.width,
            self.micro_batches[index],
        )


def host_rate(tables: Tables) -> float:
    """Rate between a device and host memory, one way [B/s]."""
    link = tables.cluster.host_link
    if link is None:
        raise SpecError(
            f"{tables.cluster.name}: host_link",
            None,
            "the link to host memory, which offloading needs",
            repair="add host_link to the node's file, or plan without offloading",
        )
    return link.bandwidth_per_direction
