"""What journeys cost: one row of results for each that is settled."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .fleet import Fleet
from .journey import End, Journey, Phase
from .results import ROW, Outcome

_LOST = {
    End.WENT_OFFLINE: Outcome.WENT_OFFLINE,
    End.DROPPED_OUT: Outcome.DROPPED_OUT,
    End.BATTERY_EMPTY: Outcome.BATTERY_EMPTY,
    End.WITHDRAWN: Outcome.WITHDRAWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A journey whose reply the coordinator has got or does not want, or that the run's end cuts off.

    `failed` is whether the device answered with an error. `metrics` are those of the update, none where
    nobody wanted it any more.
    """

    journey: Journey
    failed: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)


def rows_of(
    fleet: Fleet,
    settled: Iterable[Settled],
    *,
    round_number: int,
    end_s: float,
    aggregated: Collection[int],
    refused: Collection[int],
    together: bool,
) -> NDArray[np.void]:
    """Rows of dtype ROW for a round that ended at `end_s`; `aggregated` and `refused` are node ids.

    `together` is whether devices wait for the end of the round, as in synchronous ones.
    """
    rows = []
    for one in settled:
        node = int(fleet.node[one.journey.row])
        outcome = _outcome(one, node in aggregated, node in refused)
        waits = together and outcome is Outcome.AGGREGATED
        rows.append((round_number, *_row(fleet, one, node, outcome, end_s, waits)))
    return np.array(rows, dtype=ROW)


def _outcome(one: Settled, aggregated: bool, refused: bool) -> Outcome:
    if one.journey.phase < Phase.SILENT:
        return Outcome.UNFINISHED
    if one.journey.end is not End.ARRIVED:
        return _LOST[one.journey.end]
    if one.failed:
        return Outcome.FAILED
    if not one.metrics:
        return Outcome.LATE
    if aggregated:
        return Outcome.AGGREGATED
    return Outcome.REFUSED if refused else Outcome.LATE


def _row(
    fleet: Fleet, one: Settled, node: int, outcome: Outcome, round_end_s: float, waits: bool
) -> tuple[float, ...]:
    journey, metrics = one.journey, one.metrics
    kind = fleet.kinds[fleet.kind[journey.row]]
    idle_w = kind.profile.idle_w
    spent_s = {phase: journey.spent_s(phase, round_end_s) for phase in Phase}
    ended_s = next((t for t in journey.began_s[Phase.SILENT :] if not math.isnan(t)), round_end_s)
    down_s, up_s, train_s = spent_s[Phase.DOWN], spent_s[Phase.UP], spent_s[Phase.TRAINS]
    queued_s = spent_s[Phase.WAITS_DOWN] + spent_s[Phase.WAITS_UP]
    trained = _part(train_s, journey.train_s)
    wait_s = max(0.0, round_end_s - ended_s) if waits else 0.0
    return (
        journey.round,
        node,
        int(fleet.kind[journey.row]),
        outcome,
        int(journey.steps * trained),
        float(metrics.get("train-loss", math.nan)),
        journey.sent_s,
        spent_s[Phase.WAITS_DOWN],
        down_s,
        train_s,
        spent_s[Phase.WAITS_UP],
        up_s,
        ended_s,
        wait_s,
        journey.train_j * trained,
        (down_s + up_s) * (kind.link.watts + idle_w),
        (queued_s + wait_s) * idle_w,
        int(journey.bytes_down * _part(down_s, journey.down_s)),
        int(journey.bytes_up * _part(up_s, journey.up_s)),
        int(metrics.get("measured-peak-bytes", 0)),
        _full(journey.before_j, journey.capacity_j),
        _full(journey.level_j, journey.capacity_j),
    )


def _part(spent_s: float, planned_s: float) -> float:
    """How much of a phase was done, from 0 to 1; time is added up, so the last bits may differ."""
    if planned_s <= 0:
        return 0.0
    part = spent_s / planned_s
    return 1.0 if part > 1 - 1e-9 else part


def _full(level_j: float, capacity_j: float) -> float:
    return 1.0 if math.isinf(capacity_j) else level_j / capacity_j
