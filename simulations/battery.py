"""What is in the batteries: drawn by the devices themselves, filled while they are plugged in.

A level is known for one moment and brought forward when somebody asks, so that a device which takes no
part costs nothing. What training and radio draw is charged by whoever lets them happen.
"""

from __future__ import annotations

import numpy as np

from .availability import State, from_s, until_s
from .fleet import Fleet, Floats, Ints, Mask
from .windows import HORIZON_DAYS


def full_at_start(fleet: Fleet) -> Floats:
    """Joules in each battery when virtual time begins; inf on mains."""
    return fleet.battery_start * fleet.battery_j


def level_after(fleet: Fleet, rows: Ints, level_j: Floats, since_s: Floats, now_s: float) -> Floats:
    """Joules now in the batteries of these rows, which held `level_j` at `since_s`, each its own.

    In between, a device draws its own power (`own_w`) and, in its charging windows, takes `charge_w`.
    inf on mains.
    """
    level_j, at_s = level_j.copy(), since_s.copy()
    going = np.flatnonzero(np.isfinite(level_j) & (at_s < now_s))
    for _ in range(2 * HORIZON_DAYS):
        if not len(going):
            break
        on, own_s = rows[going], at_s[going]
        change_s = until_s(fleet, State.CHARGING, on, own_s)
        plugged = change_s > own_s
        apart = ~plugged
        change_s[apart] = from_s(fleet, State.CHARGING, on[apart], own_s[apart], now_s)
        change_s = np.minimum(change_s, now_s)
        net_w = np.where(plugged, fleet.charge_w[on], 0.0) - _own_w(fleet, on)
        changed_j = level_j[going] + net_w * (change_s - own_s)
        level_j[going] = np.clip(changed_j, 0.0, fleet.battery_j[on])
        at_s[going] = change_s
        going = going[change_s < now_s]
    return level_j


def share(fleet: Fleet, rows: Ints, level_j: Floats) -> Floats:
    """The part of the capacity that is there; 1 on mains."""
    capacity_j = fleet.battery_j[rows]
    return np.divide(level_j, capacity_j, out=np.ones(len(rows)), where=np.isfinite(capacity_j))


def powered(fleet: Fleet, rows: Ints, level_j: Floats, charging: Mask) -> Mask:
    """Whether devices run: something is in the battery, or a charger holds them up."""
    return (level_j > 0) | (charging & (fleet.charge_w[rows] >= _own_w(fleet, rows)))


def _own_w(fleet: Fleet, rows: Ints) -> Floats:
    return np.array([kind.own_w for kind in fleet.kinds], dtype=np.float64)[fleet.kind[rows]]
