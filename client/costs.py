"""What the operators of a traced step cost: by a device's profile, or measured on this very machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import nn

from scheduler import DeviceProfile, Plan, Problem, cost_table, replay
from scheduler.problem import Cost, CostTable

from .generators import generators_now
from .overhead import tiny_step, tiny_step_s
from .program import Traced
from .stopwatch import Stopwatch
from .timing import Clock, Effort, clock_of
from .undo import changed_in_ram, shared_out

Costing: TypeAlias = Callable[[Traced, nn.Module, torch.optim.Optimizer, DeviceProfile], CostTable]


def profile_costs(
    traced: Traced, _module: nn.Module, _optimizer: torch.optim.Optimizer, device: DeviceProfile
) -> CostTable:
    """Costs of any device from its profile: operators by their flops."""
    return cost_table(traced.graph, device)


def measured_costs(
    traced: Traced,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: DeviceProfile,
    *,
    clock: Clock | None = None,
    limit_s: float = 60.0,
    on_operator: Callable[[int, int], None] = lambda _done, _all: None,
) -> CostTable:
    """Measured seconds of every operator; transfers and power are those of the device's profile.

    Each operator runs alone on made-up data, as the interpreter runs it and with as many threads as
    torch uses now; equal ones are measured once. In training, other operators' tensors push an
    operator's own out of the caches, and so does other memory between the runs (see `Caches`). Where
    the first run and a rerun differ, the longer time counts. What the interpreter adds is in the times:
    its own work, and a copy in RAM of what the operator changes, so that a failed step can be undone
    (`expected_step_s` has what that takes where RAM is short).

    `limit_s` is for all operators together, though each runs a few times in any case. `on_operator`
    gets how many are done, and how many there are. `clock` is by default that of the device where the
    module is (`timing.clock_of`). Module, optimizer and torch's generator stay as
    they are.
    """
    graph, here = traced.graph, traced.program.device
    clock = clock or clock_of(here)
    effort = Effort(limit_s=min(0.1, limit_s / max(1, len(graph.operators))))
    watch = Stopwatch(traced, module, optimizer, clock, effort)
    added_s = interpreter_s(clock, here)
    costs: list[Cost] = []
    put_generators_back = generators_now(here)
    try:
        with torch.no_grad(), torch.autocast(here.type, enabled=False):
            for op in graph.operators:
                time_s = watch.time_s(op) + added_s
                costs.append(Cost(time_s=time_s, energy_j=time_s * device.compute_w))
                on_operator(len(costs), len(graph.operators))
    finally:
        put_generators_back()
    return replace(cost_table(graph, device), operators=tuple(costs))


def expected_step_s(plan: Plan, problem: Problem) -> float:
    """Seconds that the interpreter's step should take: the plan's, and those of the way back.

    What a step changes and RAM has no room to keep is written to the page store besides the plan's
    pages. That goes on beside compute, but both wait for Python's lock in turn: all of it counts.
    """
    used, costs = replay(plan, problem), problem.costs
    changed = changed_in_ram(problem.graph, frozenset(plan.paged_at_start))
    sizes = {k: problem.graph.tensors[k].size_bytes for k in changed}
    _, written = shared_out(sizes, problem.budget.ram_bytes - used.peak_bytes)
    return used.time_s + math.fsum(costs.page_out[k].time_s for k in written)


def interpreter_s(clock: Clock, device: torch.device) -> float:
    """Seconds per operator that a step takes beyond its operators' own.

    Measured on a step of many operators that have next to nothing to do.
    """
    traced, module, optimizer = tiny_step(device)
    watch = Stopwatch(traced, module, optimizer, clock, Effort(most=100))
    operators = traced.graph.operators
    with torch.no_grad():
        own_s = math.fsum(map(watch.time_s, operators))
    return max(0.0, tiny_step_s(traced, module, optimizer, clock) - own_s) / len(operators)
