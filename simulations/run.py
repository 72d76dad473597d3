"""One simulation, from a config to a run folder: enrol the fleet, run the rounds, account for all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from client.outbox import METRICS
from client.state import buffer_names, evaluation, initial_arrays
from client.workload import with_training
from protos.files import read_plan
from scheduler import Plan
from scheduler.errors import BadFile, BadInput, RunFailed
from server.app import build_server_app
from server.cohort import make_sampler
from server.federation import Federation, Progress, Round
from server.strategy import make_strategy
from server.updates import Arrays

from .checkpoint import Checkpoint, packed, read_checkpoint
from .clock import VirtualClock
from .config import SimulationConfig, Training, completed
from .data import Division, Workloads
from .departures import Departures
from .enrol import Enrolled, Planner, charges_of, digest_of, enrol, profiles_of
from .fleet import Fleet
from .folder import PLANS, Draft, begun, taken_up
from .grid import SimulatedGrid
from .identity import RUN_ID, UserConfig, server_context
from .ledger import rows_of
from .population import load_fleet
from .reading import Run, read_config, read_run
from .report import report_html
from .results import KindPlan, LeftOut, RoundRecord, round_record
from .training import InProcess, Recipe, Work, untrained

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
    Plans are looked up and kept in the folder `plan_cache`, if there is one.
    """

    real_s: Callable[[], float] = time.monotonic
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    plan_cache: Path | None = None


def simulate(
    config: SimulationConfig,
    folder: Path,
    watcher: Watcher | None = None,
    *,
    overwrite: bool = False,
    machine: Machine | None = None,
) -> Run:
    """Run a whole federation in virtual time into a new run folder; the same config gives the same bytes.

    Raises Infeasible when no device has a plan, BadUpdate or RunFailed when too many rounds are skipped.
    """
    draft = begun(folder, asdict(config), overwrite)
    return _finish(config, draft, watcher or Watcher(), machine or Machine())


def resume(folder: Path, watcher: Watcher | None = None, machine: Machine | None = None) -> Run:
    """Go on with a run that was stopped; it ends with the bytes it would have had without the stop."""
    draft = taken_up(folder)
    try:
        config = read_settings(draft.path)
    except BadFile:
        draft.close()
        raise
    return _finish(config, draft, watcher or Watcher(), machine or Machine())


def read_settings(folder: Path) -> SimulationConfig:
    """The config of a run folder. Raises BadFile."""
    values = read_config(folder)
    try:
        return SimulationConfig(**{f.name: values[f.name] for f in fields(SimulationConfig)})
    except (KeyError, TypeError) as error:
        raise BadFile(f"{folder}: config.json is not that of a run: {error}") from error


def _finish(config: SimulationConfig, draft: Draft, watcher: Watcher, machine: Machine) -> Run:
    try:
        with _one_thread():
            arrays = _simulate(config, draft, watcher, machine)
        run = read_run(draft.path)
        draft.finish(arrays, report_html(run))
        return read_run(draft.folder)
    finally:
        draft.give_up()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _simulate(config: SimulationConfig, draft: Draft, watcher: Watcher, machine: Machine) -> Arrays:
    natural = Workloads()
    partitions = natural(config.workload).partitions
    fleet = load_fleet(config.fleet, partitions, config.seed, config.fleet_changes)
    config = completed(config, fleet.options)
    batch_size = config.batch_size or natural(config.workload).batch_size
    load = natural.divided(Division(split=fleet.split, seed=config.seed, batch_size=batch_size))
    workload = with_training(
        load(config.workload),
        batch_size=batch_size,
        local_epochs=config.local_epochs,
        proximal_mu=config.proximal_mu,
    )
    config = replace(
        config,
        strategy=config.strategy or "fedavg",
        sampler=config.sampler or "uniform",
        batch_size=batch_size,
        local_epochs=workload.local_epochs,
    )
    make_strategy(config.strategy or "")  # what it does not know is said before anybody plans
    make_sampler(config.sampler or "")
    config.rules()
    draft.write_config(asdict(config))
    checkpoint = _checkpoint(draft, fleet)
    planner = Planner(
        config=config,
        cache={},
        known=None if checkpoint is None else _known_plans(draft, fleet),
        cache_dir=machine.plan_cache,
        on_plan=watcher.on_plan,
        on_left_out=watcher.on_left_out,
    )
    enrolled = enrol(planner, fleet, workload)
    if checkpoint is None:
        draft.write_fleet(enrolled.plans, enrolled.left_out, enrolled.devices)
    watcher.on_start(enrolled.fleet)
    federated = _Federated(config, load, enrolled, planner, draft, watcher, machine)
    return federated.run(checkpoint, digest_of(fleet))


def _checkpoint(draft: Draft, fleet: Fleet) -> Checkpoint | None:
    """Where to go on, with the files of rounds cut to it; None at the beginning."""
    checkpoint, lengths = None, None
    if draft.checkpoint.exists():
        checkpoint, lengths = read_checkpoint(draft.checkpoint)
        if checkpoint.digest != digest_of(fleet):
            raise BadInput(
                f"{draft.path} was begun with another fleet; bring its file back, or begin a new run"
            )
    draft.cut(lengths)
    return checkpoint


def _known_plans(draft: Draft, fleet: Fleet) -> dict[str, Plan]:
    files = {kind.name: draft.path / PLANS / f"{kind.name}.json" for kind in fleet.kinds}
    return {name: read_plan(file) for name, file in files.items() if file.exists()}


class _Federated:
    """The rounds of one run."""

    def __init__(
        self,
        config: SimulationConfig,
        load: Workloads,
        enrolled: Enrolled,
        planner: Planner,
        draft: Draft,
        watcher: Watcher,
        machine: Machine,
    ) -> None:
        self._config, self._load, self._enrolled = config, load, enrolled
        self._workload = with_training(
            load(config.workload),
            batch_size=config.batch_size,
            local_epochs=config.local_epochs,
            proximal_mu=config.proximal_mu,
        )
        self._planner, self._draft, self._watcher = planner, draft, watcher
        self._machine, self._saved_s = machine, machine.real_s()
        self._rules = config.rules()
        self._run_config = _run_config(config)

    def run(self, checkpoint: Checkpoint | None, digest: str) -> Arrays:
        """Run the rounds that are missing; returns the model after the last one."""
        config, workload = self._config, self._workload
        grid = self._grid(checkpoint)
        outcomes: list[Arrays] = []

        def compose(_: Grid, __: Context) -> Federation:
            return Federation(
                initial=initial_arrays(workload, config.seed),
                strategy=make_strategy(config.strategy or ""),
                num_rounds=config.rounds,
                averaged=buffer_names(workload),
                evaluate=evaluation(workload),
                now_s=grid.now_s,
                wait=grid.wait,
                reports=grid.reports,
                rules=self._rules,
                sampler=make_sampler(config.sampler or ""),
                seed=config.seed,
                on_round=lambda done, progress: self._on_round(grid, digest, done, progress),
                resume=None if checkpoint is None else checkpoint.progress,
            )

        server = build_server_app(compose, lambda arrays, _: outcomes.append(arrays))
        server(grid, server_context(self._run_config))
        if not outcomes:
            raise RunFailed("the coordinator ended without a model")
        return outcomes[0]

    def _grid(self, checkpoint: Checkpoint | None) -> SimulatedGrid:
        enrolled, config = self._enrolled, self._config
        fabric = None if checkpoint is None else checkpoint.fabric
        return SimulatedGrid(
            VirtualClock(0.0 if fabric is None else fabric.now_s),
            Departures(fleet=enrolled.fleet, charges=charges_of(enrolled, self._workload)),
            self._work(),
            self._context,
            numbers=len(METRICS)
            - (config.training != Training.PLANS),  # no peak is measured without
            keeps_late=self._rules.keeps_late,
            slots=config.link_slots,
            on_reply=self._watcher.on_reply,
            on_failure=self._watcher.on_failure,
            resume=fabric,
        )

    def _work(self) -> Work:
        config, enrolled = self._config, self._enrolled
        if config.training == Training.NONE:
            return untrained
        recipe = Recipe(
            load=self._load,
            device=profiles_of(enrolled.fleet),
            charges=None if config.training == Training.PLANS else enrolled.charges,
        )
        return InProcess(recipe.app(self._planner.cache))

    def _on_round(self, grid: SimulatedGrid, digest: str, done: Round, progress: Progress) -> None:
        last = done.number == self._config.rounds
        rows = rows_of(
            self._enrolled.fleet,
            (*grid.settled(), *(grid.cut_off() if last else ())),
            round_number=done.number,
            end_s=done.end_s,
            aggregated=done.metrics.keys(),
            refused={r.node for r in done.refused if r.sent},
            together=self._rules.buffer is None,
        )
        record = round_record(done, rows, [p.name for p in self._enrolled.plans], grid.online)
        self._draft.append(record, rows)
        self._watcher.on_round(record)
        if not last and self._machine.real_s() - self._saved_s >= self._machine.checkpoint_every_s:
            fabric = grid.fabric()
            self._draft.save(*packed(Checkpoint(digest=digest, progress=progress, fabric=fabric)))
            self._saved_s = self._machine.real_s()

    def _context(self, row: int) -> Context:
        """The context of a device: what `flwr run` and its SuperNode would give."""
        fleet = self._enrolled.fleet
        kind, node = fleet.kinds[fleet.kind[row]], int(fleet.node[row])
        node_config: UserConfig = {
            "workload": self._config.workload,
            "device": kind.profile_name,
            "ram-bytes": kind.ram_bytes,
            "partition-id": int(fleet.partition[row]),
        }
        return Context(RUN_ID, node, node_config, RecordDict(), self._run_config)


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
