"""When devices are online, charging, idle and unmetered, and when they leave.

Pure functions of (fleet, rows, virtual time): the days of a device differ by a hash of the fleet's seed,
its node id and the day, so nothing is kept, and a run that is taken up again sees the same days.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

from .chance import uniform
from .fleet import Fleet, Floats, Ints, Mask
from .traces import recorded_from_s, recorded_until_s
from .windows import DAY_S, HORIZON_DAYS, slots


class State(IntEnum):
    """What a device may be; the numbers keep their chances apart."""

    ONLINE = 1
    CHARGING = 2
    IDLE = 3
    UNMETERED = 4

    @property
    def habit(self) -> str:
        """The field of `Habits` that says when."""
        return self.name.lower()


STAYS_S = 14 * DAY_S
"""Who stays online for so long will not be waited for."""
_DROPS, _WHERE = 101, 102  # what else chance decides, beside windows


def holds(fleet: Fleet, state: State, rows: Ints, now_s: float) -> Mask:
    """Whether the devices of these rows are in a state now."""
    return until_s(fleet, state, rows, np.full(len(rows), now_s)) > now_s


def next_offline_s(fleet: Fleet, rows: Ints, now_s: float) -> Floats:
    """When each device that is online now goes offline; `now_s` if it is offline, inf if not for STAYS_S."""
    end_s = np.full(len(rows), now_s)
    open_ = np.arange(len(rows))
    while len(open_):
        later_s = until_s(fleet, State.ONLINE, rows[open_], end_s[open_])
        goes_on = later_s > end_s[open_]
        open_, later_s = open_[goes_on], later_s[goes_on]
        end_s[open_] = np.where(later_s - now_s < STAYS_S, later_s, np.inf)
        open_ = open_[np.isfinite(end_s[open_])]
    return end_s


def next_change_s(fleet: Fleet, now_s: float) -> float:
    """When the next device that is offline now comes online; inf if none does within a year."""
    rows = np.arange(len(fleet), dtype=np.int64)
    away = rows[~holds(fleet, State.ONLINE, rows, now_s)]
    begin_s = from_s(fleet, State.ONLINE, away, np.full(len(away), now_s))
    return float(begin_s.min(initial=math.inf))


def drops_out_at(fleet: Fleet, rows: Ints, round_number: int) -> Floats:
    """After which part (0 to 1) of its work in a round each device drops out; inf if it does not."""
    node = fleet.node[rows]
    drops = uniform(fleet.seed, node, round_number, _DROPS) < fleet.drop_out[rows]
    return np.where(drops, uniform(fleet.seed, node, round_number, _WHERE), np.inf)


def until_s(fleet: Fleet, state: State, rows: Ints, at_s: Floats) -> Floats:
    """When a window that is open at a device's time closes, the last if several; that time if none is."""
    end_s = at_s.copy()
    for slot in slots(fleet, state.habit, state, rows):
        np.maximum(end_s, slot.closing_s(at_s), out=end_s)
    return recorded_until_s(fleet, rows, at_s, end_s) if state is State.ONLINE else end_s


def from_s(
    fleet: Fleet, state: State, rows: Ints, at_s: Floats, before_s: float = math.inf
) -> Floats:
    """When a window next opens after a device's time; inf if not within a year, or not by `before_s`."""
    begin_s = np.full(len(rows), np.inf)
    limit_s = np.minimum(at_s + HORIZON_DAYS * DAY_S, before_s)
    for slot in slots(fleet, state.habit, state, rows):
        np.minimum(begin_s, slot.opening_s(at_s, limit_s), out=begin_s)
    return recorded_from_s(fleet, rows, at_s, begin_s) if state is State.ONLINE else begin_s
