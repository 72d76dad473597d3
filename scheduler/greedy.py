"""A plan without a solver: run in graph order, and give up what is cheapest to bring back."""

from __future__ import annotations

import math

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
            walk.stage = op.id
            walk.run(op.id, frozenset())
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
    """RAM and page store after the steps so far. Frees are left to `with_frees`."""

    def __init__(
        self, problem: Problem, paged_at_start: tuple[int, ...], longest_chain: int
    ) -> None:
        self.longest_chain = longest_chain
        self.graph: Graph = problem.graph
        self.costs = problem.costs
        self.budget = problem.budget.ram_bytes
        self.size = [t.size_bytes for t in self.graph.tensors]
        self.paged = frozenset(paged_at_start)
        self.resident = resident_at_start(self.graph, paged_at_start)
        self.stored = set(paged_at_start)
        self.steps: list[Step] = []
        self.stage = 0

    def start(self) -> None:
        """What is resident when the step begins has to fit by itself."""
        if self._held() > self.budget:
            raise _OutOfOptions

    def run(self, operator: int, pinned: frozenset[int]) -> None:
        """Compute an operator, bringing back its inputs first; `pinned` must stay in RAM."""
        op = self.graph.operators[operator]
        pinned |= {*op.inputs}
        # What it computes anew is given up first: the law asks for that.
        self.resident.difference_update(op.outputs)
        for k in sorted(op.inputs, key=self._computed_by):
            if k not in self.resident:
                self._bring(k, pinned)
        self.resident.difference_update(op.outputs)
        own = op.workspace_bytes + sum(self.size[k] for k in op.outputs)
        self._make_room(own, pinned)
        self._add(Compute(operator))
        self.resident.update(op.outputs)
        if operator == self.stage:
            self.stored.difference_update(op.mutates)
            for k in op.mutates:
                if k in self.paged:
                    self._add(PageOut(k))
                    self.stored.add(k)
            self._drop_dead()

    def finish(self) -> None:
        """Bring back what has to be resident when the step ends."""
        self.stage = len(self.graph.operators)
        wanted = resident_at_end(self.graph, tuple(self.paged))
        for k in sorted(wanted - self.resident):
            self._bring(k, frozenset(wanted))

    def _held(self) -> int:
        return sum(self.size[k] for k in self.resident)

    def _computed_by(self, k: int) -> int:
        return self.graph.producer.get(k, -1)

    def _bring(self, k: int, pinned: frozenset[int]) -> None:
        if k in self.stored:
            self._make_room(self.size[k], pinned)
            self._add(PageIn(k))
            self.resident.add(k)
        elif k in self.graph.producer and self.graph.can_rerun(self.graph.producer[k], self.stage):
            self.run(self.graph.producer[k], pinned)
        else:
            raise _OutOfOptions

    def _make_room(self, extra_bytes: int, pinned: frozenset[int]) -> None:
        held = self._held()
        while held + extra_bytes > self.budget:
            prices = {k: self._price(k) for k in self.resident - pinned if self.size[k]}
            victim = min(prices, key=lambda k: (prices[k], k), default=None)
            if victim is None or math.isinf(prices[victim]):
                raise _OutOfOptions
            self._give_up(victim)
            held -= self.size[victim]

    def _price(self, k: int) -> float:
        """Joules per byte and per operator until the next use; infinite if there is no way back."""
        way_back = min(self._page_j(k), self._recompute_j(k))
        distance = self._next_use(k) - self.stage + 1
        return way_back / (self.size[k] * distance)

    def _page_j(self, k: int) -> float:
        if not self.graph.tensors[k].pageable:
            return math.inf
        there = 0.0 if k in self.stored else self.costs.total_j(self.costs.page_out[k])
        return there + self.costs.total_j(self.costs.page_in[k])

    def _recompute_j(self, k: int) -> float:
        """Running its operator again when it is next used, after what that needs is back in RAM."""
        return self._rerun_j(k, self._next_use(k), self.longest_chain)

    def _rerun_j(self, k: int, stage: int, longest: int) -> float:
        operator = self.graph.producer.get(k)
        if operator is None or not longest or not self.graph.can_rerun(operator, stage):
            return math.inf
        cost_j = self.costs.total_j(self.costs.operators[operator])
        for i in self.graph.operators[operator].inputs:
            if i not in self.resident:
                stored = self._page_j(i) if i in self.stored else math.inf
                cost_j += min(stored, self._rerun_j(i, stage, longest - 1))
            if math.isinf(cost_j):
                break
        return cost_j

    def _give_up(self, k: int) -> None:
        if k not in self.stored and self._page_j(k) <= self._recompute_j(k):
            self._add(PageOut(k))
            self.stored.add(k)
        self.resident.remove(k)

    def _next_use(self, k: int) -> int:
        later = (user for user in self.graph.users[k] if user >= self.stage)
        return next(later, len(self.graph.operators))

    def _drop_dead(self) -> None:
        """Forget what no later first run and not the end of the step reads."""
        end = len(self.graph.operators)
        needed = {*self.graph.results}
        needed.update(t.id for t in self.graph.tensors if self.graph.is_persistent(t.id))
        for k in [k for k in self.resident if k not in needed]:
            if not any(self.stage < user < end for user in self.graph.users[k]):
                self.resident.remove(k)
        for k in [k for k in self.resident & self.paged if k in self.stored]:
            if not any(user > self.stage for user in self.graph.users[k]):
                self.resident.remove(k)

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        if len(self.steps) > STEPS_PER_OPERATOR * len(self.graph.operators):
            raise _OutOfOptions
