"""The constraint families of POET's program, one function each; FORMULATION.md gives their sense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import pulp

from .charges import time_scale, units
from .graph import Operator
from .variables import Formulation, Term


def row(terms: Iterable[tuple[Term, float]], limit: float) -> Iterable[pulp.LpConstraint]:
    """The row sum(terms) <= limit with constants moved to the right; nothing if it always holds."""
    variables: dict[pulp.LpVariable, float] = {}
    for term, factor in terms:
        if isinstance(term, int):
            limit -= term * factor
        elif factor:
            variables[term] = variables.get(term, 0.0) + factor
    left = [(variable, factor) for variable, factor in variables.items() if factor]
    if math.fsum(f for _, f in left if f > 0) > limit:
        expression = pulp.LpAffineExpression(left)
        yield pulp.LpConstraint(expression, pulp.LpConstraintLE, rhs=limit)


def negated(terms: Iterable[tuple[Term, float]]) -> list[tuple[Term, float]]:
    """The terms on the other side of a row."""
    return [(term, -factor) for term, factor in terms]


def arrives(form: Formulation, k: int, e: int) -> list[tuple[Term, float]]:
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
            yield from row([(form.run[slot], 1.0), *negated(arrives(form, k, e))], 0.0)


def retention(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """What is kept after an event was resident at it: S' <= S + M_in, or S + R where it is computed.

    What did not come from the page copy, S - P, grows by runs alone; an in-place change makes all of
    the tensor such content.
    """
    for k, e, slot in _events(form):
        kept: list[tuple[Term, float]] = [(form.keep[k][e + 1], 1.0)]
        if _changes(form, k, slot):
            yield from row([*kept, *negated(arrives(form, k, e))], 0.0)
            continue
        own = [(form.keep[k][e], 1.0), (form.paged[k][e], -1.0)]
        if form.timeline.slots[slot].operator == form.problem.graph.producer.get(k):
            own.append((form.run[slot], 1.0))
        yield from row([*kept, (form.paged[k][e + 1], -1.0), *negated(own)], 0.0)


def retention_from_page(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """P' <= P + M_in, and 0 after an in-place change; P is a part of S."""
    for k, e, slot in _events(form):
        before = [(form.paged[k][e], 1.0), (form.page_in[k][e], 1.0)]
        source = [] if _changes(form, k, slot) else before
        yield from row([(form.paged[k][e + 1], 1.0), *negated(source)], 0.0)
        yield from row([(form.paged[k][e + 1], 1.0), (form.keep[k][e + 1], -1.0)], 0.0)


def _changes(form: Formulation, k: int, slot: int) -> bool:
    """Whether tensor k is changed in place in this slot."""
    place = form.timeline.slots[slot]
    return place.is_first_run and place.operator in form.problem.graph.mutators[k]


def one_copy_in_ram(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """A tensor is not brought into RAM a second time: S + M_in <= 1, S + R <= 1."""
    for k, e, _ in _events(form):
        yield from row(arrives(form, k, e), 1.0)
    for k in range(len(form.keep)):
        yield from row(_at_end(form, k), 1.0)


def page_copies(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """Only what has a page copy comes from one: P + M_in <= M_out (+ 1 - H before the first change)."""
    graph, slots = form.problem.graph, form.timeline.slots
    for k, events in enumerate(form.timeline.events):
        for e, page_in in enumerate(form.page_in[k]):
            at_end = e == len(events)
            changes = [m for m in graph.mutators[k] if at_end or m < slots[events[e]].stage]
            came: list[tuple[Term, float]] = [(page_in, 1.0), (form.paged[k][e], 1.0)]
            if at_end and graph.is_persistent(k):
                # Where the copy is the tensor's home, nothing comes from it at the end: else half of a
                # tensor that lives there and half of one that is brought back would share half a copy.
                came += [(1, 1.0), (form.home[k], -1.0)]
            yield from row([*came, *negated(_copy(form, k, len(changes)))], 0.0)


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
            yield from row([(form.keep[k][0], 1.0), (home, -1.0)], 0.0)
            yield from row([(form.page_out[k][0], 1.0), (home, -1.0)], 0.0)
        if graph.is_persistent(k):
            yield from row([(home, 1.0), *negated(_at_end(form, k))], 0.0)
            yield from row([*_at_end(form, k), (home, -1.0)], 0.0)
        elif k in graph.results:
            yield from row([(1, 1.0), *negated(_at_end(form, k))], 0.0)


def _at_end(form: Formulation, k: int) -> list[tuple[Term, float]]:
    """Tensor k is resident when the step ends."""
    return [(form.keep[k][-1], 1.0), (form.page_in[k][-1], 1.0)]


def ram(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """At the start, at every slot and at the end, what is resident fits the budget."""
    budget = form.problem.budget.ram_bytes
    scale = float(max(budget, 1))
    for held in ram_held(form):
        yield from row([(term, size / scale) for term, size in held], budget / scale)


def ram_held(form: Formulation) -> Iterable[list[tuple[Term, int]]]:
    """Terms and the bytes they hold: at the start, in every slot and at the end."""
    graph = form.problem.graph
    size = [t.size_bytes for t in graph.tensors]
    tensors = range(len(graph.tensors))
    yield [(form.home[k], size[k]) for k in tensors if graph.is_source(k)]
    for slot, (op, gap) in enumerate(slots_and_gaps(form)):
        held: list[tuple[Term, int]] = [(form.run[slot], op.workspace_bytes)]
        touched = {*op.inputs, *op.outputs}
        for k in tensors:
            if k in touched:
                held += [(term, size[k]) for term, _ in arrives(form, k, gap[k])]
            else:
                held.append((form.keep[k][gap[k]], size[k]))
        yield held
    yield [(term, size[k]) for k in tensors for term, _ in _at_end(form, k)]


def slots_and_gaps(form: Formulation) -> Iterator[tuple[Operator, list[int]]]:
    """Each slot's operator and, of every tensor, the gap between events that the slot ends or lies in."""
    graph = form.problem.graph
    gap = [0] * len(graph.tensors)
    for place in form.timeline.slots:
        op = graph.operators[place.operator]
        yield op, gap
        for k in (*op.inputs, *op.outputs):
            gap[k] += 1


def step_time(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """The step takes at least what each unit takes: one unit for all, or three beside each other."""
    scale = time_scale(form.problem)
    for charges in units(form):
        spent = [(c.term, c.time_s / scale) for c in charges]
        yield from row([*spent, (form.time, -1.0)], 0.0)


def deadline(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """The step ends in time."""
    limit = form.problem.budget.time_s
    if limit is not None:
        scale = time_scale(form.problem)
        yield form.time <= limit / scale
