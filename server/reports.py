"""What devices say of themselves before a round: the capability query, one row per device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reports:
    """Devices that are online, in ascending order of node id; every column is [n].

    `battery` is from 0 to 1, and 1 on mains. `free_ram_bytes` is what training may take. `can_train` is
    False where the device's owner does not allow it now, or the device has no plan for the model.
    Columns, since a fleet has a hundred thousand devices.
    """

    node: NDArray[np.uint64]
    charging: NDArray[np.bool_]
    idle: NDArray[np.bool_]
    unmetered: NDArray[np.bool_]
    battery: NDArray[np.float64]
    free_ram_bytes: NDArray[np.int64]
    can_train: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.node)

    def where(self, mask: NDArray[np.bool_]) -> Reports:
        """The rows for which `mask`, [n], is true."""
        return Reports(**{name: getattr(self, name)[mask] for name in self.__slots__})


def plugged_in(nodes: list[int]) -> Reports:
    """Reports of nodes that say nothing, as Flower's SuperNodes: on mains, idle, unmetered, willing."""
    count = len(nodes)
    yes = np.ones(count, dtype=np.bool_)
    return Reports(
        node=np.array(sorted(nodes), dtype=np.uint64),
        charging=yes,
        idle=yes,
        unmetered=yes,
        battery=np.ones(count),
        free_ram_bytes=np.full(count, np.iinfo(np.int64).max),
        can_train=yes,
    )
