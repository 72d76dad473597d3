"""Trace and measure a training step, and plan it for a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import torch
from torch import nn

from scheduler import (
    Budget,
    CostTable,
    DeviceProfile,
    Plan,
    PlanCache,
    Problem,
    Solution,
    Status,
    cached_solve,
    check,
)
from scheduler.problem import Cost

from .batch import Batch
from .capture import Loss
from .costs import Costing, profile_costs
from .grouping import MAX_OPERATORS
from .measure import with_workspace
from .program import Traced
from .trace import trace
from .undo import undo_bytes
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


class Terms(TypedDict, total=False):
    """What of `pose_step`'s arguments others pass on."""

    ram_bytes: int | None
    deadline_factor: float | None
    costing: Costing


def pose(
    workload: Workload,
    device: DeviceProfile,
    *,
    partition: int = 0,
    **terms: Unpack[Terms],
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
            **terms,
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
    costing: Costing = profile_costs,
    accumulate: int = 1,
    max_operators: int = MAX_OPERATORS,
) -> Posed:
    """Trace, measure and cost one training step.

    `ram_bytes` is the whole step's budget; None takes what the device leaves for training. The
    deadline is `deadline_factor` times the time of computing everything once. Of the page store, the
    plan may use what undoing a failed step leaves. `accumulate` and `max_operators` are `trace`'s.
    `costing` makes the cost table: `profile_costs`, or `measured_costs` for training on this very
    machine. Raises Untraceable.
    """
    traced = trace(
        module, loss, optimizer, batch, accumulate=accumulate, max_operators=max_operators
    )
    traced = with_workspace(traced, module, optimizer)
    costs = costing(traced, module, optimizer, device)
    return pose_traced(traced, device, costs, ram_bytes=ram_bytes, deadline_factor=deadline_factor)


def pose_traced(
    traced: Traced,
    device: DeviceProfile,
    costs: CostTable,
    *,
    ram_bytes: int | None = None,
    deadline_factor: float | None = None,
) -> Posed:
    """What `pose_step` does once a step is traced and costed: many devices may share one trace."""
    budget = Budget(
        ram_bytes=device.trainable_bytes if ram_bytes is None else ram_bytes,
        page_store_bytes=max(0, device.page_store_bytes - _store_overhead_bytes(traced, device)),
    )
    problem = Problem(graph=traced.graph, costs=costs, budget=budget)
    if deadline_factor is not None:
        time_s = deadline_factor * problem.compute_once.time_s
        problem = replace(problem, budget=replace(budget, time_s=time_s))
    return Posed(traced=traced, problem=problem, device=device)


def planned(
    posed: Posed,
    *,
    time_limit_s: float = 60.0,
    plan: Plan | None = None,
    cache: PlanCache | None = None,
) -> Prepared:
    """Solve a posed step, unless `cache` knows its plan; with `plan`, check that one instead.

    Raises Infeasible with the floor, NoPlanInTime or InvalidPlan.
    """
    if plan is None:
        solution = cached_solve(posed.problem, cache, time_limit_s=time_limit_s)
    else:
        solution = _known(plan, posed.problem)
    return Prepared(
        traced=posed.traced, problem=posed.problem, device=posed.device, solution=solution
    )


def _store_overhead_bytes(traced: Traced, device: DeviceProfile) -> int:
    """What the page store takes beyond a plan's bytes: the way back, and blocks that are not full."""
    block = device.page_block_bytes
    return undo_bytes(traced.graph, block) + block * len(traced.graph.tensors)


def _known(plan: Plan, problem: Problem) -> Solution:
    """A plan from before, checked; what is known of the optimum is that computing once costs less."""
    used = check(plan, problem)
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
