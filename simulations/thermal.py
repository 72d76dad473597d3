"""Heat: a device that trains for long becomes slower."""

from __future__ import annotations

import numpy as np

from .fleet import Fleet, Floats, Ints


def heated_s(fleet: Fleet, rows: Ints, cool_s: Floats) -> Floats:
    """Seconds for what each device does in `cool_s` if it stays cool; it begins cool.

    The plan's joules stay as they are, since the work does; idle power is drawn for longer.
    """
    limits = [(kind.thermal.onset_s, kind.thermal.sustained) for kind in fleet.kinds]
    onset_s, sustained = np.array(limits, dtype=np.float64)[fleet.kind[rows]].T
    full_speed_s: Floats = np.minimum(cool_s, onset_s)
    hot_s: Floats = (cool_s - full_speed_s) / sustained
    return full_speed_s + hot_s
