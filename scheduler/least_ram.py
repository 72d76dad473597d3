"""How little RAM will do: what each moment of the step needs, and the least with which a plan is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .backends import Backend
from .baselines import keep_all, page_all
from .check import is_valid
from .errors import Infeasible, NoPlanInTime
from .floor import Floor, floor, operator_floors
from .greedy import greedy
from .plan import Plan
from .problem import Problem
from .replay import replay
from .solve import solve

# Any plan will do, however much energy it takes: the solver stops at its first.
ANY_GAP = 1e9
# One try may take this share of the time.
TRY_SHARE = 0.15
# The search ends when nothing is left to learn but this share of the RAM.
PRECISION = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastRam:
    """`plan` holds `ram_bytes`, the least of all plans found; no plan holds `refuted_bytes` or less.

    Between the two, the search found nothing and proved nothing.
    """

    ram_bytes: int
    refuted_bytes: int
    plan: Plan

    @property
    def proven(self) -> bool:
        """Whether it is known that no plan needs less."""
        return self.ram_bytes == self.refuted_bytes + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The problem posed by a change of model, batch or optimizer, or why it does not apply."""

    name: str
    posed: Problem | str


def needs(problem: Problem) -> tuple[Floor, ...]:
    """Operators by the RAM that they need with nothing else in RAM, most first.

    Persistent tensors that may not be paged are always in RAM, so they count for all.
    """
    return tuple(sorted(operator_floors(problem), key=lambda need: -need.ram_bytes))


def least_ram(
    problem: Problem,
    *,
    time_limit_s: float = 20.0,
    backend: Backend | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> LeastRam:
    """Search between the floor and a plan that is known, within the problem's deadline and page store.

    Raises Infeasible or NoPlanInTime when no plan is found even with as much RAM as keep-all needs.
    """
    end_s = clock() + time_limit_s
    lowest = floor(problem).ram_bytes
    first = _first(problem, time_limit_s * TRY_SHARE, backend)
    best = _by_known_plans(problem, first, clock, end_s)
    refuted = fruitless = lowest - 1
    while True:
        least = replay(best, problem).peak_bytes
        left_s = end_s - clock()
        if _near(fruitless, least) or left_s <= 0:
            break
        # The floor is worth a try of its own: often a plan reaches it.
        middle = lowest if fruitless < lowest else (least + fruitless) // 2
        try:
            try_s = min(left_s, time_limit_s * TRY_SHARE)
            best = _any_plan(problem, middle, try_s, backend)
        except Infeasible:
            refuted = fruitless = middle
        except NoPlanInTime:
            fruitless = middle
    return LeastRam(ram_bytes=least, refuted_bytes=min(refuted, least - 1), plan=best)


def _near(too_little: int, enough: int) -> bool:
    return enough - too_little <= max(1, int(PRECISION * enough))


def _by_known_plans(problem: Problem, best: Plan, clock: Callable[[], float], end_s: float) -> Plan:
    """Go down as far as plans that need no solver reach."""
    too_little = floor(problem).ram_bytes - 1
    while not _near(too_little, least := replay(best, problem).peak_bytes) and clock() < end_s:
        middle = (least + too_little) // 2
        posed = _with_ram(problem, middle)
        valid = (plan for plan in _known(posed, middle) if is_valid(plan, posed))
        found = next(valid, None)
        if found is None:
            too_little = middle
        else:
            best = found
    return best


def _first(problem: Problem, time_limit_s: float, backend: Backend | None) -> Plan:
    """The plan to start from: of those known, the one that holds least RAM."""
    roomy = _with_ram(problem, sum(_everything(problem)))
    known = [plan for plan in _known(roomy, floor(problem).ram_bytes) if is_valid(plan, roomy)]
    if known:
        return min(known, key=lambda plan: replay(plan, problem).peak_bytes)
    peak_bytes = replay(keep_all(problem), problem).peak_bytes
    return _any_plan(problem, peak_bytes, time_limit_s, backend)


def _everything(problem: Problem) -> Iterable[int]:
    yield from (t.size_bytes for t in problem.graph.tensors)
    yield max(op.workspace_bytes for op in problem.graph.operators)


def _known(roomy: Problem, lowest: int) -> Iterable[Plan]:
    yield keep_all(roomy)
    yield page_all(roomy)
    for home in dict.fromkeys(((), roomy.graph.may_live_paged)):
        if (plan := greedy(_with_ram(roomy, lowest), home)) is not None:
            yield replace(plan, budget=roomy.budget)


def _any_plan(
    problem: Problem, ram_bytes: int, time_limit_s: float, backend: Backend | None
) -> Plan:
    posed = _with_ram(problem, ram_bytes)
    return solve(posed, time_limit_s=max(time_limit_s, 0.1), gap=ANY_GAP, backend=backend).plan


def _with_ram(problem: Problem, ram_bytes: int) -> Problem:
    return replace(problem, budget=replace(problem.budget, ram_bytes=ram_bytes))
