"""The rows of the page store's limit: what the copies of a plan take, and what those of any plan must."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pulp

from .constraints import arrives, negated, ram_held, row, slots_and_gaps
from .variables import Formulation, Term


def page_store(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """Between any two slots the copies fit the store.

    A copy counts from the last event at which its tensor is in RAM before it first comes back, until it
    last comes back. Other plans need less: they page out between two events, or page in before they must.
    """
    limit = form.problem.budget.page_store_bytes
    if limit is None:
        return
    yield from _copies(form)
    yield from _copies_last(form)
    scale = float(max(limit, 1))
    size = [t.size_bytes for t in form.problem.graph.tensors]
    for gap in _gaps(form):
        held = ((form.copy[k][e], size[k] / scale) for k, e in enumerate(gap))
        yield from row(held, limit / scale)


def ram_and_store(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """At each slot RAM and store together hold what is there or comes from its copy: so in every plan."""
    budget = form.problem.budget
    if budget.page_store_bytes is None:
        return
    yield from _copies(form)
    both = budget.ram_bytes + budget.page_store_bytes
    scale = float(max(both, 1))
    size = [t.size_bytes for t in form.problem.graph.tensors]
    in_ram = list(ram_held(form))[1:-1]
    for held, (op, gap) in zip(in_ram, slots_and_gaps(form), strict=True):
        touched = {*op.inputs, *op.outputs}
        away = [(form.copy[k][e], size[k]) for k, e in enumerate(gap) if k not in touched]
        yield from row(((term, each / scale) for term, each in (*held, *away)), both / scale)


def _copies(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """A tensor that comes from its copy was in RAM or in the store ever since it last was in RAM."""
    for k, copy in enumerate(form.copy):
        for e, term in enumerate(copy):
            if isinstance(term, int):
                continue
            yield from row([(form.page_in[k][e], 1.0), (term, -1.0)], 0.0)
            yield from row([(1, 1.0), (form.home[k], -1.0), (term, -1.0)], 0.0)
            if e + 1 < len(copy):
                later: list[tuple[Term, float]] = [(copy[e + 1], 1.0), (term, -1.0)]
                yield from row([*later, *negated(arrives(form, k, e))], 0.0)


def _copies_last(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """A copy that a tensor came from stays until the tensor last comes from one."""
    for k, (copy, came) in enumerate(zip(form.copy, form.came, strict=True)):
        for e, term in enumerate(came[:-1]):
            yield from row([(term, 1.0), (came[e + 1], -1.0)], 0.0)
            yield from row([(form.page_in[k][e], 1.0), (came[e + 1], -1.0)], 0.0)
            yield from row([(copy[e + 1], 1.0), (came[e], 1.0), (copy[e], -1.0)], 1.0)


def _gaps(form: Formulation) -> Iterator[list[int]]:
    """Of every tensor the gap before each slot, and the one before the end."""
    yield from (gap for _, gap in slots_and_gaps(form))
    yield [len(events) for events in form.timeline.events]
