"""What devices say of themselves before a round: the capability query, one row per device."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one device says of itself: a row of Reports."""

    charging: bool
    idle: bool
    unmetered: bool
    battery: float
    free_ram_bytes: int
    can_train: bool


PLUGGED_IN = Said(
    charging=True,
    idle=True,
    unmetered=True,
    battery=1.0,
    free_ram_bytes=int(np.iinfo(np.int64).max),
    can_train=True,
)
"""What is taken of a device that says nothing, as Flower's SuperNodes: on mains, idle, unmetered, willing."""


def reports_of(said: Mapping[int, Said]) -> Reports:
    """Reports of devices by node id."""
    nodes = sorted(said)
    rows = [said[node] for node in nodes]
    return Reports(
        node=np.array(nodes, dtype=np.uint64),
        charging=np.array([row.charging for row in rows], dtype=np.bool_),
        idle=np.array([row.idle for row in rows], dtype=np.bool_),
        unmetered=np.array([row.unmetered for row in rows], dtype=np.bool_),
        battery=np.array([row.battery for row in rows], dtype=np.float64),
        free_ram_bytes=np.array([row.free_ram_bytes for row in rows], dtype=np.int64),
        can_train=np.array([row.can_train for row in rows], dtype=np.bool_),
    )


def plugged_in(nodes: list[int]) -> Reports:
    """Reports of nodes that say nothing."""
    return reports_of(dict.fromkeys(nodes, PLUGGED_IN))
