"""Taking away paging or recomputing, and the way back to the original problem."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from scheduler import (
    Budget,
    Compute,
    Infeasible,
    InvalidPlan,
    PageIn,
    PageOut,
    Problem,
    check,
    keep_all,
    page_all,
    replay,
    solve,
)
from scheduler.reductions import WithoutPaging, WithoutRecomputing
from tests.scheduler.problems import chain
from tests.strategies import problems

SLOW = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("reduction", [WithoutPaging(), WithoutRecomputing()])
@settings(max_examples=50)
@given(problem=problems())
def test_the_way_back_leads_to_the_original(
    reduction: WithoutPaging | WithoutRecomputing, problem: Problem
) -> None:
    reduced, inverse = reduction.apply(problem)
    assert reduced.costs == problem.costs
    assert reduced.budget == problem.budget
    assert reduction.invert(keep_all(reduced), inverse) == keep_all(problem)
    assert reduction.apply(reduced)[0] == reduced


def test_only_the_one_means_is_gone() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=40))
    in_ram, _ = WithoutPaging().apply(problem)
    with pytest.raises(InvalidPlan, match="not pageable"):
        check(replace(page_all(problem), graph_digest=in_ram.graph.digest), in_ram)
    once, inverse = WithoutRecomputing().apply(problem)
    check(page_all(once), once)
    check(WithoutRecomputing().invert(page_all(once), inverse), problem)
    assert not any(op.recomputable for op in once.graph.operators)


@SLOW
@given(problems(binding=True))
def test_inverted_plans_hold_for_the_original_and_use_one_means(problem: Problem) -> None:
    for reduction in (WithoutPaging(), WithoutRecomputing()):
        reduced, inverse = reduction.apply(problem)
        try:
            plan = reduction.invert(solve(reduced, gap=1e-7).plan, inverse)
        except Infeasible:
            continue
        check(plan, problem)
        if isinstance(reduction, WithoutPaging):
            assert not any(isinstance(s, PageIn | PageOut) for s in plan.steps)
        else:
            assert replay(plan, problem).recomputed == ()
            assert sum(isinstance(s, Compute) for s in plan.steps) == len(problem.graph.operators)
