"""Who can train a model at all, by the size of a batch, before anything is simulated."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from client.prepare import pose, pose_traced
from client.program import Traced
from client.workload import Workload, with_training
from scheduler import Floor, Infeasible, NoPlanInTime, cost_table, floor, solve
from scheduler.errors import BadInput
from scheduler.least_ram import ANY_GAP

from .fleet import DeviceKind, Fleet

TIME_LIMIT_S = 20.0
TRIED_PARTITIONS = 8  # before it is said that no data makes a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Able:
    """Whether devices of a kind can train at one batch size; `reason` says why not, with the floor."""

    kind: DeviceKind
    devices: int
    reason: str | None

    @property
    def able(self) -> bool:
        """Whether they can."""
        return self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many of so many devices can train at a batch size."""

    batch_size: int
    able: int
    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """A whole fleet at one batch size. `floor` is the least RAM of the step, and what sets it."""

    batch_size: int
    floor: Floor
    kinds: tuple[Able, ...]

    @property
    def able(self) -> int:
        """Devices that can train."""
        return sum(k.devices for k in self.kinds if k.able)

    @property
    def devices(self) -> int:
        """All devices."""
        return sum(k.devices for k in self.kinds)


def take_census(
    fleet: Fleet,
    workload: Workload,
    batch_sizes: Sequence[int],
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[Census, ...]:
    """Which kinds have a plan, without a deadline, at each batch size: one trace for each of those.

    Kinds without a device are not asked. A kind for which none is found in `time_limit_s` counts as one
    that cannot. Raises BadInput where no partition makes a batch.
    """
    return tuple(
        _at(
            fleet,
            _traced(with_training(workload, batch_size=b, local_epochs=None), fleet),
            b,
            time_limit_s,
        )
        for b in batch_sizes
    )


def count_smaller(fleet: Fleet, workload: Workload, left_out: Collection[str]) -> tuple[Count, ...]:
    """Who could train at a quarter of the batch; nothing where no kind is left out or no batch is smaller.

    Only kinds left out, by their names, are planned for: a smaller batch takes away nobody.
    """
    smaller = workload.batch_size // 4
    if not left_out or not smaller:
        return ()
    out = np.array([kind.name in left_out for kind in fleet.kinds])
    rest = fleet.where(out[fleet.kind])
    (found,) = take_census(rest, workload, [smaller])
    able = len(fleet) - len(rest) + found.able
    return (Count(batch_size=smaller, able=able, devices=len(fleet)),)


def sentence(census: Sequence[Census | Count], model: str) -> str:
    """As: 31 % of this fleet can train ResNet-18 at batch 8; at batch 2, 64 %."""
    first, *rest = census
    more = "".join(f"; at batch {c.batch_size}, {_percent(c)}" for c in rest)
    return f"{_percent(first)} of this fleet can train {model} at batch {first.batch_size}{more}"


def _percent(census: Census | Count) -> str:
    """Neither none nor all unless it is so."""
    percent = 100 * census.able / census.devices
    whole = min(99, max(1, round(percent))) if 0 < census.able < census.devices else round(percent)
    return f"{whole} %"


def _at(fleet: Fleet, traced: Traced, batch_size: int, time_limit_s: float) -> Census:
    counts = fleet.counts().tolist()
    kinds = tuple(
        Able(kind=kind, devices=count, reason=_reason(kind, traced, time_limit_s))
        for kind, count in zip(fleet.kinds, counts, strict=True)
        if count
    )
    posed = pose_traced(
        traced, fleet.kinds[0].profile, cost_table(traced.graph, fleet.kinds[0].profile)
    )
    return Census(batch_size=batch_size, floor=floor(posed.problem), kinds=kinds)


def _reason(kind: DeviceKind, traced: Traced, time_limit_s: float) -> str | None:
    costs = cost_table(traced.graph, kind.profile)
    posed = pose_traced(traced, kind.profile, costs, ram_bytes=kind.ram_bytes)
    try:
        solve(posed.problem, time_limit_s=time_limit_s, gap=ANY_GAP)
    except (Infeasible, NoPlanInTime) as error:
        return str(error)
    return None


def _traced(workload: Workload, fleet: Fleet) -> Traced:
    failed: BadInput | None = None
    for partition in range(min(TRIED_PARTITIONS, workload.partitions)):
        try:
            return pose(workload, fleet.kinds[0].profile, partition=partition).traced
        except BadInput as error:
            failed = failed or error
    raise failed or BadInput("the workload has no partition")
