"""What is called a bound is one: against brute force, and against plans encoded in the program."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings

from scheduler import Budget, Plan, Problem, floor, keep_all, replay, solve
from scheduler.backends import Highs, minimize
from scheduler.charges import energy_of
from scheduler.encode import encode
from scheduler.formulation import formulate
from scheduler.moments import moment_bound_j
from scheduler.reruns import all_reruns, near_reruns
from scheduler.rounding import rounding_rows
from tests.scheduler.brute_force import least_energy_j
from tests.scheduler.problems import chain
from tests.strategies import planned, problems


@settings(max_examples=60, deadline=None)
@given(problems(binding=True))
def test_no_plan_goes_below_the_worst_moment(problem: Problem) -> None:
    best = least_energy_j(problem)
    if best is not None:
        assert moment_bound_j(problem) <= best * (1 + 1e-9) + 1e-9


def test_the_worst_moment_of_a_chain_is_its_turn() -> None:
    # Between forward and backward pass five tensors of 10 bytes wait; a round trip costs 0.5 J.
    problem = replace(chain(), budget=Budget(ram_bytes=40))
    assert moment_bound_j(problem) == problem.compute_once.energy_j + 0.5 * 2


@settings(max_examples=100, deadline=None)
@given(planned())
def test_every_valid_plan_obeys_the_rounded_rows(given_plan: tuple[Problem, Plan]) -> None:
    problem, plan = given_plan
    form = formulate(problem, all_reruns(problem.graph))
    values = encode(form, plan)
    assume(values is not None)  # the program knows reruns in graph order only
    assert values is not None
    for variable, value in values.items():
        variable.varValue = value
    assert list(rounding_rows(form)) == []


def test_rounded_rows_raise_the_bound_where_tensors_are_large() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=39))
    form = formulate(problem, all_reruns(problem.graph))

    def bound() -> float:
        outcome = minimize(
            Highs(), form.model, start=None, time_limit_s=60.0, gap=0.0, relaxed=True
        )
        assert outcome.bound is not None
        return energy_of(problem, outcome.bound)

    before = bound()
    rows = list(rounding_rows(form))
    assert rows
    for row in rows:
        form.model.addConstraint(row)
    best = solve(problem, backend=Highs()).cost.energy_j
    assert before < bound() <= best + 1e-6


@settings(max_examples=60, deadline=None)
@given(problems())
def test_near_reruns_are_among_all(problem: Problem) -> None:
    everything = all_reruns(problem.graph)
    for depth in (1, 2, 9):
        assert near_reruns(problem, depth=depth, dearest=1e9) <= everything


@settings(max_examples=40, deadline=None)
@given(problems(all_pageable=True, with_deadline=False))
def test_paging_beside_compute_never_costs_more(problem: Problem) -> None:
    least = floor(problem).ram_bytes
    serial = replace(problem, budget=Budget(ram_bytes=least))
    beside = replace(serial, costs=replace(serial.costs, overlap=True, idle_w=1.0))
    serial = replace(serial, costs=replace(serial.costs, idle_w=1.0))
    one = solve(serial, backend=Highs(), gap=1e-7)
    other = solve(beside, backend=Highs(), gap=1e-7)
    assert other.cost.energy_j <= one.cost.energy_j * (1 + 1e-6) + 1e-6
    assert other.lower_bound_j <= other.cost.energy_j
    assert other.cost.time_s >= replay(keep_all(problem), problem).time_s - 1e-9
