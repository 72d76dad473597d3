"""POET's mixed-integer linear program, over runs, retention and paging. FORMULATION.md explains it.

Variables (the letters of the paper, see FORMULATION.md):
    run[s]          R      slot s runs (1 for every first run)
    keep[k][e]      S      tensor k is resident between its events e-1 and e
    page_in[k][e]   M_in   tensor k is paged in right before its event e
    page_out[k][v]  M_out  content v of tensor k is paged out as soon as it exists
    home[k]                persistent tensor k lives in RAM between steps
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import pulp

from .graph import Graph
from .problem import Problem
from .timeline import Scope, Slot, Timeline, timeline

Term: TypeAlias = pulp.LpVariable | int


@dataclass(frozen=True, kw_only=True)
class Formulation:
    """The program and its variables; a Term is a variable or a constant 0 or 1.

    The objective counts what comes on top of running everything once, relative to it (`energy_of`).
    """

    problem: Problem
    scope: Scope
    timeline: Timeline
    model: pulp.LpProblem
    run: tuple[Term, ...]
    keep: tuple[tuple[Term, ...], ...]
    page_in: tuple[tuple[Term, ...], ...]
    page_out: tuple[tuple[Term, ...], ...]
    home: tuple[Term, ...]


def formulate(
    problem: Problem,
    scope: Scope = Scope.FULL,
    *,
    also: frozenset[Slot] = frozenset(),
    minimize_time: bool = False,
) -> Formulation:
    """Build the program; with `minimize_time` the deadline is left out and time is the objective.

    `also` are slots to offer whatever the scope: those of a plan that is to be the start.
    """
    form = _variables(problem, scope, also)
    for rows in (
        inputs_resident(form),
        retention(form),
        one_copy_in_ram(form),
        page_copies(form),
        homes(form),
        ram(form),
        page_store(form),
        () if minimize_time else deadline(form),
    ):
        for row in rows:
            form.model.addConstraint(row)
    form.model.setObjective(_objective(form, minimize_time))
    return form


def forbid_dear_moves(form: Formulation, most_j: float) -> None:
    """Rule out every rerun, and every round trip to the page store, that costs more than this."""
    graph, costs = form.problem.graph, form.problem.costs
    dear: list[Term] = []
    for term, slot in zip(form.run, form.timeline.slots, strict=True):
        if costs.total_j(costs.operators[slot.operator]) > most_j:
            dear.append(term)
    for k, terms in enumerate(form.page_in):
        there = 0.0 if graph.is_persistent(k) else costs.total_j(costs.page_out[k])
        if there + costs.total_j(costs.page_in[k]) > most_j:
            dear.extend(terms)
    for term in dear:
        if not isinstance(term, int):
            term.upBound = 0


def energy_of(problem: Problem, objective: float) -> float:
    """Joules of a plan with this value of the objective."""
    once_j = problem.compute_once.energy_j
    return once_j + objective * _scale(once_j)


def _scale(once: float) -> float:
    return once or 1.0


# ---- variables


def _variables(problem: Problem, scope: Scope, also: frozenset[Slot]) -> Formulation:
    graph, model = problem.graph, pulp.LpProblem("poet", pulp.LpMinimize)
    line = timeline(graph, scope, also)
    run: tuple[Term, ...] = tuple(
        1 if s.is_first_run else _binary(model, f"R_{s.stage}_{s.operator}") for s in line.slots
    )
    home: tuple[Term, ...] = tuple(
        _binary(model, f"H_{t.id}") if graph.is_persistent(t.id) and t.pageable else 1
        for t in graph.tensors
    )
    return Formulation(
        problem=problem,
        scope=scope,
        timeline=line,
        model=model,
        run=run,
        keep=tuple(_keep(model, graph, line, k) for k in range(len(graph.tensors))),
        page_in=tuple(_page_in(model, graph, line, k) for k in range(len(graph.tensors))),
        page_out=tuple(_page_out(model, graph, k) for k in range(len(graph.tensors))),
        home=home,
    )


def _binary(model: pulp.LpProblem, name: str) -> pulp.LpVariable:
    return model.add_variable(name, cat=pulp.LpBinary)


def _share(model: pulp.LpProblem, name: str) -> pulp.LpVariable:
    """Binary in every solution that matters, because the binaries leave it no choice."""
    return model.add_variable(name, 0, 1)


def _keep(model: pulp.LpProblem, graph: Graph, line: Timeline, k: int) -> tuple[Term, ...]:
    """One term per gap between events, before the first and after the last included."""
    count = len(line.events[k])
    first: Term = _share(model, f"S_{k}_0") if graph.is_source(k) else 0
    between = [_share(model, f"S_{k}_{e}") for e in range(1, count)]
    last: list[Term] = (
        [_share(model, f"S_{k}_{count}") if _needed_at_end(graph, k) else 0] if count else []
    )
    return (first, *between, *last)


def _page_in(model: pulp.LpProblem, graph: Graph, line: Timeline, k: int) -> tuple[Term, ...]:
    """One term per event that reads the tensor, and one for the end of the step."""
    tensor = graph.tensors[k]
    producer = graph.producer.get(k)

    def term(e: int, reads: bool) -> Term:
        return _binary(model, f"Min_{k}_{e}") if tensor.pageable and reads else 0

    reading = [line.slots[s].operator != producer for s in line.events[k]]
    return (
        *(term(e, r) for e, r in enumerate(reading)),
        term(len(reading), _needed_at_end(graph, k)),
    )


def _page_out(model: pulp.LpProblem, graph: Graph, k: int) -> tuple[Term, ...]:
    """One term per content the tensor has during the step: at first, and after each in-place change."""
    if not graph.tensors[k].pageable:
        return (0,) * (1 + len(graph.mutators[k]))
    return tuple(_share(model, f"Mout_{k}_{v}") for v in range(1 + len(graph.mutators[k])))


def _needed_at_end(graph: Graph, k: int) -> bool:
    return graph.is_persistent(k) or k in graph.results


# ---- constraint families; each yields rows


def _row(terms: Iterable[tuple[Term, float]], limit: float) -> Iterable[pulp.LpConstraint]:
    """The row sum(terms) <= limit with constants moved to the right; nothing if it always holds."""
    variables: dict[pulp.LpVariable, float] = {}
    for term, factor in terms:
        if isinstance(term, int):
            limit -= term * factor
        elif factor:
            variables[term] = variables.get(term, 0.0) + factor
    most = math.fsum(f for f in variables.values() if f > 0)
    if most > limit:
        expression = pulp.LpAffineExpression(list(variables.items()))
        yield pulp.LpConstraint(expression, pulp.LpConstraintLE, rhs=limit)


def _arrives(form: Formulation, k: int, e: int) -> list[tuple[Term, float]]:
    """Tensor k is resident when its event e begins, paged in for it or kept; or computed in it."""
    slot = form.timeline.events[k][e]
    own = form.timeline.slots[slot].operator == form.problem.graph.producer.get(k)
    return [(form.keep[k][e], 1.0), (form.run[slot] if own else form.page_in[k][e], 1.0)]


def _events(form: Formulation) -> Iterable[tuple[int, int, int]]:
    """(tensor, event, slot) of every event."""
    for k, slots in enumerate(form.timeline.events):
        for e, slot in enumerate(slots):
            yield k, e, slot


def inputs_resident(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """A run needs its inputs: R <= S + M_in."""
    graph = form.problem.graph
    for k, e, slot in _events(form):
        if form.timeline.slots[slot].operator != graph.producer.get(k):
            yield from _row([(form.run[slot], 1.0), *_negated(_arrives(form, k, e))], 0.0)


def retention(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """What is kept after an event was resident at it: S' <= S + M_in, or S + R where it is computed."""
    for k, e, _ in _events(form):
        yield from _row([(form.keep[k][e + 1], 1.0), *_negated(_arrives(form, k, e))], 0.0)


def one_copy_in_ram(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """A tensor is not brought into RAM a second time: S + M_in <= 1, S + R <= 1."""
    for k, e, _ in _events(form):
        yield from _row(_arrives(form, k, e), 1.0)
    for k in range(len(form.keep)):
        yield from _row(_at_end(form, k), 1.0)


def page_copies(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """Only what has a valid page copy is paged in: M_in <= M_out (+ 1 - H before the first change)."""
    graph, slots = form.problem.graph, form.timeline.slots
    for k, events in enumerate(form.timeline.events):
        for e, page_in in enumerate(form.page_in[k]):
            at_end = e == len(events)
            changes = [m for m in graph.mutators[k] if at_end or m < slots[events[e]].stage]
            yield from _row([(page_in, 1.0), *_negated(_copy(form, k, len(changes)))], 0.0)


def _copy(form: Formulation, k: int, content: int) -> list[tuple[Term, float]]:
    """The page store holds this content of tensor k."""
    copy: list[tuple[Term, float]] = [(form.page_out[k][content], 1.0)]
    if content == 0 and form.problem.graph.is_persistent(k):
        copy += [(1, 1.0), (form.home[k], -1.0)]
    return copy


def homes(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """Where a tensor is when the step begins, it is when it ends; results end in RAM."""
    graph = form.problem.graph
    for k in range(len(graph.tensors)):
        home = form.home[k]
        if graph.is_source(k):
            # Resident at the start, paged out at the start: both need RAM as its home.
            yield from _row([(form.keep[k][0], 1.0), (home, -1.0)], 0.0)
            yield from _row([(form.page_out[k][0], 1.0), (home, -1.0)], 0.0)
        if graph.is_persistent(k):
            yield from _row([(home, 1.0), *_negated(_at_end(form, k))], 0.0)
            copy = _copy(form, k, len(graph.mutators[k]))
            yield from _row([(1, 1.0), (home, -1.0), *_negated(copy)], 0.0)
        elif k in graph.results:
            yield from _row([(1, 1.0), *_negated(_at_end(form, k))], 0.0)


def _at_end(form: Formulation, k: int) -> list[tuple[Term, float]]:
    """Tensor k is resident when the step ends."""
    return [(form.keep[k][-1], 1.0), (form.page_in[k][-1], 1.0)]


def ram(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """At every slot, at the start and at the end, what is resident fits the budget."""
    graph, budget = form.problem.graph, form.problem.budget.ram_bytes
    scale = float(max(budget, 1))
    size = [t.size_bytes / scale for t in graph.tensors]
    limit = budget / scale
    tensors = range(len(graph.tensors))
    yield from _row([(form.home[k], size[k]) for k in tensors if graph.is_source(k)], limit)
    gap = [0] * len(graph.tensors)
    for slot, place in enumerate(form.timeline.slots):
        op = graph.operators[place.operator]
        held: list[tuple[Term, float]] = [(form.run[slot], op.workspace_bytes / scale)]
        touched = {*op.inputs, *op.outputs}
        for k in tensors:
            if k in touched:
                held += [(term, size[k]) for term, _ in _arrives(form, k, gap[k])]
                gap[k] += 1
            else:
                held.append((form.keep[k][gap[k]], size[k]))
        yield from _row(held, limit)
    yield from _row([(term, size[k]) for k in tensors for term, _ in _at_end(form, k)], limit)


def page_store(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """Page copies fit the store; a copy counts from when it is made to the tensor's last event."""
    limit = form.problem.budget.page_store_bytes
    if limit is None:
        return
    graph = form.problem.graph
    scale = float(max(limit, 1))
    stored: list[Term] = [
        0 if not t.pageable else _share(form.model, f"Stored_{t.id}") for t in graph.tensors
    ]
    for k, copy in enumerate(stored):
        for content in range(1 + len(graph.mutators[k])):
            yield from _row([*_copy(form, k, content), (copy, -1.0)], 0.0)
    for stage in range(len(graph.operators)):
        held = [
            (copy, graph.tensors[k].size_bytes / scale)
            for k, copy in enumerate(stored)
            if graph.is_persistent(k) or graph.producer.get(k, 0) <= stage <= _last_stage(form, k)
        ]
        yield from _row(held, limit / scale)


def _last_stage(form: Formulation, k: int) -> int:
    if _needed_at_end(form.problem.graph, k):
        return len(form.problem.graph.operators)
    events = form.timeline.events[k]
    return form.timeline.slots[events[-1]].stage if events else -1


def deadline(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """All runs and all transfers, one after another, end in time."""
    limit = form.problem.budget.time_s
    if limit is not None:
        scale = limit or 1.0
        yield from _row([(t, time_s / scale) for t, time_s, _ in _charges(form)], limit / scale)


# ---- objective


def _charges(form: Formulation) -> Iterable[tuple[Term, float, float]]:
    """(term, seconds, joules) of everything a plan may do."""
    costs = form.problem.costs
    for term, slot in zip(form.run, form.timeline.slots, strict=True):
        cost = costs.operators[slot.operator]
        yield term, cost.time_s, costs.total_j(cost)
    for terms, cost in zip(form.page_in, costs.page_in, strict=True):
        yield from ((term, cost.time_s, costs.total_j(cost)) for term in terms)
    for terms, cost in zip(form.page_out, costs.page_out, strict=True):
        yield from ((term, cost.time_s, costs.total_j(cost)) for term in terms)


def _objective(form: Formulation, minimize_time: bool) -> pulp.LpAffineExpression:
    scale = (
        _scale(form.problem.compute_once.time_s)
        if minimize_time
        else _scale(form.problem.compute_once.energy_j)
    )
    terms: list[tuple[pulp.LpVariable, float]] = []
    for term, time_s, energy_j in _charges(form):
        if not isinstance(term, int):
            terms.append((term, (time_s if minimize_time else energy_j) / scale))
    return pulp.LpAffineExpression(terms)


def _negated(terms: Iterable[tuple[Term, float]]) -> list[tuple[Term, float]]:
    return [(term, -factor) for term, factor in terms]
