"""A run in one line: what it reached, and what that took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .reading import Run
from .results import RoundRecord
from .tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of a run. Scores are those of the last model, `best_accuracy` that of any; None if no number.

    `took_part` devices gave an update that a model has, of `able` that could train and `devices` in all.
    `wasted_j` of `energy_j` (training and radio) went into updates that no model has.
    """

    rounds: int
    skipped: int
    accuracy: float | None
    best_accuracy: float | None
    loss: float | None
    time_s: float
    energy_j: float
    wasted_j: float
    bytes_down: int
    bytes_up: int
    messages: int
    updates: int
    devices: int
    able: int
    took_part: int


def summary(run: Run, tallied: Tally) -> Summary:
    """The figures of a run that has rounds."""
    last = run.rounds[-1]
    scores = [r.accuracy for r in run.rounds if r.accuracy is not None]
    return Summary(
        rounds=last.round,
        skipped=sum(r.skipped is not None for r in run.rounds),
        accuracy=last.accuracy,
        best_accuracy=max(scores, default=None),
        loss=last.loss,
        time_s=last.end_s,
        energy_j=math.fsum(r.energy_j for r in run.rounds),
        wasted_j=tallied.wasted_j,
        bytes_down=sum(r.bytes_down for r in run.rounds),
        bytes_up=sum(r.bytes_up for r in run.rounds),
        messages=int(tallied.messages.sum()),
        updates=sum(r.aggregated for r in run.rounds),
        devices=len(run.devices),
        able=int((run.devices["kind"] >= 0).sum()),
        took_part=int((tallied.used > 0).sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """When a test accuracy was first there: the round, virtual seconds and joules until then."""

    accuracy: float
    round: int
    time_s: float
    energy_j: float


def reached(rounds: Sequence[RoundRecord], accuracy: float) -> Reached | None:
    """When a model first had this accuracy; None if none had."""
    energy_j = 0.0
    for r in rounds:
        energy_j += r.energy_j
        if r.accuracy is not None and r.accuracy >= accuracy:
            return Reached(accuracy=accuracy, round=r.round, time_s=r.end_s, energy_j=energy_j)
    return None
