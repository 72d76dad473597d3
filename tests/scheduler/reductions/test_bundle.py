"""Tensors of one role move together: plans come back valid at the same cost, and the bound bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import Budget, Plan, Problem, Tensor, check, keep_all, page_all, replay
from scheduler.backends import Highs, Verdict, minimize
from scheduler.charges import energy_of
from scheduler.formulation import formulate
from scheduler.problem import Cost, CostTable
from scheduler.reductions.bundle import Bundle, reduced_plan
from scheduler.reruns import all_reruns, worthwhile_reruns
from scheduler.stages import relaxation
from tests.scheduler.brute_force import least_energy_j
from tests.scheduler.problems import training_step
from tests.strategies import planned, problems


def doubled(problem: Problem) -> Problem:
    """Every tensor twice, the second a byte larger: each pair has one role."""
    graph, costs = problem.graph, problem.costs
    count = len(graph.tensors)
    twins = (
        replace(t, id=t.id + count, name=t.name + "'", size_bytes=t.size_bytes + 1)
        for t in graph.tensors
    )
    tensors: tuple[Tensor, ...] = (*graph.tensors, *twins)

    def both(ks: tuple[int, ...]) -> tuple[int, ...]:
        return (*ks, *(k + count for k in ks))

    operators = tuple(
        replace(op, inputs=both(op.inputs), outputs=both(op.outputs), mutates=both(op.mutates))
        for op in graph.operators
    )
    wide = replace(graph, operators=operators, tensors=tensors, results=both(graph.results))
    table = replace(costs, page_in=costs.page_in * 2, page_out=costs.page_out * 2)
    budget = replace(problem.budget, ram_bytes=2 * problem.budget.ram_bytes + count)
    return Problem(graph=wide, costs=table, budget=budget)


@settings(max_examples=60)
@given(planned())
def test_a_plan_of_the_bundles_is_a_plan_of_the_members_at_the_same_cost(
    given_plan: tuple[Problem, Plan],
) -> None:
    original = doubled(given_plan[0])
    reduced, inverse = Bundle().apply(original)
    assert len(reduced.graph.tensors) <= len(original.graph.tensors) // 2
    for make in (keep_all, page_all):
        wide = replace(reduced, budget=Budget(ram_bytes=10**9))
        plan = make(wide)
        back = Bundle().invert(plan, inverse)
        free = replace(original, budget=wide.budget)
        check(back, free)
        one, other = replay(plan, wide), replay(back, free)
        assert other.peak_bytes == one.peak_bytes
        assert other.time_s == pytest.approx(one.time_s)
        assert other.energy_j == pytest.approx(one.energy_j)
        assert reduced_plan(back, inverse) == plan


@settings(max_examples=60)
@given(problems(binding=True))
def test_the_proportional_relaxation_bounds_the_best_plan_of_the_members(problem: Problem) -> None:
    best = least_energy_j(problem)
    reduced, _ = Bundle(proportional=True).apply(problem)
    forms = (
        formulate(reduced, all_reruns(reduced.graph)),
        relaxation(reduced, worthwhile_reruns(problem)),
    )
    for form in forms:
        outcome = minimize(
            Highs(), form.model, start=None, time_limit_s=60.0, gap=0.0, relaxed=True
        )
        if best is None:
            return
        assert outcome.verdict is Verdict.OPTIMAL
        assert outcome.bound is not None
        assert energy_of(reduced, outcome.bound) <= best * (1 + 1e-6) + 1e-6


def test_members_that_are_best_treated_differently_do_not_spoil_the_bound() -> None:
    problem = doubled(training_step())
    uneven = tuple(Cost(time_s=0.0, energy_j=float(k)) for k in range(len(problem.graph.tensors)))
    costs = CostTable(operators=problem.costs.operators, page_in=uneven, page_out=uneven)
    _, inverse = Bundle(proportional=True).apply(replace(problem, costs=costs))
    for bundle, members in enumerate(inverse.members):
        for one in (inverse.reduced.costs.page_in, inverse.reduced.costs.page_out):
            whole = inverse.reduced.graph.tensors[bundle].size_bytes
            for k in members:
                share = problem.graph.tensors[k].size_bytes / whole
                assert one[bundle].energy_j * share <= uneven[k].energy_j + 1e-9
