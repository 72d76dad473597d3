"""From a problem to a checked plan with its proof."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .backends import Backend, Highs, Outcome, Verdict, minimize
from .baselines import keep_all, page_all
from .check import check
from .decode import decode
from .encode import encode
from .errors import Infeasible, InvalidPlan, NoPlanInTime
from .floor import floor
from .formulation import energy_of, forbid_dear_moves, formulate
from .greedy import greedy
from .plan import Plan, Solution, Status
from .problem import Cost, Problem
from .replay import replay
from .timeline import Scope, slots_of

# Above this many operators the program offers reruns of forward operators only.
FULL_SCOPE_OPERATORS = 40
# The share of the time limit that may go into the bound when the program is not complete.
RELAXATION_SHARE = 0.25
# The first solve of such a program: its share of the time that is left, and how much a single move may
# cost, relative to the overhead that the bound says no plan can avoid.
FIRST_SOLVE_SHARE = 0.85
DEAR_SHARE = 1.5


def solve(
    problem: Problem,
    *,
    time_limit_s: float = 60.0,
    gap: float = 1e-4,
    backend: Backend | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Solution:
    """The least-energy plan within the budget, or the best found in `time_limit_s` seconds.

    OPTIMAL means: proven within `gap` (relative to the plan's energy) of the least energy of any plan.

    Raises:
        Infeasible: no plan fits; carries the floor and its operator, or the least time.
        NoPlanInTime: the time limit ended first.
    """
    began = clock()
    solver = _Solver(problem, backend or Highs(), gap, clock, began + time_limit_s)
    _require_floor(problem)
    best = _cheapest(problem, _known_plans(problem))
    bound_j = problem.compute_once.energy_j
    if best is None or replay(best, problem).energy_j > bound_j * (1 + gap):
        best, bound_j = solver.improve(best)
    used = replay(best, problem)
    distance = max(0.0, used.energy_j - bound_j) / used.energy_j if used.energy_j else 0.0
    return Solution(
        status=Status.OPTIMAL if distance <= gap else Status.FEASIBLE,
        plan=best,
        cost=Cost(time_s=used.time_s, energy_j=used.energy_j),
        lower_bound_j=min(bound_j, used.energy_j),
        gap=distance,
        wall_s=clock() - began,
        backend=solver.backend.name,
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
    """Plans that need no solver."""
    yield keep_all(problem)
    yield page_all(problem)
    for paged_at_start in dict.fromkeys(((), problem.graph.may_live_paged)):
        plan = greedy(problem, paged_at_start)
        if plan is not None:
            yield plan


def _cheapest(problem: Problem, plans: Iterable[Plan]) -> Plan | None:
    """The valid plan of least energy."""
    valid = [plan for plan in plans if _is_valid(plan, problem)]
    return min(valid, key=lambda plan: replay(plan, problem).energy_j, default=None)


def _is_valid(plan: Plan, problem: Problem) -> bool:
    try:
        check(plan, problem)
    except InvalidPlan:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Solver:
    problem: Problem
    backend: Backend
    gap: float
    clock: Callable[[], float]
    end_s: float

    @property
    def _scope(self) -> Scope:
        small = len(self.problem.graph.operators) <= FULL_SCOPE_OPERATORS
        return Scope.FULL if small else Scope.FORWARD

    def improve(self, best: Plan | None) -> tuple[Plan, float]:
        """Solve the program; the best plan known and a proven lower bound on the energy of any."""
        bound = None
        if self._scope is not Scope.FULL:
            # A program that does not offer every rerun proves nothing about plans that use the others.
            bound = self._relaxation()
            if bound is not None:
                best = self._without_dear_moves(best, bound)
        outcome, found = self._solve_within(self.problem, best)
        if self._scope is Scope.FULL:
            bound = outcome.bound
        plan = _cheapest(self.problem, filter(None, (found, best)))
        if plan is None:
            raise self._failure(outcome)
        once_j = self.problem.compute_once.energy_j
        return plan, once_j if bound is None else max(once_j, energy_of(self.problem, bound))

    def _without_dear_moves(self, best: Plan | None, bound: float) -> Plan | None:
        """A first solve in which no single move costs much beside the bound's whole overhead.

        Plans near the bound consist of such moves, and the program that offers nothing else is much
        easier. `best` comes back if that finds nothing better.
        """
        once_j = self.problem.compute_once.energy_j
        dearest_j = DEAR_SHARE * (energy_of(self.problem, bound) - once_j)
        _, found = self._solve_within(self.problem, None, dearest_j, FIRST_SOLVE_SHARE)
        return _cheapest(self.problem, filter(None, (found, best)))

    def _relaxation(self) -> float | None:
        """A bound on every plan: the program with all reruns, without whole numbers."""
        form = formulate(self.problem, Scope.FULL)
        outcome = minimize(
            self.backend,
            form.model,
            start=None,
            time_limit_s=self._left_s() * RELAXATION_SHARE,
            gap=0.0,
            relaxed=True,
        )
        return outcome.bound

    def _solve_within(
        self,
        problem: Problem,
        best: Plan | None,
        dearest_j: float = math.inf,
        time_share: float = 1.0,
    ) -> tuple[Outcome, Plan | None]:
        """Solve, and again with a slightly smaller budget if the solver's tolerance let RAM slip over."""
        outcome, plan = self._solve_once(problem, best, dearest_j, time_share)
        if plan is None:
            return outcome, None
        excess = replay(plan, self.problem).peak_bytes - self.problem.budget.ram_bytes
        if excess <= 0:
            check(plan, self.problem)
            return outcome, plan
        tighter = replace(problem.budget, ram_bytes=problem.budget.ram_bytes - excess)
        _, plan = self._solve_within(replace(problem, budget=tighter), None, dearest_j, time_share)
        return outcome, plan

    def _solve_once(
        self,
        problem: Problem,
        best: Plan | None,
        dearest_j: float,
        time_share: float,
    ) -> tuple[Outcome, Plan | None]:
        form = formulate(problem, self._scope, also=slots_of(best) if best else frozenset())
        forbid_dear_moves(form, dearest_j)
        outcome = minimize(
            self.backend,
            form.model,
            start=encode(form, best) if best else None,
            time_limit_s=self._left_s() * time_share,
            gap=self.gap,
        )
        if outcome.verdict in (Verdict.OPTIMAL, Verdict.FEASIBLE):
            return outcome, replace(decode(form), budget=self.problem.budget)
        return outcome, None

    def _left_s(self) -> float:
        return max(self.end_s - self.clock(), 0.1)

    def _failure(self, outcome: Outcome) -> Exception:
        if outcome.verdict is not Verdict.INFEASIBLE:
            return NoPlanInTime(
                "the time limit ended before a plan was found: give more time, RAM or deadline"
            )
        floors = floor(self.problem)
        budget = self.problem.budget
        fastest = self._least_time() if budget.time_s is not None else None
        if fastest is None:
            return Infeasible(
                f"no plan fits {budget.ram_bytes} bytes of RAM: the floor of {floors.ram_bytes} bytes "
                f"({floors.operator}) is reached only where all tensors may be paged and the page store "
                f"(limit: {budget.page_store_bytes}) holds them; allow more RAM or page store",
                floor_bytes=floors.ram_bytes,
                operator=floors.operator,
            )
        return Infeasible(
            f"no plan within {budget.ram_bytes} bytes of RAM meets the deadline of "
            f"{budget.time_s:.6g} s; the fastest found takes {fastest:.6g} s: "
            "allow that much time or more RAM",
            floor_bytes=floors.ram_bytes,
            operator=floors.operator,
            least_time_s=fastest,
        )

    def _least_time(self) -> float | None:
        relaxed = replace(self.problem, budget=replace(self.problem.budget, time_s=None))
        form = formulate(relaxed, self._scope, minimize_time=True)
        outcome = minimize(
            self.backend, form.model, start=None, time_limit_s=self._left_s(), gap=1e-6
        )
        if outcome.verdict not in (Verdict.OPTIMAL, Verdict.FEASIBLE):
            return None
        return replay(decode(form), relaxed).time_s
