"""What the interpreter adds to the operators of a step."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as fn

from scheduler import Budget, Problem, keep_all
from scheduler.problem import Cost, CostTable

from .interpreter import MEASURED_STEPS, Interpreter
from .measure import with_workspace
from .page_store import unused_path
from .program import Traced
from .stores import store_for
from .timing import Clock, Effort, median_s
from .trace import trace

_LAYERS = 12
_STEPS = Effort(least=15, most=200, limit_s=0.5)


def tiny_step(device: torch.device) -> tuple[Traced, nn.Module, torch.optim.Optimizer]:
    """A step of many operators that have next to nothing to do."""
    with torch.random.fork_rng(devices=[]):
        layers = [m for _ in range(_LAYERS) for m in (nn.Linear(2, 2), nn.Tanh())]
        module = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batch = (torch.zeros(2, 2), torch.zeros(2, 2))
    traced = with_workspace(trace(module, fn.mse_loss, optimizer, batch), module, optimizer)
    return traced, module, optimizer


def tiny_step_s(
    traced: Traced, module: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock
) -> float:
    """Median seconds of a step of the interpreter that keeps everything in RAM."""
    graph, layouts = traced.graph, traced.program.layouts
    nothing = Cost(time_s=0.0, energy_j=0.0)
    each = (nothing,) * len(graph.tensors)
    costs = CostTable(operators=(nothing,) * len(graph.operators), page_in=each, page_out=each)
    # More than everything takes, so that the way back from a failed step is kept in RAM too.
    room = Budget(ram_bytes=4 * sum(t.size_bytes for t in graph.tensors) + 2**20)
    problem = Problem(graph=graph, costs=costs, budget=room)
    x, y = (layouts[k].new().fill_(0.5) for _, k in traced.program.batch)
    with (
        store_for(traced.program.device, unused_path(None)) as pages,
        Interpreter(traced, problem, keep_all(problem), pages, module, optimizer) as step,
    ):
        for _ in range(MEASURED_STEPS):
            step(x, y)
        return median_s(lambda: step(x, y), clock, _STEPS)
