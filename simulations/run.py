"""One simulation, from a config to a run folder: enrol the fleet, run the rounds, account for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from client.workload import Workload, with_training
from protos.files import read_plan
from scheduler import Plan
from scheduler.errors import BadFile, BadInput
from server.cohort import make_sampler
from server.strategy import make_strategy
from server.updates import Arrays

from .census import count_smaller
from .checkpoint import Checkpoint, read_checkpoint
from .config import SimulationConfig, completed
from .data import Division, Workloads
from .enrol import Planner, digest_of, enrol
from .federate import Machine, Stage, Watcher, federate
from .fleet import Fleet
from .folder import PLANS, Draft, begun, taken_up
from .population import load_fleet
from .reading import Run, read_config, read_run
from .report import report_html

__all__ = ["Machine", "Watcher", "read_settings", "resume", "simulate"]


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
    config = _filled(completed(config, fleet.options), natural(config.workload))
    draft.write_config(asdict(config))
    batch_size = config.batch_size or 0
    load = natural.divided(Division(split=fleet.split, seed=config.seed, batch_size=batch_size))
    workload = _trained(load(config.workload), config)
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
        out = {left.name for left in enrolled.left_out}
        smaller = count_smaller(fleet, workload, out)
        draft.write_fleet(enrolled.plans, enrolled.left_out, enrolled.devices, smaller)
    watcher.on_start(enrolled.fleet)
    stage = Stage(
        config=config,
        load=load,
        workload=workload,
        enrolled=enrolled,
        cache=planner.cache,
        digest=digest_of(fleet),
        checkpoint=checkpoint,
        draft=draft,
        watcher=watcher,
        machine=machine,
    )
    return federate(stage)


def _filled(config: SimulationConfig, workload: Workload) -> SimulationConfig:
    """The config with the defaults beside the rules. Raises UnknownName or BadInput, before anybody plans."""
    workload = _trained(workload, config)
    filled = replace(
        config,
        strategy=config.strategy or "fedavg",
        sampler=config.sampler or "uniform",
        batch_size=workload.batch_size,
        local_epochs=workload.local_epochs,
    )
    make_strategy(filled.strategy or "")
    make_sampler(filled.sampler or "")
    filled.rules()
    return filled


def _trained(workload: Workload, config: SimulationConfig) -> Workload:
    return with_training(
        workload,
        batch_size=config.batch_size,
        local_epochs=config.local_epochs,
        proximal_mu=config.proximal_mu,
    )


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
