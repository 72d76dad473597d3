"""Who takes part: kinds of devices with their RAM budget and radio link, and one device per partition.

Two fleets come with fedpoet, in fleets/*.toml; one's own is a file like them (docs/fleets.md).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scheduler import DeviceProfile, load_device
from scheduler.errors import BadFile, BadInput

FIRST_NODE = 100  # node ids are given in the order of the devices
DEFAULT_FLEET = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A device's way to the coordinator. `watts` is drawn above idle while bytes move."""

    down_bytes_per_s: float
    up_bytes_per_s: float
    latency_s: float
    watts: float

    def down_s(self, size_bytes: int) -> float:
        """Seconds to receive a message."""
        return self.latency_s + size_bytes / self.down_bytes_per_s

    def up_s(self, size_bytes: int) -> float:
        """Seconds to send a message."""
        return self.latency_s + size_bytes / self.up_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """Devices that are alike: hardware, RAM budget of a training step, link, and their source."""

    name: str
    profile_name: str
    profile: DeviceProfile
    ram_bytes: int
    link: Link
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device: its node id in the federation, its kind, and the partition of the data it holds."""

    node: int
    kind: DeviceKind
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All devices, in order of node id."""

    name: str
    devices: tuple[Device, ...]

    @property
    def kinds(self) -> tuple[DeviceKind, ...]:
        """Kinds that have a device, in order of their first one."""
        return tuple({d.kind.name: d.kind for d in self.devices}.values())


# Bounds keep virtual time and energy finite; a kind's name is also a file's.
_Rate = Annotated[float, Field(ge=1e-3, le=1e15)]
_Amount = Annotated[float, Field(ge=0, le=1e9)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_ .-]{0,63}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Kind(_Strict):
    device: str
    ram_bytes: int = Field(ge=1, lt=2**63)
    down_bytes_per_s: _Rate
    up_bytes_per_s: _Rate
    latency_s: _Amount
    radio_w: _Amount
    source: str


class _File(_Strict):
    kinds: dict[_Name, _Kind] = Field(min_length=1)
    devices: list[str] = Field(min_length=1)


def load_fleet(spec: str, partitions: int) -> Fleet:
    """The fleet of a TOML file, or `default`: its devices hold partitions 0, 1, 2 and so on.

    `default` repeats its list of kinds until every partition has a device. Raises BadFile for a file
    that is not a fleet, and BadInput when it has more devices than there are partitions.
    """
    if spec == DEFAULT_FLEET:
        file = _parse(
            resources.files(__package__).joinpath("fleets/default.toml").read_text(), spec
        )
        order = [file.devices[i % len(file.devices)] for i in range(partitions)]
    else:
        file = _parse(_read(Path(spec)), spec)
        order = file.devices
    if len(order) > partitions:
        raise BadInput(
            f"fleet {spec} has {len(order)} devices, but the workload's data has {partitions} partitions; "
            "list fewer devices"
        )
    kinds = {name: _kind(name, kind, Path(spec).parent) for name, kind in file.kinds.items()}
    devices = []
    for position, name in enumerate(order):
        if name not in kinds:
            raise BadFile(f"fleet {spec}: devices names {name!r}; kinds are {', '.join(kinds)}")
        devices.append(Device(node=FIRST_NODE + position, kind=kinds[name], partition=position))
    return Fleet(name=spec if spec == DEFAULT_FLEET else Path(spec).stem, devices=tuple(devices))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"fleet {path} cannot be read: {error}") from error


def _parse(text: str, where: str) -> _File:
    try:
        return _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadFile(f"fleet {where} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadFile(f"fleet {where}: {place}: {first['msg']}") from error


def _kind(name: str, kind: _Kind, folder: Path) -> DeviceKind:
    """A profile given as a file is looked up beside the fleet's file."""
    named = str(folder / kind.device) if kind.device.endswith(".toml") else kind.device
    return DeviceKind(
        name=name,
        profile_name=named,
        profile=load_device(named),
        ram_bytes=kind.ram_bytes,
        link=Link(
            down_bytes_per_s=kind.down_bytes_per_s,
            up_bytes_per_s=kind.up_bytes_per_s,
            latency_s=kind.latency_s,
            watts=kind.radio_w,
        ),
        source=kind.source,
    )
