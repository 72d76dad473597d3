"""From a plan to values of the program's variables: how a known plan becomes a solver's start."""

from __future__ import annotations

from itertools import accumulate
from operator import or_

import pulp

from .charges import least_time
from .constraints import arrives
from .plan import Compute, Free, PageIn, PageOut, Plan
from .replay import resident_at_start
from .timeline import Slot
from .variables import Formulation, Term

Values = dict[pulp.LpVariable, float]


def encode(form: Formulation, plan: Plan) -> Values | None:
    """Values for every variable, or None when the plan runs something in a slot that is not offered.

    The plan must be valid, page tensors out as soon as they exist and free them after their last use, as
    every plan made here does.
    """
    walk = _Walk(form, plan)
    for step in plan.steps:
        match step:
            case Compute(operator):
                if not walk.compute(operator):
                    return None
            case PageIn(tensor):
                walk.waiting.add(tensor)
            case PageOut(tensor):
                walk.page_out(tensor)
            case Free(tensor):
                for tensors in (walk.resident, walk.waiting, walk.from_page):
                    tensors.discard(tensor)
    walk.skip_to(len(form.timeline.slots))
    for k in range(len(form.keep)):
        walk.arrive(k)
        walk.hold_copies(k)
    walk.values[form.time] = least_time(form, walk.values)
    return walk.values


class _Walk:
    """`waiting` are tensors paged in whose event has not come yet: the program pages in just then.

    `from_page` are resident tensors whose content came from their page copy.
    """

    def __init__(self, form: Formulation, plan: Plan) -> None:
        self.form, self.graph = form, form.problem.graph
        self.slot_of = {slot: n for n, slot in enumerate(form.timeline.slots)}
        self.resident = resident_at_start(self.graph, plan.paged_at_start)
        self.waiting: set[int] = set()
        self.from_page: set[int] = set()
        self.event = [0] * len(self.graph.tensors)
        self.content = [0] * len(self.graph.tensors)
        self.next_slot = 0
        self.stage = 0
        self.values: Values = dict.fromkeys(form.model.variables(), 0.0)
        for k in range(len(self.graph.tensors)):
            self._set(form.home[k], k not in plan.paged_at_start)

    def _set(self, term: Term, value: bool) -> None:
        if not isinstance(term, int):
            self.values[term] = float(value)

    def arrive(self, k: int) -> None:
        """The tensor's next event, or the end: note how it comes to be there."""
        e = self.event[k]
        self._keep(k)
        self._set(self.form.page_in[k][e], k in self.waiting)
        if k in self.waiting:
            self.waiting.remove(k)
            self.resident.add(k)
            self.from_page.add(k)
        self.event[k] += 1

    def _keep(self, k: int) -> None:
        """How the tensor comes through the gap before its next event."""
        e = self.event[k]
        self._set(self.form.keep[k][e], k in self.resident)
        self._set(self.form.paged[k][e], k in self.from_page)

    def skip_to(self, slot: int) -> None:
        """Pass slots in which nothing runs; what waits to be paged in goes on waiting."""
        for place in self.form.timeline.slots[self.next_slot : slot]:
            op = self.graph.operators[place.operator]
            for k in (*op.inputs, *op.outputs):
                self._keep(k)
                self.event[k] += 1
        self.next_slot = slot

    def compute(self, operator: int) -> bool:
        slot = self.slot_of.get(Slot(self.stage, operator))
        if slot is None or slot < self.next_slot:
            return False
        self.skip_to(slot)
        op = self.graph.operators[operator]
        for k in (*op.inputs, *op.outputs):
            self.arrive(k)
        self.resident.update(op.outputs)
        self.from_page.difference_update(op.outputs)
        self._set(self.form.run[slot], True)
        self.next_slot = slot + 1
        if operator == self.stage:
            self.stage += 1
            self.from_page.difference_update(op.mutates)
            for k in op.mutates:
                self.content[k] += 1
        return True

    def page_out(self, k: int) -> None:
        self._set(self.form.page_out[k][self.content[k]], True)

    def hold_copies(self, k: int) -> None:
        """When the page store holds a copy of tensor k, all of its events being known."""
        form = self.form
        if self.graph.tensors[k].pageable:
            page_in = [self._is(term) for term in form.page_in[k]]
            came = list(accumulate([False, *page_in], or_))
            held = False
            for e in range(len(page_in) - 1, -1, -1):
                held = (
                    page_in[e] or not self._is(form.home[k]) or (held and self._stays(k, e, came))
                )
                self._set(form.copy[k][e], held)
                self._set(form.came[k][e], came[e])

    def _stays(self, k: int, e: int, came: list[bool]) -> bool:
        """Whether a copy that is there after tensor k's event e was there before it."""
        return came[e] or not any(self._is(term) for term, _ in arrives(self.form, k, e))

    def _is(self, term: Term) -> bool:
        return bool(term if isinstance(term, int) else self.values[term])
