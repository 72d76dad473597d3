"""Where things can happen: the slots of the formulation, and each tensor's events among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .graph import Graph
from .plan import Compute, Plan


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


def timeline(graph: Graph, reruns: Iterable[Slot], *, reruns_read: bool = True) -> Timeline:
    """The slots of a graph's first runs, and of the reruns that are to be possible.

    Without `reruns_read`, reruns are no events of what they read.
    """
    offered: dict[int, set[int]] = {}
    for slot in reruns:
        offered.setdefault(slot.stage, set()).add(slot.operator)
    slots = []
    for stage in range(len(graph.operators)):
        others = offered.get(stage, set()) - {stage}
        slots += [Slot(stage, operator) for operator in (*sorted(others), stage)]
    events: list[list[int]] = [[] for _ in graph.tensors]
    for position, slot in enumerate(slots):
        op = graph.operators[slot.operator]
        reads = op.inputs if reruns_read or slots[position].is_first_run else ()
        for k in (*reads, *op.outputs):
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
