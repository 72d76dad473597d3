"""A plan without a solver: run in graph order, and give up what is cheapest to bring back."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable

import numpy as np

from .graph import Graph
from .liveness import with_frees
from .plan import Compute, PageIn, PageOut, Plan, Step
from .problem import Problem
from .replay import resident_at_end, resident_at_start

# Bringing back what was given up may need more to be given up: past this many steps per operator the
# budget is too tight for this way of planning.
STEPS_PER_OPERATOR = 40
LONGEST_CHAIN = 6


def greedy(
    problem: Problem,
    paged_at_start: tuple[int, ...] = (),
    *,
    longest_chain: int = LONGEST_CHAIN,
) -> Plan | None:
    """A plan that keeps the RAM budget, or None where this way of planning finds none.

    When RAM runs out, the resident tensor goes whose way back costs least energy per byte and per
    operator until its next use: recomputed where that is cheaper than paging, else paged out. A rerun
    may need reruns of what it reads: `longest_chain` is how many in a row are thought of. The deadline
    and the page store's limit are not looked at.
    """
    walk = _Walk(problem, paged_at_start, longest_chain)
    try:
        walk.start()
        for op in problem.graph.operators:
            walk.run_first(op.id)
        walk.finish()
    except _OutOfOptions:
        return None
    graph = problem.graph
    steps = with_frees(graph, walk.steps, paged_at_start)
    return Plan(
        graph_digest=graph.digest,
        budget=problem.budget,
        steps=steps,
        paged_at_start=paged_at_start,
    )


class _OutOfOptions(Exception):
    """Nothing more can be given up, or it would take too many steps."""


class _Walk:
    """RAM and page store after the steps so far. Frees are left to `with_frees`.

    The arrays say of every tensor what its price is made of: `page_j` is infinite where paging is no way
    back, `rerun_j` is the operator that computes it alone, usable until stage `rerun_until`.
    """

    def __init__(
        self, problem: Problem, paged_at_start: tuple[int, ...], longest_chain: int
    ) -> None:
        graph, costs, tensors = problem.graph, problem.costs, problem.graph.tensors
        self.graph: Graph = graph
        self.budget = problem.budget.ram_bytes
        self.longest_chain = longest_chain
        self.size = [t.size_bytes for t in tensors]
        self.paged = frozenset(paged_at_start)
        self.stored = set(paged_at_start)
        self.resident = resident_at_start(graph, paged_at_start)
        self.held = sum(self.size[k] for k in self.resident)
        self.arrived = list(self.resident)
        self.wanted_at_end = resident_at_end(graph, ())
        self.steps: list[Step] = []
        self.stage = 0
        self.operator_j = [costs.total_j(c) for c in costs.operators]
        self.in_j = [
            costs.total_j(c) if t.pageable else math.inf
            for t, c in zip(tensors, costs.page_in, strict=True)
        ]
        self.there_and_back_j = [
            costs.total_j(there) + back
            for there, back in zip(costs.page_out, self.in_j, strict=True)
        ]
        makers = [graph.producer.get(k) for k in range(len(tensors))]
        self.sizes = np.array(self.size, dtype=np.float64)
        self.page_j = np.array(
            [
                self.in_j[k] if k in self.stored else self.there_and_back_j[k]
                for k in range(len(tensors))
            ]
        )
        self.rerun_j = np.array([math.inf if m is None else self.operator_j[m] for m in makers])
        self.rerun_until = np.array(
            [-1 if m is None else graph.rerunnable_until[m] for m in makers]
        )
        self.next_use = np.array([self._use_from(k, 0) for k in range(len(tensors))])

    def start(self) -> None:
        """What is resident when the step begins has to fit by itself."""
        if self.held > self.budget:
            raise _OutOfOptions

    def run_first(self, operator: int) -> None:
        """The next operator in graph order, and the write-back of what it changed in place."""
        op = self.graph.operators[operator]
        self.stage = operator
        self._run(operator, frozenset())
        for k in op.mutates:
            if k in self.paged:
                self._page_out(k)
            else:
                self._forget_copy(k)
        for k in op.inputs:
            self.next_use[k] = self._use_from(k, operator + 1)
        self._drop_dead({*op.inputs, *self.arrived})
        self.arrived.clear()

    def finish(self) -> None:
        """Bring back what has to be resident when the step ends."""
        self.stage = len(self.graph.operators)
        wanted = resident_at_end(self.graph, tuple(self.paged))
        for k in sorted(wanted - self.resident):
            self._bring(k, frozenset(wanted))

    def _run(self, operator: int, pinned: frozenset[int]) -> None:
        """Compute an operator, bringing back its inputs first; `pinned` must stay in RAM."""
        op = self.graph.operators[operator]
        pinned |= {*op.inputs}
        # What it computes anew is given up first: the law asks for that.
        self._leave(op.outputs)
        for k in sorted(op.inputs, key=self._computed_by):
            if k not in self.resident:
                self._bring(k, pinned)
        self._leave(op.outputs)
        own = op.workspace_bytes + sum(self.size[k] for k in op.outputs)
        self._make_room(own, pinned)
        self._add(Compute(operator))
        self._arrive(op.outputs)

    def _arrive(self, tensors: Iterable[int]) -> None:
        for k in tensors:
            self.resident.add(k)
            self.held += self.size[k]
            self.arrived.append(k)

    def _leave(self, tensors: Iterable[int]) -> None:
        for k in tensors:
            if k in self.resident:
                self.resident.remove(k)
                self.held -= self.size[k]

    def _page_out(self, k: int) -> None:
        self._add(PageOut(k))
        self.stored.add(k)
        self.page_j[k] = self.in_j[k]

    def _forget_copy(self, k: int) -> None:
        self.stored.discard(k)
        self.page_j[k] = self.there_and_back_j[k]

    def _computed_by(self, k: int) -> int:
        return self.graph.producer.get(k, -1)

    def _bring(self, k: int, pinned: frozenset[int]) -> None:
        if k in self.stored:
            self._make_room(self.size[k], pinned)
            self._add(PageIn(k))
            self._arrive((k,))
        elif k in self.graph.producer and self.graph.can_rerun(self.graph.producer[k], self.stage):
            self._run(self.graph.producer[k], pinned)
        else:
            raise _OutOfOptions

    def _make_room(self, extra_bytes: int, pinned: frozenset[int]) -> None:
        while self.held + extra_bytes > self.budget:
            victim = self._cheapest(self.resident - pinned)
            if victim not in self.stored and self.page_j[victim] <= self._recompute_j(victim):
                self._page_out(victim)
            self._leave((victim,))

    def _cheapest(self, loose: set[int]) -> int:
        """The tensor of least joules per byte and per operator until its next use.

        A rerun costs at least its own operator: only where that could be the least, the chain of
        reruns behind it is looked at.
        """
        tensors = np.array(sorted(k for k in loose if self.size[k]), dtype=np.int64)
        next_use = self.next_use[tensors]
        alone_j = np.where(next_use <= self.rerun_until[tensors], self.rerun_j[tensors], math.inf)
        weight = self.sizes[tensors] * (next_use - self.stage + 1)
        at_least = np.minimum(self.page_j[tensors], alone_j) / weight
        victim, least = -1, math.inf
        for n in np.argsort(at_least, kind="stable").tolist():
            if at_least[n] > least:
                break
            k = int(tensors[n])
            price = min(float(self.page_j[k]), self._recompute_j(k)) / float(weight[n])
            if (price, k) < (least, victim):
                victim, least = k, price
        if math.isinf(least):
            raise _OutOfOptions
        return victim

    def _recompute_j(self, k: int) -> float:
        """Running its operator again when it is next used, after what that needs is back in RAM."""
        return self._rerun_j(k, int(self.next_use[k]), self.longest_chain)

    def _rerun_j(self, k: int, stage: int, longest: int) -> float:
        operator = self.graph.producer.get(k)
        if operator is None or not longest or not self.graph.can_rerun(operator, stage):
            return math.inf
        cost_j = self.operator_j[operator]
        for i in self.graph.operators[operator].inputs:
            if i not in self.resident:
                stored = self.in_j[i] if i in self.stored else math.inf
                cost_j += min(stored, self._rerun_j(i, stage, longest - 1))
            if math.isinf(cost_j):
                break
        return cost_j

    def _use_from(self, k: int, stage: int) -> int:
        """The first operator from `stage` on that reads the tensor; the end of the step if none does."""
        users = self.graph.users[k]
        place = bisect_left(users, stage)
        return users[place] if place < len(users) else len(self.graph.operators)

    def _drop_dead(self, candidates: set[int]) -> None:
        """Forget what no later first run and not the end of the step reads."""
        end = len(self.graph.operators)
        for k in candidates & self.resident:
            at_end = k in self.wanted_at_end and not (k in self.paged and k in self.stored)
            if not at_end and self.next_use[k] == end:
                self._leave((k,))

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        if len(self.steps) > STEPS_PER_OPERATOR * len(self.graph.operators):
            raise _OutOfOptions
