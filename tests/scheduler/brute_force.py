"""The least-energy plan of a tiny problem by exhaustive search, sharing nothing with the solver.

Searched are all plans in which, between two first runs, every operator runs again at most once and
in graph order; frees, page-outs and page-ins stand anywhere. States are explored by energy, and for
each state only pairs (energy, time) that no other pair beats in both are kept.

With a page-store limit, a copy that nothing reads any more goes; it is not made again. A copy whose tensor
was changed in place since is not counted, which `replay` does: there the answer is a bound.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from scheduler import Problem
from scheduler.graph import SOURCES

EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class State:
    """`stage` counts first runs so far, `rerun` is the last operator run again since; `gone` are copies."""

    stage: int
    rerun: int
    resident: int
    stored: int
    gone: int = 0


def least_energy_j(problem: Problem) -> float | None:
    """Energy of the best plan, or None if no plan fits the budget."""
    graph = problem.graph
    homes = [t.id for t in graph.tensors if graph.is_persistent(t.id) and t.pageable]
    answers = []
    for choice in range(1 << len(homes)):
        paged = sum(1 << k for n, k in enumerate(homes) if choice >> n & 1)
        answer = _search(problem, paged)
        if answer is not None:
            answers.append(answer)
    return min(answers, default=None)


def _search(problem: Problem, paged: int) -> float | None:
    graph, budget = problem.graph, problem.budget
    sources = sum(1 << t.id for t in graph.tensors if t.kind in SOURCES)
    persistent = sum(1 << t.id for t in graph.tensors if graph.is_persistent(t.id))
    goal = (persistent & ~paged) | sum(1 << k for k in graph.results)
    start = State(0, -1, sources & ~paged, paged)
    if _size(problem, start.resident) > budget.ram_bytes or not _fits_store(problem, paged):
        return None
    queue: list[tuple[float, float, int, State]] = [(0.0, 0.0, 0, start)]
    fronts: dict[State, list[float]] = {}
    pushed = 0
    while queue:
        energy_j, time_s, _, state = heapq.heappop(queue)
        # Energy only grows along the queue: an earlier visit in no more time beats this one.
        if any(t <= time_s + EPSILON for t in fronts.get(state, [])):
            continue
        fronts.setdefault(state, []).append(time_s)
        if (
            state.stage == len(graph.operators)
            and state.resident == goal
            and not paged & ~state.stored
        ):
            return energy_j
        for after, step_time_s, step_energy_j in _moves(problem, state, paged):
            later = time_s + step_time_s
            if budget.time_s is None or later <= budget.time_s + EPSILON:
                pushed += 1
                heapq.heappush(queue, (energy_j + step_energy_j, later, pushed, after))
    return None


def _size(problem: Problem, tensors: int) -> int:
    return sum(t.size_bytes for t in problem.graph.tensors if tensors >> t.id & 1)


def _fits_store(problem: Problem, stored: int) -> bool:
    limit = problem.budget.page_store_bytes
    return limit is None or _size(problem, stored) <= limit


def _moves(problem: Problem, s: State, paged: int) -> Iterator[tuple[State, float, float]]:
    graph, costs, budget = problem.graph, problem.costs, problem.budget
    for t in graph.tensors:
        bit = 1 << t.id
        if budget.page_store_bytes is not None and s.stored & bit & ~paged:
            yield State(s.stage, s.rerun, s.resident, s.stored & ~bit, s.gone | bit), 0.0, 0.0
        if s.resident & bit:
            yield State(s.stage, s.rerun, s.resident & ~bit, s.stored, s.gone), 0.0, 0.0
            room = _fits_store(problem, s.stored | bit)
            if t.pageable and not (s.stored | s.gone) & bit and room:
                cost = costs.page_out[t.id]
                yield (
                    State(s.stage, s.rerun, s.resident, s.stored | bit, s.gone),
                    cost.time_s,
                    costs.total_j(cost),
                )
        elif s.stored & bit and _size(problem, s.resident | bit) <= budget.ram_bytes:
            cost = costs.page_in[t.id]
            yield (
                State(s.stage, s.rerun, s.resident | bit, s.stored, s.gone),
                cost.time_s,
                costs.total_j(cost),
            )
    for op in graph.operators[s.rerun + 1 : s.stage + 1]:
        first = op.id == s.stage
        inputs = sum(1 << k for k in op.inputs)
        outputs = sum(1 << k for k in op.outputs)
        if (
            inputs & ~s.resident
            or outputs & s.resident
            or not (first or _may_rerun(problem, op.id, s.stage))
        ):
            continue
        if _size(problem, s.resident | outputs) + op.workspace_bytes > budget.ram_bytes:
            continue
        cost = costs.operators[op.id]
        changed = sum(1 << k for k in op.mutates) if first else 0
        stage, rerun = (s.stage + 1, -1) if first else (s.stage, op.id)
        after = State(stage, rerun, s.resident | outputs, s.stored & ~changed, s.gone)
        yield after, cost.time_s, costs.total_j(cost)


def _may_rerun(problem: Problem, operator: int, stage: int) -> bool:
    """Nothing it reads was changed in place, since it first ran, by anyone but itself."""
    op = problem.graph.operators[operator]
    others = problem.graph.operators[operator + 1 : stage]
    return op.recomputable and not any(set(op.inputs) & set(o.mutates) for o in others)
