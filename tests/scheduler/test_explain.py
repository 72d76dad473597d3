"""Explained alternatives are real: each is a plan that the law and the accountant judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import Budget, Infeasible, InvalidPlan, Problem, check, keep_all, replay, solve
from scheduler.backends import Highs
from scheduler.errors import UnknownName
from scheduler.explain import Alternative, Explanation, explain, worst_moment
from scheduler.handling import Way, decisions
from scheduler.plan import Plan
from tests.scheduler.problems import chain, training_step
from tests.strategies import problems


def alternatives(explanation: Explanation) -> list[Alternative]:
    return [
        other
        for tensor in explanation.tensors
        for gap in tensor.gaps
        for _, other in gap.others
        if isinstance(other, Alternative)
    ]


def solved(problem: Problem) -> Plan | None:
    try:
        return solve(problem, time_limit_s=20, gap=1e-9, backend=Highs()).plan
    except Infeasible:
        return None


@settings(max_examples=80)
@given(problem=problems(binding=True))
def test_every_alternative_is_a_plan_that_does_as_it_says(problem: Problem) -> None:
    plan = solved(problem)
    if plan is None:
        return
    least_j = replay(plan, problem).energy_j
    for tensor in problem.graph.tensors:
        told = explain(tensor.name, plan, problem)
        assert [t.tensor for t in told.tensors] == [tensor.id]
        mine = decisions(plan, problem)[tensor.id]
        for gap in told.tensors[0].gaps:
            assert {way for way, _ in gap.others} == set(Way) - {gap.gap.way}
        for other in alternatives(told):
            assert replay(other.plan, problem) == other.used
            changed = decisions(other.plan, problem)[tensor.id]
            if other.way is Way.PAGED:
                assert changed.paged > 0
            elif other.way is Way.RECOMPUTED:
                assert changed.recomputed > 0
            elif other.broken is None:
                assert changed.paged + changed.recomputed < mine.paged + mine.recomputed
            if other.broken is None:
                check(other.plan, problem)
                assert other.used.energy_j >= least_j - 1e-6
            else:
                with pytest.raises(InvalidPlan, match=other.broken.rule):
                    check(other.plan, problem)


def test_only_the_budget_speaks_against_keeping() -> None:
    """With a budget without limit, every tensor of a tight plan may be kept, and none costs more."""
    problem = chain(5)
    tight = replace(problem, budget=Budget(ram_bytes=40))
    plan = solve(tight, backend=Highs()).plan
    assert decisions(plan, tight) != decisions(keep_all(tight), tight)
    for operator in tight.graph.operators:
        for other in alternatives(explain(operator.name, plan, tight)):
            if other.way is Way.KEPT and other.broken is not None:
                assert other.broken.rule == "ram"
                roomy = replace(other.plan, budget=problem.budget)
                check(roomy, problem)
                assert replay(roomy, problem).energy_j < replay(plan, tight).energy_j


def test_what_a_rerun_needs_is_brought_back() -> None:
    problem = chain(3)
    plan = keep_all(problem)
    (tensor,) = explain("t1", plan, problem).tensors
    (gap,) = tensor.gaps
    assert gap.gap.way is Way.KEPT
    assert gap.cost.energy_j == 0
    assert gap.span_s == 1.0  # while op3 runs
    ways = dict(gap.others)
    paged, again = ways[Way.PAGED], ways[Way.RECOMPUTED]
    assert isinstance(paged, Alternative)
    assert isinstance(again, Alternative)
    assert paged.used.energy_j - replay(plan, problem).energy_j == 0.5
    assert again.used.energy_j - replay(plan, problem).energy_j == 1.0
    assert again.brings_back == ()  # t0 is kept by this plan


def test_why_a_way_is_impossible() -> None:
    problem = training_step()
    plan = keep_all(problem)
    told = explain("weight", plan, problem)
    ways = [dict(gap.others) for gap in told.tensors[0].gaps]
    assert all("no operator computes it" in str(w[Way.RECOMPUTED]) for w in ways)
    (loss,) = explain("loss", plan, problem).tensors
    assert "loss must not run twice" in str(dict(loss.gaps[0].others)[Way.RECOMPUTED])


def test_names() -> None:
    problem = training_step()
    plan = keep_all(problem)
    assert [t.tensor for t in explain("layer", plan, problem).tensors] == [3]
    assert [t.tensor for t in explain("0", plan, problem).tensors] == [3]
    assert [t.tensor for t in explain("update", plan, problem).tensors] == [1, 2]
    assert [t.tensor for t in explain("momentum", plan, problem).tensors] == [2]
    with pytest.raises(UnknownName, match="gradient"):
        explain("gradeint", plan, problem)


def test_the_worst_moment_names_an_operator() -> None:
    problem = training_step()
    used = replay(keep_all(problem), problem)
    held, name = worst_moment(used, problem.graph)
    assert (held, name) == (used.peak_bytes, "backward")
