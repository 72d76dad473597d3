"""What a coordinator asks for, and what a device says of itself: two tables of scalars that become Settings.

from the coordinator   workload, seed, batch-size, local-epochs, deadline-factor, plan-time-limit-s,
                       proximal-mu
from the device        device, ram-bytes, partition-id, page-dir, cache-dir, workload; its owner's policy:
                       charging, idle, unmetered, battery, quiet-hours ("22:00-07:00, 12:00-13:00")

A number that is 0 or left out means the workload's or the device profile's own. The coordinator may name
a workload that comes with fedpoet; a file is run only if the device itself names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from scheduler.errors import BadInput

from .device.policy import Policy, parse_hours
from .node import PLAN_TIME_LIMIT_S, Settings
from .workload import BUILT_IN

Config = Mapping[str, object]
Value = TypeVar("Value", bound=bool | int | float | str)


def settings_from(run: Config, node: Config) -> Settings:
    """Settings from both tables. Raises BadInput for a value of another type."""
    ram_bytes = _get(node, "ram-bytes", 0)
    page_dir, cache_dir = _get(node, "page-dir", ""), _get(node, "cache-dir", "")
    if not (device := _get(node, "device", "")):
        raise BadInput('the node config names no device; give a profile: device="raspberry-pi-4b"')
    return Settings(
        workload=_workload(run, node),
        seed=_get(run, "seed", 0),
        batch_size=_get(run, "batch-size", 0) or None,
        local_epochs=_get(run, "local-epochs", 0) or None,
        deadline_factor=_get(run, "deadline-factor", 0.0) or None,
        plan_time_limit_s=_get(run, "plan-time-limit-s", 0.0) or PLAN_TIME_LIMIT_S,
        device=device,
        ram_bytes=ram_bytes or None,
        partition=_get(node, "partition-id", 0),
        page_dir=Path(page_dir) if page_dir else None,
        cache_dir=Path(cache_dir) if cache_dir else None,
        proximal_mu=_get(run, "proximal-mu", 0.0),
    )


def policy_from(node: Config) -> Policy:
    """The owner's policy from the device's table. Raises BadInput for a value of another type."""
    hours = _get(node, "quiet-hours", "")
    return Policy(
        charging=_get(node, "charging", False),
        idle=_get(node, "idle", False),
        unmetered=_get(node, "unmetered", False),
        least_battery=_get(node, "battery", 0.0),
        quiet_hours=tuple(parse_hours(part) for part in hours.split(",") if part.strip()),
    )


def _workload(run: Config, node: Config) -> str:
    if own := _get(node, "workload", ""):
        return own
    if (asked := _get(run, "workload", "watch")) in BUILT_IN:
        return asked
    raise BadInput(f"the coordinator asks for {asked!r}; the node config must name it to allow it")


def _get(config: Config, key: str, default: Value) -> Value:
    value = config.get(key, default)
    if type(default) is float and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise BadInput(f"{key} is {value!r}; it must be of type {type(default).__name__}")
    return value
