"""What a run says: one record per round, one row per message to a device, and one plan per kind of device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from client.prepare import Prepared
from scheduler import Plan, Problem, floor, keep_all, replay
from scheduler.errors import Infeasible, NoPlanInTime
from server.coordinator.values import finite
from server.federation import Round

from .fleet import DeviceKind

SHOWN_NODES = 3  # of those with the same reason; a round may refuse thousands


class Outcome(IntEnum):
    """What became of a message to a device."""

    AGGREGATED = 0
    REFUSED = 1  # the update came and could not be used
    LATE = 2  # the update came when the round wanted no more
    FAILED = 3  # the device answered with an error
    WENT_OFFLINE = 4
    DROPPED_OUT = 5
    BATTERY_EMPTY = 6
    UNFINISHED = 7  # still under way when the run ended
    WITHDRAWN = 8  # still under way when its round ended; the device stopped then

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


ROW = np.dtype(
    [
        ("round", "<i4"),  # in which it was settled
        ("asked_in", "<i4"),  # round in which it was sent
        ("node", "<i8"),
        ("kind", "<i4"),  # position in kinds.json
        ("outcome", "<i4"),  # an Outcome
        ("steps", "<i4"),
        ("train_loss", "<f8"),  # NaN without an update
        ("sent_s", "<f8"),
        ("wait_down_s", "<f8"),  # for a slot of the coordinator's link
        ("down_s", "<f8"),
        ("train_s", "<f8"),
        ("wait_up_s", "<f8"),
        ("up_s", "<f8"),
        ("end_s", "<f8"),  # when the update was there, or the device left
        ("wait_s", "<f8"),  # from then until the round ended, if the round used the update
        ("train_j", "<f8"),  # idle power while training included
        ("radio_j", "<f8"),  # idle power while bytes move included
        ("wait_j", "<f8"),  # idle power during all waiting
        ("bytes_down", "<i8"),
        ("bytes_up", "<i8"),
        ("peak_bytes", "<i8"),  # of a step's RAM, as the device measured it; 0 without an update
        ("battery_before", "<f8"),  # 0 to 1; 1 on mains
        ("battery_after", "<f8"),
    ]
)
"""One message to a device; times are virtual. Rows of lost messages have what was spent until then."""

DEVICE = np.dtype([("node", "<i8"), ("kind", "<i4"), ("partition", "<i8")])
"""One device of the fleet; `kind` is a position in kinds.json, or -1 where its kind was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRound:
    """Sums over a kind's rows of one round. `peak_bytes` is the highest, `battery` the mean after it."""

    kind: str
    rows: int
    aggregated: int
    steps: int
    busy_s: float
    train_j: float
    radio_j: float
    wait_j: float
    bytes_down: int
    bytes_up: int
    peak_bytes: int
    battery_spent: float  # sum of what the batteries fell, each from 0 to 1
    battery: float

    @property
    def energy_j(self) -> float:
        """Joules the round cost: training and radio. Waiting is apart, since it is drawn anyway."""
        return self.train_j + self.radio_j


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Devices whose message led to no aggregated update for one reason: how many, and some of them."""

    reason: str
    count: int
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One line of metrics.jsonl. `loss` and `accuracy` are of the new model, None where they are no number.

    `online` devices were there when it began, `asked` got a message, `waiting` had not answered when it
    ended. `outcomes` counts rows by `Outcome`. `skipped` says why there is no new model.
    """

    round: int
    loss: float | None
    accuracy: float | None
    start_s: float
    end_s: float
    online: int
    asked: int
    waiting: int
    skipped: str | None
    outcomes: Mapping[str, int]
    kinds: tuple[KindRound, ...]
    refused: tuple[Refused, ...]

    @property
    def aggregated(self) -> int:
        """Updates that made the new model."""
        return self.outcomes.get(str(Outcome.AGGREGATED), 0)

    @property
    def bytes_down(self) -> int:
        """Bytes that devices received."""
        return sum(k.bytes_down for k in self.kinds)

    @property
    def bytes_up(self) -> int:
        """Bytes that devices sent."""
        return sum(k.bytes_up for k in self.kinds)

    @property
    def energy_j(self) -> float:
        """Joules of all devices for training and radio."""
        return math.fsum(k.energy_j for k in self.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFacts:
    """A kind of device and its training step, as in kinds.json: its plan's figures, its floor, keep-all's."""

    name: str
    group: str
    profile: str
    description: str
    sources: tuple[tuple[str, str], ...]
    devices: int
    ram_bytes: int
    idle_w: float
    status: str
    gap: float
    floor_bytes: int
    floor_operator: str
    keep_all_peak_bytes: int
    keep_all_time_s: float
    keep_all_energy_j: float
    peak_bytes: int
    time_s: float
    energy_j: float
    page_in_bytes: int
    page_out_bytes: int
    recomputed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindPlan(KindFacts):
    """A kind with its plan."""

    plan: Plan
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A kind that cannot train the model, and why. `floor_bytes` is the least RAM it would need, if known."""

    name: str
    group: str
    profile: str
    devices: int
    ram_bytes: int
    floor_bytes: int | None
    reason: str


def kind_plan(kind: DeviceKind, devices: int, prepared: Prepared) -> KindPlan:
    """Account for a prepared step with `replay`."""
    problem, solution = prepared.problem, prepared.solution
    own, plain, least = (
        replay(solution.plan, problem),
        replay(keep_all(problem), problem),
        floor(problem),
    )
    return KindPlan(
        name=kind.name,
        group=kind.group,
        profile=kind.profile.name,
        description=kind.profile.description,
        sources=(*kind.sources, *kind.profile.sources),
        devices=devices,
        ram_bytes=kind.ram_bytes,
        idle_w=kind.profile.idle_w,
        status=solution.status.value,
        gap=solution.gap,
        floor_bytes=least.ram_bytes,
        floor_operator=least.operator,
        keep_all_peak_bytes=plain.peak_bytes,
        keep_all_time_s=plain.time_s,
        keep_all_energy_j=plain.energy_j,
        peak_bytes=own.peak_bytes,
        time_s=own.time_s,
        energy_j=own.energy_j,
        page_in_bytes=own.page_in_bytes,
        page_out_bytes=own.page_out_bytes,
        recomputed=len(own.recomputed),
        plan=solution.plan,
        problem=problem,
    )


def left_out(kind: DeviceKind, devices: int, error: Infeasible | NoPlanInTime) -> LeftOut:
    """A kind for which planning ended with an error."""
    return LeftOut(
        name=kind.name,
        group=kind.group,
        profile=kind.profile.name,
        devices=devices,
        ram_bytes=kind.ram_bytes,
        floor_bytes=error.floor_bytes if isinstance(error, Infeasible) else None,
        reason=str(error),
    )


def facts(plan: KindPlan) -> KindFacts:
    """What kinds.json has of a plan."""
    return KindFacts(**{f.name: getattr(plan, f.name) for f in fields(KindFacts)})


def round_record(
    done: Round, rows: NDArray[np.void], kinds: Sequence[str], online: int
) -> RoundRecord:
    """Join what the round engine saw with what the fabric charged: `rows`, of dtype ROW."""
    outcomes = Counter(str(Outcome(o)) for o in rows["outcome"].tolist())
    return RoundRecord(
        round=done.number,
        loss=finite(done.evaluation.get("loss")),
        accuracy=finite(done.evaluation.get("accuracy")),
        start_s=done.start_s,
        end_s=done.end_s,
        online=online,
        asked=len(done.cohort),
        waiting=len(done.waiting),
        skipped=done.skipped,
        outcomes={str(o): outcomes[str(o)] for o in Outcome if outcomes[str(o)]},
        kinds=tuple(
            _kind_round(kinds[k], rows[rows["kind"] == k]) for k in np.unique(rows["kind"]).tolist()
        ),
        refused=_grouped(done),
    )


def _kind_round(kind: str, rows: NDArray[np.void]) -> KindRound:
    def total(*names: str) -> float:
        return float(sum(rows[name].sum() for name in names))

    return KindRound(
        kind=kind,
        rows=len(rows),
        aggregated=int((rows["outcome"] == Outcome.AGGREGATED).sum()),
        steps=int(rows["steps"].sum()),
        busy_s=total("down_s", "train_s", "up_s"),
        train_j=total("train_j"),
        radio_j=total("radio_j"),
        wait_j=total("wait_j"),
        bytes_down=int(rows["bytes_down"].sum()),
        bytes_up=int(rows["bytes_up"].sum()),
        peak_bytes=int(rows["peak_bytes"].max()),
        battery_spent=total("battery_before") - total("battery_after"),
        battery=float(rows["battery_after"].mean()),
    )


def _grouped(done: Round) -> tuple[Refused, ...]:
    nodes: dict[str, list[int]] = {}
    for refusal in done.refused:
        nodes.setdefault(refusal.reason, []).append(refusal.node)
    return tuple(
        Refused(reason=reason, count=len(found), nodes=tuple(sorted(found)[:SHOWN_NODES]))
        for reason, found in nodes.items()
    )
