"""A device that pages beside compute, simulated event by event; shares nothing with the accountant."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler import Compute, Free, PageIn, PageOut, Plan, Problem, Step


@dataclass
class Simulated:
    """When each step ended, and the most bytes that were really held at any moment."""

    ends_s: list[float]
    ram_bytes: int = 0
    store_bytes: int = 0


@dataclass
class Device:
    """Which steps run, which are over, and what time it is."""

    problem: Problem
    plan: Plan
    now_s: float = 0.0
    running: dict[int, float] = field(default_factory=dict)
    over: dict[int, float] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.plan.steps

    def simulate(self) -> Simulated:
        result = Simulated(ends_s=[])
        while len(self.over) < len(self.steps):
            while self._settle():
                result.ram_bytes = max(result.ram_bytes, self._ram())
                result.store_bytes = max(result.store_bytes, self._store())
            if self.running:
                self.now_s = min(self.running.values())
            else:
                assert len(self.over) == len(self.steps), "the device waits for ever"
        result.ends_s = [self.over[n] for n in range(len(self.steps))]
        return result

    def _settle(self) -> bool:
        """End what is over and start one step that may start now; says whether anything happened."""
        for n, end_s in self.running.items():
            if end_s <= self.now_s:
                self.over[n] = end_s
                del self.running[n]
                return True
        for n, step in enumerate(self.steps):
            if n in self.over or n in self.running or not self._may_start(n):
                continue
            if isinstance(step, Free):
                self.over[n] = self.now_s
            else:
                self.running[n] = self.now_s + self._duration_s(step)
            return True
        return False

    def _may_start(self, n: int) -> bool:
        step = self.steps[n]
        earlier = [m for m in range(n) if m not in self.over]
        if isinstance(step, Free):
            return not any(step.tensor in self._touched(m) for m in earlier)
        if any(type(self.steps[m]) is type(step) for m in earlier):
            return False
        if self._takes_ram(step) and any(self._gives_ram(self.steps[m]) for m in earlier):
            return False
        match step:
            case Compute(operator):
                op = self.problem.graph.operators[operator]
                changed = op.mutates if self._is_first_run(n) else ()
                return not any(
                    set(self._brought(m)) & set(op.inputs)
                    or any(self.steps[m] == PageOut(k) for k in changed)
                    for m in earlier
                )
            case PageOut(k):
                takes_room = not self._stored_before(n, k)
                return not any(
                    k in self._brought(m) or (takes_room and self._drops(m)) for m in earlier
                )
            case PageIn(k):
                return not any(self.steps[m] == PageOut(k) for m in earlier)

    def _duration_s(self, step: Step) -> float:
        costs = self.problem.costs
        match step:
            case Compute(operator):
                return costs.operators[operator].time_s
            case PageIn(k):
                return costs.page_in[k].time_s
            case PageOut(k):
                return costs.page_out[k].time_s
        raise AssertionError

    def _touched(self, n: int) -> tuple[int, ...]:
        step = self.steps[n]
        if isinstance(step, Compute):
            op = self.problem.graph.operators[step.operator]
            return (*op.inputs, *op.outputs)
        return (step.tensor,)

    def _brought(self, n: int) -> tuple[int, ...]:
        """Tensors whose content the step makes, changes or reads from the page store."""
        step = self.steps[n]
        if isinstance(step, Compute):
            op = self.problem.graph.operators[step.operator]
            return (*op.outputs, *(op.mutates if self._is_first_run(n) else ()))
        return (step.tensor,) if isinstance(step, PageIn) else ()

    def _is_first_run(self, n: int) -> bool:
        return self.steps[n] not in self.steps[:n]

    def _takes_ram(self, step: Step) -> bool:
        if isinstance(step, Compute):
            op = self.problem.graph.operators[step.operator]
            return bool(op.outputs or op.workspace_bytes)
        return isinstance(step, PageIn)

    def _gives_ram(self, step: Step) -> bool:
        if isinstance(step, Compute):
            return self.problem.graph.operators[step.operator].workspace_bytes > 0
        return isinstance(step, Free)

    def _drops(self, n: int) -> bool:
        """Whether the copy goes with this page-in: the last one of a tensor with no home there."""
        step = self.steps[n]
        return (
            isinstance(step, PageIn)
            and step not in self.steps[n + 1 :]
            and step.tensor not in self.plan.paged_at_start
        )

    def _stored_before(self, n: int, k: int) -> bool:
        stored = k in self.plan.paged_at_start
        for m in range(n):
            stored = (stored or self.steps[m] == PageOut(k)) and not (
                self.steps[m] == PageIn(k) and self._drops(m)
            )
        return stored

    def _ram(self) -> int:
        graph = self.problem.graph
        held = sum(
            t.size_bytes
            for t in graph.tensors
            if t.id not in graph.producer and t.id not in self.plan.paged_at_start
        )
        for n in self.running.keys() | self.over.keys():
            step = self.steps[n]
            match step:
                case Compute(operator):
                    op = graph.operators[operator]
                    held += sum(graph.tensors[k].size_bytes for k in op.outputs)
                    held += op.workspace_bytes if n in self.running else 0
                case PageIn(k):
                    held += graph.tensors[k].size_bytes
                case Free(k):
                    held -= graph.tensors[k].size_bytes
        return held

    def _store(self) -> int:
        begun = self.running.keys() | self.over.keys()
        copies = set(self.plan.paged_at_start)
        for n, step in enumerate(self.steps):
            if isinstance(step, PageOut) and n in begun:
                copies.add(step.tensor)
            if isinstance(step, PageIn) and n in self.over and self._drops(n):
                copies.discard(step.tensor)
        return sum(self.problem.graph.tensors[k].size_bytes for k in copies)
