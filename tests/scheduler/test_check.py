"""Every rule of the law, broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import (
    Budget,
    Compute,
    Free,
    InvalidPlan,
    PageIn,
    PageOut,
    Plan,
    Problem,
    Step,
    check,
    keep_all,
    page_all,
    replay,
)
from scheduler.greedy import greedy
from tests.scheduler.problems import chain, training_step
from tests.strategies import problems

KEPT = (Compute(0), Compute(1), Compute(2), Free(0), Free(3), Compute(3), Free(5))
PAGED = (
    PageIn(1),
    *(Compute(0), Free(1), Compute(1), Compute(2), Free(0), Free(3)),
    *(PageIn(1), Compute(3), PageOut(1), Free(1), Free(5)),
)


def plan_of(steps: tuple[Step, ...], paged: tuple[int, ...] = (), **changes: object) -> Plan:
    problem = training_step()
    plan = Plan(
        graph_digest=problem.graph.digest,
        budget=problem.budget,
        steps=steps,
        paged_at_start=paged,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_good_plans_pass() -> None:
    check(plan_of(KEPT), training_step())
    check(plan_of(PAGED, (1,)), training_step())
    assert keep_all(training_step()).steps == KEPT


def without(steps: tuple[Step, ...], position: int) -> tuple[Step, ...]:
    return steps[:position] + steps[position + 1 :]


def inserted(steps: tuple[Step, ...], position: int, *new: Step) -> tuple[Step, ...]:
    return steps[:position] + new + steps[position:]


BROKEN = {
    "another graph": ("same-graph", plan_of(KEPT, graph_digest="0" * 64)),
    "another format": ("same-graph", plan_of(KEPT, version=2)),
    "a larger budget": ("same-budget", plan_of(KEPT, budget=Budget(ram_bytes=10**7))),
    "an operator that is not there": ("known-ids", plan_of((*KEPT, Compute(4)))),
    "a tensor that is not there": ("known-ids", plan_of((Free(-1), *KEPT))),
    "a paged tensor that is not there": ("known-ids", plan_of(KEPT, (6,))),
    "a batch that lives in the page store": ("start", plan_of(KEPT, (0,))),
    "a home named twice": ("start", plan_of(PAGED, (1, 1))),
    "an operator left out": ("graph-order", plan_of(without(KEPT, 1))),
    "the last operator left out": ("graph-order", plan_of(KEPT[:5])),
    "operators swapped": ("graph-order", plan_of((Compute(1), Compute(0), *KEPT[2:]))),
    "a second run of what must run once": (
        "run-once",
        plan_of(inserted(KEPT, 2, Free(4), Compute(1))),
    ),
    "an input freed": ("inputs", plan_of(inserted(KEPT, 1, Free(3)))),
    "an input in the page store": ("inputs", plan_of(without(PAGED, 0), (1,))),
    "a rerun with the new weight": (
        "inputs",
        plan_of((*KEPT[:3], Compute(3), Free(5), Free(3), Compute(0), Free(0), Free(3))),
    ),
    "an output computed twice": ("outputs", plan_of(inserted(KEPT, 1, Compute(0)))),
    "a second free": ("free", plan_of(inserted(KEPT, 4, Free(0)))),
    "page-out of what is not there": ("page-out", plan_of(inserted(KEPT, 0, PageOut(3)))),
    "page-in of what is there": ("page-in", plan_of(inserted(PAGED, 1, PageIn(1)), (1,))),
    "page-in without a copy": ("page-in", plan_of(inserted(KEPT, 4, PageIn(0)))),
    "page-in of an old copy": (
        "page-in",
        plan_of((*without(PAGED, 9)[:-1], PageIn(1), PageOut(1), Free(1), Free(5)), (1,)),
    ),
    "the batch left over": ("end", plan_of(without(KEPT, 3))),
    "the weight lost": ("end", plan_of((*KEPT, Free(1)))),
    "the loss lost": ("end", plan_of((*KEPT, Free(4)))),
    "the new weight not written": ("end", plan_of(without(PAGED, 9), (1,))),
}


@pytest.mark.parametrize(("rule", "plan"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plan_is_refused_by_its_rule(rule: str, plan: Plan) -> None:
    with pytest.raises(InvalidPlan) as caught:
        check(plan, training_step())
    assert caught.value.rule == rule


def test_budgets_are_kept_to_the_byte_and_the_second() -> None:
    problem = training_step()
    used = replay(keep_all(problem), problem)
    exact = Budget(ram_bytes=used.peak_bytes, time_s=used.time_s)
    fitting = replace(problem, budget=exact)
    check(keep_all(fitting), fitting)
    for rule, less in (
        ("ram", replace(exact, ram_bytes=used.peak_bytes - 1)),
        ("deadline", replace(exact, time_s=used.time_s * 0.999)),
    ):
        tight = replace(problem, budget=less)
        with pytest.raises(InvalidPlan) as caught:
            check(keep_all(tight), tight)
        assert caught.value.rule == rule
    paged = replace(problem, budget=replace(problem.budget, page_store_bytes=3))
    with pytest.raises(InvalidPlan) as caught:
        check(plan_of(PAGED, (1,), budget=paged.budget), paged)
    assert caught.value.rule == "page-store"


def test_replay_adds_up_by_hand() -> None:
    """RAM of every step of the one-layer network, written out."""
    problem = training_step()
    used = replay(plan_of(PAGED, (1,)), problem)
    #  in: batch 8 + momentum 4; page_in +4; layer +6; free -4; loss +1; backward +4; ...
    assert [f.ram_bytes for f in used.frames] == [16, 22, 18, 19, 23, 15, 9, 13, 15, 13, 9, 5]
    assert (used.start_bytes, used.peak_bytes, used.page_store_peak_bytes) == (12, 23, 4)
    assert used.time_s == 4 + 3 * 0.5
    assert used.energy_j == 4 + 3 * 0.25
    assert (used.page_in_bytes, used.page_out_bytes, used.recomputed) == (8, 4, ())


@settings(max_examples=200)
@given(problems())
def test_page_all_breaks_no_rule_but_the_budget(problem: Problem) -> None:
    wide = replace(problem, budget=Budget(ram_bytes=10**9))
    for baseline in (keep_all(wide), page_all(wide)):
        check(baseline, wide)


@settings(max_examples=300)
@given(problems(binding=True, with_deadline=False))
def test_greedy_keeps_ram_and_every_rule(problem: Problem) -> None:
    """Judged as it is for paging and recomputing; a page store without limit, no deadline."""
    persistent = tuple(t.id for t in problem.graph.tensors if problem.graph.is_persistent(t.id))
    homes = tuple(k for k in persistent if problem.graph.tensors[k].pageable)
    for paged in ((), homes):
        plan = greedy(problem, paged)
        if plan is not None:
            check(plan, problem)


def test_leaving_out_any_needed_step_is_noticed() -> None:
    problem = replace(chain(), budget=Budget(ram_bytes=30))
    steps = page_all(problem).steps
    for position, step in enumerate(steps):
        if isinstance(step, PageOut):
            continue  # a page-out that a later page-in needs is covered above
        plan = replace(page_all(problem), steps=without(steps, position))
        with pytest.raises(InvalidPlan):
            check(plan, problem)
