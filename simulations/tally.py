"""What the journeys of a run add up to. The file is read in pieces, so that its length does not matter."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .fleet import Floats, Ints
from .reading import Run
from .results import Outcome

PIECE_ROWS = 1 << 16
LEVELS = 101  # of a battery, in per cent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """Sums over all messages of a run.

    `asked` and `used` are messages and aggregated updates per device, [devices], in the order of
    `Run.devices`. `messages` and `energy_j` (training and radio) are [kinds, outcomes]; `wait_j` is
    [kinds]. `drains` are messages during which a battery fell, `drained` how far in all (1 is a whole
    battery), `most_drained` how far at most, [kinds]. `levels` are messages by kind and by the per cent
    that the battery held when they were sent, [kinds, 101].
    """

    asked: Ints
    used: Ints
    messages: Ints
    energy_j: Floats
    wait_j: Floats
    drains: Ints
    drained: Floats
    most_drained: Floats
    levels: Ints

    @property
    def wasted_j(self) -> float:
        """Joules of messages whose update no model has."""
        return float(self.energy_j.sum() - self.energy_j[:, Outcome.AGGREGATED].sum())


def tally(run: Run) -> Tally:
    """Walk all journeys once."""
    kinds, devices = len(run.plans), len(run.devices)
    made = Tally(
        asked=np.zeros(devices, np.int64),
        used=np.zeros(devices, np.int64),
        messages=np.zeros((kinds, len(Outcome)), np.int64),
        energy_j=np.zeros((kinds, len(Outcome))),
        wait_j=np.zeros(kinds),
        drains=np.zeros(kinds, np.int64),
        drained=np.zeros(kinds),
        most_drained=np.zeros(kinds),
        levels=np.zeros((kinds, LEVELS), np.int64),
    )
    order = np.argsort(run.devices["node"], kind="stable")
    for start in range(0, len(run.journeys), PIECE_ROWS):
        rows = np.array(run.journeys[start : start + PIECE_ROWS])
        at = np.searchsorted(run.devices["node"], rows["node"], sorter=order)
        _add(made, rows, order[at])
    for field in fields(made):
        getattr(made, field.name).flags.writeable = False
    return made


def _add(made: Tally, rows: NDArray[np.void], device: Ints) -> None:
    kind, outcome = rows["kind"], rows["outcome"]
    np.add.at(made.asked, device, 1)
    np.add.at(made.used, device[outcome == Outcome.AGGREGATED], 1)
    np.add.at(made.messages, (kind, outcome), 1)
    np.add.at(made.energy_j, (kind, outcome), rows["train_j"] + rows["radio_j"])
    np.add.at(made.wait_j, kind, rows["wait_j"])
    fell = rows["battery_before"] - rows["battery_after"]
    draining = fell > 0
    np.add.at(made.drains, kind[draining], 1)
    np.add.at(made.drained, kind[draining], fell[draining])
    np.maximum.at(made.most_drained, kind, fell)
    np.add.at(made.levels, (kind, np.rint(rows["battery_before"] * (LEVELS - 1)).astype(int)), 1)
