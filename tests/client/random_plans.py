"""Random valid plans: tensors leave RAM at random and come back by paging or recomputing."""

from __future__ import annotations

import random

from scheduler import Compute, Free, Graph, PageIn, PageOut, Plan, Problem, Step


class _DeadEnd(Exception):
    """What was given up cannot be had again."""


def random_plan(problem: Problem, seed: int) -> Plan:
    """A valid plan without regard to the budget; the same seed gives the same plan."""
    for attempt in range(100):
        try:
            return _Walk(problem, random.Random(f"{seed} {attempt}"), attempt / 100).plan()
        except _DeadEnd:
            continue
    raise AssertionError("no random plan was found in 100 attempts")


class _Walk:
    """`caution` from 0 to 1 lets less leave RAM, and makes it likelier that it comes back as a page."""

    def __init__(self, problem: Problem, draw: random.Random, caution: float) -> None:
        self.problem, self.graph, self.draw = problem, problem.graph, draw
        pageable = [t.id for t in self.graph.tensors if t.pageable]
        persistent = [k for k in pageable if self.graph.is_persistent(k)]
        self.home_paged = {k for k in persistent if draw.random() < 0.5}
        self.resident = {
            t.id for t in self.graph.tensors if t.id not in self.graph.producer
        } - self.home_paged
        self.stored = set(self.home_paged)
        self.steps: list[Step] = []
        self.stage = 0
        self.page_share = max(caution, draw.choice((0.2, 0.6, 0.9)))
        self.rerun_share = (1 - caution) / 2
        self.leave_share = (1 - caution) * draw.choice((0.2, 0.5, 0.8))

    def plan(self) -> Plan:
        for op in self.graph.operators:
            self.stage = op.id
            self.compute(op.id, set())
            self.resident_dies(op.id)
            self.leave(op.id)
        self.end()
        return Plan(
            graph_digest=self.graph.digest,
            budget=self.problem.budget,
            steps=tuple(self.steps),
            paged_at_start=tuple(sorted(self.home_paged)),
        )

    def compute(self, operator: int, locked: set[int]) -> None:
        op = self.graph.operators[operator]
        locked = locked | {*op.inputs}
        for k in op.inputs:
            self.bring(k, locked)
        for k in op.outputs:
            if k in self.resident:
                self.free(k)
        self.steps.append(Compute(operator))
        self.resident.update(op.outputs)
        if operator == self.stage:
            self.stored.difference_update(op.mutates)

    def bring(self, k: int, locked: set[int]) -> None:
        if k in self.resident:
            return
        maker = self.graph.producer.get(k)
        can_rerun = (
            maker is not None
            and self.graph.can_rerun(maker, self.stage)
            and not (locked & self.resident).intersection(self.graph.operators[maker].outputs)
        )
        if k in self.stored and not (can_rerun and self.draw.random() < self.rerun_share):
            self.steps.append(PageIn(k))
            self.resident.add(k)
        elif can_rerun:
            assert maker is not None
            self.compute(maker, locked | {k})
        else:
            raise _DeadEnd

    def resident_dies(self, operator: int) -> None:
        for k in sorted(self.resident):
            dead = not any(u > operator for u in self.graph.users[k])
            if dead and not self.graph.is_persistent(k) and k not in self.graph.results:
                self.free(k)

    def leave(self, operator: int) -> None:
        for k in sorted(self.resident):
            if self.draw.random() > self.leave_share or k in self.graph.results:
                continue
            if self.graph.tensors[k].pageable and self.draw.random() < self.page_share:
                self.steps.append(PageOut(k))
                self.stored.add(k)
                self.free(k)
            elif self.can_come_back(k):
                self.free(k)

    def can_come_back(self, k: int) -> bool:
        later = [u for u in self.graph.users[k] if u > self.stage]
        maker = self.graph.producer.get(k)
        return k in self.stored or (
            maker is not None and all(self.graph.can_rerun(maker, u) for u in later)
        )

    def end(self) -> None:
        for k in sorted(self.home_paged):
            if k not in self.stored:
                if k not in self.resident:
                    raise _DeadEnd
                self.steps.append(PageOut(k))
        keep = {t.id for t in self.graph.tensors if self.graph.is_persistent(t.id)}
        for k in sorted(keep - self.home_paged):
            if k not in self.resident:
                if k not in self.stored:
                    raise _DeadEnd
                self.steps.append(PageIn(k))
                self.resident.add(k)
        wanted = (keep - self.home_paged) | set(self.graph.results)
        for k in sorted(self.resident - wanted):
            self.free(k)

    def free(self, k: int) -> None:
        self.steps.append(Free(k))
        self.resident.remove(k)


def uses(plan: Plan, graph: Graph) -> tuple[int, int]:
    """How many operator runs are repeated, and how many tensors come back from the page store."""
    runs = sum(isinstance(s, Compute) for s in plan.steps) - len(graph.operators)
    return runs, sum(isinstance(s, PageIn) for s in plan.steps)
