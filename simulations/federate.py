"""The rounds of one run: the round engine over the simulated fabric, and every round on record as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from client.node import PreparedSteps
from client.outbox import METRICS
from client.state import buffer_names, evaluation, initial_arrays
from client.workload import Workload
from scheduler.errors import RunFailed
from server.app import build_server_app
from server.cohort import make_sampler
from server.federation import Federation, Progress, Round
from server.strategy import make_strategy
from server.updates import Arrays

from .checkpoint import Checkpoint, packed
from .clock import VirtualClock
from .config import SimulationConfig, Training
from .data import Workloads
from .departures import Departures
from .enrol import Enrolled, charges_of, profiles_of
from .fleet import Fleet
from .folder import Draft
from .grid import SimulatedGrid
from .identity import RUN_ID, UserConfig, server_context
from .ledger import rows_of
from .ray_workers import RayWorkers
from .results import KindPlan, LeftOut, RoundRecord, round_record
from .training import InProcess, Recipe, Work, untrained
from .workers import Processes

AHEAD = 8  # devices per worker that train at once where replies come one by one
CHECKPOINT_EVERY_S = 5.0  # of real time: what a run that is killed may lose


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Called as the simulation goes on; each does nothing by default."""

    on_plan: Callable[[KindPlan], None] = lambda _: None
    on_left_out: Callable[[LeftOut], None] = lambda _: None
    on_start: Callable[[Fleet], None] = lambda _: None
    on_reply: Callable[[int], None] = lambda _: None
    on_failure: Callable[[int, str], None] = lambda *_: None
    on_round: Callable[[RoundRecord], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a run uses of the machine it is on; no number of the run depends on it.

    A checkpoint is written after a round when `checkpoint_every_s` have passed on `real_s` since the last.
    Plans are looked up and kept in the folder `plan_cache`, if there is one. Training is done by `workers`
    processes, or on the Ray cluster at the address `ray` (by so many actors, None for one per CPU).
    """

    real_s: Callable[[], float] = time.monotonic
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    plan_cache: Path | None = None
    workers: int | None = None
    ray: str | None = None

    @property
    def trains_elsewhere(self) -> bool:
        """Whether other processes train than the one that coordinates."""
        return self.ray is not None or (self.workers or 1) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All that the rounds of a run need.

    `load` gives `workload` by name, in any process; `cache` has steps that this process has prepared.
    `digest` is of the whole fleet, `checkpoint` where a run goes on.
    """

    config: SimulationConfig
    load: Workloads
    workload: Workload
    enrolled: Enrolled
    cache: PreparedSteps
    digest: str
    checkpoint: Checkpoint | None
    draft: Draft
    watcher: Watcher
    machine: Machine


def federate(stage: Stage) -> Arrays:
    """Run the rounds that are missing; returns the model after the last one.

    Raises BadUpdate or RunFailed when too many rounds are skipped.
    """
    config, workload, checkpoint = stage.config, stage.workload, stage.checkpoint
    outcomes: list[Arrays] = []
    with _work(stage) as work, _evaluator(stage) as evaluate:
        grid = _grid(stage, work)
        record = _Recorder(stage, grid, evaluate)

        def compose(_: Grid, __: Context) -> Federation:
            return Federation(
                initial=initial_arrays(workload, config.seed),
                strategy=make_strategy(config.strategy or ""),
                num_rounds=config.rounds,
                averaged=buffer_names(workload),
                evaluate=lambda *_: {},  # the recorder does it
                now_s=grid.now_s,
                wait=grid.wait,
                withdraw=grid.withdraw,
                reports=grid.reports,
                rules=config.rules(),
                sampler=make_sampler(config.sampler or ""),
                seed=config.seed,
                on_round=record,
                resume=None if checkpoint is None else checkpoint.progress,
            )

        server = build_server_app(compose, lambda arrays, _: outcomes.append(arrays))
        try:
            server(grid, server_context(_run_config(config)))
        finally:
            record.complete()
    if not outcomes:
        raise RunFailed("the coordinator ended without a model")
    return outcomes[0]


@contextmanager
def _work(stage: Stage) -> Iterator[Work]:
    config, enrolled, machine = stage.config, stage.enrolled, stage.machine
    by_plans = config.training == Training.PLANS
    recipe = Recipe(
        load=stage.load,
        device=profiles_of(enrolled.fleet),
        charges=None if by_plans else enrolled.charges,
        plans=enrolled.known if by_plans else {},
    )
    if config.training == Training.NONE:
        yield untrained
    elif machine.ray is not None:
        with RayWorkers(recipe, machine.ray, machine.workers) as work:
            yield work
    elif machine.trains_elsewhere:
        with Processes(recipe, machine.workers or 1) as work:
            yield work
    else:
        yield InProcess(recipe.app(stage.cache))


Scores = Mapping[str, float]
Evaluator = Callable[[int, Arrays], Callable[[], Scores]]
"""Begins to evaluate the model of a round; what it returns gives the scores, or raises."""


@contextmanager
def _evaluator(stage: Stage) -> Iterator[Evaluator]:
    """Evaluation beside the next round, where others train; else when its scores are wanted.

    In a process that trains, the model could draw from the generator that training draws from.
    """
    evaluate = evaluation(stage.workload)
    if not stage.machine.trains_elsewhere:
        yield lambda number, arrays: partial(evaluate, number, arrays)
        return
    with ThreadPoolExecutor(1) as thread:
        yield lambda number, arrays: thread.submit(evaluate, number, arrays).result


def _grid(stage: Stage, work: Work) -> SimulatedGrid:
    config, enrolled = stage.config, stage.enrolled
    fabric = None if stage.checkpoint is None else stage.checkpoint.fabric
    peaks = config.training == Training.PLANS  # else no peak is measured, and none is sent
    return SimulatedGrid(
        VirtualClock(0.0 if fabric is None else fabric.now_s),
        Departures(fleet=enrolled.fleet, charges=charges_of(enrolled, stage.workload)),
        work,
        _Contexts(run_config=_run_config(config), fleet=enrolled.fleet),
        numbers=len(METRICS) - (not peaks),
        slots=config.link_slots,
        batch=AHEAD * (stage.machine.workers or 1) if config.rules().keeps_late else 1,
        on_reply=stage.watcher.on_reply,
        on_failure=stage.watcher.on_failure,
        resume=fabric,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A round that is not on record yet, since its model is still evaluated."""

    round: Round
    rows: NDArray[np.void]
    online: int
    scores: Callable[[], Scores]


class _Recorder:
    """Puts each round on record when its model is evaluated, and a checkpoint beside it now and then."""

    def __init__(self, stage: Stage, grid: SimulatedGrid, evaluate: Evaluator) -> None:
        self._stage, self._grid, self._evaluate = stage, grid, evaluate
        self._kinds = [plan.name for plan in stage.enrolled.plans]
        self._together = stage.config.buffer is None
        self._saved_s = stage.machine.real_s()
        self._ended: _Ended | None = None

    def __call__(self, done: Round, progress: Progress) -> None:
        stage, grid = self._stage, self._grid
        self.complete()
        last = done.number == stage.config.rounds
        rows = rows_of(
            stage.enrolled.fleet,
            (*grid.settled(), *(grid.cut_off() if last else ())),
            round_number=done.number,
            end_s=done.end_s,
            aggregated=done.metrics.keys(),
            refused={r.node for r in done.refused if r.sent},
            together=self._together,
        )
        self._ended = _Ended(
            round=done,
            rows=rows,
            online=grid.online,
            scores=self._evaluate(done.number, progress.arrays),
        )
        if not stage.machine.trains_elsewhere:
            self.complete()
        due_s = self._saved_s + stage.machine.checkpoint_every_s
        if not last and stage.machine.real_s() >= due_s:
            self.complete()
            checkpoint = Checkpoint(digest=stage.digest, progress=progress, fabric=grid.fabric())
            stage.draft.save(*packed(checkpoint))
            self._saved_s = stage.machine.real_s()

    def complete(self) -> None:
        """Put the round that ended last on record."""
        if (ended := self._ended) is None:
            return
        self._ended = None
        done = replace(ended.round, evaluation=ended.scores())
        record = round_record(done, ended.rows, self._kinds, ended.online)
        self._stage.draft.append(record, ended.rows)
        self._stage.watcher.on_round(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contexts:
    """The contexts of devices: what `flwr run` and their SuperNodes would give."""

    run_config: UserConfig
    fleet: Fleet

    def __call__(self, row: int) -> Context:
        """The context of the device in a row of the fleet."""
        kind = self.fleet.kinds[self.fleet.kind[row]]
        node_config: UserConfig = {
            "workload": self.run_config["workload"],
            "device": kind.profile_name,
            "ram-bytes": kind.ram_bytes,
            "partition-id": int(self.fleet.partition[row]),
        }
        node = int(self.fleet.node[row])
        return Context(RUN_ID, node, node_config, RecordDict(), self.run_config)


def _run_config(config: SimulationConfig) -> UserConfig:
    return {
        "workload": config.workload,
        "seed": config.seed,
        "batch-size": config.batch_size or 0,
        "local-epochs": config.local_epochs or 0,
        "deadline-factor": config.deadline_factor or 0.0,
        "plan-time-limit-s": config.plan_time_limit_s,
        "proximal-mu": config.proximal_mu,
    }
