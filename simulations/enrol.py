"""Before the first round: each kind of device plans its training step, and who cannot is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.charge import StepCharge, step_charge
from client.node import PlanKey, PreparedSteps, Settings, plan_key
from client.prepare import Prepared, planned, pose, pose_traced
from client.program import Traced
from client.workload import Workload
from scheduler import DeviceProfile, Plan, PlanCache, cost_table, load_device
from scheduler.errors import BadInput, Infeasible, NoPlanInTime

from .config import SimulationConfig
from .departures import Charges
from .fleet import Columns, DeviceKind, Fleet
from .results import DEVICE, KindPlan, LeftOut, kind_plan, left_out

TRIED_PARTITIONS = 8  # before it is said that the data makes no batch


@dataclass(frozen=True, slots=True)
class Profiles:
    """Device profiles by the names that a fleet gives them, or by their own."""

    known: Mapping[str, DeviceProfile]

    def __call__(self, name: str) -> DeviceProfile:
        """The profile. Raises UnknownName or BadFile."""
        return self.known.get(name) or load_device(name)


def profiles_of(fleet: Fleet) -> Profiles:
    """The profiles of a fleet's kinds."""
    return Profiles({kind.profile_name: kind.profile for kind in fleet.kinds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """Who takes part: `fleet` has only devices that can train, its kinds in the order of `plans`.

    `devices` has a row of dtype DEVICE for every device of the whole fleet. `charges` are what steps cost,
    and `known` their plans, by what a plan depends on.
    """

    fleet: Fleet
    devices: NDArray[np.void]
    plans: tuple[KindPlan, ...]
    left_out: tuple[LeftOut, ...]
    charges: Mapping[PlanKey, StepCharge]
    known: Mapping[PlanKey, Plan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """How kinds plan: by the run's settings, into `cache`; `cache_dir` is where plans are looked up and kept.

    `known` are the plans, by a kind's name, of a run that is taken up again: others were left out.
    """

    config: SimulationConfig
    cache: PreparedSteps
    known: Mapping[str, Plan] | None = None
    cache_dir: Path | None = None
    on_plan: Callable[[KindPlan], None] = lambda _: None
    on_left_out: Callable[[LeftOut], None] = lambda _: None


def enrol(planner: Planner, fleet: Fleet, workload: Workload) -> Enrolled:
    """Let each kind plan the step, which is traced once. Raises the last kind's error when none can."""
    plans: list[KindPlan] = []
    out: list[LeftOut] = []
    charges: dict[PlanKey, StepCharge] = {}
    known: dict[PlanKey, Plan] = {}
    position = np.full(len(fleet.kinds), -1, dtype=np.int32)
    counts = fleet.counts().tolist()
    partition = _whole_batch(workload, fleet.partition[:TRIED_PARTITIONS].tolist())
    failed: Infeasible | NoPlanInTime | None = None
    traced: Traced | None = None
    for index, kind in enumerate(fleet.kinds):
        if planner.known is not None and kind.name not in planner.known:
            continue
        if traced is None:
            traced = pose(workload, kind.profile, partition=partition).traced
        settings = _settings(planner, kind, partition)
        try:
            prepared = _planned(planner, kind, traced)
        except (Infeasible, NoPlanInTime) as error:
            failed = error
            out.append(left_out(kind, counts[index], error))
            planner.on_left_out(out[-1])
        else:
            position[index] = len(plans)
            planner.cache[plan_key(settings)] = prepared
            known[plan_key(settings)] = prepared.solution.plan
            charges[plan_key(settings)] = step_charge(prepared)
            plans.append(kind_plan(kind, counts[index], prepared))
            planner.on_plan(plans[-1])
    if not plans and failed is not None:
        raise failed
    return Enrolled(
        fleet=_able(fleet, position),
        devices=_table(fleet, position),
        plans=tuple(plans),
        left_out=tuple(out),
        charges=charges,
        known=known,
    )


def charges_of(enrolled: Enrolled, workload: Workload) -> Charges:
    """Costs of each kind's step, and steps of each device; the data of a partition is counted once."""
    partition = enrolled.fleet.partition
    known: dict[int, int] = {}

    def steps(row: int) -> int:
        of = int(partition[row])
        if of not in known:
            known[of] = _steps(workload, of)
        return known[of]

    return Charges(
        time_s=np.array([plan.time_s for plan in enrolled.plans]),
        energy_j=np.array([plan.energy_j for plan in enrolled.plans]),
        steps=steps,
    )


def digest_of(fleet: Fleet) -> str:
    """Of all that a fleet is; the same for the same file and seed."""
    whole = hashlib.sha256(repr((fleet.seed, fleet.kinds, fleet.split)).encode())
    for field in fields(Columns):
        whole.update(np.ascontiguousarray(getattr(fleet, field.name)).tobytes())
    return whole.hexdigest()


def _planned(planner: Planner, kind: DeviceKind, traced: Traced) -> Prepared:
    """A kind's step, by the plan that is known if it is one for this step."""
    config = planner.config
    posed = pose_traced(
        traced,
        kind.profile,
        cost_table(traced.graph, kind.profile),
        ram_bytes=kind.ram_bytes,
        deadline_factor=config.deadline_factor,
    )
    if planner.known is not None:
        plan = planner.known[kind.name]
        return planned(posed, time_limit_s=config.plan_time_limit_s, plan=plan)
    cache = None if planner.cache_dir is None else PlanCache(folder=planner.cache_dir)
    return planned(posed, time_limit_s=config.plan_time_limit_s, cache=cache)


def _settings(planner: Planner, kind: DeviceKind, partition: int) -> Settings:
    config = planner.config
    return Settings(
        workload=config.workload,
        seed=config.seed,
        batch_size=config.batch_size,
        local_epochs=config.local_epochs,
        deadline_factor=config.deadline_factor,
        plan_time_limit_s=config.plan_time_limit_s,
        device=kind.profile_name,
        ram_bytes=kind.ram_bytes,
        partition=partition,
        proximal_mu=config.proximal_mu,
    )


def _steps(workload: Workload, partition: int) -> int:
    """0 where the data fails: the device will say so when it trains."""
    try:
        examples = workload.training_examples(partition)
    except BadInput:
        return 0
    return len(examples) // workload.batch_size * workload.local_epochs


def _whole_batch(workload: Workload, partitions: Sequence[int]) -> int:
    """A partition that makes a batch, to trace the step with. Raises the first one's error if none does."""
    first: BadInput | None = None
    for partition in partitions:
        try:
            workload.training_examples(partition)
        except BadInput as error:
            first = first or error
        else:
            return partition
    raise first or BadInput("the fleet has no device")


def _able(fleet: Fleet, position: NDArray[np.int32]) -> Fleet:
    able = fleet.where(position[fleet.kind] >= 0)
    kinds = tuple(k for k, at in zip(fleet.kinds, position, strict=True) if at >= 0)
    return replace(able, kinds=kinds, kind=position[able.kind])


def _table(fleet: Fleet, position: NDArray[np.int32]) -> NDArray[np.void]:
    table = np.zeros(len(fleet), dtype=DEVICE)
    table["node"], table["partition"] = fleet.node, fleet.partition
    table["kind"] = position[fleet.kind]
    return table
