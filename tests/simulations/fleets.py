"""Fleets made in code, for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scheduler import load_device
from simulations.fleet import DeviceKind, Fleet, Habits, Link, Thermal, plain_fleet


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
