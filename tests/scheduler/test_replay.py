"""Bytes in the page store, counted exactly: what a copy takes, and when it is given up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import (
    Budget,
    Compute,
    Free,
    InvalidPlan,
    PageIn,
    PageOut,
    Plan,
    Problem,
    Step,
    check,
    page_all,
    replay,
)
from tests.scheduler.problems import chain, training_step
from tests.strategies import planned


def plan_of(problem: Problem, *steps: Step, paged: tuple[int, ...] = ()) -> Plan:
    plan = Plan(
        graph_digest=problem.graph.digest,
        budget=problem.budget,
        steps=steps,
        paged_at_start=paged,
    )
    check(plan, problem)
    return plan


def store_after(plan: Plan, problem: Problem) -> list[int]:
    return [f.page_store_bytes for f in replay(plan, problem).frames]


LAST_USE = (Compute(3), Free(0), Free(2), Free(3))


def test_a_copy_goes_with_the_last_page_in_of_it() -> None:
    """t0 is paged in twice from one copy: the copy lasts from the page-out to the second page-in."""
    problem = chain(2)
    plan = plan_of(
        problem,
        *(Compute(0), PageOut(0), Compute(1), Free(0), PageIn(0), Free(0)),
        *(Compute(2), Free(1), PageIn(0), *LAST_USE),
    )
    assert store_after(plan, problem) == [0, 10, 10, 10, 10, 10, 10, 10, 0, 0, 0, 0, 0]
    assert replay(plan, problem).page_store_peak_bytes == 10


def test_a_copy_that_is_never_read_again_lasts_to_the_end() -> None:
    problem = chain(2)
    plan = plan_of(
        problem,
        *(Compute(0), PageOut(0), Compute(1), Free(0), PageIn(0), PageOut(0)),
        *(Compute(2), Free(1), *LAST_USE),
    )
    assert store_after(plan, problem) == [0, 10, 10, 10, 0, 10, 10, 10, 10, 10, 10, 10]


def test_a_second_page_out_replaces_the_copy() -> None:
    """A tensor has one copy at most, so paging it out again takes no more room."""
    problem = chain(2)
    plan = plan_of(
        problem,
        *(Compute(0), PageOut(0), PageOut(0), Compute(1), Free(0), Compute(2), Free(1)),
        *(PageIn(0), *LAST_USE),
    )
    assert store_after(plan, problem)[:3] == [0, 10, 10]
    assert replay(plan, problem).page_store_peak_bytes == 10
    assert replay(plan, problem).page_out_bytes == 20


def test_a_tensor_that_lives_in_the_page_store_takes_its_room_all_the_time() -> None:
    problem = training_step()
    plan = plan_of(
        problem,
        *(PageIn(1), Compute(0), Free(1), Compute(1), Compute(2), Free(0), Free(3)),
        *(PageIn(1), Compute(3), PageOut(1), Free(1), Free(5)),
        paged=(1,),
    )
    assert store_after(plan, problem) == [4] * 12
    assert replay(plan, problem).page_store_peak_bytes == 4


def test_a_parameter_that_only_visits_the_page_store_leaves_nothing_there() -> None:
    """It lives in RAM between steps, so its copy goes with its last page-in like any other."""
    problem = training_step()
    plan = plan_of(
        problem,
        *(Compute(0), PageOut(1), Free(1), Compute(1), Compute(2), Free(0), Free(3)),
        *(PageIn(1), Compute(3), Free(5)),
    )
    assert store_after(plan, problem) == [0, 4, 4, 4, 4, 4, 4, 0, 0, 0]


@pytest.mark.parametrize("overlap", [False, True])
def test_the_page_store_limit_is_kept_to_the_byte(overlap: bool) -> None:
    """Two copies of 10 bytes at once, of three in all: 20 bytes are enough and 19 are not."""
    problem = chain(3)
    problem = replace(problem, costs=replace(problem.costs, overlap=overlap))
    steps = (
        *(Compute(0), PageOut(0), Compute(1), Free(0), PageOut(1), Compute(2), Free(1), PageIn(1)),
        *(PageOut(2), Free(2), PageIn(2), Compute(3), Free(2), Compute(4), Free(1), Free(3)),
        *(PageIn(0), Compute(5), Free(0), Free(4), Free(5)),
    )
    enough = replace(problem, budget=Budget(ram_bytes=40, page_store_bytes=20))
    plan = plan_of(enough, *steps)
    assert replay(plan, enough).page_store_peak_bytes == 20
    less = replace(problem, budget=Budget(ram_bytes=40, page_store_bytes=19))
    with pytest.raises(InvalidPlan) as caught:
        check(replace(plan, budget=less.budget), less)
    assert caught.value.rule == "page-store"


@settings(max_examples=200)
@given(planned())
def test_the_page_store_holds_what_a_set_of_copies_would(case: tuple[Problem, Plan]) -> None:
    """Against the definition: a copy is there if it will be read, or lives there, or nobody reads it."""
    problem, plan = case
    size = [t.size_bytes for t in problem.graph.tensors]
    most = 0
    for n, frame in enumerate(replay(plan, problem).frames):
        done, coming = plan.steps[: n + 1], plan.steps[n + 1 :]
        held = 0
        for k in range(len(size)):
            if k in plan.paged_at_start:
                held += size[k]
                continue
            written = [m for m, s in enumerate(done) if s == PageOut(k)]
            read = [m for m, s in enumerate(done) if s == PageIn(k)]
            over = PageIn(k) not in coming and read and read[-1] > written[-1]
            held += size[k] if written and not over else 0
        assert frame.page_store_bytes == held
        most = max(most, held)
    start = sum(size[k] for k in plan.paged_at_start)
    assert replay(plan, problem).page_store_peak_bytes == max(most, start)


def test_page_all_needs_room_for_all_it_pages_at_once() -> None:
    problem = chain(3)
    used = replay(page_all(problem), problem)
    assert used.page_store_peak_bytes == 30
