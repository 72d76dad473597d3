"""From PuLP to arrays and back, and what every backend is asked through."""

from __future__ import annotations

import numpy as np
import pulp
import pytest
from hypothesis import given

from scheduler import Problem
from scheduler.backends import Highs, Outcome, Verdict, minimize
from scheduler.backends.program import model_of, program_of
from scheduler.formulation import formulate
from scheduler.reruns import all_reruns
from tests.scheduler.backends.models import ASKED, knapsack, packing
from tests.strategies import problems


@given(problems())
def test_arrays_say_what_the_model_says(problem: Problem) -> None:
    model = formulate(problem, all_reruns(problem.graph)).model
    program = program_of(model, model.variables())
    again, variables = model_of(program)
    assert [v.name for v in variables] == [v.name for v in again.variables()]
    back = program_of(again, variables)
    for field in program.__slots__:
        np.testing.assert_array_equal(getattr(program, field), getattr(back, field))


def test_values_are_left_in_the_variables() -> None:
    model = knapsack()
    outcome = minimize(Highs(), model, **ASKED)
    assert outcome.verdict is Verdict.OPTIMAL
    assert [v.varValue for v in model.variables()] == pytest.approx([0.0, 0.0, 1.0])
    relaxed = minimize(Highs(), model, relaxed=True, **ASKED)
    assert relaxed.bound == pytest.approx(-7.75)


def test_no_solution_leaves_no_values() -> None:
    model = knapsack()
    assert minimize(Highs(), model, **ASKED).values is not None
    model.addConstraint(pulp.lpSum(model.variables()) >= 4)
    assert minimize(Highs(), model, **ASKED).verdict is Verdict.INFEASIBLE
    assert [v.varValue for v in model.variables()] == [None, None, None]


@pytest.mark.parametrize(("limit", "verdict"), [(0.0, "optimal"), (-1.0, "infeasible")])
def test_a_program_without_variables_is_judged_by_its_rows(limit: float, verdict: str) -> None:
    model = pulp.LpProblem("empty", pulp.LpMinimize)
    model.addConstraint(
        pulp.LpConstraint(pulp.LpAffineExpression(), pulp.LpConstraintLE, rhs=limit)
    )
    assert minimize(Highs(), model, **ASKED).verdict == verdict


def test_joined_outcomes_keep_the_best_of_both() -> None:
    old = Outcome(verdict=Verdict.FEASIBLE, bound=2.0, values=(1.0,))
    bound_only = old.joined(Outcome(verdict=Verdict.UNKNOWN, bound=1.0))
    assert (bound_only.bound, bound_only.values) == (2.0, (1.0,))
    better = old.joined(Outcome(verdict=Verdict.FEASIBLE, bound=3.0, values=(0.0,)))
    assert (better.bound, better.values) == (3.0, (0.0,))
    assert old.joined(Outcome(verdict=Verdict.UNKNOWN, bound=None)).bound == 2.0


def test_highs_reports_better_solutions_and_its_bound_while_it_runs() -> None:
    heard: list[Outcome] = []
    model = packing(40, 10)
    program = program_of(model, model.variables())
    outcome = Highs().run(program, report=heard.append, **ASKED)
    costs = [float(np.dot(program.cost, o.values)) for o in heard if o.values is not None]
    assert costs == sorted(costs, reverse=True)
    assert len(costs) > 1
    assert outcome.values is not None
    assert costs[-1] == pytest.approx(float(np.dot(program.cost, outcome.values)))
    bounds = [o.bound for o in heard if o.bound is not None]
    assert bounds == sorted(bounds)
    assert len(bounds) > 1
    assert bounds[-1] <= costs[-1] + 1e-6
