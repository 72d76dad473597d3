"""POET's mixed-integer linear program, over runs, retention and paging. FORMULATION.md explains it.

Variables (the letters of the paper, see FORMULATION.md):
    run[s]          R      slot s runs (1 for every first run)
    keep[k][e]      S      tensor k is resident between its events e-1 and e
    page_in[k][e]   M_in   tensor k is paged in right before its event e
    paged[k][e]     P      tensor k is resident between its events e-1 and e, and came from its page copy
    page_out[k][v]  M_out  content v of tensor k is paged out as soon as it exists
    home[k]                persistent tensor k lives in RAM between steps
    time            T      how long the step takes, in multiples of computing everything once
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pulp

from .graph import Graph
from .problem import Problem
from .timeline import Slot, Timeline, timeline

Term: TypeAlias = pulp.LpVariable | int


@dataclass(frozen=True, kw_only=True)
class Formulation:
    """The program and its variables; a Term is a variable or a constant 0 or 1.

    The objective counts all energy but that of the first runs, relative to computing everything once
    (`energy_of`).
    """

    problem: Problem
    timeline: Timeline
    model: pulp.LpProblem
    run: tuple[Term, ...]
    keep: tuple[tuple[Term, ...], ...]
    page_in: tuple[tuple[Term, ...], ...]
    paged: tuple[tuple[Term, ...], ...]
    page_out: tuple[tuple[Term, ...], ...]
    home: tuple[Term, ...]
    time: pulp.LpVariable


def formulate(
    problem: Problem, reruns: Iterable[Slot], *, minimize_time: bool = False
) -> Formulation:
    """Build the program; with `minimize_time` the deadline is left out and time is the objective.

    A plan may use the given reruns and no others, so the program's bound holds for all plans only if
    every useful rerun is given.
    """
    form = _variables(problem, timeline(problem.graph, reruns))
    for rows in (
        inputs_resident(form),
        retention(form),
        retention_from_page(form),
        one_copy_in_ram(form),
        page_copies(form),
        homes(form),
        ram(form),
        page_store(form),
        step_time(form),
        () if minimize_time else deadline(form),
    ):
        for row in rows:
            form.model.addConstraint(row)
    form.model.setObjective(_objective(form, minimize_time))
    return form


def energy_of(problem: Problem, objective: float) -> float:
    """Joules of a plan with this value of the objective."""
    once_j = problem.compute_once.energy_j
    idle_j = problem.costs.idle_w * problem.compute_once.time_s
    return once_j - idle_j + objective * _scale(once_j)


def value_of(term: Term) -> float:
    """What the solver chose; 0 for a variable that stands in no row."""
    return float(term) if isinstance(term, int) else term.varValue or 0.0


def _scale(once: float) -> float:
    return once or 1.0


# ---- variables


def _variables(problem: Problem, line: Timeline) -> Formulation:
    graph, model = problem.graph, pulp.LpProblem("poet", pulp.LpMinimize)
    run: tuple[Term, ...] = tuple(
        1 if s.is_first_run else _binary(model, f"R_{s.stage}_{s.operator}") for s in line.slots
    )
    home: tuple[Term, ...] = tuple(
        _binary(model, f"H_{t.id}") if graph.is_persistent(t.id) and t.pageable else 1
        for t in graph.tensors
    )
    tensors = range(len(graph.tensors))
    page_in = tuple(_page_in(model, graph, line, k) for k in tensors)
    return Formulation(
        problem=problem,
        timeline=line,
        model=model,
        run=run,
        keep=tuple(_keep(model, graph, line, k) for k in tensors),
        page_in=page_in,
        paged=tuple(_paged(model, graph, k, page_in[k]) for k in tensors),
        page_out=tuple(_page_out(model, graph, k) for k in tensors),
        home=home,
        time=model.add_variable("T", 1 if problem.compute_once.time_s else 0),
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


def _paged(
    model: pulp.LpProblem, graph: Graph, k: int, page_in: tuple[Term, ...]
) -> tuple[Term, ...]:
    """One term per gap between events: 0 before the first page-in, and after the last event if dead."""
    after = page_in if _needed_at_end(graph, k) else page_in[:-1]
    terms: list[Term] = [0]
    for e in range(1, len(after)):
        came_before = any(not isinstance(term, int) for term in after[:e])
        terms.append(_share(model, f"P_{k}_{e}") if came_before else 0)
    return tuple(terms + [0] * (len(page_in) - len(terms)))


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
    """What is kept after an event was resident at it: S' <= S + M_in, or S + R where it is computed.

    What did not come from the page copy, S - P, grows by runs alone; an in-place change makes all of
    the tensor such content.
    """
    for k, e, slot in _events(form):
        kept: list[tuple[Term, float]] = [(form.keep[k][e + 1], 1.0)]
        if _changes(form, k, slot):
            yield from _row([*kept, *_negated(_arrives(form, k, e))], 0.0)
            continue
        own = [(form.keep[k][e], 1.0), (form.paged[k][e], -1.0)]
        if form.timeline.slots[slot].operator == form.problem.graph.producer.get(k):
            own.append((form.run[slot], 1.0))
        yield from _row([*kept, (form.paged[k][e + 1], -1.0), *_negated(own)], 0.0)


def retention_from_page(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """P' <= P + M_in, and 0 after an in-place change; P is a part of S."""
    for k, e, slot in _events(form):
        before = [(form.paged[k][e], 1.0), (form.page_in[k][e], 1.0)]
        source = [] if _changes(form, k, slot) else before
        yield from _row([(form.paged[k][e + 1], 1.0), *_negated(source)], 0.0)
        yield from _row([(form.paged[k][e + 1], 1.0), (form.keep[k][e + 1], -1.0)], 0.0)


def _changes(form: Formulation, k: int, slot: int) -> bool:
    """Whether tensor k is changed in place in this slot."""
    place = form.timeline.slots[slot]
    return place.is_first_run and place.operator in form.problem.graph.mutators[k]


def one_copy_in_ram(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """A tensor is not brought into RAM a second time: S + M_in <= 1, S + R <= 1."""
    for k, e, _ in _events(form):
        yield from _row(_arrives(form, k, e), 1.0)
    for k in range(len(form.keep)):
        yield from _row(_at_end(form, k), 1.0)


def page_copies(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """Only what has a page copy comes from one: P + M_in <= M_out (+ 1 - H before the first change)."""
    graph, slots = form.problem.graph, form.timeline.slots
    for k, events in enumerate(form.timeline.events):
        for e, page_in in enumerate(form.page_in[k]):
            at_end = e == len(events)
            changes = [m for m in graph.mutators[k] if at_end or m < slots[events[e]].stage]
            came = [(page_in, 1.0), (form.paged[k][e], 1.0)]
            yield from _row([*came, *_negated(_copy(form, k, len(changes)))], 0.0)


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
    """At the start, at every slot and at the end, what is resident fits the budget."""
    budget = form.problem.budget.ram_bytes
    scale = float(max(budget, 1))
    for held in ram_held(form):
        yield from _row([(term, size / scale) for term, size in held], budget / scale)


def ram_held(form: Formulation) -> Iterable[list[tuple[Term, int]]]:
    """Terms and the bytes they hold: at the start, in every slot and at the end."""
    graph = form.problem.graph
    size = [t.size_bytes for t in graph.tensors]
    tensors = range(len(graph.tensors))
    yield [(form.home[k], size[k]) for k in tensors if graph.is_source(k)]
    gap = [0] * len(graph.tensors)
    for slot, place in enumerate(form.timeline.slots):
        op = graph.operators[place.operator]
        held: list[tuple[Term, int]] = [(form.run[slot], op.workspace_bytes)]
        touched = {*op.inputs, *op.outputs}
        for k in tensors:
            if k in touched:
                held += [(term, size[k]) for term, _ in _arrives(form, k, gap[k])]
                gap[k] += 1
            else:
                held.append((form.keep[k][gap[k]], size[k]))
        yield held
    yield [(term, size[k]) for k in tensors for term, _ in _at_end(form, k)]


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


def step_time(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """The step takes at least what each unit takes: one unit for all, or three beside each other."""
    scale = _scale(form.problem.compute_once.time_s)
    for charges in _units(form):
        spent = [(c.term, c.time_s / scale) for c in charges]
        yield from _row([*spent, (form.time, -1.0)], 0.0)


def deadline(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """The step ends in time."""
    limit = form.problem.budget.time_s
    if limit is not None:
        scale = _scale(form.problem.compute_once.time_s)
        yield form.time <= limit / scale


# ---- time and energy


def least_time(form: Formulation, values: Mapping[pulp.LpVariable, float]) -> float:
    """The least value of `time` beside these values of all other variables."""
    scale = _scale(form.problem.compute_once.time_s)
    spent = (
        math.fsum(c.time_s * (c.term if isinstance(c.term, int) else values[c.term]) for c in unit)
        for unit in _units(form)
    )
    return max(spent) / scale


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a term costs when it is 1; the joules leave out idle power."""

    term: Term
    time_s: float
    energy_j: float


def _units(form: Formulation) -> tuple[list[_Charge], ...]:
    """Everything a plan may do, by the units that work beside each other."""
    costs = form.problem.costs
    runs = zip(form.run, form.timeline.slots, strict=True)
    compute = [(term, costs.operators[slot.operator]) for term, slot in runs]
    page_in = [(t, c) for ts, c in zip(form.page_in, costs.page_in, strict=True) for t in ts]
    page_out = [(t, c) for ts, c in zip(form.page_out, costs.page_out, strict=True) for t in ts]
    units = (compute, page_in, page_out) if costs.overlap else ([*compute, *page_in, *page_out],)
    return tuple([_Charge(t, c.time_s, c.energy_j) for t, c in unit] for unit in units)


def _objective(form: Formulation, minimize_time: bool) -> pulp.LpAffineExpression:
    """Energy of all but the first runs, idle power included, relative to computing everything once."""
    once, idle_w = form.problem.compute_once, form.problem.costs.idle_w
    terms: list[tuple[Term, float]] = []
    if minimize_time:
        terms.append((form.time, 1.0))
    else:
        scale = _scale(once.energy_j)
        terms.append((form.time, idle_w * _scale(once.time_s) / scale))
        terms += [(c.term, c.energy_j / scale) for unit in _units(form) for c in unit]
    return pulp.LpAffineExpression([(t, f) for t, f in terms if not isinstance(t, int) and f])


def _negated(terms: Iterable[tuple[Term, float]]) -> list[tuple[Term, float]]:
    return [(term, -factor) for term, factor in terms]
