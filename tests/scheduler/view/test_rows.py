"""The figures printed of a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler import Budget, keep_all, replay, solve
from scheduler.arena import arena_bytes
from scheduler.backends import Highs
from scheduler.view.rows import arena_text, lines, solution_rows, use_rows
from tests.scheduler.problems import chain


def test_a_search_cut_short_says_why() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=50))
    solution = replace(solve(problem, backend=Highs()), wall_s=1.5, backend="HiGHS")
    assert dict(solution_rows(solution, problem))["status"] == "optimal (HiGHS, 1.50 s)"
    stopped = replace(solution, cut_short="Ctrl-C")
    status = dict(solution_rows(stopped, problem))["status"]
    assert status == "optimal (HiGHS, 1.50 s; cut short: Ctrl-C)"


def test_the_arena_stands_beside_the_peak() -> None:
    problem = chain()
    plan = keep_all(problem)
    total, peak = arena_bytes(plan, problem), replay(plan, problem).peak_bytes
    text = arena_text(total, peak, plan.budget.ram_bytes)
    assert lines(use_rows(plan, problem)).splitlines()[1] == f"arena          {text}"


@pytest.mark.parametrize(
    ("total_bytes", "text"),
    [
        (1000, "1,000 bytes: fixed addresses take no more than the peak"),
        (1100, "1,100 bytes: fixed addresses take 100 more"),
        (1250, "1,250 bytes: fixed addresses take 250 more, 50 over the budget"),
    ],
)
def test_what_fixed_addresses_cost_is_said(total_bytes: int, text: str) -> None:
    assert arena_text(total_bytes, 1000, 1200) == text
