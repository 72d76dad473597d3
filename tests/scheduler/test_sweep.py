"""The frontier is one: more RAM never takes more energy, and what is proven is proven."""

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
    floor,
    keep_all,
    replay,
    solve,
)
from scheduler.backends import Highs
from scheduler.least_ram import least_ram, needs
from scheduler.plan import Status
from scheduler.sweep import budgets_between, sweep
from tests.scheduler.problems import chain, training_step
from tests.strategies import problems


def plainly(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...]) -> Solution:
    return solve(problem, time_limit_s=time_limit_s, backend=Highs())


@settings(max_examples=25)
@given(problem=problems(binding=True))
def test_points_are_what_solving_each_budget_gives(problem: Problem) -> None:
    budgets = budgets_between(problem, 4)
    points = sweep(problem, budgets, plainly, time_limit_s=60)
    assert [p.ram_bytes for p in points] == list(budgets)
    for point in points:
        posed = replace(problem, budget=replace(problem.budget, ram_bytes=point.ram_bytes))
        if isinstance(point.found, Solution):
            check(point.found.plan, posed)
            alone = solve(posed, time_limit_s=20, backend=Highs())
            assert point.found.cost.energy_j == pytest.approx(alone.cost.energy_j, rel=2e-4)
            assert point.found.lower_bound_j <= alone.cost.energy_j * (1 + 1e-9)
        else:
            with pytest.raises(Infeasible):
                solve(posed, time_limit_s=20, backend=Highs())
    energies = [p.found.cost.energy_j for p in points if isinstance(p.found, Solution)]
    assert energies == sorted(energies, reverse=True)


def test_budgets_reach_from_the_floor_to_keep_all() -> None:
    problem = chain()
    budgets = budgets_between(problem, 8)
    assert budgets[0] == floor(problem).ram_bytes
    assert budgets[-1] == replay(keep_all(problem), problem).peak_bytes
    assert list(budgets) == sorted(set(budgets))
    assert budgets_between(problem, 1) == budgets[-1:]


def test_a_plan_found_for_less_ram_serves_more_ram_and_its_bound_does_not() -> None:
    problem = chain()
    loose, tight = 60, 40
    asked: list[tuple[int, int]] = []

    def hurried(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...]) -> Solution:
        """Finds nothing for the loose budget, as a solver in a hurry may."""
        asked.append((problem.budget.ram_bytes, len(starts)))
        if problem.budget.ram_bytes == loose:
            raise NoPlanInTime("no time")
        return solve(problem, time_limit_s=time_limit_s, backend=Highs())

    points = sweep(problem, (tight, loose), hurried)
    assert asked == [(loose, 0), (tight, 0)]
    first, second = (p.found for p in points)
    assert isinstance(first, Solution)
    assert isinstance(second, Solution)
    assert second.plan.steps == first.plan.steps
    check(second.plan, replace(problem, budget=Budget(ram_bytes=loose)))
    assert second.lower_bound_j == problem.compute_once.energy_j < first.lower_bound_j
    assert (first.status, second.status) == (Status.OPTIMAL, Status.FEASIBLE)


def test_a_tight_budget_is_tried_with_the_plans_of_looser_ones() -> None:
    seen: list[tuple[int, ...]] = []

    def noting(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...]) -> Solution:
        seen.append(tuple(plan.budget.ram_bytes for plan in starts))
        return solve(problem, time_limit_s=time_limit_s, backend=Highs())

    sweep(chain(), (40, 50, 60), noting)
    assert seen == [(), (60,), (50, 60)]


def test_a_solution_that_is_known_is_a_point_and_is_not_solved_again() -> None:
    problem = chain()
    own = solve(replace(problem, budget=Budget(ram_bytes=50)), backend=Highs())
    seen: list[tuple[int, tuple[int, ...]]] = []

    def noting(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...]) -> Solution:
        seen.append((problem.budget.ram_bytes, tuple(s.budget.ram_bytes for s in starts)))
        return solve(problem, time_limit_s=time_limit_s, backend=Highs())

    points = sweep(problem, (40, 50, 60), noting, known=(own,))
    assert [p.ram_bytes for p in points] == [40, 50, 60]
    assert points[1].found == own
    assert seen == [(60, (50,)), (40, (50, 60))]


def test_time_that_is_not_used_is_left_to_the_others() -> None:
    now = 0.0
    shares: list[float] = []

    def quick(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...]) -> Solution:
        nonlocal now
        shares.append(time_limit_s)
        now += 1.0
        return solve(problem, backend=Highs())

    sweep(chain(), (40, 50, 60), quick, time_limit_s=9.0, clock=lambda: now)
    assert shares == [3.0, 4.0, 7.0]


def test_a_deadline_that_no_ram_can_meet_is_solved_once() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=0, time_s=1.0))
    asked: list[int] = []

    def noting(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...]) -> Solution:
        asked.append(problem.budget.ram_bytes)
        return solve(problem, time_limit_s=time_limit_s, backend=Highs())

    points = sweep(problem, (20, 40, 50, 60), noting)
    assert asked == [60, 20]
    assert all(isinstance(p.found, Infeasible) for p in points)
    assert "below the floor" in str(points[0].found)
    assert "deadline" in str(points[1].found)


@settings(max_examples=40)
@given(problem=problems())
def test_the_least_ram_is_found_and_less_is_refuted_where_it_says_so(problem: Problem) -> None:
    try:
        least = least_ram(problem, time_limit_s=20, backend=Highs())
    except Infeasible:
        peak = replay(keep_all(problem), problem).peak_bytes
        with pytest.raises(Infeasible):
            solve(replace(problem, budget=replace(problem.budget, ram_bytes=peak)), backend=Highs())
        return
    assert replay(least.plan, problem).peak_bytes == least.ram_bytes
    check(
        least.plan,
        replace(problem, budget=least.plan.budget),
    )
    assert floor(problem).ram_bytes <= least.ram_bytes
    below = replace(problem, budget=replace(problem.budget, ram_bytes=least.refuted_bytes))
    with pytest.raises(Infeasible):
        solve(below, time_limit_s=20, backend=Highs())


def test_the_least_ram_of_a_chain_is_its_floor() -> None:
    problem = chain()
    least = least_ram(problem, backend=Highs())
    assert least.proven
    assert least.ram_bytes == floor(problem).ram_bytes == 30
    hurried = replace(problem, budget=Budget(ram_bytes=0, time_s=10.0))
    assert (
        least_ram(hurried, backend=Highs()).ram_bytes
        == replay(keep_all(problem), problem).peak_bytes
    )


@settings(max_examples=50)
@given(problem=problems())
def test_no_operator_needs_more_than_the_floor(problem: Problem) -> None:
    most = needs(problem)
    assert most[0].ram_bytes <= floor(problem).ram_bytes
    assert len(most) == len(problem.graph.operators)


def test_needs_are_ordered_and_named() -> None:
    assert [(n.ram_bytes, n.operator) for n in needs(training_step())] == [
        (18, "layer"),
        (18, "backward"),
        (14, "update"),
        (7, "loss"),
    ]
