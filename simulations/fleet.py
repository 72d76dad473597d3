"""The fleet as columns: kinds of devices, and one row per device. `population` makes it from a file."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from scheduler import DeviceProfile

FIRST_NODE = 100  # node ids are given in the order of the devices

Nodes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A way to the coordinator. `watts` is drawn above idle while bytes move."""

    down_bytes_per_s: float
    up_bytes_per_s: float
    latency_s: float
    watts: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of the day in local time: from `start_h`, for `hours`, on `share` of the days.

    Both spreads are the most by which the start differs: between devices, always the same for each, and
    from day to day. Differences near 0 are the likeliest (a triangle). It may go on past midnight.
    """

    start_h: float
    hours: float
    share: float = 1.0
    device_spread_h: float = 0.0
    day_spread_h: float = 0.0

    @property
    def always(self) -> bool:
        """Whether it never ends."""
        return (
            self.hours >= 24 and self.share == 1 and not (self.device_spread_h or self.day_spread_h)
        )


ALWAYS = (Window(start_h=0.0, hours=24.0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """When devices are what a coordinator may ask for; each is true within any of its windows."""

    online: tuple[Window, ...] = ALWAYS
    charging: tuple[Window, ...] = ALWAYS
    idle: tuple[Window, ...] = ALWAYS
    unmetered: tuple[Window, ...] = ALWAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    """How heat slows training: full speed for `onset_s`, then `sustained` (0 to 1) of it."""

    onset_s: float = float("inf")
    sustained: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """Devices that plan alike: hardware, and RAM budget of a training step.

    `group` is the kind's name in the fleet's file; a spread of RAM or page store makes several kinds of
    it. `link` is the middle of its devices' links. `own_w` is what the device draws on average for all
    but training and its radio, idle power included. `sources` has a (number, source) for each number.
    """

    name: str
    group: str
    profile_name: str
    profile: DeviceProfile
    ram_bytes: int
    link: Link
    own_w: float
    habits: Habits = Habits()
    thermal: Thermal = Thermal()
    sources: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traces:
    """When recorded devices were online.

    Device k was from start_s[i] to end_s[i], for i from first[k] to first[k + 1], and is again after
    each period_s[k]. Sorted, without overlap, within the period.
    """

    first: Ints
    start_s: Floats
    end_s: Floats
    period_s: Floats

    def __len__(self) -> int:
        return len(self.period_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How the workload's examples become `partitions`: `natural` (its own), `dirichlet`, `power-law`.

    `alpha` is Dirichlet's concentration or the power law's exponent.
    """

    form: str = "natural"
    alpha: float = 1.0
    partitions: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """One row per device, in ascending order of node id; every column is [n].

    `kind` is a position in the fleet's kinds, and `trace` in its traces (-1 for none). `slowness` is a
    factor on the plan's time. `battery_j` is the capacity, inf on mains, `battery_start` the part of it
    that is there when virtual time begins; `charge_w` fills it while the device is charging. Local time
    is virtual time plus `utc_offset_s`. `drop_out` is the probability to leave in the middle of a round.
    """

    node: Nodes
    kind: NDArray[np.int32]
    partition: Ints
    ram_bytes: Ints
    down_bytes_per_s: Floats
    up_bytes_per_s: Floats
    latency_s: Floats
    slowness: Floats
    battery_j: Floats
    battery_start: Floats
    charge_w: Floats
    utc_offset_s: Floats
    drop_out: Floats
    trace: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fleet(Columns):
    """All devices. `seed` decides what differs from day to day and who drops out.

    `options` are the fleet file's own values of what the command line can set, by the option's name.
    """

    name: str
    seed: int
    kinds: tuple[DeviceKind, ...]
    traces: Traces | None = None
    split: Split = Split()
    options: tuple[tuple[str, bool | int | float | str], ...] = ()

    def __len__(self) -> int:
        return len(self.node)

    def where(self, mask: Mask) -> Fleet:
        """The devices for which `mask`, [n], is true; kinds keep their positions."""
        return replace(self, **{f.name: getattr(self, f.name)[mask] for f in fields(Columns)})

    def counts(self) -> Ints:
        """Devices of each kind, [kinds]."""
        return np.bincount(self.kind, minlength=len(self.kinds)).astype(np.int64)

    def rows(self, node: Nodes) -> Ints:
        """Rows of these nodes, which must be of the fleet."""
        return np.searchsorted(self.node, node).astype(np.int64)
