"""From a problem to a checked plan with its proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from .backends import Backend, Highs, Isolated, opened
from .baselines import keep_all, page_all
from .baselines.capuchin import capuchin
from .baselines.dtr import dtr
from .baselines.pofo import pofo
from .errors import Infeasible
from .floor import floor
from .greedy import greedy
from .impossible import no_plan_in_time
from .incumbent import Incumbent
from .plan import Plan, Solution, Status
from .problem import Cost, CostTable, Problem
from .programs import Clock, Programs
from .reductions.bundle import Bundle, reduced_plan
from .replay import replay
from .search import improve, ways_to_hide

# Above this many operators, baselines that look at the whole step again and again take too long.
MOST_OPERATORS = 400
# How long a chain of reruns `greedy` thinks of: each choice finds plans that the other does not.
CHAINS = (6, 1)
# The share of the time limit that plans without a program may take.
KNOWN_SHARE = 0.5


def solve(
    problem: Problem,
    *,
    time_limit_s: float = 60.0,
    gap: float = 1e-4,
    backend: Backend | None = None,
    clock: Clock = time.monotonic,
    starts: Iterable[Plan] = (),
    on_plan: Callable[[Plan, float], None] | None = None,
) -> Solution:
    """The least-energy plan within the budget, or the best found in `time_limit_s` seconds.

    OPTIMAL means: proven within `gap` (relative to the plan's energy) of the least energy of any plan.
    `starts` are plans for the same graph, whatever their budget; they are used where they fit. `on_plan`
    is called with every better plan, checked, and the seconds it took. Ctrl-C and a crash of the solver
    leave the best plan so far, if there is one.

    Raises:
        Infeasible: no plan fits; carries the floor and its operator, or the least time.
        NoPlanInTime: the time limit ended first.
    """
    began_s = clock()
    _require_floor(problem)
    reduced, inverse = Bundle().apply(problem)
    incumbent = Incumbent(
        problem=problem,
        reduced=reduced,
        invert=lambda plan: Bundle().invert(plan, inverse),
        on_plan=lambda plan: on_plan(plan, clock() - began_s) if on_plan else None,
    )
    with opened(backend or Isolated(Highs())) as solver:
        programs = Programs(
            incumbent=incumbent,
            backend=solver,
            gap=gap,
            clock=clock,
            end_s=began_s + time_limit_s,
        )
        try:
            for plan in starts:
                incumbent.offer(plan)
                incumbent.offer(reduced_plan(plan, inverse))
            for plan in _known_plans(reduced):
                incumbent.offer(plan)
                if clock() > began_s + KNOWN_SHARE * time_limit_s:
                    break
            improve(programs)
        except KeyboardInterrupt:
            if incumbent.plan is None:
                raise
            programs.cut_short = "interrupted"
    if incumbent.plan is None:
        raise no_plan_in_time(programs)
    used, bound_j = replay(incumbent.plan, problem), incumbent.bound_j
    distance = max(0.0, used.energy_j - bound_j) / used.energy_j if used.energy_j else 0.0
    return Solution(
        status=Status.OPTIMAL if distance <= gap else Status.FEASIBLE,
        plan=incumbent.plan,
        cost=Cost(time_s=used.time_s, energy_j=used.energy_j),
        lower_bound_j=min(bound_j, used.energy_j),
        gap=distance,
        wall_s=clock() - began_s,
        backend=programs.backend.name,
        cut_short=programs.cut_short,
    )


def _require_floor(problem: Problem) -> None:
    least, budget = floor(problem), problem.budget.ram_bytes
    if budget < least.ram_bytes:
        raise Infeasible(
            f"a budget of {budget} bytes is below the floor of {least.ram_bytes} bytes, set by "
            f"{least.operator}: give at least that much RAM, or use a smaller batch or model",
            floor_bytes=least.ram_bytes,
            operator=least.operator,
        )


def _known_plans(problem: Problem) -> Iterable[Plan]:
    """Plans that need no program, those that come soon first."""
    yield keep_all(problem)
    yield from _if_any(greedy(problem))
    yield page_all(problem)
    if len(problem.graph.operators) <= MOST_OPERATORS:
        for baseline in (capuchin, pofo):
            yield from _if_any(baseline(problem))
    aims = [way.apply(problem)[0] for way in ways_to_hide(problem)]
    if problem.budget.time_s is not None:
        aims.append(_hurried(problem))
    yield from _if_any(dtr(problem))
    for longest_chain in CHAINS:
        for aim in aims:
            for paged_at_start in dict.fromkeys(((), problem.graph.may_live_paged)):
                yield from _if_any(greedy(aim, paged_at_start, longest_chain=longest_chain))


def _if_any(plan: Plan | None) -> tuple[Plan, ...]:
    return () if plan is None else (plan,)


def _hurried(problem: Problem) -> Problem:
    """The same steps, with time for what they cost: where the deadline is what is hard to keep."""

    def timed(costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
        return tuple(Cost(time_s=c.time_s, energy_j=c.time_s) for c in costs)

    costs = problem.costs
    table = CostTable(
        operators=timed(costs.operators),
        page_in=timed(costs.page_in),
        page_out=timed(costs.page_out),
    )
    return replace(problem, costs=table)
