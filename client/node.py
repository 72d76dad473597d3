"""One device's part in a round: its own plan, local training, and the sealed update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from scheduler import DeviceProfile, Plan, PlanCache, load_device
from scheduler.errors import InvalidPlan

from .batch import Batch
from .outbox import Arrays, Update, manifest, seal
from .page_store import unused_path
from .prepare import Prepared, planned, pose
from .state import set_arrays, view_arrays
from .trainer import TrainReport, train
from .workload import Examples, Workload, batches, load_workload, with_training

# Long enough to end with a proof: a plan cut short depends on the speed of the machine.
PLAN_TIME_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the coordinator asks for (workload to plan_time_limit_s) and what the device is.

    `device` names a profile or a TOML file. `ram_bytes` is the budget of a training step, all
    inclusive; None takes what the profile leaves for training. `page_dir` is where the page store's
    file is put while a step runs; None takes the system's folder for temporary files. `cache_dir` is where
    plans are kept for the next process; None keeps none. `proximal_mu` is the coordinator's, for FedProx.
    """

    workload: str
    seed: int = 0
    batch_size: int | None = None
    local_epochs: int | None = None
    deadline_factor: float | None = None
    plan_time_limit_s: float = PLAN_TIME_LIMIT_S
    device: str
    ram_bytes: int | None = None
    partition: int = 0
    page_dir: Path | None = None
    cache_dir: Path | None = None
    proximal_mu: float = 0.0


PlanKey = tuple[str, str, int | None, int | None, float | None, float, float]
PreparedSteps = MutableMapping[PlanKey, Prepared]
"""Prepared training steps within one process: devices of one kind and budget share theirs."""

WorkloadLoader = Callable[[str], Workload]
DeviceLoader = Callable[[str], DeviceProfile]


def plan_key(settings: Settings) -> PlanKey:
    """What a prepared step depends on."""
    return (
        settings.workload,
        settings.device,
        settings.ram_bytes,
        settings.batch_size,
        settings.deadline_factor,
        settings.plan_time_limit_s,
        settings.proximal_mu,
    )


class Training(Protocol):
    """How a node trains: by its plan, or in another way that gives the same bits."""

    def ready(self, node: Node, known: Plan | None) -> Plan | None:
        """Get ready to train; returns the plan that the node should keep for later, if there is one.

        `known` is a plan kept from before. Raises what `Node.prepare` raises.
        """

    def run(
        self,
        node: Node,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Batch],
    ) -> TrainReport:
        """Train the model on the batches, one step each. Raises what `train` raises."""


class ByPlan:
    """Training as a device does it: step by step as its plan says."""

    def ready(self, node: Node, known: Plan | None) -> Plan | None:
        """Find or make the node's plan."""
        return node.prepare(known).solution.plan

    def run(
        self,
        node: Node,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Batch],
    ) -> TrainReport:
        """Train within the plan's budget."""
        store_path = unused_path(node.settings.page_dir)
        return train(node.prepare(), model, optimizer, batches, store_path)


BY_PLAN = ByPlan()


class Node:
    """A device that takes part: settings, its data, and its prepared training step."""

    def __init__(
        self,
        settings: Settings,
        cache: PreparedSteps,
        load: WorkloadLoader = load_workload,
        device: DeviceLoader = load_device,
        training: Training = BY_PLAN,
    ) -> None:
        self.settings = settings
        self._cache, self._training = cache, training
        self.workload = with_training(
            load(settings.workload),
            batch_size=settings.batch_size,
            local_epochs=settings.local_epochs,
            proximal_mu=settings.proximal_mu,
        )
        self.profile = device(settings.device)

    def prepare(self, known: Plan | None = None) -> Prepared:
        """The training step with its plan; `known` saves solving if it is still valid here.

        Raises Infeasible with the floor when the budget is too small.
        """
        key = plan_key(self.settings)
        if key not in self._cache:
            self._cache[key] = self._prepare(known)
        return self._cache[key]

    def ready(self, known: Plan | None = None) -> Plan | None:
        """Get ready to train; returns the plan to keep for later, if there is one."""
        return self._training.ready(self, known)

    def train(self, arrays: Arrays, round_number: int) -> Update:
        """Train the model given as arrays for the local epochs and seal what came of it."""
        self.ready()
        examples = self.workload.training_examples(self.settings.partition)
        with torch.random.fork_rng(devices=[]):
            order, torch_seed = _generators(self.settings, round_number)
            _seed(torch_seed)
            model = self.workload.model()
            set_arrays(model, arrays)
            allowed = manifest(view_arrays(model))
            optimizer = self.workload.optimizer(model.parameters())
            model.train()
            _seed(torch_seed)  # again: training does not depend on what the model drew
            steps = batches(examples, self.workload, order)
            report = self._training.run(self, model, optimizer, steps)
        return seal(view_arrays(model), self._metrics(report, examples), allowed)

    def _prepare(self, known: Plan | None) -> Prepared:
        if known is not None:
            try:
                return self._solve(known)
            except InvalidPlan:
                pass  # of another model, batch or budget: plan again
        return self._solve(None)

    def _solve(self, plan: Plan | None) -> Prepared:
        posed = pose(
            self.workload,
            self.profile,
            partition=self.settings.partition,
            ram_bytes=self.settings.ram_bytes,
            deadline_factor=self.settings.deadline_factor,
        )
        folder = self.settings.cache_dir
        return planned(
            posed,
            time_limit_s=self.settings.plan_time_limit_s,
            plan=plan,
            cache=None if folder is None else PlanCache(folder=folder),
        )

    def _metrics(self, report: TrainReport, examples: Examples) -> dict[str, int | float]:
        return {
            "num-examples": len(examples),
            "partition-id": self.settings.partition,
            "steps": report.steps,
            "train-loss": report.mean_loss,
            "ram-budget-bytes": report.ram_budget_bytes,
            "predicted-peak-bytes": report.predicted_peak_bytes,
            "time-s": report.time_s,
            "energy-j": report.energy_j,
            "paged-out-bytes": report.paged_out_bytes,
            "paged-in-bytes": report.paged_in_bytes,
            "recomputed-runs": report.recomputed,
        } | ({"measured-peak-bytes": peak} if (peak := report.measured_peak_bytes) else {})


def _generators(settings: Settings, round_number: int) -> tuple[np.random.Generator, int]:
    """Order of the examples, and a seed for torch (dropout): own ones per run, partition and round."""
    what = settings.seed, settings.partition, round_number
    for_order, for_torch = (np.random.SeedSequence(what, spawn_key=(k,)) for k in range(2))
    return np.random.default_rng(for_order), int(for_torch.generate_state(1)[0])


def _seed(seed: int) -> None:
    """As torch.manual_seed, which also keeps a stack trace for each kind of accelerator that is not there."""
    torch.default_generator.manual_seed(seed)
