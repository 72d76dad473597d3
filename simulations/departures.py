"""What journeys will be like: seconds, joules, and when the device leaves, from fleet and plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .availability import State, drops_out_at, holds, next_offline_s
from .fleet import Fleet, Floats, Ints
from .journey import End, Journey
from .thermal import heated_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Charges:
    """What a training step of each kind costs by its plan, [kinds], and how many steps there are.

    `steps` maps a device's row to its steps of local training; 0 where its data does not make one.
    """

    time_s: Floats
    energy_j: Floats
    steps: Callable[[int], int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Departures:
    """Makes journeys of messages that are sent now."""

    fleet: Fleet
    charges: Charges

    def journeys(
        self,
        rows: Ints,
        *,
        first: int,
        round_number: int,
        now_s: float,
        bytes_down: Sequence[int],
        bytes_up: Sequence[int],
        level_j: Floats,
    ) -> list[Journey]:
        """One journey per row, numbered from `first` on; `level_j` is what each battery holds now.

        Slower devices and hot ones draw idle power for longer; the work itself takes the plan's joules.
        Whether a device charges is asked once, when the journey begins.
        """
        fleet, charges = self.fleet, self.charges
        kind = fleet.kind[rows]
        kinds = [fleet.kinds[k] for k in kind.tolist()]
        idle_w = np.array([k.profile.idle_w for k in kinds])
        own_w = np.array([k.own_w for k in kinds])
        steps = np.array([charges.steps(row) for row in rows.tolist()], dtype=np.int64)
        plan_s = steps * charges.time_s[kind]
        plan_j = steps * charges.energy_j[kind]
        train_s = heated_s(fleet, rows, plan_s * fleet.slowness[rows])
        train_j = plan_j + (train_s - plan_s) * idle_w
        train_w = (
            own_w
            - idle_w
            + np.divide(train_j, train_s, out=np.zeros_like(train_j), where=train_s > 0)
        )
        down, up = np.array(bytes_down, dtype=np.float64), np.array(bytes_up, dtype=np.float64)
        down_s = fleet.latency_s[rows] + down / fleet.down_bytes_per_s[rows]
        up_s = fleet.latency_s[rows] + up / fleet.up_bytes_per_s[rows]
        offline_s = next_offline_s(fleet, rows, now_s)
        dropped_s = now_s + drops_out_at(fleet, rows, first) * (down_s + train_s + up_s)
        charging = holds(fleet, State.CHARGING, rows, now_s)
        columns = {
            "row": rows,
            "bytes_down": np.array(bytes_down),
            "bytes_up": np.array(bytes_up),
            "steps": steps,
            "down_s": down_s,
            "train_s": train_s,
            "up_s": up_s,
            "train_j": train_j,
            "own_w": own_w,
            "radio_w": own_w + np.array([k.link.watts for k in kinds]),
            "train_w": train_w,
            "charge_w": np.where(charging, fleet.charge_w[rows], 0.0),
            "capacity_j": fleet.battery_j[rows],
            "leaves_s": np.minimum(offline_s, dropped_s),
            "before_j": level_j,
            "level_j": level_j,
        }
        names, values = list(columns), zip(*(c.tolist() for c in columns.values()), strict=True)
        why = np.where(dropped_s < offline_s, End.DROPPED_OUT, End.WENT_OFFLINE).tolist()
        return [
            Journey(
                number=first + index,
                round=round_number,
                sent_s=now_s,
                leaves_why=End(why[index]),
                **dict(zip(names, value, strict=True)),
            )
            for index, value in enumerate(values)
        ]
