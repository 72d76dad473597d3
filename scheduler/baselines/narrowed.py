"""What the baselines that call a solver share: POET's own search with one of its two means taken away."""

from __future__ import annotations

from collections.abc import Callable

from ..backends import Backend
from ..errors import Infeasible, NoPlanInTime
from ..plan import Plan
from ..problem import Problem
from ..reductions import WithoutPaging, WithoutRecomputing
from ..solve import solve


def best_narrowed(
    problem: Problem,
    reduction: WithoutPaging | WithoutRecomputing,
    makers: tuple[Callable[[Problem], Plan | None], ...],
    *,
    time_limit_s: float,
    gap: float,
    backend: Backend | None,
    clock: Callable[[], float],
) -> Plan | None:
    """The best plan found in the time limit for the reduced problem, from what `makers` plan for it."""
    reduced, inverse = reduction.apply(problem)
    starts = [plan for make in makers if (plan := make(reduced)) is not None]
    try:
        found = solve(
            reduced,
            time_limit_s=time_limit_s,
            gap=gap,
            backend=backend,
            clock=clock,
            starts=starts,
        )
    except (Infeasible, NoPlanInTime):
        return None
    return reduction.invert(found.plan, inverse)
