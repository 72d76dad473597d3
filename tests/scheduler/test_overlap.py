"""Devices that page beside compute: the accountant against an event simulator, and its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from scheduler import (
    Compute,
    Cost,
    Free,
    PageIn,
    PageOut,
    Plan,
    Problem,
    Step,
    check,
    keep_all,
    replay,
)
from tests.scheduler.event_simulator import Device
from tests.scheduler.problems import chain, training_step
from tests.strategies import planned


def beside(problem: Problem) -> Problem:
    return replace(problem, costs=replace(problem.costs, overlap=True))


def plan_of(problem: Problem, *steps: Step, paged: tuple[int, ...] = ()) -> Plan:
    plan = Plan(
        graph_digest=problem.graph.digest,
        budget=problem.budget,
        steps=steps,
        paged_at_start=paged,
    )
    check(plan, problem)
    return plan


@settings(max_examples=200)
@given(planned(overlap=True))
def test_the_accountant_equals_the_event_simulator(case: tuple[Problem, Plan]) -> None:
    problem, plan = case
    used = replay(plan, problem)
    simulated = Device(problem, plan).simulate()
    assert [f.time_s for f in used.frames] == simulated.ends_s
    assert used.time_s == max(simulated.ends_s)
    # What is really held at any moment is within what is counted in plan order.
    assert simulated.ram_bytes <= used.peak_bytes
    assert simulated.store_bytes <= used.page_store_peak_bytes


@settings(max_examples=200)
@given(planned(overlap=True))
def test_time_lies_between_the_busiest_unit_and_one_by_one(case: tuple[Problem, Plan]) -> None:
    problem, plan = case
    costs = problem.costs
    used = replay(plan, problem)
    serial = replay(plan, replace(problem, costs=replace(costs, overlap=False)))
    busy = {
        Compute: sum(
            costs.operators[s.operator].time_s for s in plan.steps if isinstance(s, Compute)
        ),
        PageIn: sum(costs.page_in[s.tensor].time_s for s in plan.steps if isinstance(s, PageIn)),
        PageOut: sum(costs.page_out[s.tensor].time_s for s in plan.steps if isinstance(s, PageOut)),
    }
    assert max(busy.values()) <= used.time_s <= serial.time_s == sum(busy.values())
    # Joules of the steps are the same; idle power is charged for less time.
    assert serial.energy_j - used.energy_j == costs.idle_w * (serial.time_s - used.time_s)
    assert used.frames[-1].energy_j == used.energy_j
    assert sorted(f.energy_j for f in used.frames) == [f.energy_j for f in used.frames]
    # Bytes are those of a device that does one thing at a time.
    assert [(f.ram_bytes, f.page_store_bytes) for f in used.frames] == [
        (f.ram_bytes, f.page_store_bytes) for f in serial.frames
    ]
    assert used.peak_bytes == serial.peak_bytes


def test_without_paging_nothing_changes() -> None:
    problem = training_step()
    assert replay(keep_all(problem), beside(problem)) == replay(keep_all(problem), problem)


def test_a_page_in_runs_beside_compute_and_its_user_waits() -> None:
    """t0 is read in 1.5 s while op2 computes for 1 s; op3, which needs it, waits half a second."""
    problem = beside(chain(2, page_s=1.5))
    moves = (Compute(0), PageOut(0), Compute(1), Free(0), Compute(2), PageIn(0), Free(1))
    plan = plan_of(problem, *moves, Compute(3), Free(0), Free(2), Free(3))
    ends = [f.time_s for f in replay(plan, problem).frames]
    #  op0 | write t0 1..2.5 | op1 1..2 | t0 is free at 2.5 | op2 2.5..3.5 | read t0 2.5..4 | ...
    assert ends == [1, 2.5, 2, 2.5, 3.5, 4, 3.5, 5, 5, 5, 5]
    serial = replay(plan, chain(2, page_s=1.5))
    assert serial.time_s == 7
    assert replay(plan, problem).time_s == 5


def test_an_update_waits_for_the_page_out_of_the_old_content() -> None:
    """Momentum goes to the page store in 10 s; the update that changes it in place runs after that."""
    problem = beside(training_step())
    slow = (*problem.costs.page_out[:2], Cost(time_s=10.0, energy_j=1.0))
    costs = replace(problem.costs, page_out=slow + problem.costs.page_out[3:])
    problem = replace(problem, costs=costs)
    first = (Compute(0), Compute(1), Compute(2), Free(0), Free(3))
    before = plan_of(problem, PageOut(2), *first, Compute(3), Free(5))
    after = plan_of(problem, *first, Compute(3), PageOut(2), Free(5))
    assert replay(before, problem).frames[6].time_s == 11
    assert replay(after, problem).frames[5].time_s == 4
    assert replay(after, problem).time_s == 14


@pytest.mark.parametrize(("workspace_bytes", "time_s"), [(0, 4.0), (1, 5.0)])
def test_a_page_in_does_not_take_ram_that_a_workspace_still_holds(
    workspace_bytes: int, time_s: float
) -> None:
    """Where op2 has a workspace, the page-in that follows it in the plan waits for its end."""
    problem = beside(chain(2, page_s=1.0))
    graph = problem.graph
    operators = (
        *graph.operators[:2],
        replace(graph.operators[2], workspace_bytes=workspace_bytes),
        graph.operators[3],
    )
    problem = replace(problem, graph=replace(graph, operators=operators))
    moves = (Compute(0), PageOut(0), Compute(1), Free(0), Compute(2), PageIn(0), Free(1))
    plan = plan_of(problem, *moves, Compute(3), Free(0), Free(2), Free(3))
    assert replay(plan, problem).time_s == time_s
