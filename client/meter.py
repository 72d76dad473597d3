"""Energy meters of the machine itself: RAPL, a battery, NVML.

Each counts all that its part of the machine draws, whoever causes it: idle power and other programs
are in its joules.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Clock = Callable[[], float]

_HOUR_S = 3600.0
_MICRO = 1e-6


class Meter(Protocol):
    """Counts joules; `joules` must be called at least every few minutes, since counters wrap around."""

    @property
    def name(self) -> str:
        """What is read, and whose energy that is."""

    def joules(self) -> float:
        """Joules since the meter was made. Raises OSError if it cannot be read any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMeter:
    """This machine has no meter that we can read, and why."""

    reason: str


NOT_ASKED = NoMeter(reason="none was asked for")


class Tally:
    """What a meter counts from here on, as of the last `read`; a meter that fails has counted nothing."""

    def __init__(self, meter: Meter | NoMeter) -> None:
        self._meter = meter
        self._start_j = self._read() or 0.0
        self.joules: float | None = None

    def read(self) -> None:
        """Count up to now; often enough, since a meter's counters wrap around."""
        now_j = self._read()
        self.joules = None if now_j is None else now_j - self._start_j

    def source(self, estimate: str) -> str:
        """The meter's name; without one the estimate that stands in for it, and why."""
        if isinstance(self._meter, NoMeter):
            return f"{estimate} (no meter: {self._meter.reason})"
        return self._meter.name

    def _read(self) -> float | None:
        if isinstance(self._meter, NoMeter):
            return None
        try:
            return self._meter.joules()
        except (OSError, ValueError) as error:
            self._meter = NoMeter(
                reason=f"{self._meter.name} cannot be read any more ({_said(error)})"
            )
            return None


def find_meter(root: Path = Path("/sys"), clock: Clock = time.monotonic) -> Meter | NoMeter:
    """The machine's first meter of RAPL, battery, NVML; `root` is where sysfs is mounted."""
    reasons: list[str] = []
    finders: tuple[Callable[[], Meter | NoMeter], ...] = (
        lambda: _rapl(root / "class" / "powercap"),
        lambda: _battery(root / "class" / "power_supply", clock),
        _nvml,
    )
    for find in finders:
        found = find()
        if not isinstance(found, NoMeter):
            return found
        reasons.append(found.reason)
    return NoMeter(reason="; ".join(reasons))


class Rapl:
    """The processor packages' own counters, in microjoules; their sub-domains are in them already."""

    def __init__(self, packages: list[Path]) -> None:
        self.name = f"intel-rapl ({len(packages)} processor package{'s'[: len(packages) > 1]})"
        self._counters = [p / "energy_uj" for p in packages]
        self._ranges = [_whole(p / "max_energy_range_uj") for p in packages]
        self._last = [_whole(c) for c in self._counters]
        self._total_uj = 0

    def joules(self) -> float:
        """Joules since the meter was made."""
        now = [_whole(c) for c in self._counters]
        for last, new, wrap in zip(self._last, now, self._ranges, strict=True):
            self._total_uj += new - last + (wrap if new < last else 0)
        self._last = now
        return self._total_uj * _MICRO


class Battery:
    """What a battery has lost; gauges move in steps of seconds to minutes, so short times read as 0."""

    def __init__(self, folder: Path, remaining_j: Callable[[], float]) -> None:
        self.name = f"battery {folder.name} (the whole machine)"
        self._remaining_j = remaining_j
        self._start_j = remaining_j()

    def joules(self) -> float:
        """Joules since the meter was made."""
        return self._start_j - self._remaining_j()


class BatteryPower:
    """A battery that tells its power only, integrated from reading to reading (trapezoids)."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.name = f"battery {folder.name} (the whole machine, power at each reading)"
        self._power, self._clock = folder / "power_now", clock
        self._last = (clock(), _whole(self._power))
        self._total_j = 0.0

    def joules(self) -> float:
        """Joules since the meter was made."""
        (then_s, then_uw), (now_s, now_uw) = self._last, (self._clock(), _whole(self._power))
        self._last = (now_s, now_uw)
        self._total_j += (now_s - then_s) * (then_uw + now_uw) / 2 * _MICRO
        return self._total_j


class Nvml:
    """The total energy counters of all NVIDIA GPUs; the processor is not in them."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self.count = nvml.nvmlDeviceGetCount()
        self._devices = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(self.count)]
        self.name = f"nvml ({self.count} GPU{'s'[: self.count > 1]}, without the processor)"
        self._start_j = self._read_j()

    def joules(self) -> float:
        """Joules since the meter was made."""
        return self._read_j() - self._start_j

    def _read_j(self) -> float:
        try:
            of = self._nvml.nvmlDeviceGetTotalEnergyConsumption
            return float(sum(map(of, self._devices))) / 1000.0
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error


def _rapl(folder: Path) -> Meter | NoMeter:
    # intel-rapl:0 is a package or psys, intel-rapl:0:0 a sub-domain of it.
    domains = sorted(p for p in folder.glob("intel-rapl:*") if p.name.count(":") == 1)
    try:
        packages = [p for p in domains if (p / "name").read_text().startswith("package")]
        return Rapl(packages) if packages else NoMeter(reason="no RAPL counter")
    except (OSError, ValueError) as error:
        return NoMeter(reason=f"RAPL cannot be read ({_said(error)})")


def _battery(folder: Path, clock: Clock) -> Meter | NoMeter:
    reasons = ["no battery"]
    for battery in sorted(folder.glob("BAT*")):
        try:
            status = (battery / "status").read_text().strip()
            if status == "Discharging":
                return _discharging(battery, clock)
            reasons.append(f"{battery.name} is not what the machine runs on ({status})")
        except (OSError, ValueError) as error:
            reasons.append(f"{battery.name} cannot be read ({_said(error)})")
    return NoMeter(reason=reasons[-1])


def _discharging(battery: Path, clock: Clock) -> Meter:
    energy, charge, voltage = (battery / f"{n}_now" for n in ("energy", "charge", "voltage"))
    if energy.exists():
        return Battery(battery, lambda: _whole(energy) * _MICRO * _HOUR_S)
    if charge.exists() and voltage.exists():
        # At the voltage of the start: a changing one would count as energy that came or went.
        volts = _whole(voltage) * _MICRO
        return Battery(battery, lambda: _whole(charge) * _MICRO * _HOUR_S * volts)
    return BatteryPower(battery, clock)


def _nvml() -> Meter | NoMeter:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return NoMeter(reason="pynvml is not installed")
    return nvml_meter(nvml)


def nvml_meter(nvml: Any) -> Meter | NoMeter:
    """The meter of a loaded `pynvml`."""
    try:
        nvml.nvmlInit()
        meter = Nvml(nvml)
    except (nvml.NVMLError, OSError) as error:
        return NoMeter(reason=f"NVML cannot be read ({error})")
    return meter if meter.count else NoMeter(reason="no NVIDIA GPU")


def _whole(path: Path) -> int:
    return int(path.read_text())


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
