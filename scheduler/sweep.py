"""What RAM buys: the best plans for several budgets, each helping the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .baselines import keep_all
from .check import check
from .errors import FedpoetError, Infeasible, NoPlanInTime
from .floor import floor
from .plan import Plan, Solution, Status
from .problem import Problem
from .replay import replay

# A plan within this of the least energy is called optimal, as `solve` does by default.
GAP = 1e-4


class Solver(Protocol):
    """`solve`, or something in front of it. `starts` are plans for other budgets of the same problem."""

    def __call__(
        self, problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...] = ()
    ) -> Solution:
        """A solution; raises Infeasible or NoPlanInTime."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One budget, and its solution or why there is none."""

    ram_bytes: int
    found: Solution | FedpoetError


def budgets_between(problem: Problem, count: int) -> tuple[int, ...]:
    """Budgets from the floor to what keep-all needs, evenly spaced; both ends are among them."""
    low = floor(problem).ram_bytes
    high = max(low, replay(keep_all(problem), problem).peak_bytes)
    if count < 2:
        return (high,)
    spaced = (low + (high - low) * n // (count - 1) for n in range(count))
    return tuple(dict.fromkeys(spaced))


def sweep(
    problem: Problem,
    budgets: Sequence[int],
    solver: Solver,
    *,
    time_limit_s: float = 60.0,
    gap: float = GAP,
    clock: Callable[[], float] = time.monotonic,
    known: Sequence[Solution] = (),
    on_point: Callable[[Point], None] | None = None,
) -> tuple[Point, ...]:
    """A point per budget, tightest first; deadline and page store are the problem's.

    `known` are solutions of this problem under other budgets: they are points already.

    Budgets are solved from loose to tight. All of them together get `time_limit_s`; what one does not
    use is left to the others. Afterwards they share what they know: a tight plan is one for looser
    budgets too, and no plan of a tight budget takes less than the bound of a looser one.
    """
    end_s = clock() + time_limit_s
    given = {s.plan.budget.ram_bytes: s for s in known}
    left = len(set(budgets) - given.keys())
    points: list[Point] = []
    for ram_bytes in sorted({*budgets, *given}, reverse=True):
        if ram_bytes in given:
            points.append(Point(ram_bytes=ram_bytes, found=given[ram_bytes]))
            continue
        posed = replace(problem, budget=replace(problem.budget, ram_bytes=ram_bytes))
        share_s = max(0.1, (end_s - clock()) / left)
        left -= 1
        points.append(_point(posed, solver, share_s, points, known))
        if on_point is not None:
            on_point(points[-1])
    return _with_plans_of_tighter(problem, _with_bounds_of_looser(points), gap)


def _point(
    posed: Problem,
    solver: Solver,
    share_s: float,
    looser: Sequence[Point],
    known: Sequence[Solution],
) -> Point:
    ram_bytes = posed.budget.ram_bytes
    last = looser[-1].found if looser else None
    if isinstance(last, Infeasible) and ram_bytes >= floor(posed).ram_bytes:
        # More RAM did not help either; the floor has a message of its own.
        return Point(ram_bytes=ram_bytes, found=last)
    found_looser = (p.found for p in reversed(looser))
    plans = [s.plan for s in (*found_looser, *known) if isinstance(s, Solution)]
    starts = tuple({plan.digest: plan for plan in plans}.values())
    try:
        found: Solution | FedpoetError = solver(posed, time_limit_s=share_s, starts=starts)
    except (Infeasible, NoPlanInTime) as error:
        found = error
    return Point(ram_bytes=ram_bytes, found=found)


def _with_bounds_of_looser(loose_first: Sequence[Point]) -> list[Point]:
    best_j, known = 0.0, []
    for point in loose_first:
        if isinstance(point.found, Solution):
            best_j = max(best_j, point.found.lower_bound_j)
            bound_j = min(best_j, point.found.cost.energy_j)
            point = replace(point, found=replace(point.found, lower_bound_j=bound_j))
        known.append(point)
    return known


def _with_plans_of_tighter(
    problem: Problem, loose_first: Sequence[Point], gap: float
) -> tuple[Point, ...]:
    """Tightest first; where a tighter budget's plan takes less energy, it is the plan."""
    best: Solution | None = None
    shared: list[Point] = []
    for point in reversed(loose_first):
        own = point.found if isinstance(point.found, Solution) else None
        if best is not None and (own is None or best.cost.energy_j < own.cost.energy_j):
            own = _taken_over(best, own, problem, point.ram_bytes)
        if own is not None:
            best = _judged(own, gap)
            point = replace(point, found=best)
        shared.append(point)
    return tuple(shared)


def _taken_over(
    tighter: Solution, own: Solution | None, problem: Problem, ram_bytes: int
) -> Solution:
    """A tighter budget's plan as the solution of a looser budget; the bound stays the looser one's."""
    budget = replace(problem.budget, ram_bytes=ram_bytes)
    plan = replace(tighter.plan, budget=budget)
    check(plan, replace(problem, budget=budget))
    once_j = problem.compute_once.energy_j
    bound_j = once_j if own is None else own.lower_bound_j
    return replace(tighter, plan=plan, lower_bound_j=min(bound_j, tighter.cost.energy_j))


def _judged(solution: Solution, gap: float) -> Solution:
    energy_j = solution.cost.energy_j
    distance = (energy_j - solution.lower_bound_j) / energy_j if energy_j else 0.0
    status = Status.OPTIMAL if distance <= gap else Status.FEASIBLE
    return replace(solution, gap=distance, status=status)
