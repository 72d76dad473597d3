"""Where things can happen: the slots of the formulation, and each tensor's events among them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .graph import Graph, Phase
from .plan import Compute, Plan


class Scope(StrEnum):
    """Which reruns the formulation offers.

    FULL: every recomputable operator, in every stage in which a rerun could be of use.
    FORWARD: only operators of the forward phase, in stages of the later phases.
    """

    FULL = "full"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Slot:
    """A possible run of `operator` in `stage`; the stage's own operator runs for sure, last."""

    stage: int
    operator: int

    @property
    def is_first_run(self) -> bool:
        """Whether this is the run that every plan has."""
        return self.stage == self.operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Slots in order of time, and for each tensor the positions of slots that read or compute it."""

    slots: tuple[Slot, ...]
    events: tuple[tuple[int, ...], ...]


def timeline(graph: Graph, scope: Scope, also: frozenset[Slot] = frozenset()) -> Timeline:
    """Slots of a graph, `also` among them whatever the scope.

    A rerun is left out when no later slot could use what it computes.
    """
    useful_until = _useful_until(graph)
    slots = []
    for stage in graph.operators:
        for op in graph.operators[: stage.id]:
            forward = op.phase is Phase.FORWARD and stage.phase is not Phase.FORWARD
            offered = scope is Scope.FULL or forward or Slot(stage.id, op.id) in also
            useful = stage.id <= useful_until[op.id]
            if offered and useful and graph.can_rerun(op.id, stage.id):
                slots.append(Slot(stage.id, op.id))
        slots.append(Slot(stage.id, stage.id))
    events: list[list[int]] = [[] for _ in graph.tensors]
    for position, slot in enumerate(slots):
        op = graph.operators[slot.operator]
        for k in (*op.inputs, *op.outputs):
            events[k].append(position)
    return Timeline(slots=tuple(slots), events=tuple(map(tuple, events)))


def slots_of(plan: Plan) -> frozenset[Slot]:
    """Where a plan's operators run."""
    slots, stage = set(), 0
    for step in plan.steps:
        if isinstance(step, Compute):
            slots.add(Slot(stage, step.operator))
            stage += step.operator == stage
    return frozenset(slots)


def _useful_until(graph: Graph) -> list[int]:
    """The last stage in which a rerun of each operator could still serve a later run or the end."""
    results = set(graph.results)
    last = len(graph.operators) - 1
    until = [-1] * len(graph.operators)
    for op in reversed(graph.operators):
        for k in op.outputs:
            if k in results:
                until[op.id] = last
            for user in graph.users[k]:
                reach = until[user] if graph.operators[user].recomputable else user
                until[op.id] = max(until[op.id], user, reach)
    return until
