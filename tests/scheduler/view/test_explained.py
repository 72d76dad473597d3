"""Explanations in words: what stands against a way, and what it would take."""

from __future__ import annotations

from dataclasses import replace

from scheduler import Budget, Plan, Problem, check, keep_all, page_all
from scheduler.explain import explain
from scheduler.liveness import with_frees
from scheduler.plan import Compute, PageIn, PageOut
from scheduler.view.explained import explanation_lines
from tests.scheduler.problems import chain, training_step


def told(name: str, plan: Plan, problem: Problem) -> list[str]:
    return explanation_lines(explain(name, plan, problem), problem).split("\n")


def test_a_deadline_stands_against_moving() -> None:
    problem = replace(chain(3), budget=Budget(ram_bytes=1000, time_s=6.0))
    assert told("t1", keep_all(problem), problem) == [
        "t1: 10 bytes, computed by op1",
        "  from op2 to op4: kept, 10 bytes of RAM for 1 s",
        "    paged       would take 7 s, 1 s over the deadline, for +8.33% energy (+500 mJ)",
        "    recomputed  would take 7 s, 1 s over the deadline, for +16.67% energy (+1 J)",
    ]


def test_a_plan_that_is_not_the_best_says_so_and_pays_for_a_copy_once() -> None:
    problem = chain(3)
    lines = told("t1", page_all(problem), problem)
    assert lines[1] == "  from op1 to op2: paged, which takes 500 mJ and 1 s"
    # The page-out stays: the copy is read again before op4.
    assert lines[2] == (
        "    kept        -2.78% energy (-250 mJ), -4.17% time; "
        "this plan is better, the one explained is not the best"
    )
    assert lines[4] == "  from op2 to op4: paged, which takes 250 mJ and 500 ms"


def test_parameters_between_steps_and_ways_that_cannot_be() -> None:
    problem = training_step()
    lines = told("weight", page_all(problem), problem)
    assert lines[0] == "weight: 4 bytes, parameter"
    between = next(n for n, line in enumerate(lines) if "of the next step" in line)
    assert lines[between] == (
        "  from update to layer of the next step: paged, which takes 500 mJ and 1 s"
    )
    assert lines[between + 2] == (
        "    recomputed  impossible: weight is there before the step: no operator computes it"
    )


def test_what_is_used_at_once_needs_no_decision() -> None:
    problem = training_step()
    assert told("gradient", keep_all(problem), problem) == [
        "gradient: 4 bytes, computed by backward",
        "  used at once: there is nothing to decide",
    ]


def test_a_rerun_names_what_it_needs() -> None:
    problem = replace(chain(4), budget=Budget(ram_bytes=30))
    graph = problem.graph
    # t0 and t1 are paged: a rerun of op1 right before op6 reads t0, and 30 bytes cannot keep it until then.
    steps = (
        *(Compute(0), PageOut(0), Compute(1), PageOut(1), Compute(2), Compute(3)),
        *(Compute(4), Compute(5), PageIn(1), Compute(6), PageIn(0), Compute(7)),
    )
    plan = Plan(graph_digest=graph.digest, budget=problem.budget, steps=with_frees(graph, steps))
    check(plan, problem)
    assert told("op1", plan, problem) == [
        "t1: 10 bytes, computed by op1",
        "  from op2 to op6: paged, which takes 500 mJ and 1 s",
        "    kept        would hold 40 bytes at op4, 10 over the budget, for -5.56% energy (-500 mJ)",
        "    recomputed  +8.33% energy (+750 mJ), +5.00% time; needs t0, not in RAM then",
    ]
