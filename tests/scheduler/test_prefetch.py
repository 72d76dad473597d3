"""Reordering for devices that page beside compute: same steps, same limits, never later."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import (
    Budget,
    Compute,
    Cost,
    Free,
    PageIn,
    PageOut,
    Plan,
    Problem,
    check,
    replay,
)
from scheduler.prefetch import prefetch
from tests.scheduler.problems import chain
from tests.strategies import planned


@settings(max_examples=200)
@given(planned(overlap=True, spare=True))
def test_same_steps_within_the_same_limits_and_never_later(case: tuple[Problem, Plan]) -> None:
    problem, plan = case
    moved = prefetch(plan, problem)
    check(moved, problem)
    assert Counter(moved.steps) == Counter(plan.steps)
    for kind in (Compute, PageOut):
        assert [s for s in moved.steps if isinstance(s, kind)] == [
            s for s in plan.steps if isinstance(s, kind)
        ]
    before, after = replay(plan, problem), replay(moved, problem)
    assert after.time_s <= before.time_s
    assert after.energy_j <= before.energy_j
    assert moved is plan or after.time_s < before.time_s
    # What was moved once is left alone, or gains again; it never loses.
    assert replay(prefetch(moved, problem), problem).time_s <= after.time_s


@settings(max_examples=50)
@given(planned(overlap=False, spare=True))
def test_without_overlap_the_plan_is_left_alone(case: tuple[Problem, Plan]) -> None:
    problem, plan = case
    assert prefetch(plan, problem) is plan


JUST_IN_TIME = (
    *(Compute(0), PageOut(0), Compute(1), Free(0), PageOut(1), Compute(2), Free(1), Compute(3)),
    *(Compute(4), Free(3), Compute(5), Free(4), Free(2)),
    *(PageIn(1), Compute(6), Free(5), Free(1), PageIn(0), Compute(7), Free(6), Free(0), Free(7)),
)


def just_in_time(ram_bytes: int, page_s: float) -> tuple[Problem, Plan]:
    """Four layers whose first two activations are paged, out at once and in just before their use."""
    problem = chain(4, page_s)
    problem = replace(
        problem,
        costs=replace(problem.costs, overlap=True),
        budget=Budget(ram_bytes=ram_bytes),
    )
    plan = Plan(graph_digest=problem.graph.digest, budget=problem.budget, steps=JUST_IN_TIME)
    check(plan, problem)
    return problem, plan


@pytest.mark.parametrize(("page_s", "best_s"), [(0.25, 8.0), (1.0, 8.0), (1.5, 8.5)])
def test_paging_hides_where_ram_allows(page_s: float, best_s: float) -> None:
    """Compute takes 8 s, and with room for one tensor more than the given plan needs, paging none.

    Reads of 1.5 s cannot hide quite: until op5 ends, after 6 s, there is room for one of them only,
    so that the second ends after 7.5 s and op7 waits for it.
    """
    problem, plan = just_in_time(40, page_s)
    given = replay(plan, problem)
    assert given.peak_bytes == 30
    assert given.time_s > best_s
    used = replay(prefetch(plan, problem), problem)
    assert used.time_s == best_s
    assert used.peak_bytes == 40


def test_without_spare_ram_there_is_nothing_to_gain() -> None:
    problem, plan = just_in_time(30, 1.0)
    assert prefetch(plan, problem) is plan


def test_a_plan_made_for_less_ram_keeps_to_that() -> None:
    """The plan's own budget holds, even where the problem allows more."""
    problem, plan = just_in_time(60, 1.0)
    strict = replace(plan, budget=Budget(ram_bytes=30))
    assert replay(prefetch(strict, problem), problem).peak_bytes == 30


def test_where_reading_is_the_bottleneck_it_never_pauses() -> None:
    """Reads of 10 s each cannot hide; the second starts when the first ends, and writes are over."""
    problem, plan = just_in_time(80, 1.0)
    costs = replace(problem.costs, page_in=(Cost(time_s=10.0, energy_j=1.0),) * 8)
    slow = replace(problem, costs=costs)
    moved = prefetch(plan, slow)
    reads = [f.time_s for f in replay(moved, slow).frames if isinstance(f.step, PageIn)]
    assert reads[1] - reads[0] == 10.0
    # t1 can be read from 3 s on, when its page-out ends; op7 needs t0, read right after it.
    assert replay(moved, slow).time_s == 3.0 + 2 * 10.0 + 1.0
