"""Fleets made in code, for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scheduler import load_device
from simulations.fleet import (
    FIRST_NODE,
    DeviceKind,
    Fleet,
    Floats,
    Habits,
    Ints,
    Link,
    Split,
    Thermal,
)


def kind_of(
    habits: Habits | None = None,
    *,
    name: str = "board",
    own_w: float = 0.0,
    thermal: Thermal | None = None,
    ram_bytes: int = 1000,
) -> DeviceKind:
    """A kind of which nothing matters but what is given."""
    return DeviceKind(
        name=name,
        group=name,
        profile_name="nrf52840",
        profile=load_device("nrf52840"),
        ram_bytes=ram_bytes,
        link=Link(down_bytes_per_s=1000, up_bytes_per_s=500, latency_s=0.5, watts=2.0),
        own_w=own_w,
        habits=habits or Habits(),
        thermal=thermal or Thermal(),
    )


def fleet_with(kinds: list[DeviceKind], count: int, seed: int = 0, **columns: object) -> Fleet:
    """`count` devices; the kinds take turns. A column may be one number for all."""
    made = plain_fleet("made", tuple(kinds), np.arange(count) % len(kinds), seed=seed)
    arrays = {
        name: np.broadcast_to(np.asarray(value, getattr(made, name).dtype), count).copy()
        for name, value in columns.items()
    }
    return replace(made, **arrays)


def plain_fleet(
    name: str,
    kinds: tuple[DeviceKind, ...],
    kind: Ints,
    *,
    seed: int = 0,
) -> Fleet:
    """A device per entry of `kind`, each with a partition of its own: on mains, in UTC, all alike."""
    count = len(kind)
    link = [k.link for k in kinds]
    at = np.asarray(kind, dtype=np.int32)

    def gather(values: list[float]) -> Floats:
        return np.array(values, dtype=np.float64)[at]

    return Fleet(
        name=name,
        seed=seed,
        kinds=kinds,
        node=np.arange(FIRST_NODE, FIRST_NODE + count, dtype=np.uint64),
        kind=at,
        partition=np.arange(count, dtype=np.int64),
        ram_bytes=np.array([k.ram_bytes for k in kinds], dtype=np.int64)[at],
        down_bytes_per_s=gather([x.down_bytes_per_s for x in link]),
        up_bytes_per_s=gather([x.up_bytes_per_s for x in link]),
        latency_s=gather([x.latency_s for x in link]),
        slowness=np.ones(count),
        battery_j=np.full(count, np.inf),
        battery_start=np.ones(count),
        charge_w=np.zeros(count),
        utc_offset_s=np.zeros(count),
        drop_out=np.zeros(count),
        trace=np.full(count, -1, dtype=np.int32),
        split=Split(partitions=count),
    )
