"""What the devices of a fleet are now, worked out again only for those that may have changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.reports import Reports

from .availability import State, from_s, until_s
from .battery import full_at_start, level_after, powered, share
from .fleet import Fleet, Floats, Ints, Mask
from .windows import DAY_S


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Watch:
    """Whether each device is in a state, and until when that holds at least."""

    holds: Mask
    until_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batteries:
    """What is known of the batteries, an entry per device.

    A level is known for a moment of each device's own, `since_s`. Whether it is `charging` holds until
    `until_s`; when that is over, the level is brought forward. So the time of asking shows in the last bits
    of a level, and a run that is taken up again needs all four.
    """

    level_j: Floats
    since_s: Floats
    charging: Mask
    until_s: Floats


class Presence:
    """The states and batteries of all devices at a time that only goes on.

    A state is a function of time; what is kept of it here is no more than a memory of its values. A
    battery's level is brought forward when it is asked for.
    """

    def __init__(self, fleet: Fleet) -> None:
        count = len(fleet)
        self._fleet = fleet
        self._own_w = np.array([kind.own_w for kind in fleet.kinds])[fleet.kind]
        self._watches = {
            state: _Watch(holds=np.zeros(count, dtype=np.bool_), until_s=np.full(count, -np.inf))
            for state in State
        }
        self._level_j: Floats = full_at_start(fleet)
        self._since_s: Floats = np.zeros(count)

    def batteries(self) -> Batteries:
        """What is known of the batteries, for `restore`."""
        watch = self._watches[State.CHARGING]
        return Batteries(
            level_j=self._level_j.copy(),
            since_s=self._since_s.copy(),
            charging=watch.holds.copy(),
            until_s=watch.until_s.copy(),
        )

    def restore(self, known: Batteries) -> None:
        """Take the batteries of a run that is taken up again."""
        self._level_j, self._since_s = known.level_j.copy(), known.since_s.copy()
        self._watches[State.CHARGING] = _Watch(
            holds=known.charging.copy(), until_s=known.until_s.copy()
        )

    def holds(self, state: State, now_s: float) -> Mask:
        """Whether each device, [n], is in a state now."""
        fleet, watch = self._fleet, self._watches[state]
        rows = np.flatnonzero(watch.until_s <= now_s)
        if len(rows):
            if state is State.CHARGING:
                self._bring_forward(rows, now_s)
            at_s = np.full(len(rows), now_s)
            end_s = until_s(fleet, state, rows, at_s)
            away = end_s <= now_s
            watch.holds[rows] = ~away
            horizon_s = now_s + DAY_S
            opens_s = from_s(fleet, state, rows[away], at_s[away], horizon_s)
            end_s[away] = np.minimum(opens_s, horizon_s)
            watch.until_s[rows] = end_s
        return watch.holds

    def levels(self, rows: Ints, now_s: float) -> Floats:
        """Joules now in the batteries of these rows; inf on mains."""
        charging = self.holds(State.CHARGING, now_s)[rows]
        net_w = np.where(charging, self._fleet.charge_w[rows], 0.0) - self._own_w[rows]
        level_j: Floats = self._level_j[rows] + net_w * (now_s - self._since_s[rows])
        np.clip(level_j, 0.0, self._fleet.battery_j[rows], out=level_j)
        self._level_j[rows], self._since_s[rows] = level_j, now_s
        return level_j

    def note(self, row: int, level_j: float, at_s: float) -> None:
        """What a battery held after a journey; from then on, whether it charges is looked up again."""
        self._level_j[row], self._since_s[row] = level_j, at_s
        until_s = self._watches[State.CHARGING].until_s
        if until_s[row] < np.inf:  # else it always is as it was
            until_s[row] = -np.inf

    def reports(self, now_s: float) -> Reports:
        """What the devices that are online now say of themselves."""
        fleet = self._fleet
        rows = np.flatnonzero(self.holds(State.ONLINE, now_s))
        level_j, charging = self.levels(rows, now_s), self.holds(State.CHARGING, now_s)[rows]
        runs = powered(fleet, rows, level_j, charging)
        rows, level_j, charging = rows[runs], level_j[runs], charging[runs]
        return Reports(
            node=fleet.node[rows],
            charging=charging,
            idle=self.holds(State.IDLE, now_s)[rows],
            unmetered=self.holds(State.UNMETERED, now_s)[rows],
            battery=share(fleet, rows, level_j),
            free_ram_bytes=fleet.ram_bytes[rows],
            can_train=np.ones(len(rows), dtype=np.bool_),
        )

    def _bring_forward(self, rows: Ints, now_s: float) -> None:
        """Levels of devices that may have begun or ended to charge since they were known."""
        level_j, since_s = self._level_j[rows], self._since_s[rows]
        self._level_j[rows] = level_after(self._fleet, rows, level_j, since_s, now_s)
        self._since_s[rows] = now_s
