"""The parts of a plan's energy add up to what the accountant charges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from scheduler import Problem, keep_all, page_all, replay
from scheduler.greedy import greedy
from scheduler.view.spending import spending
from tests.scheduler.problems import training_step
from tests.strategies import problems


@settings(max_examples=100)
@given(problem=problems())
def test_the_parts_add_up(problem: Problem) -> None:
    for plan in filter(None, (keep_all(problem), page_all(problem), greedy(problem))):
        spent = spending(plan, problem)
        whole = spent.compute_j + spent.recompute_j + spent.paging_j + spent.idle_j
        assert whole == pytest.approx(replay(plan, problem).energy_j)


def test_keep_all_spends_on_computing_only() -> None:
    problem = training_step()
    spent = spending(keep_all(problem), problem)
    assert (spent.compute_j, spent.recompute_j, spent.paging_j, spent.idle_j) == (4.0, 0, 0, 0)
    paged = spending(page_all(problem), problem)
    assert paged.paging_j > 0 == paged.recompute_j
