"""Prepare a training step for a device, and train by its plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from scheduler import (
    Budget,
    DeviceProfile,
    Plan,
    PlanCache,
    Problem,
    Solution,
    Status,
    cached_solve,
    check,
    cost_table,
    replay,
)
from scheduler.errors import BadInput
from scheduler.problem import Cost

from .capture import Batch, Loss
from .executor import Executor
from .grouping import MAX_OPERATORS
from .measure import with_workspace
from .memory import undo_bytes
from .page_store import PageStore
from .program import Traced
from .trace import trace
from .workload import Workload


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A traced and measured training step, and the planning problem it poses on a device."""

    traced: Traced
    problem: Problem
    device: DeviceProfile


@dataclass(frozen=True, kw_only=True)
class Prepared(Posed):
    """A training step with its plan; it fits every module of the traced shapes."""

    solution: Solution


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What training took. Time, energy and transfers are virtual: `replay`'s figures of the plan.

    `recomputed` counts operator runs beyond the first in one step. `undo_written_bytes` were really
    written so that a failed step could be undone; the plan and its energy do not know of them.
    """

    steps: int
    examples: int
    mean_loss: float
    last_loss: float
    ram_budget_bytes: int
    predicted_peak_bytes: int
    measured_peak_bytes: int
    time_s: float
    energy_j: float
    paged_out_bytes: int
    paged_in_bytes: int
    recomputed: int
    undo_written_bytes: int


def pose(
    workload: Workload,
    device: DeviceProfile,
    *,
    partition: int = 0,
    ram_bytes: int | None = None,
    deadline_factor: float | None = None,
) -> Posed:
    """The problem of training a workload on a device; torch's generator stays as it is."""
    examples = workload.training_examples(partition)
    batch = (examples.x[: workload.batch_size], examples.y[: workload.batch_size])
    with torch.random.fork_rng(devices=[]):
        module = workload.model()
        module.train()
        return pose_step(
            module,
            workload.loss,
            workload.optimizer(module.parameters()),
            batch,
            device=device,
            ram_bytes=ram_bytes,
            deadline_factor=deadline_factor,
        )


def pose_step(
    module: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    device: DeviceProfile,
    ram_bytes: int | None = None,
    deadline_factor: float | None = None,
    max_operators: int = MAX_OPERATORS,
) -> Posed:
    """Trace, measure and cost one training step.

    `ram_bytes` is the whole step's budget; None takes what the device leaves for training. The
    deadline is `deadline_factor` times the time of computing everything once. Of the page store, the
    plan may use what undoing a failed step leaves. `max_operators` is `trace`'s. Raises Untraceable.
    """
    traced = trace(module, loss, optimizer, batch, max_operators=max_operators)
    traced = with_workspace(traced, module, optimizer)
    budget = Budget(
        ram_bytes=device.trainable_bytes if ram_bytes is None else ram_bytes,
        page_store_bytes=max(0, device.page_store_bytes - _store_overhead_bytes(traced, device)),
    )
    costs = cost_table(traced.graph, device)
    problem = Problem(graph=traced.graph, costs=costs, budget=budget)
    if deadline_factor is not None:
        time_s = deadline_factor * problem.compute_once.time_s
        problem = replace(problem, budget=replace(budget, time_s=time_s))
    return Posed(traced=traced, problem=problem, device=device)


def prepare(
    module: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    device: DeviceProfile,
    ram_bytes: int | None = None,
    deadline_factor: float | None = None,
    time_limit_s: float = 60.0,
    plan: Plan | None = None,
    cache: PlanCache | None = None,
) -> Prepared:
    """`pose_step`, then solve it, unless `cache` knows its plan; with `plan`, check that one instead.

    Raises Untraceable, Infeasible with the floor, NoPlanInTime or InvalidPlan.
    """
    posed = pose_step(
        module,
        loss,
        optimizer,
        batch,
        device=device,
        ram_bytes=ram_bytes,
        deadline_factor=deadline_factor,
    )
    return planned(posed, time_limit_s=time_limit_s, plan=plan, cache=cache)


def planned(
    posed: Posed,
    *,
    time_limit_s: float,
    plan: Plan | None = None,
    cache: PlanCache | None = None,
) -> Prepared:
    """Solve a posed step or look its plan up, or check a plan that is known. Raises what `prepare` raises."""
    if plan is None:
        solution = cached_solve(posed.problem, cache, time_limit_s=time_limit_s)
    else:
        solution = _known(plan, posed.problem)
    return Prepared(
        traced=posed.traced, problem=posed.problem, device=posed.device, solution=solution
    )


def train(
    prepared: Prepared,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    store_path: Path,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainReport:
    """Train on the batches, one step each; `on_step` gets the step's number (from 1) and loss.

    The page store is made at `store_path`, where no file may be, and is gone afterwards. A loss that
    is not finite is reported as it is; training goes on. Raises BadInput for no batch or one of
    another shape, PageStoreError, BudgetExceeded; steps done before that are kept.
    """
    plan, problem, device = prepared.solution.plan, prepared.problem, prepared.device
    losses: list[float] = []
    with (
        PageStore(
            store_path,
            capacity_bytes=device.page_store_bytes,
            block_bytes=device.page_block_bytes,
        ) as store,
        Executor(prepared.traced, problem, plan, store, module, optimizer) as step,
    ):
        for x, y in batches:
            losses.append(step(x, y))
            if on_step is not None:
                on_step(len(losses), losses[-1])
    if not losses:
        raise BadInput("there is no batch to train on; give at least one")
    return _report(prepared, losses, step)


def _report(prepared: Prepared, losses: list[float], step: Executor) -> TrainReport:
    problem, layouts = prepared.problem, prepared.traced.program.layouts
    used, steps = replay(prepared.solution.plan, problem), len(losses)
    return TrainReport(
        steps=steps,
        examples=steps * layouts[prepared.traced.program.x].shape[0],
        mean_loss=math.fsum(losses) / steps,
        last_loss=losses[-1],
        ram_budget_bytes=problem.budget.ram_bytes,
        predicted_peak_bytes=used.peak_bytes,
        measured_peak_bytes=step.measured_peak_bytes,
        time_s=used.time_s * steps,
        energy_j=used.energy_j * steps,
        paged_out_bytes=used.page_out_bytes * steps,
        paged_in_bytes=used.page_in_bytes * steps,
        recomputed=len(used.recomputed),
        undo_written_bytes=step.undo_written_bytes,
    )


def _store_overhead_bytes(traced: Traced, device: DeviceProfile) -> int:
    """What the page store takes beyond a plan's bytes: the way back, and blocks that are not full."""
    block = device.page_block_bytes
    return undo_bytes(traced.graph, block) + block * len(traced.graph.tensors)


def _known(plan: Plan, problem: Problem) -> Solution:
    """A plan from before, checked; what is known of the optimum is that computing once costs less."""
    check(plan, problem)
    used = replay(plan, problem)
    bound_j = min(problem.compute_once.energy_j, used.energy_j)
    gap = (used.energy_j - bound_j) / used.energy_j if used.energy_j else 0.0
    return Solution(
        status=Status.FEASIBLE,
        plan=plan,
        cost=Cost(time_s=used.time_s, energy_j=used.energy_j),
        lower_bound_j=bound_j,
        gap=gap,
        wall_s=0.0,
        backend="known plan",
    )
