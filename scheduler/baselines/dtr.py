"""Greedy eviction without knowledge of the future.

Kirisame et al.: *Dynamic Tensor Rematerialization*, ICLR 2021, arXiv:2006.09616.
"""

from __future__ import annotations

from ..check import is_valid
from ..plan import Plan
from ..problem import Problem
from ..replay import resident_at_end
from .walk import NoWayBackError, Walk, droppable

# Past this many runs per operator it is thrashing, as the paper calls it.
RUNS_PER_OPERATOR = 3


def dtr(problem: Problem) -> Plan | None:
    """Recompute only: when RAM runs out, the tensor of least cost / (size x staleness) goes.

    The cost is that of computing the tensor and its missing neighbours again: ancestors it needs and
    descendants that need it (the paper's h_DTR, computed exactly). Staleness is the time since the
    tensor was last read or computed. What no operator reads any more goes at once, as the framework's
    reference counts tell the published system.

    Departures: the cost is in joules, which is what plans are compared by; a weight is not copied
    before its update, so results that need the old weight are not given up; only forward results
    are. RAM is counted as the published system sees it, which knows no last use within a recomputation.
    """
    walk = _Dtr(problem)
    try:
        walk.make_room(0, [])
        for op in problem.graph.operators:
            walk.first_run(op.id)
            walk.release()
        plan = walk.finish()
    except NoWayBackError:
        return None
    return plan if is_valid(plan, problem) else None


class _Dtr(Walk):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.costs = problem.costs
        self.may_go, self.until = droppable(self.graph)
        self.last_first_use = [max(users, default=-1) for users in self.graph.users]
        self.at_end = resident_at_end(self.graph, ())
        self.size = [t.size_bytes for t in self.graph.tensors]
        self.now_s = 0.0
        self.touched_s = [0.0] * len(self.graph.tensors)
        self.runs = 0
        # Staleness of what was touched just now: a share of the mean operator, so that no price is infinite.
        self.tick_s = 0.5 * problem.compute_once.time_s / len(self.graph.operators) or 1.0

    def make_room(self, extra_bytes: int, running: list[int]) -> None:
        pinned = {k for operator in running for k in self.graph.operators[operator].inputs}
        held = sum(self.size[k] for k in self.resident)
        while held + extra_bytes > self.problem.budget.ram_bytes:
            loose = [k for k in (self.resident & self.may_go) - pinned if self.size[k]]
            if not loose:
                raise NoWayBackError
            victim = min(loose, key=lambda k: (self._price(k), k))
            self.drop(victim)
            held -= self.size[victim]
        if running:
            self._touch(running[-1])

    def release(self) -> None:
        """Give up what nothing reads any more."""
        for k in [k for k in self.resident if k not in self.at_end]:
            last = self.last_first_use[k] if k in self.may_go else self.until[k]
            if last <= self.stage:
                self.drop(k)

    def _touch(self, operator: int) -> None:
        self.runs += 1
        if self.runs > RUNS_PER_OPERATOR * len(self.graph.operators):
            raise NoWayBackError
        op = self.graph.operators[operator]
        self.now_s += self.costs.operators[operator].time_s + self.tick_s
        for k in (*op.inputs, *op.outputs):
            self.touched_s[k] = self.now_s

    def _price(self, k: int) -> float:
        staleness_s = self.now_s - self.touched_s[k] + self.tick_s
        return self._neighbourhood_j(k) / (self.size[k] * staleness_s)

    def _neighbourhood_j(self, k: int) -> float:
        """Joules of computing again the tensor, and what is missing around it."""
        graph, ran = self.graph, self.stage
        up, down = {graph.producer[k]}, {graph.producer[k]}
        for near, ahead in ((up, True), (down, False)):
            queue = [graph.producer[k]]
            while queue:
                op = graph.operators[queue.pop()]
                if ahead:
                    missing = (i for i in op.inputs if i not in self.resident)
                    found = {graph.producer[i] for i in missing if i in graph.producer}
                else:
                    users = (u for o in op.outputs for u in graph.users[o] if u < ran)
                    found = {u for u in users if self._is_missing(u)}
                queue += found - near
                near |= found
        return sum(self.costs.total_j(self.costs.operators[o]) for o in up | down)

    def _is_missing(self, operator: int) -> bool:
        """Whether a result that could still be needed is not resident."""
        outputs = self.graph.operators[operator].outputs
        return any(
            k in self.may_go and k not in self.resident and self.until[k] >= self.stage
            for k in outputs
        )
