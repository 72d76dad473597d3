"""What is in the batteries: drawn by the devices themselves, filled while they are plugged in.

A level is known for one moment and brought forward when somebody asks, so that a device which takes no
part costs nothing. What training and radio draw is charged by whoever lets them happen.
"""

from __future__ import annotations

import numpy as np

from .availability import State, from_s, until_s
from .fleet import Fleet, Floats, Ints
from .windows import HORIZON_DAYS


def level_j(fleet: Fleet, rows: Ints, before_j: Floats, since_s: Floats, now_s: float) -> Floats:
    """Joules now in the batteries of these rows, which held `before_j` at `since_s`, each its own.

    In between, a device draws its own power (`own_w`) and, in its charging windows, takes `charge_w`. inf
    on mains.
    """
    held_j, at_s = before_j.copy(), since_s.copy()
    going = np.flatnonzero(np.isfinite(held_j) & (at_s < now_s))
    for _ in range(2 * HORIZON_DAYS):
        if not len(going):
            break
        on, own_s = rows[going], at_s[going]
        plugged_until_s = until_s(fleet, State.CHARGING, on, own_s)
        plugged = plugged_until_s > own_s
        change_s = plugged_until_s
        apart = ~plugged
        change_s[apart] = from_s(fleet, State.CHARGING, on[apart], own_s[apart], now_s)
        change_s = np.minimum(change_s, now_s)
        net_w = np.where(plugged, fleet.charge_w[on], 0.0) - _own_w(fleet, on)
        changed_j = held_j[going] + net_w * (change_s - own_s)
        held_j[going] = np.clip(changed_j, 0.0, fleet.battery_j[on])
        at_s[going] = change_s
        going = going[change_s < now_s]
    return held_j


def _own_w(fleet: Fleet, rows: Ints) -> Floats:
    """Watts that each device draws for everything but training and its radio."""
    return np.array([kind.own_w for kind in fleet.kinds], dtype=np.float64)[fleet.kind[rows]]
