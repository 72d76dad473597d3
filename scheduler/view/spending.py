"""Where the energy of a plan goes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..plan import Compute, PageIn, PageOut, Plan
from ..problem import Problem
from ..replay import replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Joules of one training step by purpose; `idle_j` is idle power over the whole step."""

    compute_j: float
    recompute_j: float
    page_in_j: float
    page_out_j: float
    idle_j: float

    @property
    def paging_j(self) -> float:
        """Joules of moving tensors, both ways."""
        return self.page_in_j + self.page_out_j


def spending(plan: Plan, problem: Problem) -> Spending:
    """Split the energy that `replay` charges; the parts add up to it."""
    costs = problem.costs
    compute: list[float] = []
    recompute: list[float] = []
    page_in: list[float] = []
    page_out: list[float] = []
    ran: set[int] = set()
    for step in plan.steps:
        match step:
            case Compute(operator):
                (recompute if operator in ran else compute).append(
                    costs.operators[operator].energy_j
                )
                ran.add(operator)
            case PageIn(tensor):
                page_in.append(costs.page_in[tensor].energy_j)
            case PageOut(tensor):
                page_out.append(costs.page_out[tensor].energy_j)
    return Spending(
        compute_j=math.fsum(compute),
        recompute_j=math.fsum(recompute),
        page_in_j=math.fsum(page_in),
        page_out_j=math.fsum(page_out),
        idle_j=costs.idle_w * replay(plan, problem).time_s,
    )
