"""When the steps of a plan run on a device that pages beside compute.

Three units work beside each other: one computes, one reads the page store (PageIn), one writes it
(PageOut). Each does one thing at a time, in plan order. A step starts as soon as its unit is free and

Compute   its inputs have arrived, and the page-outs of what it changes in place have ended;
PageIn    the page-out of the copy it reads has ended;
PageOut   the content that it writes exists;
Free      takes no time; it ends when every earlier use of the tensor has ended.

Two more rules keep it within the bytes that are counted in plan order: a step that takes RAM starts
when all earlier steps that give RAM back (every Free, and a Compute its workspace) have ended, and a
PageOut that takes room in the page store when all earlier page-ins that give room back have ended.

Proof: of the steps that took RAM so far let a be the last in plan order; what was given back before a
in the plan was given back in time too, or a would not have started. So the RAM held is at most what
the plan holds at a, counted in plan order; the page store likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Graph
from .plan import Compute, Free, PageIn, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a step does to RAM and page store; `is_first_run` says so of a Compute."""

    takes_ram: bool = False
    gives_ram: bool = False
    takes_store: bool = False
    gives_store: bool = False
    is_first_run: bool = False


class Units:
    """The three units, told one step after another in plan order."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # When each unit is free.
        self._compute_s = self._read_s = self._write_s = 0.0
        self._ram_given_s = self._store_given_s = 0.0
        nothing = [0.0] * len(graph.tensors)
        # Per tensor: its content is in RAM, its last page-out has ended, its last use has ended.
        self._arrived_s, self._copied_s, self._used_s = nothing, nothing.copy(), nothing.copy()

    def take(self, step: Step, duration_s: float, effect: Effect) -> float:
        """Run a step as early as the rules allow; returns when it ends."""
        if isinstance(step, Free):
            end_s = self._used_s[step.tensor]
        elif isinstance(step, Compute):
            end_s = self._compute(step.operator, duration_s, effect)
        elif isinstance(step, PageIn):
            end_s = self._page_in(step.tensor, duration_s, effect)
        else:
            end_s = self._page_out(step.tensor, duration_s, effect)
        if effect.gives_ram:
            self._ram_given_s = max(self._ram_given_s, end_s)
        if effect.gives_store:
            self._store_given_s = max(self._store_given_s, end_s)
        return end_s

    def _ram_s(self, effect: Effect) -> float:
        return self._ram_given_s if effect.takes_ram else 0.0

    def _page_in(self, k: int, duration_s: float, effect: Effect) -> float:
        start_s = max(self._read_s, self._ram_s(effect), self._copied_s[k])
        self._read_s = end_s = start_s + duration_s
        self._arrived_s[k] = self._used_s[k] = end_s
        return end_s

    def _page_out(self, k: int, duration_s: float, effect: Effect) -> float:
        store_s = self._store_given_s if effect.takes_store else 0.0
        start_s = max(self._write_s, store_s, self._arrived_s[k])
        self._write_s = self._copied_s[k] = end_s = start_s + duration_s
        self._used_s[k] = max(self._used_s[k], end_s)
        return end_s

    def _compute(self, operator: int, duration_s: float, effect: Effect) -> float:
        op = self._graph.operators[operator]
        # A rerun leaves what the first run changed in place as it is.
        changed = op.mutates if effect.is_first_run else ()
        arrived_s, used_s = self._arrived_s, self._used_s
        waits_s = [arrived_s[k] for k in op.inputs]
        if changed:
            waits_s += [self._copied_s[k] for k in changed]
        start_s = max(self._compute_s, self._ram_s(effect), *waits_s)
        self._compute_s = end_s = start_s + duration_s
        for k in op.inputs:
            if used_s[k] < end_s:
                used_s[k] = end_s
        for k in op.outputs:
            used_s[k] = max(used_s[k], end_s)
            arrived_s[k] = end_s
        for k in changed:
            arrived_s[k] = end_s
        return end_s
