"""Every solver that is installed finds what HiGHS finds, and says honestly how far it came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pulp
import pytest
from hypothesis import HealthCheck, given, settings

from scheduler import Budget, Infeasible, Problem, Solution, solve
from scheduler.backends import (
    Backend,
    Highs,
    Isolated,
    PulpSolver,
    Verdict,
    backend_named,
    installed,
)
from scheduler.backends.program import Program, program_of
from scheduler.errors import UnknownName
from tests.scheduler.backends.models import ASKED, knapsack, packing
from tests.scheduler.problems import chain
from tests.strategies import problems

PACKAGES = {"scip": "pyscipopt", "gurobi": "gurobipy"}


def _solver(name: str) -> object:
    """CBC comes with PuLP, so that a test without it must fail."""
    absent = name in PACKAGES and name not in installed()
    reason = f"{name} is not installed: pip install {PACKAGES.get(name)}"
    return pytest.param(name, marks=pytest.mark.skipif(absent, reason=reason))


every_solver = pytest.mark.parametrize("name", [_solver(n) for n in ("cbc", "scip", "gurobi")])


def program(model: pulp.LpProblem) -> Program:
    return program_of(model, model.variables())


def solved(problem: Problem, backend: Backend) -> Solution | None:
    """Ten times the last of the eight digits in which CBC tells its values."""
    try:
        return solve(problem, gap=1e-6, backend=backend)
    except Infeasible:
        return None


@every_solver
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(problem=problems(binding=True))
def test_every_solver_finds_the_same_optimum(name: str, problem: Problem) -> None:
    ours, theirs = solved(problem, Highs()), solved(problem, backend_named(name))
    if ours is None:
        assert theirs is None
    else:
        assert theirs is not None
        assert theirs.status == ours.status
        assert theirs.cost.energy_j == pytest.approx(ours.cost.energy_j, rel=1e-6, abs=1e-6)
        assert theirs.lower_bound_j <= ours.cost.energy_j * (1 + 1e-6) + 1e-6


@every_solver
def test_an_incumbent_at_the_time_limit_is_feasible(name: str) -> None:
    hard = program(packing(300, 30))
    nothing = np.zeros(hard.columns)
    outcome = backend_named(name).run(hard, start=nothing, time_limit_s=8.0, gap=0.0)
    assert outcome.verdict is Verdict.FEASIBLE
    assert outcome.values is not None
    assert hard.admits(np.array(outcome.values))
    cost = float(np.dot(hard.cost, outcome.values))
    assert cost < 0.0
    if name == "cbc":
        assert outcome.bound is None
    else:
        assert outcome.bound is not None
        assert 1.05 * cost < outcome.bound <= cost


@every_solver
def test_a_start_is_not_lost(name: str) -> None:
    hard = program(packing(300, 30))
    start = Highs().run(hard, start=None, time_limit_s=2.0, gap=0.0).values
    assert start is not None
    rounded = np.array(start) - 1e-14  # below the bound of 0 by rounding
    outcome = backend_named(name).run(hard, start=rounded, time_limit_s=8.0, gap=0.0)
    assert outcome.values is not None
    assert np.dot(hard.cost, outcome.values) <= np.dot(hard.cost, start) + 1e-6


@every_solver
def test_the_gap_asked_for_is_absolute_and_enough(name: str) -> None:
    """One per cent of the objective: found within the limit, where the optimum takes days."""
    hard = program(packing(300, 30))
    outcome = backend_named(name).run(hard, start=None, time_limit_s=60.0, gap=43.0)
    assert outcome.verdict is Verdict.OPTIMAL
    assert outcome.values is not None
    assert outcome.bound is not None
    assert 0.0 <= np.dot(hard.cost, outcome.values) - outcome.bound <= 43.0 + 1e-6


@every_solver
def test_relaxed_gives_the_bound_of_the_linear_program(name: str) -> None:
    outcome = backend_named(name).run(program(knapsack()), relaxed=True, **ASKED)
    assert outcome.verdict is Verdict.OPTIMAL
    assert outcome.bound == pytest.approx(-7.75)


@every_solver
@pytest.mark.parametrize("whole", [True, False])
def test_no_solution_is_infeasible(name: str, whole: bool) -> None:
    """Only whole numbers rule out half of an item; nothing reaches more than all of them."""
    model = knapsack()
    take = model.variables()[0]
    model.addConstraint(take + 0.0 == 0.5 if whole else pulp.lpSum(model.variables()) >= 4)
    outcome = backend_named(name).run(program(model), **ASKED)
    assert outcome.verdict is Verdict.INFEASIBLE
    assert outcome.values is None


@every_solver
def test_it_runs_in_a_process_of_its_own(name: str) -> None:
    inside = backend_named(name).run(program(knapsack()), **ASKED)
    assert Isolated(backend_named(name)).run(program(knapsack()), **ASKED) == inside


def test_a_solver_that_fails_says_why() -> None:
    broken = program(knapsack())
    broken.factor[0] = np.nan
    outcome = backend_named("cbc").run(broken, **ASKED)
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.values is None
    assert str(outcome.cut_short).startswith("cbc failed: ")


@pytest.mark.skipif(
    "gurobi" not in installed(), reason="gurobi is not installed: no licence to hit"
)
def test_a_licence_that_is_too_small_says_so() -> None:
    outcome = backend_named("gurobi").run(program(packing(2500, 3)), **ASKED)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "license" in str(outcome.cut_short)


def test_another_solver_of_pulp_promises_no_gap() -> None:
    """Nor does it take a start, and that must not matter."""
    asked = {**ASKED, "start": np.array([1.0, 0.0, 0.0])}
    outcome = PulpSolver(solver="HiGHS").run(program(knapsack()), **asked)
    assert (outcome.verdict, outcome.bound) == (Verdict.OPTIMAL, None)
    assert outcome.values == pytest.approx((0.0, 0.0, 1.0))


def test_a_solver_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UnknownName, match=r"no solver named 'xyz'; known: highs, cbc"):
        backend_named("xyz")
    assert isinstance(backend_named("HiGHS"), Highs)
    assert backend_named("CBC").name.startswith("CBC")
    problem = replace(chain(3), budget=Budget(ram_bytes=30))
    assert "CBC" in solve(problem, backend=backend_named("CBC")).backend
