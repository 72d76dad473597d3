"""Plans whose arena, not only whose peak, fits the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import (
    Budget,
    Infeasible,
    NoPlanInTime,
    Plan,
    Problem,
    Solution,
    check,
    replay,
    solve,
)
from scheduler.arena import arena_bytes
from scheduler.backends import Highs
from scheduler.static import solve_in_arena
from tests.scheduler.problems import chain
from tests.strategies import problems


def solver(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...] = ()) -> Solution:
    return solve(problem, time_limit_s=time_limit_s, starts=starts, backend=Highs())


@settings(max_examples=30)
@given(problems(binding=True))
def test_the_arena_of_what_is_found_fits(problem: Problem) -> None:
    try:
        found = solve_in_arena(problem, solver, time_limit_s=60.0)
    except (Infeasible, NoPlanInTime):
        return
    check(found.plan, problem)
    assert arena_bytes(found.plan, problem) <= problem.budget.ram_bytes
    assert found.cost.energy_j == replay(found.plan, problem).energy_j
    assert found.lower_bound_j <= solver(problem, time_limit_s=60.0).cost.energy_j * (1 + 1e-6)


def test_an_arena_of_the_peak_costs_nothing_more() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=40))
    found = solve_in_arena(problem, solver, time_limit_s=60.0)
    assert found.cost == solver(problem, time_limit_s=60.0).cost


def test_no_arena_below_the_floor() -> None:
    with pytest.raises(Infeasible):
        solve_in_arena(replace(chain(), budget=Budget(ram_bytes=29)), solver, time_limit_s=60.0)
