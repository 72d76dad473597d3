"""Rows that whole plans obey and fractions break: what is made in a window of stages needs its inputs there.

A relaxation keeps a twentieth of an input through twenty stages, computes a twentieth of the output in each,
and has all of it in the end. A plan that computes the output in these stages has all of the input in one of
them: kept from before, paged in, or computed there from its own inputs, for which the same holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
import pulp
from numpy.typing import NDArray

from .constraints import negated, row
from .variables import Formulation, Term, value_of

Floats = NDArray[np.float64]
Terms = list[tuple[Term, float]]

# Rows are added where the relaxation breaks them by more than this, for so many windows of each gain or use.
LEAST_VIOLATION = 0.02
WINDOWS = 2
# What is computed again less than this counts as not computed again.
LEAST_RERUN = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Broken:
    """What is missing of a tensor that is used at `end`, or of its inputs where it gains until then."""

    by: float
    tensor: int
    begin: int
    end: int
    is_use: bool


def presence_rows(form: Formulation) -> Iterator[pulp.LpConstraint]:
    """Rows that the present values break, for a program of `stages.relaxation`.

    They hold for bundles too: each is the mean of the rows of the members.
    """
    stages = _Stages(form)
    found: dict[tuple[int, int], list[_Broken]] = {}
    for begin in range(stages.count - 1):
        for broken in stages.broken_after(begin):
            what = (broken.tensor, broken.end if broken.is_use else -1)
            found.setdefault(what, []).append(broken)
    worst = [b for windows in found.values() for b in sorted(windows, reverse=True)[:WINDOWS]]
    for begin, windows in groupby(sorted(worst, key=attrgetter("begin")), attrgetter("begin")):
        there = stages.there_after(begin)
        for broken in windows:
            yield from stages.row(broken, there[:, broken.end - begin - 1])


class _Stages:
    """Values of a program by tensor and stage: what is kept after it, and what came until its end.

    `own` is what is kept and did not come from the page copy; `came` is paged in, `made` is computed, both
    added up from the first stage on.
    """

    def __init__(self, form: Formulation) -> None:
        graph, slots = form.problem.graph, form.timeline.slots
        self.form, self.graph = form, graph
        self.count = len(graph.operators)
        self.runs: list[list[tuple[int, Term]]] = [[] for _ in graph.operators]
        ran = np.zeros((self.count, self.count))
        for slot, run in zip(slots, form.run, strict=True):
            self.runs[slot.operator].append((slot.stage, run))
            ran[slot.operator, slot.stage] = value_of(run)
        again = ran.sum(axis=1) - 1.0 > LEAST_RERUN
        self.again = [op for op in graph.operators if again[op.id]]
        self.stages = [[slots[s].stage for s in events] for events in form.timeline.events]
        shape = (len(graph.tensors), self.count)
        self.keep, self.own, came, made = (np.zeros(shape) for _ in range(4))
        for k, stages in enumerate(self.stages):
            gap = np.searchsorted(stages, np.arange(self.count), side="right")
            kept = np.array([value_of(term) for term in form.keep[k]])
            paged = np.array([value_of(term) for term in form.paged[k]])
            if stages:
                self.keep[k], self.own[k] = kept[gap], (kept - paged)[gap]
            for e, stage in enumerate(stages):
                came[k, stage] += value_of(form.page_in[k][e])
            if k in graph.producer:
                made[k] = ran[graph.producer[k]]
        self.came, self.made = came.cumsum(axis=1), made.cumsum(axis=1)

    def there_after(self, begin: int) -> Floats:
        """What may be there of each tensor (rows) between this stage and the end of each later one."""
        after = slice(begin + 1, None)
        there = self.keep[:, begin, None] + self.came[:, after] - self.came[:, begin, None]
        made = self.made[:, after] - self.made[:, begin, None]
        for op in self.again:
            if op.inputs:
                outputs = list(op.outputs)
                inputs = list(op.inputs)
                least = (there[inputs] + made[inputs]).min(axis=0)
                made[outputs] = np.minimum(made[outputs], least)
        total: Floats = there + made
        return total

    def broken_after(self, begin: int) -> Iterator[_Broken]:
        """The worst window of each gain, and each use, among the windows that begin after this stage."""
        there = self.there_after(begin)
        for op in self.again:
            if op.inputs and op.id <= begin:
                inputs = there[list(op.inputs)].min(axis=0)
                for k in op.outputs:
                    yield from self._gain(k, begin, inputs)
                    yield from self._uses(k, begin, there[k])

    def _gain(self, k: int, begin: int, inputs: Floats) -> Iterator[_Broken]:
        if self.graph.mutators[k]:
            return  # a change in place makes what came from the copy a tensor's own
        lack = self.own[k, begin + 1 :] - self.own[k, begin] - inputs
        worst = int(np.argmax(lack))
        by, end = float(lack[worst]), begin + 1 + worst
        if by > LEAST_VIOLATION:
            yield _Broken(by=by, tensor=k, begin=begin, end=end, is_use=False)

    def _uses(self, k: int, begin: int, there: Floats) -> Iterator[_Broken]:
        for end in self.graph.users[k]:
            by = 1.0 - float(there[end - begin - 1]) if end > begin else 0.0
            if by > LEAST_VIOLATION:
                yield _Broken(by=by, tensor=k, begin=begin, end=end, is_use=True)

    def row(self, broken: _Broken, there: Floats) -> Iterator[pulp.LpConstraint]:
        """own(end) - own(begin) <= what is there of an input; or, of the tensor that is used, 1 <= it."""
        k, begin, end = broken.tensor, broken.begin, broken.end
        if broken.is_use:
            yield from row(negated(self._there(k, begin, end, there)), -1.0)
            return
        gained = [*self._own(k, end), *negated(self._own(k, begin))]
        scarce = self._scarcest_input(k, there)
        yield from row([*gained, *negated(self._there(scarce, begin, end, there))], 0.0)

    def _own(self, k: int, stage: int) -> Terms:
        gap = self._gap(k, stage)
        return [(self.form.keep[k][gap], 1.0), (self.form.paged[k][gap], -1.0)]

    def _gap(self, k: int, stage: int) -> int:
        """The gap between tensor k's events that lies after the stage."""
        return bisect_right(self.stages[k], stage)

    def _there(self, k: int, begin: int, end: int, there: Floats) -> Terms:
        """Kept from before, paged in, and computed; or, instead of the last, what is there of an input."""
        form, producer = self.form, self.graph.producer.get(k)
        terms: Terms = [(form.keep[k][self._gap(k, begin)], 1.0)]
        terms += [
            (form.page_in[k][e], 1.0) for e, s in enumerate(self.stages[k]) if begin < s <= end
        ]
        if producer is None:
            return terms
        if self.graph.operators[producer].inputs:
            scarce = self._scarcest_input(k, there)
            if there[scarce] < self.made[k, end] - self.made[k, begin]:
                return terms + self._there(scarce, begin, end, there)
        runs = self.runs[producer]
        return terms + [(run, 1.0) for stage, run in runs if begin < stage <= end]

    def _scarcest_input(self, k: int, there: Floats) -> int:
        inputs = self.graph.operators[self.graph.producer[k]].inputs
        return min(inputs, key=lambda i: float(there[i]))
