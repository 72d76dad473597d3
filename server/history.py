"""What the coordinator remembers of each device it has asked; samplers choose by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEEN = np.dtype(
    [
        ("node", np.uint64),
        ("asked", np.int64),  # times
        ("answered", np.int64),  # times, with a usable update
        ("round", np.int64),  # of the last usable update
        ("loss", np.float64),  # mean training loss of that update
        ("examples", np.float64),
        ("duration_s", np.float64),  # from being asked until that update was there
        ("energy_j", np.float64),  # of all updates, as the device reports it
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A usable update, as far as samplers care."""

    node: int
    round: int
    loss: float
    examples: float
    duration_s: float
    energy_j: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """One row of `SEEN` per device that has been asked, in ascending order of node id."""

    rows: NDArray[np.void]

    def of(self, nodes: NDArray[np.uint64]) -> NDArray[np.void]:
        """Rows of these nodes, [n]; zeros for those that were never asked."""
        found = np.zeros(len(nodes), dtype=SEEN)
        found["node"] = nodes
        if len(self.rows):
            at = np.searchsorted(self.rows["node"], nodes).clip(max=len(self.rows) - 1)
            known = self.rows["node"][at] == nodes
            found[known] = self.rows[at[known]]
        return found

    def after(self, asked: Iterable[int], answers: Iterable[Answer]) -> History:
        """The history with these devices asked once more, and these answers."""
        nodes, times = np.unique(np.array(list(asked), dtype=np.uint64), return_counts=True)
        answered = list(answers)
        touched = np.union1d(nodes, np.array([a.node for a in answered], dtype=np.uint64))
        rows = self.of(touched)
        rows["asked"][np.searchsorted(touched, nodes)] += times
        for answer in answered:
            row = rows[np.searchsorted(touched, np.uint64(answer.node))]
            row["answered"] += 1
            row["energy_j"] += answer.energy_j
            for name in ("round", "loss", "examples", "duration_s"):
                row[name] = getattr(answer, name)
        kept = self.rows[~np.isin(self.rows["node"], touched)]
        merged = np.concatenate([kept, rows])
        return History(rows=merged[np.argsort(merged["node"], kind="stable")])


def no_history() -> History:
    """Nobody has been asked yet."""
    return History(rows=np.zeros(0, dtype=SEEN))
