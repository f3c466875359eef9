"""Collectives of the groups of a grid: priced where a group has more than one member."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.hardware import Cluster
from perfmodel.network import collective_seconds


def wire_seconds(
    op: str, size: Any, world: Any, cluster: Cluster, local: Any
) -> NDArray[np.float64]:
    """Times of one collective for many groups; exactly 0 where a group is alone [s].

    Parameters
    ----------
    op : str
        Which collective.
    size : array_like
        The larger buffer of a rank [B].
    world, local : array_like
        Members of the group; members inside one innermost domain.
    """
    size, world, local = np.broadcast_arrays(np.asarray(size, float), world, local)
    seconds = np.zeros(size.shape)
    several = world > 1
    if several.any():
        # a cluster of one device may have no links at all: lone groups never ask for them;
        # training stacks exchange tokens by kernels of their own, not by the library's sends
        seconds[several] = collective_seconds(
            op,
            size[several],
            world[several],
            cluster,
            ranks_per_node=local[several],
            algorithm="dispatch" if op == "all_to_all" else None,
        )
    return seconds
