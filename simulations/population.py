"""From a fleet's file to its devices: kinds in their shares, and each device's own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from scheduler import DeviceProfile, load_device
from scheduler.device import PageLink
from scheduler.errors import BadInput
from scheduler.view.text import human_bytes

from .fleet import (
    ALWAYS,
    FIRST_NODE,
    DeviceKind,
    Fleet,
    Floats,
    Habits,
    Ints,
    Link,
    Split,
    Thermal,
    Traces,
    Window,
)
from .fleet_file import FleetFile, KindTable, Number, WindowTable, read_fleet
from .traces import joined, read_availability, read_capacity

# What differs from device to device, each from a generator of its own: a new column changes no other.
COLUMNS: dict[str, Callable[[KindTable], Number]] = {
    "down_bytes_per_s": lambda k: k.down_bytes_per_s,
    "up_bytes_per_s": lambda k: k.up_bytes_per_s,
    "latency_s": lambda k: k.latency_s,
    "slowness": lambda k: k.slowness,
    "drop_out": lambda k: k.drop_out,
    "battery_j": lambda k: k.battery.capacity_j if k.battery else Number(value=math.inf),
    "battery_start": lambda k: k.battery.start if k.battery else Number(value=1.0),
    "charge_w": lambda k: k.battery.charge_w if k.battery else Number(value=0.0),
    "utc_offset_h": lambda k: k.habits.utc_offset_h,
}
_VARIANTS, _PARTITIONS = 100, 101  # more generators, beside those of the columns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """A kind of the file at one level of RAM and one class of page store."""

    kind: DeviceKind
    share: float


def load_fleet(
    spec: str, partitions: int, seed: int = 0, changes: Mapping[str, object] | None = None
) -> Fleet:
    """The fleet of a TOML file, or of a name that comes with fedpoet, for data of so many partitions.

    `changes` are made to the file first (`read_fleet`). The first devices hold partitions 0, 1, 2 and so
    on. Raises BadFile for a file that is not a fleet, UnknownName for a device profile that is none, and
    BadInput when there are more devices than partitions and the file does not let them share.
    """
    file = read_fleet(spec, changes or {})
    name = Path(spec).stem
    count = file.devices or file.data.partitions or partitions
    split = _split(file, count, partitions)
    if count > split.partitions and not file.data.shared:
        raise BadInput(
            f"fleet {spec} has {count} devices, but the workload's data has {split.partitions} "
            "partitions; have fewer devices, or write `shared = true` under [data]"
        )
    tables = list(file.kinds.values())
    group = _interleaved(apportioned(count, [k.share for k in tables]))
    folder = Path(spec).parent
    kinds, kind = _kinds(file, folder, group, seed)
    columns = _columns(tables, group, seed)
    trace, traces = _traces(tables, folder, group, columns)
    return Fleet(
        name=name,
        seed=seed,
        kinds=kinds,
        node=np.arange(FIRST_NODE, FIRST_NODE + count, dtype=np.uint64),
        kind=kind,
        partition=_partitions(count, split.partitions, _chance(seed, _PARTITIONS)),
        ram_bytes=np.array([k.ram_bytes for k in kinds], dtype=np.int64)[kind],
        trace=trace,
        traces=traces,
        split=split,
        options=tuple(file.server.items()),
        **cast(dict[str, Any], columns),
    )


def apportioned(count: int, shares: Sequence[float]) -> Ints:
    """`count` in whole parts as near to the shares as can be (largest remainders, the first if equal)."""
    exact = count * np.array(shares, dtype=np.float64) / sum(shares)
    parts = np.floor(exact).astype(np.int64)
    left = count - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:left]] += 1
    return parts


def _interleaved(counts: Ints) -> NDArray[np.int32]:
    """Positions 0, 1, ... so often as `counts` says, each spread evenly over the whole."""
    which = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    when = np.concatenate([(np.arange(c) + 0.5) / max(c, 1) for c in counts])
    return which[np.argsort(when, kind="stable")]


def _partitions(count: int, partitions: int, chance: np.random.Generator) -> Ints:
    """0, 1, 2, ...; once all are held, all again in an order of their own, so that kinds mix."""
    passes = -(-count // partitions)
    order = np.tile(np.arange(partitions, dtype=np.int64), (passes, 1))
    order[1:] = chance.permuted(order[1:], axis=1)
    return order.reshape(-1)[:count]


def _split(file: FleetFile, count: int, natural: int) -> Split:
    data = file.data
    if data.split == "natural":
        return Split(partitions=natural)
    return Split(form=data.split, alpha=data.alpha, partitions=data.partitions or count)


def _columns(tables: list[KindTable], group: NDArray[np.int32], seed: int) -> dict[str, Floats]:
    columns = {name: np.empty(len(group)) for name in COLUMNS}
    for position, table in enumerate(tables):
        rows = np.flatnonzero(group == position)
        for number, (name, spread) in enumerate(COLUMNS.items()):
            columns[name][rows] = spread(table).draw(len(rows), _chance(seed, number, position))
    columns["utc_offset_s"] = columns.pop("utc_offset_h") * 3600.0
    return columns


def _traces(
    tables: list[KindTable], folder: Path, group: NDArray[np.int32], columns: dict[str, Floats]
) -> tuple[NDArray[np.int32], Traces | None]:
    """Recorded devices in place of drawn ones: each row has its trace, the first again after the last.

    Recorded capacity goes into the columns: links as they were, slowness times the kind's own.
    """
    trace = np.full(len(group), -1, dtype=np.int32)
    read: list[Traces] = []
    for position, table in enumerate(tables):
        rows = np.flatnonzero(group == position)
        if table.traces.availability:
            own = read_availability(folder / table.traces.availability)
            trace[rows] = sum(map(len, read)) + np.arange(len(rows)) % len(own)
            read.append(own)
        if table.traces.capacity:
            slowness, bytes_per_s = read_capacity(folder / table.traces.capacity)
            client = np.arange(len(rows)) % len(slowness)
            columns["slowness"][rows] *= slowness[client]
            columns["down_bytes_per_s"][rows] = bytes_per_s[client]
            columns["up_bytes_per_s"][rows] = bytes_per_s[client]
    return trace, joined(read)


def _chance(seed: int, *what: int) -> np.random.Generator:
    return np.random.default_rng((seed, *what))


def _kinds(
    file: FleetFile, folder: Path, group: NDArray[np.int32], seed: int
) -> tuple[tuple[DeviceKind, ...], NDArray[np.int32]]:
    """The kinds that have a device, in order of the file, and the kind of each device."""
    made: list[DeviceKind] = []
    column = np.empty(len(group), dtype=np.int32)
    for position, (name, table) in enumerate(file.kinds.items()):
        variants = list(_variants(name, table, folder))
        rows = np.flatnonzero(group == position)
        counts = apportioned(len(rows), [v.share for v in variants])
        which = np.repeat(np.arange(len(variants), dtype=np.int32), counts)
        column[rows] = len(made) + _chance(seed, _VARIANTS, position).permutation(which)
        made.extend(v.kind for v in variants)
    there, packed = np.unique(column, return_inverse=True)
    return tuple(made[k] for k in there), packed.astype(np.int32)


def _variants(name: str, table: KindTable, folder: Path) -> Iterator[_Variant]:
    """A profile given as a file is looked up beside the fleet's file."""
    named = str(folder / table.device) if table.device.endswith(".toml") else table.device
    profile = load_device(named)
    store, ram = table.page_store, table.ram_bytes
    levels = list(zip(ram.levels or [ram.middle()], ram.shares or [1.0], strict=True))
    exact = len({human_bytes(level) for level, _ in levels}) < len(levels)
    sigma = store.speed_sigma.middle()
    for level, share in levels:
        of = f" {int(level):_} B" if exact else f" {human_bytes(level)}"
        of = of if len(levels) > 1 else ""
        for i in range(store.classes):
            speed = math.exp(sigma * NormalDist().inv_cdf((i + 0.5) / store.classes))
            size = int(store.size_bytes.middle()) if store.size_bytes else profile.page_store_bytes
            label = f" store {i + 1} of {store.classes}" if store.classes > 1 else ""
            own = with_store(profile, size, speed)
            yield _Variant(
                share=share / store.classes,
                kind=_kind(
                    name=f"{name}{of}{label}",
                    group=name,
                    table=table,
                    profile_name=named if own == profile else f"{named} of {name}{label}",
                    profile=own,
                    ram_bytes=int(level),
                ),
            )


def with_store(profile: DeviceProfile, size_bytes: int, speed: float) -> DeviceProfile:
    """The profile with a page store of another size, and `speed` times as fast."""

    def link(own: PageLink) -> PageLink:
        return replace(own, latency_s=own.latency_s / speed, bytes_per_s=own.bytes_per_s * speed)

    return replace(
        profile,
        page_store_bytes=size_bytes,
        page_in=link(profile.page_in),
        page_out=link(profile.page_out),
    )


def _kind(table: KindTable, **own: Any) -> DeviceKind:
    battery, heat, habits = table.battery, table.thermal, table.habits
    profile: DeviceProfile = own["profile"]
    return DeviceKind(
        link=Link(
            down_bytes_per_s=table.down_bytes_per_s.middle(),
            up_bytes_per_s=table.up_bytes_per_s.middle(),
            latency_s=table.latency_s.middle(),
            watts=table.radio_w.middle(),
        ),
        own_w=battery.own_w.middle() if battery and battery.own_w else profile.idle_w,
        habits=Habits(
            online=_windows(habits.online),
            charging=_windows(habits.charging),
            idle=_windows(habits.idle),
            unmetered=_windows(habits.unmetered),
        ),
        thermal=Thermal()
        if heat is None
        else Thermal(onset_s=heat.onset_s.middle(), sustained=heat.sustained.middle()),
        sources=tuple(_sources(table, "", table.source)),
        **own,
    )


def _windows(tables: list[WindowTable] | None) -> tuple[Window, ...]:
    if tables is None:
        return ALWAYS
    return tuple(Window(**table.model_dump(exclude={"source"})) for table in tables)


def _sources(table: BaseModel, place: str, otherwise: str) -> Iterator[tuple[str, str]]:
    """(place, source) of every number that the file gives, in order; `share` is the fleet's own choice."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if name in ("share", "device", "source", "classes") or name not in table.model_fields_set:
            continue
        here = f"{place}{name}"
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, Number | WindowTable):
                yield here, entry.source or otherwise
            elif isinstance(entry, BaseModel):
                yield from _sources(entry, f"{here}.", getattr(entry, "source", "") or otherwise)
