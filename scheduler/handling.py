"""What a plan does with each tensor while nothing touches it: keep it, page it, or recompute it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from .graph import Graph
from .plan import Compute, Free, PageIn, PageOut, Plan, cost_of
from .problem import Problem


class Way(StrEnum):
    """How a tensor gets over a gap."""

    KEPT = "kept"
    PAGED = "paged"
    RECOMPUTED = "recomputed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time between two operator runs that touch a tensor, at the end of which it is needed.

    `begin` and `end` are positions of Compute steps in the plan; -1 is the start of the step, the
    number of steps its end. `moves` are the positions of the steps that bring it back: its page-out,
    unless an earlier gap is charged with that, and its page-in; or the rerun.
    A gap `between_steps` leads from the last touch to the first touch of the next training step.
    """

    tensor: int
    begin: int
    end: int
    way: Way
    moves: tuple[int, ...] = ()
    between_steps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a plan does with one tensor in all its gaps, and the joules that go into that."""

    tensor: int
    kept: int
    paged: int
    recomputed: int
    energy_j: float

    @property
    def text(self) -> str:
        """For example `paged, recomputed × 2`."""
        if not (self.paged or self.recomputed):
            return "kept" if self.kept else "used at once"
        counts = (("paged", self.paged), ("recomputed", self.recomputed))
        return ", ".join(
            name if count == 1 else f"{name} × {count}" for name, count in counts if count
        )


def gaps(plan: Plan, graph: Graph) -> tuple[Gap, ...]:
    """All gaps of a valid plan, by tensor and time.

    Left out are those in which nothing else runs and the tensor is kept: there is nothing to decide.
    """
    walk = _Walk(graph, plan)
    for position, step in enumerate(plan.steps):
        match step:
            case Compute(operator):
                walk.compute(position, operator)
            case PageOut(tensor):
                walk.copied[tensor] = (position,)
            case PageIn(tensor):
                walk.brought[tensor] = (Way.PAGED, (*walk.copied.pop(tensor, ()), position))
            case Free(_):
                pass
    walk.end()
    return tuple(sorted(walk.found, key=lambda g: (g.tensor, g.between_steps, g.end)))


def decisions(plan: Plan, problem: Problem) -> tuple[Decision, ...]:
    """One decision per tensor. A rerun that brings back several tensors is shared by them."""
    found = gaps(plan, problem.graph)
    shared = Counter(position for gap in found for position in gap.moves)
    of: list[list[Gap]] = [[] for _ in problem.graph.tensors]
    for gap in found:
        of[gap.tensor].append(gap)

    def energy_j(gap: Gap) -> float:
        costs = ((cost_of(plan.steps[p], problem.costs), shared[p]) for p in gap.moves)
        return math.fsum(problem.costs.total_j(cost) / by for cost, by in costs)

    return tuple(
        Decision(
            tensor=tensor,
            kept=sum(g.way is Way.KEPT for g in mine),
            paged=sum(g.way is Way.PAGED for g in mine),
            recomputed=sum(g.way is Way.RECOMPUTED for g in mine),
            energy_j=math.fsum(map(energy_j, mine)),
        )
        for tensor, mine in enumerate(of)
    )


class _Walk:
    """`brought` is how a tensor came back since its last touch; `copied` a page-out not charged yet."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.last: dict[int, int] = {}
        self.first: dict[int, int] = {}
        self.brought: dict[int, tuple[Way, tuple[int, ...]]] = {}
        self.at_first: dict[int, tuple[int, ...]] = {}
        self.copied: dict[int, tuple[int, ...]] = {}
        self.ran: set[int] = set()
        self.found: list[Gap] = []
        steps = plan.steps
        self.runs_before = [0]
        for step in steps:
            self.runs_before.append(self.runs_before[-1] + isinstance(step, Compute))

    def compute(self, position: int, operator: int) -> None:
        op = self.graph.operators[operator]
        for k in op.inputs:
            self._touch(k, position)
        for k in op.outputs:
            if operator in self.ran:
                self.brought[k] = (Way.RECOMPUTED, (position,))
            else:
                self.last[k] = position
        if operator not in self.ran:
            for k in op.mutates:  # a copy of what was there before is of no use any more
                self.copied.pop(k, None)
        self.ran.add(operator)

    def end(self) -> None:
        end = len(self.plan.steps)
        for tensor in self.graph.tensors:
            k = tensor.id
            if self.graph.is_persistent(k):
                if k in self.brought and k not in self.plan.paged_at_start:
                    self._touch(k, end)
                self.found.append(self._between_steps(k))
            elif k in self.graph.results:
                self._touch(k, end)

    def _between_steps(self, k: int) -> Gap:
        paged = k in self.plan.paged_at_start
        return Gap(
            tensor=k,
            begin=self.last.get(k, -1),
            end=self.first.get(k, len(self.plan.steps)),
            way=Way.PAGED if paged else Way.KEPT,
            moves=(*self.copied.get(k, ()), *self.at_first.get(k, ())) if paged else (),
            between_steps=True,
        )

    def _touch(self, k: int, position: int) -> None:
        way, moves = self.brought.pop(k, (Way.KEPT, ()))
        begin = self.last.get(k, -1)
        self.last[k] = position
        if self.graph.is_persistent(k) and k not in self.first:
            self.first[k] = position
            if way is Way.KEPT or k in self.plan.paged_at_start:
                self.at_first[k] = moves
                return
        ran = self.runs_before[position] - self.runs_before[begin + 1]
        if ran or way is not Way.KEPT:
            self.found.append(Gap(tensor=k, begin=begin, end=position, way=way, moves=moves))
