"""Rows of presence: every plan obeys all of them, and the bound that they give stays one."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler import Budget, Cost, Phase, Plan, Problem, solve
from scheduler.backends import Highs, minimize
from scheduler.baselines.dtr import dtr
from scheduler.charges import energy_of
from scheduler.encode import encode
from scheduler.formulation import formulate
from scheduler.greedy import greedy
from scheduler.presence import presence_rows
from scheduler.reruns import all_reruns
from scheduler.rounding import rounding_rows
from scheduler.stages import relaxation
from scheduler.timeline import slots_of
from scheduler.variables import Formulation, Term
from tests.scheduler.problems import chain
from tests.strategies import planned


def as_stages(problem: Problem, plan: Plan) -> Formulation | None:
    """The relaxation with a plan's values: of each stage, what is so after its last slot."""
    reruns = all_reruns(problem.graph)
    whole, form = formulate(problem, reruns), relaxation(problem, reruns)
    values = encode(whole, plan)
    if values is None:
        return None

    def put(term: Term, value: float) -> None:
        if not isinstance(term, int):
            term.varValue = value

    def value_of(term: Term) -> float:
        return float(term) if isinstance(term, int) else values[term]

    ran = zip(whole.timeline.slots, whole.run, strict=True)
    runs = {slot: value_of(run) for slot, run in ran}
    for slot, run in zip(form.timeline.slots, form.run, strict=True):
        put(run, runs[slot])
    for k in range(len(problem.graph.tensors)):
        stage_of = [whole.timeline.slots[s].stage for s in whole.timeline.events[k]]
        stages = [form.timeline.slots[s].stage for s in form.timeline.events[k]]
        put(form.home[k], value_of(whole.home[k]))
        for mine, theirs in ((form.keep, whole.keep), (form.paged, whole.paged)):
            put(mine[k][0], value_of(theirs[k][0]))
            for e, stage in enumerate(stages):
                put(mine[k][e + 1], value_of(theirs[k][bisect_right(stage_of, stage)]))
        for e, stage in enumerate(stages):
            came = [
                value_of(t) for t, s in zip(whole.page_in[k], stage_of, strict=False) if s == stage
            ]
            put(form.page_in[k][e], max(came))
        put(form.page_in[k][-1], value_of(whole.page_in[k][-1]))
        for mine_out, their_out in zip(form.page_out[k], whole.page_out[k], strict=True):
            put(mine_out, value_of(their_out))
    put(form.time, values[whole.time])
    return form


def obeying(problem: Problem, plan: Plan) -> Formulation:
    """The relaxation with a plan's values, which break no row of presence of any window."""
    form = as_stages(problem, plan)
    assume(form is not None)
    assert form is not None
    assert not list(presence_rows(form))
    return form


@settings(max_examples=100)
@given(planned())
def test_every_plan_obeys_the_rows_of_all_windows(given_plan: tuple[Problem, Plan]) -> None:
    problem, plan = given_plan
    unlimited = replace(problem.budget, page_store_bytes=None)
    obeying(replace(problem, budget=unlimited), plan)


def with_costs(problem: Problem, forward_j: float, page_j: float, ram_bytes: int) -> Problem:
    """Forward operators and transfers of these costs, and this budget."""
    costs = problem.costs
    operators = tuple(
        replace(cost, energy_j=forward_j) if op.phase is Phase.FORWARD else cost
        for cost, op in zip(costs.operators, problem.graph.operators, strict=True)
    )
    moved = (Cost(time_s=0.0, energy_j=page_j),) * len(problem.graph.tensors)
    costs = replace(costs, operators=operators, page_in=moved, page_out=moved)
    return replace(problem, costs=costs, budget=Budget(ram_bytes=ram_bytes))


chains = st.builds(
    with_costs,
    st.integers(4, 8).map(chain),
    st.sampled_from([0.01, 0.1, 0.3]),
    st.sampled_from([0.02, 0.1, 0.25]),
    st.sampled_from([30, 35, 40, 45, 50]),
)


@settings(max_examples=40)
@given(chains)
def test_plans_that_run_chains_again_obey_them_too(problem: Problem) -> None:
    plans = [dtr(problem), greedy(problem), greedy(problem, longest_chain=1)]
    again = [p for p in plans if p and len(slots_of(p)) > len(problem.graph.operators)]
    assume(again)
    for plan in again:
        form = obeying(problem, plan)
        assert all(row.valid(1e-6) for row in form.model.constraints())


@settings(max_examples=12)
@given(chains)
def test_no_plan_of_a_chain_goes_below_the_bound_with_these_rows(problem: Problem) -> None:
    form = relaxation(problem, all_reruns(problem.graph))
    best_j = solve(problem, backend=Highs(), gap=1e-6).cost.energy_j
    bounds_j, broken = [], True
    while broken and len(bounds_j) < 6:
        outcome = minimize(
            Highs(), form.model, start=None, time_limit_s=60.0, gap=0.0, relaxed=True
        )
        assert outcome.bound is not None
        bounds_j.append(energy_of(problem, outcome.bound))
        broken = list(presence_rows(form))
        for row in (*broken, *rounding_rows(form)):
            form.model.addConstraint(row)
    assert bounds_j == sorted(bounds_j)
    assert bounds_j[-1] <= best_j + 1e-5
