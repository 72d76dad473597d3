"""What the baselines share: plans that are written down operator by operator."""

from __future__ import annotations

from collections.abc import Iterable

from ..check import is_valid
from ..graph import Graph, Phase
from ..liveness import with_frees
from ..plan import Compute, PageIn, PageOut, Plan, Step
from ..problem import Problem
from ..replay import replay, resident_at_end, resident_at_start

# Bytes of persistent tensors that are tried in the page store, as shares of all.
HOME_SHARES = (0.0, 0.25, 0.5, 0.75)


class NoWayBackError(Exception):
    """A tensor is needed that is neither resident nor stored, and cannot be computed again."""


class Walk:
    """Steps so far. A tensor stays resident until `drop`; `with_frees` then ends each stay early.

    `stage` is the operator whose first run comes next or is under way.
    """

    def __init__(self, problem: Problem, paged_at_start: tuple[int, ...] = ()) -> None:
        self.problem = problem
        self.graph: Graph = problem.graph
        self.paged = frozenset(paged_at_start)
        self.resident = resident_at_start(self.graph, paged_at_start)
        self.stored = set(paged_at_start)
        self.steps: list[Step] = []
        self.stage = 0

    def first_run(self, operator: int) -> None:
        """The next operator in graph order, and the write-back of what it changed in place."""
        self.stage = operator
        self.compute(operator)
        for k in self.graph.operators[operator].mutates:
            self.stored.discard(k)
            if k in self.paged:
                self.page_out(k)

    def compute(self, operator: int) -> None:
        """Run an operator, and first what its missing inputs need."""
        stack = [operator]
        while stack:
            op = self.graph.operators[stack[-1]]
            missing = [k for k in op.inputs if k not in self.resident]
            again = [k for k in missing if k not in self.stored]
            if again:
                stack.append(
                    self._way_back(min(again, key=lambda k: self.graph.producer.get(k, -1)))
                )
                continue
            for k in missing:
                self.make_room(self.graph.tensors[k].size_bytes, stack)
                self.steps.append(PageIn(k))
                self.resident.add(k)
            # What is computed anew is given up first: the law asks for that.
            self.resident.difference_update(op.outputs)
            own = sum(self.graph.tensors[k].size_bytes for k in op.outputs)
            self.make_room(op.workspace_bytes + own, stack)
            self.steps.append(Compute(op.id))
            self.resident.update(op.outputs)
            stack.pop()

    def bring(self, tensor: int) -> None:
        """Page the tensor in, or compute it again, if it is not resident."""
        if tensor in self.resident:
            return
        if tensor not in self.stored:
            self.compute(self._way_back(tensor))
            return
        self.make_room(self.graph.tensors[tensor].size_bytes, [])
        self.steps.append(PageIn(tensor))
        self.resident.add(tensor)

    def page_out(self, tensor: int) -> None:
        """Copy a resident tensor to the page store, unless a valid copy is there."""
        if tensor not in self.stored:
            self.steps.append(PageOut(tensor))
            self.stored.add(tensor)

    def drop(self, tensor: int) -> None:
        """Give up the tensor's RAM."""
        self.resident.discard(tensor)

    def make_room(self, extra_bytes: int, running: list[int]) -> None:
        """Called before RAM is taken, with the operators under way; those that watch RAM override it."""

    def finish(self) -> Plan:
        """Bring back what has to be resident when the step ends, and free what can be freed."""
        self.stage = len(self.graph.operators)
        for k in sorted(resident_at_end(self.graph, tuple(self.paged))):
            self.bring(k)
        paged = tuple(sorted(self.paged))
        return Plan(
            graph_digest=self.graph.digest,
            budget=self.problem.budget,
            steps=with_frees(self.graph, self.steps, paged),
            paged_at_start=paged,
        )

    def _way_back(self, tensor: int) -> int:
        producer = self.graph.producer.get(tensor)
        if producer is None or not self.graph.can_rerun(producer, self.stage):
            raise NoWayBackError
        return producer


def droppable(graph: Graph) -> tuple[frozenset[int], tuple[int, ...]]:
    """Forward results that can be computed again whenever they may be needed, and until when that is.

    The second part gives for every tensor the last stage that may need it: to read it, or to compute
    again what was computed from it. A weight is changed in its update; what cannot be computed again
    with the old weight until its last use is not among the first part.
    """
    until = [max(users, default=-1) for users in graph.users]
    end = len(graph.operators)
    for k in resident_at_end(graph, ()):
        until[k] = end
    found: set[int] = set()
    for op in reversed(graph.operators):
        last = max((until[k] for k in op.outputs), default=-1)
        if op.phase is not Phase.FORWARD or not graph.can_rerun(op.id, last):
            continue
        found.update(op.outputs)
        for k in op.inputs:
            until[k] = max(until[k], last)
    return frozenset(found), tuple(until)


def homes(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Choices of what lives in the page store between steps: nothing, a part, everything that may.

    What is read least often goes first, since each use pages it in: optimizer state before weights.
    """
    order = sorted(
        graph.may_live_paged, key=lambda k: (len(graph.users[k]), -graph.tensors[k].size_bytes, k)
    )
    total = sum(graph.tensors[k].size_bytes for k in order)
    choices = []
    for share in HOME_SHARES:
        chosen, held = [], 0
        for k in order:
            if held < share * total:
                chosen.append(k)
                held += graph.tensors[k].size_bytes
        choices.append(tuple(sorted(chosen)))
    return tuple(dict.fromkeys((*choices, graph.may_live_paged)))


def cheapest(problem: Problem, plans: Iterable[Plan | None]) -> Plan | None:
    """The plan of least energy among those that pass `check`."""
    valid = [plan for plan in plans if plan is not None and is_valid(plan, problem)]
    return min(valid, key=lambda plan: replay(plan, problem).energy_j, default=None)
