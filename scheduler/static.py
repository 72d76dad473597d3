"""Plans for memory without an allocator: every byte at a fixed address, in an arena of the budget's size."""

from __future__ import annotations

from dataclasses import replace

from .arena import arena_bytes
from .check import check
from .errors import Infeasible, NoPlanInTime
from .plan import Solution, Status
from .problem import Problem
from .sweep import Solver

# Each round plans for the RAM that the last arena left, in half the time that is left.
ROUNDS = 6


def solve_in_arena(problem: Problem, solver: Solver, *, time_limit_s: float) -> Solution:
    """A solution whose arena fits the budget, not only its peak.

    Where addresses cost more than the peak, it plans again with so much less RAM. The bound is that of
    plans without fixed addresses, so it holds here too.

    Raises:
        Infeasible: no plan fits, or none was found whose arena does.
        NoPlanInTime: the time limit ended first.
    """
    budget_bytes = problem.budget.ram_bytes
    posed, bound_j = problem, 0.0
    for round_ in range(ROUNDS):
        try:
            found = solver(posed, time_limit_s=time_limit_s / 2 ** (round_ + 1))
        except (Infeasible, NoPlanInTime):
            if round_ == 0:
                raise
            break
        bound_j = bound_j or found.lower_bound_j
        excess_bytes = arena_bytes(found.plan, problem) - budget_bytes
        if excess_bytes <= 0:
            return _of(problem, found, bound_j)
        ram_bytes = posed.budget.ram_bytes - excess_bytes
        posed = replace(posed, budget=replace(posed.budget, ram_bytes=max(ram_bytes, 0)))
    raise Infeasible(
        f"no plan was found whose arena fits {budget_bytes} bytes; the last one needed "
        f"{budget_bytes + excess_bytes}: allow that much, or more time"
    )


def _of(problem: Problem, found: Solution, bound_j: float) -> Solution:
    """The solution as one of the problem with its whole budget."""
    plan = replace(found.plan, budget=problem.budget)
    check(plan, problem)
    energy_j = found.cost.energy_j
    gap = max(0.0, energy_j - bound_j) / energy_j if energy_j else 0.0
    proven = found.status is Status.OPTIMAL and found.lower_bound_j <= bound_j
    status = Status.OPTIMAL if proven else Status.FEASIBLE
    return replace(found, plan=plan, lower_bound_j=min(bound_j, energy_j), gap=gap, status=status)
