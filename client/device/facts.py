"""What is so on this device now, and who says so. Linux's own files and services; Termux on Android.

Every source is a function that may know nothing. Files are read below a root that is an argument, so that
a container can read its host's and a test can write its own.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from .policy import Facts

Value = TypeVar("Value")

# More than this share of the processors in use by others is not idle.
IDLE_LOAD = 0.3
_COMMAND_S = 0.5
_LOAD_S = 60.0  # the time over which /proc/loadavg averages
# NetworkManager's NMMetered: yes, no, guess-yes, guess-no.
_METERED = {1: True, 2: False, 3: True, 4: False}
_MOBILE = ("wwan", "ppp", "rmnet", "ccmni", "usb")
_WIRED = ("eth", "en", "wl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[Value]):
    """A fact and who says so; None where nobody does, and then why."""

    value: Value | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What drives the device; `battery` is a share from 0 to 1, None without one."""

    charging: bool
    battery: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where each fact comes from. `idle` gets the load that this client's own training causes."""

    power: Callable[[], Reading[Power]]
    idle: Callable[[float], Reading[bool]]
    unmetered: Callable[[], Reading[bool]]
    free_ram: Callable[[], Reading[int]]
    now: Callable[[], datetime]

    def facts(self, own_load: float = 0.0) -> Facts:
        """All facts that a policy may ask for, read now."""
        power, now = self.power().value, self.now()
        return Facts(
            charging=None if power is None else power.charging,
            battery=None if power is None else power.battery,
            idle=self.idle(own_load).value,
            unmetered=self.unmetered().value,
            minute=now.hour * 60 + now.minute,
        )


def system_sources(root: Path = Path("/")) -> Sources:
    """The sources of this machine, its files read below `root`."""
    return Sources(
        power=lambda: power(root),
        idle=lambda own_load: idle(root, own_load),
        unmetered=lambda: unmetered(root),
        free_ram=lambda: free_ram(root),
        now=lambda: datetime.now().astimezone(),
    )


def averaged_load(before: float, running: int, seconds: float) -> float:
    """What `running` busy threads have come to in the system's load average after so many seconds."""
    kept = math.exp(-seconds / _LOAD_S)
    return before * kept + running * (1 - kept)


def power(root: Path = Path("/")) -> Reading[Power]:
    """Mains and battery, from the kernel, else from Termux."""
    folder = root / "sys/class/power_supply"
    try:
        supplies = [_supply(path) for path in sorted(folder.iterdir())]
    except OSError:
        return _termux_power(str(folder))
    batteries = [s for s in supplies if s.get("type") == "Battery" and s.get("scope") != "Device"]
    mains = any(s.get("online") == "1" for s in supplies if s.get("type") != "Battery")
    levels = [float(s["capacity"]) / 100 for s in batteries if s.get("capacity", "").isdigit()]
    charging = (
        not batteries or mains or all(s.get("status") in ("Charging", "Full") for s in batteries)
    )
    value = Power(charging=charging, battery=min(levels, default=None))
    return Reading(value=value, source=str(folder) + ("" if batteries else " (no battery: mains)"))


def idle(root: Path = Path("/"), own_load: float = 0.0) -> Reading[bool]:
    """Whether nobody sits at the device (systemd-logind, where it runs) and nothing else keeps it busy."""
    path = root / "proc/loadavg"
    try:
        load = float(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return Reading(value=None, source=f"{path} cannot be read")
    quiet = load - own_load <= IDLE_LOAD * (os.cpu_count() or 1)
    said = f"{path}: load {load:.2f}, {own_load:.2f} of it our own"
    hint = _property("org.freedesktop.login1", "org.freedesktop.login1.Manager", "IdleHint")
    if hint in ("b true", "b false"):
        return Reading(value=quiet and hint == "b true", source=f"{said}; logind: {hint[2:]}")
    return Reading(value=quiet, source=said)


def unmetered(root: Path = Path("/")) -> Reading[bool]:
    """Whether bytes cost nothing: NetworkManager's word, else a guess from the kind of interface."""
    name = "org.freedesktop.NetworkManager"
    said = (_property(name, name, "Metered") or "").split()
    if len(said) == 2 and said[1].isdigit() and int(said[1]) in _METERED:
        return Reading(value=not _METERED[int(said[1])], source="NetworkManager")
    path = root / "proc/net/route"
    try:
        rows = [line.split() for line in path.read_text().splitlines()[1:]]
    except OSError:
        return Reading(value=None, source=f"{path} cannot be read")
    default = [row[0] for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
    if not default:
        return Reading(value=None, source=f"{path} has no default route")
    if any(name.startswith(_MOBILE) for name in default):
        return Reading(value=False, source=f"{path}: {default[0]} is a mobile link")
    if all(name.startswith(_WIRED) for name in default):
        return Reading(value=True, source=f"{path}: a guess, since {default[0]} is no mobile link")
    return Reading(value=None, source=f"{path}: nothing is known of {default[0]}")


def free_ram(root: Path = Path("/")) -> Reading[int]:
    """Bytes that programs can still take without swapping."""
    path = root / "proc/meminfo"
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return Reading(value=int(line.split()[1]) * 1024, source=str(path))
    except (OSError, ValueError, IndexError):
        pass
    return Reading(value=None, source=f"{path} does not tell")


def _supply(folder: Path) -> dict[str, str]:
    found = {}
    for name in ("type", "scope", "online", "status", "capacity"):
        try:
            found[name] = (folder / name).read_text().strip()
        except OSError:
            continue
    return found


def _termux_power(missing: str) -> Reading[Power]:
    """What the app Termux:API tells of an Android device, whose kernel's files apps may not read."""
    said = _output("termux-battery-status")
    if said is None:
        return Reading(value=None, source=f"{missing} cannot be read, and there is no Termux:API")
    try:
        status: dict[str, Any] = json.loads(said)
        level, plugged = float(status["percentage"]) / 100, str(status["plugged"])
    except (ValueError, KeyError, TypeError):
        return Reading(value=None, source="termux-battery-status answers in a form not known here")
    value = Power(charging=plugged != "UNPLUGGED", battery=level)
    return Reading(value=value, source="termux-battery-status")


def _property(service: str, interface: str, name: str) -> str | None:
    path = "/" + service.replace(".", "/")
    said = _output("busctl", "get-property", service, path, interface, name)
    return None if said is None else said.strip()


def _output(*command: str) -> str | None:
    """What a command prints; None if there is no such command, or it fails or takes too long."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
