"""The windows of a day for many devices at once: when each opens and closes, day by day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .chance import Bits, bits
from .fleet import Fleet, Floats, Ints, Mask, Nodes

DAY_S, HOUR_S = 86400.0, 3600.0
HORIZON_DAYS = 366
"""What does not happen within so many days never does."""
_SLACK_S = 1.0  # days are looked at a little beyond where rounding could put a window
_EARLY_S = 1e-3  # windows open so much before their time, so that rounding parts none that touch
_THIRD = np.uint64(2**21 - 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """One window of each device, [n]. Times are seconds, and `start_s` is after midnight in virtual time.

    `start_s` has the device's own shift; `key` tells apart what chance decides for this window.
    """

    seed: int
    key: int
    node: Nodes
    start_s: Floats
    length_s: Floats
    share: Floats
    spread_s: Floats
    always: Mask

    def closing_s(self, at_s: Floats) -> Floats:
        """When the window that is open at a device's time closes; -inf if it is not open."""
        reach_s = self.length_s + 2 * (self.spread_s + _SLACK_S)
        last = np.floor((at_s - self.start_s + self.spread_s + _SLACK_S) / DAY_S)
        end_s = np.where(self.always, np.inf, -np.inf)
        for back in range(int(reach_s.max(initial=0.0) // DAY_S) + 1):
            opens_s = self.opening_on_s(last - back)
            covers = (opens_s <= at_s) & (at_s < opens_s + self.length_s)
            np.maximum(end_s, opens_s + self.length_s, out=end_s, where=covers)
        return end_s

    def opening_s(self, at_s: Floats, limit_s: Floats) -> Floats:
        """When the window next opens after a device's time; inf if not by `limit_s`, or always open."""
        begin_s = np.full(len(at_s), np.inf)
        day = np.floor((at_s - self.start_s - self.spread_s - _SLACK_S) / DAY_S)
        ahead = np.flatnonzero((self.share > 0) & ~self.always)
        while len(ahead):
            slot = self.where(ahead)
            opens_s = slot.opening_on_s(day[ahead])
            opens_s[opens_s <= at_s[ahead]] = np.inf
            begin_s[ahead] = np.minimum(begin_s[ahead], opens_s)
            day[ahead] += 1
            earliest_s = day[ahead] * DAY_S + slot.start_s - slot.spread_s - _SLACK_S
            ahead = ahead[earliest_s < np.minimum(begin_s[ahead], limit_s[ahead])]
        begin_s[begin_s > limit_s] = np.inf
        return begin_s

    def where(self, rows: Ints) -> Slot:
        """The windows of some of the devices."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        columns: dict[str, Any] = {
            name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)
        }
        return replace(self, **columns)

    def opening_on_s(self, day: Floats) -> Floats:
        """When the window of a day since virtual time began opens; inf on days without it."""
        chance = bits(self.seed, self.node, self.key, day.astype(np.int64))
        opens_s = day * DAY_S + self.start_s + self.spread_s * _triangle(chance)
        there = (chance >> np.uint64(42) & _THIRD) * 2.0**-21 < self.share
        return np.where(there, opens_s, np.inf)


def slots(fleet: Fleet, habit: str, key: int, rows: Ints) -> Iterator[Slot]:
    """The windows of a field of `Habits`: the first of each device, then the second, and so on.

    A device without so many has one that never opens.
    """
    windows = [getattr(kind.habits, habit) for kind in fleet.kinds]
    kind, node, utc_offset_s = fleet.kind[rows], fleet.node[rows], fleet.utc_offset_s[rows]
    for position in range(max(map(len, windows))):
        own = [w[position] if position < len(w) else None for w in windows]
        table = np.array(
            [
                (w.start_h, w.hours, w.share, w.day_spread_h, w.device_spread_h, w.always)
                if w
                else (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
                for w in own
            ]
        )
        start_h, hours, share, day_spread_h, device_spread_h, always = table[kind].T
        name = 16 * key + position
        shift_h = device_spread_h * _triangle(bits(fleet.seed, node, name))
        yield Slot(
            seed=fleet.seed,
            key=name,
            node=node,
            start_s=(start_h + shift_h) * HOUR_S - utc_offset_s - _EARLY_S,
            length_s=hours * HOUR_S + _EARLY_S,
            share=share,
            spread_s=day_spread_h * HOUR_S,
            always=always > 0,
        )


def _triangle(chance: Bits) -> Floats:
    """A number from -1 to 1, near 0 the likeliest, from 42 of the bits."""
    both = (chance & _THIRD) + (chance >> np.uint64(21) & _THIRD)
    return both * 2.0**-21 - 1.0
