"""One simulation, from a config to a result: enrol the fleet, run the rounds, account for all of it."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from flwr.clientapp import ClientApp

from client.app import build_client_app
from client.node import PLAN_TIME_LIMIT_S, Node, PreparedSteps, Settings, WorkloadLoader
from client.state import buffer_names, evaluation, initial_arrays
from client.workload import Workload, load_workload, with_training
from scheduler.errors import BadInput, Infeasible, NoPlanInTime, RunFailed
from server.app import build_server_app
from server.cohort import everyone, uniform
from server.rounds import Federation, Outcome, Round
from server.strategy import make_strategy

from .clock import VirtualClock
from .fleet import Device, DeviceKind, Fleet
from .fleet_file import DEFAULT_FLEET
from .grid import SimulatedGrid, UserConfig, server_context
from .population import load_fleet
from .results import KindPlan, LeftOut, Result, RoundRecord, kind_plan, round_record


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """What is simulated. None means the workload's own value; `cohort` None means every device."""

    workload: str = "watch"
    rounds: int = 30
    seed: int = 0
    fleet: str = DEFAULT_FLEET
    strategy: str = "fedavg"
    cohort: int | None = None
    local_epochs: int | None = None
    batch_size: int | None = None
    deadline_factor: float | None = None
    plan_time_limit_s: float = PLAN_TIME_LIMIT_S

    def __post_init__(self) -> None:
        least = {"rounds": 1, "seed": 0, "cohort": 1, "local_epochs": 1, "batch_size": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise BadInput(f"{name.replace('_', ' ')} must be {bound} or more, not {value}")
        if self.seed >= 2**63:
            raise BadInput(f"seed must be less than 2**63, not {self.seed}")
        for name in ("deadline_factor", "plan_time_limit_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BadInput(f"{name.replace('_', ' ')} must be more than 0, not {value}")


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Called as the simulation goes on; each does nothing by default."""

    on_plan: Callable[[KindPlan], None] = lambda _: None
    on_left_out: Callable[[LeftOut], None] = lambda _: None
    on_start: Callable[[Fleet], None] = lambda _: None
    on_reply: Callable[[Device], None] = lambda _: None
    on_failure: Callable[[Device, BaseException], None] = lambda *_: None
    on_round: Callable[[RoundRecord], None] = lambda _: None


def simulate(config: SimulationConfig, watcher: Watcher | None = None) -> Result:
    """Run a whole federation in virtual time; the same config gives the same numbers.

    Raises Infeasible when no device has a plan, BadUpdate or RunFailed when a round cannot end.
    """
    watcher = watcher or Watcher()
    load = functools.cache(load_workload)  # a file of one's own runs once
    workload = with_training(
        load(config.workload),
        batch_size=config.batch_size,
        local_epochs=config.local_epochs,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    try:
        fleet = load_fleet(config.fleet, workload.partitions, config.seed)
        cache: PreparedSteps = {}
        plans, left_out = enrol(config, fleet, cache, load, watcher)
        names = {plan.kind.name for plan in plans}
        able = fleet.where(np.array([k.name in names for k in fleet.kinds])[fleet.kind])
        watcher.on_start(able)
        outcome, records = _federate(config, workload, able, build_client_app(cache, load), watcher)
    finally:
        torch.set_num_threads(threads)
    return Result(
        config=_described(config, workload),
        fleet=fleet,
        plans=plans,
        left_out=left_out,
        rounds=tuple(records),
        arrays=outcome.arrays,
    )


def enrol(
    config: SimulationConfig,
    fleet: Fleet,
    cache: PreparedSteps,
    load: WorkloadLoader,
    watcher: Watcher,
) -> tuple[tuple[KindPlan, ...], tuple[LeftOut, ...]]:
    """Let one device of each kind plan. Raises the last kind's error when none can."""
    plans: list[KindPlan] = []
    left_out: list[LeftOut] = []
    failed: Infeasible | NoPlanInTime | None = None
    count = Counter(d.kind.name for d in fleet.devices)
    for kind in fleet.kinds:
        first = next(d for d in fleet.devices if d.kind.name == kind.name)
        try:
            prepared = Node(_settings(config, kind, first.partition), cache, load).prepare()
        except (Infeasible, NoPlanInTime) as error:
            failed = error
            left_out.append(LeftOut(kind=kind, devices=count[kind.name], reason=str(error)))
            watcher.on_left_out(left_out[-1])
        else:
            plans.append(kind_plan(kind, count[kind.name], prepared))
            watcher.on_plan(plans[-1])
    if not plans and failed is not None:
        raise failed
    return tuple(plans), tuple(left_out)


def _federate(
    config: SimulationConfig,
    workload: Workload,
    fleet: Fleet,
    app: ClientApp,
    watcher: Watcher,
) -> tuple[Outcome, list[RoundRecord]]:
    clock = VirtualClock()
    run_config = _run_config(config)
    grid = SimulatedGrid(fleet, app, clock, run_config, watcher.on_reply, watcher.on_failure)
    records: list[RoundRecord] = []
    outcomes: list[Outcome] = []

    def on_round(done: Round) -> None:
        records.append(round_record(done, grid.charges))
        watcher.on_round(records[-1])

    def compose(_: Context) -> Federation:
        return Federation(
            initial=initial_arrays(workload, config.seed),
            strategy=make_strategy(config.strategy),
            num_rounds=config.rounds,
            averaged=buffer_names(workload),
            evaluate=evaluation(workload),
            now_s=clock.now_s,
            sampler=everyone
            if config.cohort is None
            else uniform(config.cohort, np.random.default_rng((config.seed, 0))),
            on_round=on_round,
        )

    server = build_server_app(compose, lambda outcome, _: outcomes.append(outcome))
    server(grid, server_context(run_config))
    if not outcomes:
        raise RunFailed("the coordinator ended without a model")
    return outcomes[0], records


def _run_config(config: SimulationConfig) -> UserConfig:
    return {
        "workload": config.workload,
        "seed": config.seed,
        "batch-size": config.batch_size or 0,
        "local-epochs": config.local_epochs or 0,
        "deadline-factor": config.deadline_factor or 0.0,
        "plan-time-limit-s": config.plan_time_limit_s,
    }


def _settings(config: SimulationConfig, kind: DeviceKind, partition: int) -> Settings:
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
    )


def _described(config: SimulationConfig, workload: Workload) -> dict[str, Any]:
    """The config with the workload's own values filled in."""
    filled = {"batch_size": workload.batch_size, "local_epochs": workload.local_epochs}
    return asdict(config) | filled
