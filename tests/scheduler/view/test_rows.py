"""The figures printed of a plan."""

from __future__ import annotations

from dataclasses import replace

from scheduler import Budget, Plan, Problem, keep_all, replay, solve
from scheduler.arena import arena_bytes
from scheduler.view.rows import lines, solution_rows, use_rows
from tests.scheduler.problems import chain


def test_a_search_cut_short_says_why() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=50))
    solution = replace(solve(problem), wall_s=1.5, backend="HiGHS")
    assert dict(solution_rows(solution, problem))["status"] == "optimal (HiGHS, 1.50 s)"
    stopped = replace(solution, cut_short="Ctrl-C")
    status = dict(solution_rows(stopped, problem))["status"]
    assert status == "optimal (HiGHS, 1.50 s; cut short: Ctrl-C)"


def arena_row(plan: Plan, problem: Problem) -> str:
    return dict(use_rows(plan, problem))["arena"]


def test_the_arena_stands_beside_the_peak() -> None:
    problem = chain()
    plan = keep_all(problem)
    peak = replay(plan, problem).peak_bytes
    total = arena_bytes(plan, problem)
    assert arena_row(plan, problem).startswith(f"{total:,} bytes: ")
    assert ("no more than the peak" in arena_row(plan, problem)) == (total == peak)
    assert (
        lines(use_rows(plan, problem)).splitlines()[1]
        == f"arena          {arena_row(plan, problem)}"
    )
