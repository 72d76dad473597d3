"""What a device can do, and what a graph costs on it."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any

from .errors import BadFile, UnknownName
from .graph import Graph
from .problem import Cost, CostTable


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLink:
    """One direction of the path between RAM and page store; `watts` is drawn above idle."""

    latency_s: float
    bytes_per_s: float
    watts: float

    def cost(self, size_bytes: int, block_bytes: int) -> Cost:
        """Moving `size_bytes` in whole blocks."""
        moved = math.ceil(size_bytes / block_bytes) * block_bytes
        time_s = self.latency_s + moved / self.bytes_per_s
        return Cost(time_s=time_s, energy_j=time_s * self.watts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """A device's RAM, page store, compute rate and power, with the source of every number.

    `compute_w` and the links' watts are drawn above `idle_w`. `overlap` says whether a page-in, a
    page-out and an operator can run beside each other.
    """

    name: str
    description: str
    ram_bytes: int
    reserved_bytes: int
    page_store_bytes: int
    page_block_bytes: int
    flops_per_s: float
    compute_w: float
    idle_w: float
    page_in: PageLink
    page_out: PageLink
    overlap: bool
    sources: tuple[tuple[str, str], ...]

    @property
    def trainable_bytes(self) -> int:
        """RAM left for a training step."""
        return self.ram_bytes - self.reserved_bytes


def cost_table(graph: Graph, device: DeviceProfile) -> CostTable:
    """Costs from the profile: operators by their flops, transfers by their size in blocks."""

    def compute(flops: int) -> Cost:
        time_s = flops / device.flops_per_s
        return Cost(time_s=time_s, energy_j=time_s * device.compute_w)

    def link(direction: PageLink) -> tuple[Cost, ...]:
        return tuple(direction.cost(t.size_bytes, device.page_block_bytes) for t in graph.tensors)

    return CostTable(
        operators=tuple(compute(op.flops) for op in graph.operators),
        page_in=link(device.page_in),
        page_out=link(device.page_out),
        idle_w=device.idle_w,
        overlap=device.overlap,
    )


def device_names() -> tuple[str, ...]:
    """Names of the profiles that ship with fedpoet."""
    folder = resources.files(__package__) / "devices"
    return tuple(
        sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))
    )


def load_device(name_or_path: str) -> DeviceProfile:
    """A shipped profile by name, or one's own by the path of a .toml file.

    Raises UnknownName, or BadFile when the file is not a device profile.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadFile(f"cannot read device profile {path}: {error}") from error
    elif name_or_path in device_names():
        text = (resources.files(__package__) / "devices" / f"{name_or_path}.toml").read_text(
            encoding="utf-8"
        )
    else:
        raise UnknownName("device profile", name_or_path, device_names())
    return parse_device(text, name_or_path)


def parse_device(text: str, where: str) -> DeviceProfile:
    """A profile from TOML text in which every number is a table with `value` and `source`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadFile(f"device profile {where} is not TOML: {error}") from error
    sources: list[tuple[str, str]] = []

    def number(keys: tuple[str, ...], of: type[Any]) -> Any:
        entry: Any = table
        for key in keys:
            entry = entry.get(key) if isinstance(entry, dict) else None
        label = ".".join(keys)
        if not (isinstance(entry, dict) and {"value", "source"} <= entry.keys()):
            raise BadFile(f"device profile {where}: [{label}] needs a value and a source")
        value = entry["value"]
        if of is float and type(value) is int:
            value = float(value)
        if type(value) is not of:
            raise BadFile(
                f"device profile {where}: {label} must be of type {of.__name__}, not {value!r}"
            )
        if of is not bool and not (math.isfinite(value) and value >= 0):
            raise BadFile(
                f"device profile {where}: {label} must be finite and not negative, not {value}"
            )
        sources.append((label, str(entry["source"])))
        return value

    def link(direction: str) -> PageLink:
        return PageLink(**{f.name: number((direction, f.name), float) for f in fields(PageLink)})

    whole = {
        n: number((n,), int)
        for n in ("ram_bytes", "reserved_bytes", "page_store_bytes", "page_block_bytes")
    }
    real = {n: number((n,), float) for n in ("flops_per_s", "compute_w", "idle_w")}
    device = DeviceProfile(
        name=str(table.get("name", where)),
        description=str(table.get("description", "")),
        **whole,
        **real,
        page_in=link("page_in"),
        page_out=link("page_out"),
        overlap=number(("overlap",), bool),
        sources=tuple(sources),
    )
    _require_usable(device, where)
    return device


def dump_device(device: DeviceProfile) -> str:
    """TOML text that `parse_device` reads back as the same profile, given a source for every number."""
    head = f"name = {_text(device.name)}\ndescription = {_text(device.description)}\n"
    tables = (
        f"\n[{label}]\nvalue = {_value(attrgetter(label)(device))}\nsource = {_text(source)}\n"
        for label, source in device.sources
    )
    return head + "".join(tables)


def _text(text: str) -> str:
    # JSON escapes what TOML does, but for one control character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _require_usable(device: DeviceProfile, where: str) -> None:
    rates = {
        "flops_per_s": device.flops_per_s,
        "page_in.bytes_per_s": device.page_in.bytes_per_s,
        "page_out.bytes_per_s": device.page_out.bytes_per_s,
        "page_block_bytes": device.page_block_bytes,
    }
    for label, value in rates.items():
        if value <= 0:
            raise BadFile(f"device profile {where}: {label} must be more than 0")
    if device.trainable_bytes <= 0:
        raise BadFile(
            f"device profile {where}: reserved_bytes ({device.reserved_bytes}) leaves nothing of "
            f"ram_bytes ({device.ram_bytes}) for training"
        )
