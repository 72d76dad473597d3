"""The solver against brute force, and what must hold for every problem."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from scheduler import (
    Budget,
    Cost,
    Graph,
    Infeasible,
    InvalidPlan,
    Kind,
    NoPlanInTime,
    Operator,
    Plan,
    Problem,
    Solution,
    Status,
    Tensor,
    check,
    floor,
    keep_all,
    page_all,
    replay,
    solve,
)
from scheduler.backends import Highs, Outcome, Verdict
from scheduler.charges import energy_of
from scheduler.decode import decode
from scheduler.encode import encode
from scheduler.formulation import formulate
from scheduler.moments import moment_bound_j
from scheduler.reruns import all_reruns
from tests.scheduler.brute_force import least_energy_j
from tests.scheduler.problems import chain, tangled, with_unit_costs
from tests.strategies import problems

SLOW = settings(
    max_examples=60,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)


def solved(problem: Problem) -> Solution | None:
    """The solution, judged by the independent law; None if there is no plan."""
    try:
        solution = solve(problem, gap=1e-7, backend=Highs())
    except Infeasible:
        return None
    check(solution.plan, problem)
    used = replay(solution.plan, problem)
    assert solution.cost.energy_j == used.energy_j
    assert solution.cost.time_s == used.time_s
    assert solution.lower_bound_j <= used.energy_j
    return solution


@SLOW
@given(st.one_of(problems(), problems(binding=True), problems(binding=True)))
def test_optimum_equals_brute_force(problem: Problem) -> None:
    best = least_energy_j(problem)
    solution = solved(problem)
    if best is None:
        assert solution is None
    else:
        assert solution is not None
        assert solution.status is Status.OPTIMAL
        assert solution.cost.energy_j == pytest.approx(best, rel=1e-6, abs=1e-6)
        assert solution.lower_bound_j <= best * (1 + 1e-6) + 1e-6


@SLOW
@given(problems(binding=True), st.integers(0, 10), st.integers(0, 10))
def test_more_ram_or_time_never_costs_more(problem: Problem, ram: int, time: int) -> None:
    tight = solved(problem)
    assume(tight is not None)
    assert tight is not None
    budget = problem.budget
    time_s = None if budget.time_s is None else budget.time_s + time
    wide = solved(replace(problem, budget=Budget(ram_bytes=budget.ram_bytes + ram, time_s=time_s)))
    assert wide is not None
    assert wide.cost.energy_j <= tight.cost.energy_j * (1 + 1e-6) + 1e-6


@SLOW
@given(problems(all_pageable=True, with_deadline=False))
def test_the_floor_is_exact_when_everything_is_pageable(problem: Problem) -> None:
    least = floor(problem).ram_bytes
    at_floor = replace(problem, budget=Budget(ram_bytes=least))
    assert solved(at_floor) is not None
    plan = page_all(at_floor)
    check(plan, at_floor)
    assert replay(plan, at_floor).peak_bytes == least
    if least > 0:
        with pytest.raises(Infeasible) as caught:
            solve(replace(problem, budget=Budget(ram_bytes=least - 1)))
        assert caught.value.floor_bytes == least
        assert caught.value.operator in str(caught.value)


@SLOW
@given(problems())
def test_slack_budget_keeps_everything(problem: Problem) -> None:
    wide = replace(problem, budget=Budget(ram_bytes=replay(keep_all(problem), problem).peak_bytes))
    solution = solved(wide)
    assert solution is not None
    assert solution.cost.energy_j == replay(keep_all(wide), wide).energy_j
    assert solution.gap == 0.0


@SLOW
@given(problems(binding=True))
def test_a_plan_encodes_to_values_that_satisfy_every_row(problem: Problem) -> None:
    form = formulate(problem, all_reruns(problem.graph))
    plans = [p for p in (keep_all(problem), page_all(problem)) if is_valid(p, problem)]
    solution = solved(problem)
    if solution is not None:
        plans.append(solution.plan)
    for plan in plans:
        values = encode(form, plan)
        assert values is not None
        for variable, value in values.items():
            variable.varValue = value
        assert form.model.valid(1e-6)
        objective = form.model.objective.value() or 0.0
        assert energy_of(problem, objective) == pytest.approx(replay(plan, problem).energy_j)
        again = decode(form)
        check(again, problem)
        assert replay(again, problem).energy_j == pytest.approx(replay(plan, problem).energy_j)


def is_valid(plan: Plan, problem: Problem) -> bool:
    try:
        check(plan, problem)
    except InvalidPlan:
        return False
    return True


def test_a_deadline_that_cannot_be_met_tells_the_least_time() -> None:
    problem = chain()
    tight = replace(problem, budget=Budget(ram_bytes=30, time_s=problem.compute_once.time_s))
    with pytest.raises(Infeasible) as caught:
        solve(tight)
    least = caught.value.least_time_s
    assert least is not None
    assert least > problem.compute_once.time_s
    assert f"{least:.6g}" in str(caught.value)
    solution = solve(replace(problem, budget=Budget(ram_bytes=30, time_s=least)))
    assert solution.cost.time_s <= least * (1 + 1e-9)


def test_paging_time_counts_towards_the_deadline() -> None:
    """With paging slow and recomputing fast, a tight deadline turns pages into reruns."""
    problem = chain(page_s=4.0)
    loose = solve(replace(problem, budget=Budget(ram_bytes=30)))
    assert not replay(loose.plan, problem).recomputed
    tight = solve(replace(problem, budget=Budget(ram_bytes=30, time_s=loose.cost.time_s - 0.25)))
    assert tight.cost.time_s < loose.cost.time_s
    assert replay(tight.plan, problem).recomputed
    assert tight.cost.energy_j >= loose.cost.energy_j


def test_idle_power_is_charged_for_all_time() -> None:
    problem = chain()
    idle = replace(problem, costs=replace(problem.costs, idle_w=2.0))
    plan = keep_all(problem)
    assert replay(plan, idle).energy_j == replay(plan, problem).energy_j + 2.0 * 10


def test_page_store_limit_is_kept() -> None:
    problem = chain()
    budget = Budget(ram_bytes=30, page_store_bytes=10)
    solution = solved(replace(problem, budget=budget))
    assert solution is not None
    used = replay(solution.plan, replace(problem, budget=budget))
    assert 0 < used.page_store_peak_bytes <= 10
    assert used.recomputed


def copies_in_turn(rerun_j: float, recomputable: bool = True) -> Problem:
    """Two tensors that must leave RAM one after the other; the page store holds one of them.

    Both are read at the end. One comes back before the other leaves, between the same two runs: in the
    program both copies are there at once, and it has room for one.
    """
    sizes, reads = (10, 10, 20, 1, 20, 1, 1), ((), (), (1,), (2,), (0,), (4,), (0, 1))
    tensors = tuple(
        Tensor(id=k, name=f"t{k}", size_bytes=size, kind=Kind.ACTIVATION)
        for k, size in enumerate(sizes)
    )
    operators = tuple(
        Operator(
            id=k, name=f"op{k}", inputs=inputs, outputs=(k,), recomputable=recomputable and k < 2
        )
        for k, inputs in enumerate(reads)
    )
    problem = with_unit_costs(Graph(operators=operators, tensors=tensors, results=(6,)), 0.5)
    first = tuple(Cost(time_s=1.0, energy_j=rerun_j) for _ in range(2))
    costs = replace(problem.costs, operators=(*first, *problem.costs.operators[2:]))
    return replace(problem, costs=costs, budget=Budget(ram_bytes=31, page_store_bytes=10))


@pytest.mark.parametrize("recomputable", [True, False])
def test_where_programs_find_no_plan_under_a_page_store_limit_another_way_does(
    recomputable: bool,
) -> None:
    problem = copies_in_turn(rerun_j=4.0, recomputable=recomputable)
    solution = solved(problem)
    assert solution is not None
    assert solution.status is Status.OPTIMAL
    assert solution.cost.energy_j == least_energy_j(problem)
    assert not replay(solution.plan, problem).recomputed


def test_that_copies_cannot_take_turns_is_proven() -> None:
    problem = copies_in_turn(rerun_j=4.0, recomputable=False)
    none = replace(problem, budget=Budget(ram_bytes=31, page_store_bytes=9))
    assert least_energy_j(none) is None
    with pytest.raises(Infeasible):
        solve(none, backend=Highs())


@settings(SLOW, max_examples=40)
@given(problems(max_operators=4, binding=True), st.integers(0, 25))
def test_under_a_page_store_limit_there_is_a_plan_or_the_proof_that_there_is_none(
    problem: Problem, limit: int
) -> None:
    limited = replace(problem, budget=replace(problem.budget, page_store_bytes=limit))
    best = least_energy_j(limited)
    solution = solved(limited)
    if best is None:
        assert solution is None
    else:
        assert solution is not None
        assert solution.lower_bound_j <= best * (1 + 1e-6) + 1e-6
        if solution.status is Status.OPTIMAL:
            assert solution.cost.energy_j == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_where_the_relaxation_would_be_too_large_a_smaller_one_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scheduler.search.COMPLETE_OPERATORS", 0)
    monkeypatch.setattr("scheduler.bound.MOST_TOUCHES", 0)
    problem = tangled()
    solution = solve(problem, time_limit_s=3.0, backend=Highs())
    check(solution.plan, problem)
    assert moment_bound_j(problem) < solution.lower_bound_j <= solution.cost.energy_j


def test_no_time_gives_the_best_plan_known_as_feasible() -> None:
    solution = solve(replace(chain(60), budget=Budget(ram_bytes=39)), time_limit_s=0.001)
    assert solution.status is Status.FEASIBLE
    assert solution.gap > 0


def test_no_plan_in_time_is_not_called_infeasible() -> None:
    problem = chain(page_s=4.0)  # the plans that need no solver page, and are too slow
    tight = Budget(ram_bytes=30, time_s=problem.compute_once.time_s * 1.5)
    with pytest.raises(NoPlanInTime):
        solve(replace(problem, budget=tight), backend=Idle())


class Idle:
    """A solver whose time is up before it began."""

    name = "idle"

    def run(self, model: object, **options: object) -> Outcome:
        return Outcome(verdict=Verdict.UNKNOWN, bound=None)
