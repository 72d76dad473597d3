"""The page of a plan: one file, whole, with the figures of the accountant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import (
    Budget,
    Cost,
    Plan,
    Problem,
    Solution,
    Status,
    keep_all,
    page_all,
    replay,
    solve,
)
from scheduler.backends import Highs
from scheduler.graph import Graph
from scheduler.sweep import budgets_between, sweep
from scheduler.view.page import plan_page
from tests.pages import assert_asks_for_nothing, assert_well_formed
from tests.scheduler.problems import chain
from tests.strategies import problems


def plainly(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...]) -> Solution:
    return solve(problem, time_limit_s=time_limit_s, backend=Highs())


@pytest.fixture(scope="module")
def problem() -> Problem:
    posed = replace(chain(), budget=Budget(ram_bytes=40))
    tensors = (replace(posed.graph.tensors[0], name="<b>&"), *posed.graph.tensors[1:])
    graph = Graph(operators=posed.graph.operators, tensors=tensors, name="a <chain>")
    return replace(posed, graph=graph)


@pytest.fixture(scope="module")
def solution(problem: Problem) -> Solution:
    return solve(problem, backend=Highs())


def test_the_page_is_one_file_and_well_formed(problem: Problem, solution: Solution) -> None:
    points = sweep(problem, (20, *budgets_between(problem, 3)), plainly)
    for page in (plan_page(solution, problem), plan_page(solution, problem, points)):
        assert_asks_for_nothing(page)
        assert_well_formed(page)
        assert "a &lt;chain&gt;" in page
        assert "&lt;b&gt;&amp;" in page
    assert page.count("<svg") == 4
    assert "below the floor of 30 bytes" in page
    assert page.count('<div class="scroll"><svg') == page.count("<svg")


def test_the_page_shows_the_plans_figures(problem: Problem, solution: Solution) -> None:
    page = plan_page(solution, problem)
    assert "optimal" in page
    assert "40 bytes of 40" in page
    assert f"{solution.cost.energy_j:.3g} J" in page
    assert "recomputed" in page
    assert page == plan_page(solution, problem)


@settings(max_examples=12)
@given(problem=problems())
def test_any_plan_has_a_page(problem: Problem) -> None:
    """Also one of operators that take no time, or of a plan that pages everything."""
    for plan in (keep_all(problem), page_all(problem)):
        used = replay(plan, problem)
        solution = Solution(
            status=Status.FEASIBLE,
            plan=plan,
            cost=Cost(time_s=used.time_s, energy_j=used.energy_j),
            lower_bound_j=problem.compute_once.energy_j,
            gap=0.1,
            wall_s=0.0,
            backend="none",
        )
        page = plan_page(solution, problem)
        assert_asks_for_nothing(page)
        assert_well_formed(page)
