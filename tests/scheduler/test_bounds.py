"""What is called a bound is one: against brute force, and against plans encoded in the program."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings

from scheduler import Budget, Phase, Plan, Problem, floor, keep_all, replay, solve
from scheduler.backends import Highs, minimize
from scheduler.charges import energy_of
from scheduler.encode import encode
from scheduler.formulation import formulate
from scheduler.moments import moment_bound_j
from scheduler.presence import presence_rows
from scheduler.reruns import Reach, all_reruns, near_reruns, worthwhile_reruns
from scheduler.rounding import rounding_rows
from scheduler.stages import relaxation, relaxation_without_chains
from scheduler.store import ram_and_store
from scheduler.timeline import Slot, slots_of
from scheduler.variables import Formulation, Term
from tests.scheduler.brute_force import least_energy_j
from tests.scheduler.problems import chain
from tests.strategies import planned, problems


@settings(max_examples=60)
@given(problems(binding=True))
def test_no_plan_goes_below_the_worst_moment(problem: Problem) -> None:
    best = least_energy_j(problem)
    if best is not None:
        assert moment_bound_j(problem) <= best * (1 + 1e-9) + 1e-9


def test_the_worst_moment_of_a_chain_is_its_turn() -> None:
    # Between forward and backward pass five tensors of 10 bytes wait; a round trip costs 0.5 J.
    problem = replace(chain(), budget=Budget(ram_bytes=40))
    assert moment_bound_j(problem) == problem.compute_once.energy_j + 0.5 * 2


@settings(max_examples=60)
@given(planned())
def test_every_valid_plan_is_in_the_relaxation_and_obeys_the_rows_it_breaks(
    given_plan: tuple[Problem, Plan],
) -> None:
    problem, plan = given_plan
    reruns = all_reruns(problem.graph)
    assume(slots_of(plan) <= frozenset(formulate(problem, reruns).timeline.slots))
    form = relaxation(problem, reruns)
    _tightened_bound_j(form)
    for run, slot in zip(form.run, form.timeline.slots, strict=True):
        _fix(run, slot in slots_of(plan))
    for k, home in enumerate(form.home):
        _fix(home, k not in plan.paged_at_start)
    outcome = minimize(Highs(), form.model, start=None, time_limit_s=60.0, gap=0.0)
    assert outcome.bound is not None
    energy_j = replay(plan, problem).energy_j
    assert energy_of(problem, outcome.bound) <= energy_j * (1 + 1e-6) + 1e-6


@settings(max_examples=60)
@given(problems(binding=True))
def test_no_plan_goes_below_the_relaxation(problem: Problem) -> None:
    best = least_energy_j(problem)
    if best is not None:
        problem = replace(problem, budget=replace(problem.budget, page_store_bytes=None))
        form = relaxation(problem, worthwhile_reruns(problem))
        bound_j = _tightened_bound_j(form)
        assert bound_j <= best * (1 + 1e-6) + 1e-6
        weaker_j = _relaxed_j(relaxation_without_chains(problem))
        assert weaker_j <= bound_j * (1 + 1e-6) + 1e-6


@settings(max_examples=60)
@given(problems(binding=True))
def test_reruns_that_paging_beats_are_not_missed(problem: Problem) -> None:
    best = least_energy_j(problem)
    if best is not None and problem.budget.page_store_bytes is None:
        form = formulate(problem, worthwhile_reruns(problem))
        outcome = minimize(Highs(), form.model, start=None, time_limit_s=60.0, gap=0.0)
        assert outcome.bound is not None
        assert energy_of(problem, outcome.bound) <= best * (1 + 1e-6) + 1e-6


def test_a_rerun_that_paging_beats_is_left_out() -> None:
    def offered(run_j: float) -> frozenset[Slot]:
        # A round trip costs 0.5 J.
        problem = chain()
        operators = tuple(replace(cost, energy_j=run_j) for cost in problem.costs.operators)
        return worthwhile_reruns(
            replace(problem, costs=replace(problem.costs, operators=operators))
        )

    assert offered(0.4) == all_reruns(chain().graph)
    assert offered(0.5) == frozenset()


def test_rounded_rows_raise_the_bound_where_tensors_are_large() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=39))
    form = relaxation(problem, all_reruns(problem.graph))
    before = _relaxed_j(form)
    best = solve(problem, backend=Highs()).cost.energy_j
    assert before < _tightened_bound_j(form) <= best + 1e-6


def test_rows_of_presence_raise_the_bound_where_reruns_come_in_fractions() -> None:
    # Four tensors fit exactly, so that rounding does nothing; running forward again beats paging.
    problem = replace(chain(8), budget=Budget(ram_bytes=40))
    cheap = tuple(
        replace(cost, energy_j=0.3 if op.phase is Phase.FORWARD else 1.0)
        for cost, op in zip(problem.costs.operators, problem.graph.operators, strict=True)
    )
    problem = replace(problem, costs=replace(problem.costs, operators=cheap))
    form = relaxation(problem, all_reruns(problem.graph))
    before = _relaxed_j(form)
    assert not list(rounding_rows(form))
    assert list(presence_rows(form))
    best = solve(problem, backend=Highs()).cost.energy_j
    assert before < _tightened_bound_j(form) - 0.05 <= best + 1e-6


def _relaxed_j(form: Formulation) -> float:
    outcome = minimize(Highs(), form.model, start=None, time_limit_s=60.0, gap=0.0, relaxed=True)
    assert outcome.bound is not None
    return energy_of(form.problem, outcome.bound)


def _tightened_bound_j(form: Formulation) -> float:
    """The relaxation's bound with rows of either kind, as often as it breaks some."""
    bound_j = _relaxed_j(form)
    for _ in range(5):
        rows = [*rounding_rows(form), *presence_rows(form)]
        if not rows:
            break
        for row in rows:
            form.model.addConstraint(row)
        bound_j = _relaxed_j(form)
    return bound_j


def _fix(term: Term, value: bool) -> None:
    if not isinstance(term, int):
        term.lowBound = term.upBound = float(value)


@settings(max_examples=60)
@given(problems())
def test_near_reruns_are_among_all(problem: Problem) -> None:
    everything = all_reruns(problem.graph)
    for depth in (1, 2, 9):
        assert near_reruns(problem, Reach(depth=depth, dearest=1e9)) <= everything


@settings(max_examples=40)
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


@settings(max_examples=60)
@given(planned())
def test_every_valid_plan_obeys_the_rows_that_hold_for_any_use_of_the_page_store(
    given_plan: tuple[Problem, Plan],
) -> None:
    problem, plan = given_plan
    form = formulate(problem, all_reruns(problem.graph), loose_store=True)
    values = encode(form, plan)
    assume(values is not None)
    assert values is not None
    for variable, value in values.items():
        variable.varValue = value
    assert all(row.valid(1e-6) for row in ram_and_store(form))
