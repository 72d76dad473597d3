"""What a plan does with each tensor, and that nothing of its energy is missed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import Budget, Infeasible, Plan, Problem, keep_all, page_all, replay, solve
from scheduler.backends import Highs
from scheduler.handling import Way, decisions, gaps
from scheduler.liveness import with_frees
from scheduler.plan import Compute, PageIn, PageOut
from tests.scheduler.problems import chain, training_step
from tests.strategies import problems


def by_hand(problem: Problem, *steps: Compute | PageIn | PageOut) -> Plan:
    graph = problem.graph
    return Plan(graph_digest=graph.digest, budget=problem.budget, steps=with_frees(graph, steps))


def test_keep_all_keeps_what_backward_needs() -> None:
    problem = chain(2)  # op0, op1 forward; op2 reads t1, op3 reads t0 and t2
    found = gaps(keep_all(problem), problem.graph)
    assert [(g.tensor, g.way) for g in found] == [(0, Way.KEPT)]
    assert [d.text for d in decisions(keep_all(problem), problem)] == [
        "kept",
        "used at once",
        "used at once",
        "used at once",
    ]


def test_paging_is_charged_to_the_tensor_that_is_paged() -> None:
    problem = chain(2)
    plan = by_hand(
        problem,
        *(Compute(0), PageOut(0), Compute(1), PageIn(0), Compute(2), Compute(3)),
    )
    paged = [g for g in gaps(plan, problem.graph) if g.way is Way.PAGED]
    assert [(g.tensor, [plan.steps[p] for p in g.moves]) for g in paged] == [
        (0, [PageOut(0), PageIn(0)])
    ]
    assert decisions(plan, problem)[0].energy_j == 0.5
    assert decisions(plan, problem)[0].text == "paged"


def test_a_rerun_is_charged_to_the_tensor_it_brings_back() -> None:
    problem = chain(3)
    plan = by_hand(problem, *map(Compute, (0, 1, 2, 3, 0, 1, 4, 0, 5)))
    decided = decisions(plan, problem)
    assert decided[0].text == "recomputed × 2"
    assert decided[1].text == "recomputed"
    assert [d.energy_j for d in decided[:2]] == [2.0, 1.0]


def test_parameters_that_live_in_the_page_store_are_paged_between_steps() -> None:
    problem = training_step()
    plan = page_all(problem)
    between = [g for g in gaps(plan, problem.graph) if g.between_steps]
    assert [(g.tensor, g.way) for g in between] == [(1, Way.PAGED), (2, Way.PAGED)]
    for gap in between:
        moves = [plan.steps[p] for p in gap.moves]
        assert moves == [PageOut(gap.tensor), PageIn(gap.tensor)]
    kept = [g for g in gaps(keep_all(problem), problem.graph) if g.between_steps]
    assert [g.way for g in kept] == [Way.KEPT, Way.KEPT]


@settings(max_examples=60)
@given(problem=problems(binding=True))
def test_the_decisions_of_a_best_plan_cost_what_it_costs_above_computing_once(
    problem: Problem,
) -> None:
    problem = replace(problem, budget=Budget(ram_bytes=problem.budget.ram_bytes))
    try:
        plan = solve(problem, time_limit_s=20, backend=Highs()).plan
    except Infeasible:
        return
    spent = math.fsum(d.energy_j for d in decisions(plan, problem))
    above = replay(plan, problem).energy_j - problem.compute_once.energy_j
    assert spent == pytest.approx(above)
