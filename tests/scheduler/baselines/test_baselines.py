"""Every baseline keeps every rule, and none beats a proven optimum."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from scheduler import (
    Budget,
    Compute,
    PageIn,
    PageOut,
    Phase,
    Plan,
    Problem,
    Status,
    check,
    floor,
    keep_all,
    replay,
    solve,
)
from scheduler.baselines.capuchin import capuchin
from scheduler.baselines.chain import chain_of
from scheduler.baselines.chen import chen, segmented
from scheduler.baselines.dtr import dtr
from scheduler.baselines.pofo import pofo
from scheduler.baselines.table import BASELINES
from scheduler.baselines.walk import droppable
from tests.scheduler.brute_force import least_energy_j
from tests.scheduler.problems import chain, training_step
from tests.strategies import problems

NEEDS_NO_SOLVER = [name for name in BASELINES if name not in ("checkmate", "paging")]
NO_PAGING = ("keep-all", "chen", "checkmate", "dtr")
NO_RECOMPUTING = ("keep-all", "page-all", "paging")

FAST = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
SLOW = settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def backward_from(problem: Problem, operator: int) -> Problem:
    """The same problem, its operators from this one on being the backward pass."""
    operators = tuple(
        replace(op, phase=Phase.FORWARD if op.id < operator else Phase.BACKWARD)
        for op in problem.graph.operators
    )
    return replace(problem, graph=replace(problem.graph, operators=operators))


def with_share(problem: Problem, share: float) -> Problem:
    """A budget of this share of what keep-all needs."""
    peak_bytes = replay(keep_all(problem), problem).peak_bytes
    return replace(problem, budget=Budget(ram_bytes=int(share * peak_bytes)))


def require_lawful(name: str, plan: Plan, problem: Problem) -> None:
    check(plan, problem)
    if name in NO_PAGING:
        assert not any(isinstance(s, PageIn | PageOut) for s in plan.steps)
    if name in NO_RECOMPUTING:
        assert replay(plan, problem).recomputed == ()


@pytest.mark.parametrize("name", NEEDS_NO_SOLVER)
@FAST
@given(problem=problems(binding=True))
def test_what_a_baseline_returns_is_lawful(name: str, problem: Problem) -> None:
    for start in (len(problem.graph.operators), (len(problem.graph.operators) + 1) // 2):
        posed = backward_from(problem, start)
        plan = BASELINES[name](posed)
        if plan is not None:
            require_lawful(name, plan, posed)


@SLOW
@given(problems(max_operators=5, binding=True))
def test_none_beats_the_optimum_of_an_exhaustive_search(problem: Problem) -> None:
    posed = backward_from(problem, (len(problem.graph.operators) + 1) // 2)
    best_j = least_energy_j(posed)
    for name, baseline in BASELINES.items():
        plan = baseline(posed)
        if plan is not None:
            require_lawful(name, plan, posed)
            assert best_j is not None
            assert replay(plan, posed).energy_j >= best_j * (1 - 1e-6), name


@pytest.mark.parametrize("name", BASELINES)
def test_with_ram_for_everything_plain_training_is_the_plan(name: str) -> None:
    problem = with_share(chain(), 1.0)
    plan = BASELINES[name](problem)
    if name == "page-all":
        assert plan is not None
        assert replay(plan, problem).page_in_bytes > 0
    else:
        assert plan is not None
        assert replay(plan, problem).energy_j == problem.compute_once.energy_j


@pytest.mark.parametrize("name", BASELINES)
def test_below_the_floor_there_is_no_plan(name: str) -> None:
    problem = training_step()
    budget = Budget(ram_bytes=floor(problem).ram_bytes - 1)
    assert BASELINES[name](replace(problem, budget=budget)) is None


@pytest.mark.parametrize("name", BASELINES)
def test_a_deadline_is_kept_or_there_is_no_plan(name: str) -> None:
    """Half the RAM takes more time than computing once, which is all the time there is."""
    problem = with_share(chain(8), 0.5)
    late = Budget(ram_bytes=problem.budget.ram_bytes, time_s=problem.compute_once.time_s)
    assert BASELINES[name](replace(problem, budget=late)) is None


def test_chen_runs_all_segments_but_the_last_twice() -> None:
    problem = chain(9)
    plan = segmented(problem, (2, 5))
    assert plan is not None
    check(plan, problem)
    # What crosses a cut, 2 and 5, is kept; the other results of the first two segments are not.
    assert sorted(replay(plan, problem).recomputed) == [0, 1, 3, 4]


def test_chen_needs_about_the_root_of_the_ram() -> None:
    """A chain of 64 operators keeps 64 results; segments of 8 keep 8 and compute 8 again."""
    problem = chain(64)
    least = min(ram for ram in range(100, 700, 10) if _fits_chen(problem, ram))
    assert replay(keep_all(problem), problem).peak_bytes >= 640
    assert least <= 200


def _fits_chen(problem: Problem, ram_bytes: int) -> bool:
    return chen(replace(problem, budget=Budget(ram_bytes=ram_bytes))) is not None


def test_dtr_gives_up_the_cheap_the_large_and_the_old() -> None:
    """Of equal, equally cheap results, those go first that were not touched for long."""
    problem = chain(6)
    plan = dtr(replace(problem, budget=Budget(ram_bytes=50)))
    assert plan is not None
    again = replay(plan, problem).recomputed
    assert again
    assert 5 not in again
    dear = _with_dear_operator(problem, 1)
    plan = dtr(replace(dear, budget=Budget(ram_bytes=60)))
    assert plan is not None
    assert 1 not in replay(plan, dear).recomputed


def _with_dear_operator(problem: Problem, operator: int) -> Problem:
    costs = list(problem.costs.operators)
    costs[operator] = replace(costs[operator], energy_j=100.0)
    return replace(problem, costs=replace(problem.costs, operators=tuple(costs)))


def test_capuchin_pages_what_lies_idle_longest_and_recomputes_where_paging_is_dear() -> None:
    problem = with_share(chain(6), 0.8)
    plan = capuchin(problem)
    assert plan is not None
    # Those computed first wait longest.
    assert [s.tensor for s in plan.steps if isinstance(s, PageIn)] == [1, 0]
    dear = tuple(replace(c, energy_j=9.0) for c in problem.costs.page_in)
    by_computing = replace(problem, costs=replace(problem.costs, page_in=dear))
    plan = capuchin(by_computing)
    assert plan is not None
    used = replay(plan, by_computing)
    assert used.page_in_bytes == 0
    assert used.recomputed


def test_pofo_finds_the_best_plan_of_a_chain() -> None:
    """Paging some, recomputing some: on a chain the program comes close to the proven optimum."""
    for share in (0.8, 0.6, 0.45):
        problem = with_share(chain(7), share)
        plan, best = pofo(problem), solve(problem, gap=1e-7)
        assert plan is not None
        assert best.status is Status.OPTIMAL
        assert replay(plan, problem).energy_j <= 1.05 * best.cost.energy_j


def test_a_chain_is_cut_at_each_operator_and_its_backward_dealt_in_reverse() -> None:
    problem = chain(4)
    blocks = chain_of(problem).blocks
    assert [b.forward for b in blocks] == [(0,), (1,), (2,), (3,)]
    dealt = [o for b in reversed(blocks) for o in b.backward]
    assert dealt == [4, 5, 6, 7]


def test_what_needs_the_old_weight_is_not_given_up_past_the_update() -> None:
    """The layer's result could be computed again until the update, but is read before it only."""
    problem = training_step()
    may_go, until = droppable(problem.graph)
    assert 3 in may_go
    late = replace(
        problem.graph,
        operators=(
            *problem.graph.operators,
            replace(problem.graph.operators[2], id=4, inputs=(3,), outputs=(6,)),
        ),
        tensors=(*problem.graph.tensors, replace(problem.graph.tensors[5], id=6)),
    )
    assert 3 not in droppable(late)[0]
    assert until[1] == len(problem.graph.operators)
    assert Compute(3) in keep_all(problem).steps
