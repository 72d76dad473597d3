"""The one accountant: RAM, page store, time and energy at every step of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

from .graph import Graph
from .overlap import Effect, Units
from .plan import Compute, Free, PageIn, PageOut, Plan, Step, cost_of
from .problem import Cost, CostTable, Problem

# A plan has thousands of steps, and these are all the effects that they have.
NO_EFFECT, GIVES_RAM, TAKES_STORE = Effect(), Effect(gives_ram=True), Effect(takes_store=True)
BOTH = (False, True)
PAGE_IN = {(a, b): Effect(takes_ram=a, gives_store=b) for a, b in product(BOTH, BOTH)}
RUN = {
    (a, b, c): Effect(takes_ram=a, gives_ram=b, is_first_run=c)
    for a, b, c in product(BOTH, BOTH, BOTH)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One step: RAM held while it runs, bytes in the page store after it, when it ends, energy so far.

    Bytes are counted in plan order on every device. Where paging runs beside compute, a step may end
    before one that stands earlier in the plan; the energy so far has idle power up to the latest end.
    """

    step: Step
    ram_bytes: int
    page_store_bytes: int
    time_s: float
    energy_j: float


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a plan uses. `recomputed` lists the operator of every run beyond the first.

    `ram_bytes`, `store_bytes`, `ends_s` and `so_far_j` say of each step what its frame says.
    """

    steps: tuple[Step, ...]
    ram_bytes: tuple[int, ...]
    store_bytes: tuple[int, ...]
    ends_s: tuple[float, ...]
    so_far_j: tuple[float, ...]
    start_bytes: int
    peak_bytes: int
    page_store_peak_bytes: int
    time_s: float
    energy_j: float
    page_in_bytes: int
    page_out_bytes: int
    recomputed: tuple[int, ...]

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """One for each step."""
        columns = (self.steps, self.ram_bytes, self.store_bytes, self.ends_s, self.so_far_j)
        return tuple(
            Frame(step=step, ram_bytes=ram, page_store_bytes=store, time_s=end_s, energy_j=energy_j)
            for step, ram, store, end_s, energy_j in zip(*columns, strict=True)
        )


def resident_at_start(graph: Graph, paged_at_start: tuple[int, ...]) -> set[int]:
    """Tensors in RAM when a step begins: the batch, and the persistent tensors that live in RAM."""
    return {t.id for t in graph.tensors if graph.is_source(t.id)}.difference(paged_at_start)


def resident_at_end(graph: Graph, paged_at_start: tuple[int, ...]) -> set[int]:
    """Tensors in RAM when a step ends: the results, and the persistent tensors that live in RAM."""
    persistent = {t.id for t in graph.tensors if graph.is_persistent(t.id)}
    return persistent.difference(paged_at_start).union(graph.results)


def replay(plan: Plan, problem: Problem) -> Replay:
    """Walk a plan and charge every step. Says nothing about validity: that is `check`'s.

    Compute and transfers take their time one after the other, or beside each other as `overlap` says
    where the cost table allows it.
    """
    graph, costs = problem.graph, problem.costs
    walk = _Walk(graph, plan)
    clock = _Beside(graph, costs) if costs.overlap else _OneByOne(costs)
    start, store_start = walk.ram, walk.store
    ram_bytes: list[int] = []
    store_bytes: list[int] = []
    ends_s: list[float] = []
    so_far_j: list[float] = []
    for position, step in enumerate(plan.steps):
        ram, effect = walk.take(position, step)
        ram_bytes.append(ram)
        store_bytes.append(walk.store)
        end_s, energy_j = clock.take(step, cost_of(step, costs), effect)
        ends_s.append(end_s)
        so_far_j.append(energy_j)
    return Replay(
        steps=plan.steps,
        ram_bytes=tuple(ram_bytes),
        store_bytes=tuple(store_bytes),
        ends_s=tuple(ends_s),
        so_far_j=tuple(so_far_j),
        start_bytes=start,
        peak_bytes=max(start, *ram_bytes),
        page_store_peak_bytes=max(store_start, *store_bytes),
        time_s=clock.time_s,
        energy_j=clock.energy_j,
        page_in_bytes=walk.page_in_bytes,
        page_out_bytes=walk.page_out_bytes,
        recomputed=tuple(walk.recomputed),
    )


def effects(plan: Plan, graph: Graph) -> tuple[Effect, ...]:
    """What each step does to RAM and page store."""
    walk = _Walk(graph, plan)
    return tuple(walk.take(n, step)[1] for n, step in enumerate(plan.steps))


class _Walk:
    """Bytes in RAM and page store, step by step in plan order."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph = graph
        self.size = [t.size_bytes for t in graph.tensors]
        self.lasting = frozenset(plan.paged_at_start)
        self.last_page_in = {s.tensor: n for n, s in enumerate(plan.steps) if isinstance(s, PageIn)}
        self.resident = resident_at_start(graph, plan.paged_at_start)
        self.stored = set(plan.paged_at_start)
        self.ram = sum(self.size[k] for k in self.resident)
        self.store = sum(self.size[k] for k in self.stored)
        self.runs: set[int] = set()
        self.recomputed: list[int] = []
        self.page_in_bytes = self.page_out_bytes = 0

    def take(self, position: int, step: Step) -> tuple[int, Effect]:
        """RAM held while the step runs, and what it takes and gives."""
        if isinstance(step, Compute):
            return self._compute(step.operator)
        k, ram, store = step.tensor, self.ram, self.store
        if isinstance(step, Free):
            if k in self.resident:
                self.resident.remove(k)
                self.ram -= self.size[k]
            return self.ram, GIVES_RAM if self.ram < ram else NO_EFFECT
        if isinstance(step, PageOut):
            self.page_out_bytes += self.size[k]
            if k not in self.stored:
                self.stored.add(k)
                self.store += self.size[k]
            return ram, TAKES_STORE if self.store > store else NO_EFFECT
        self.page_in_bytes += self.size[k]
        if k not in self.resident:
            self.resident.add(k)
            self.ram += self.size[k]
        last = self.last_page_in[k] == position and k not in self.lasting
        if last and k in self.stored:
            self.stored.remove(k)
            self.store -= self.size[k]
        return self.ram, PAGE_IN[self.ram > ram, self.store < store]

    def _compute(self, operator: int) -> tuple[int, Effect]:
        op, before = self.graph.operators[operator], self.ram
        new = [k for k in op.outputs if k not in self.resident]
        self.resident.update(new)
        self.ram += sum(self.size[k] for k in new)
        is_first_run = operator not in self.runs
        if is_first_run:
            self.runs.add(operator)
        else:
            self.recomputed.append(operator)
        during = self.ram + op.workspace_bytes
        return during, RUN[during > before, during > self.ram, is_first_run]


class _OneByOne:
    """Every step waits for the one before it."""

    def __init__(self, costs: CostTable) -> None:
        self.costs = costs
        self.time_s = self.energy_j = 0.0

    def take(self, _step: Step, cost: Cost, _effect: Effect) -> tuple[float, float]:
        """When the step ends, and the joules until then."""
        self.time_s += cost.time_s
        self.energy_j += self.costs.total_j(cost)
        return self.time_s, self.energy_j


class _Beside:
    """Compute and both directions of paging run beside each other; idle power is for all time."""

    def __init__(self, graph: Graph, costs: CostTable) -> None:
        self.units = Units(graph)
        self.idle_w = costs.idle_w
        self.time_s = self.active_j = self.energy_j = 0.0

    def take(self, step: Step, cost: Cost, effect: Effect) -> tuple[float, float]:
        """When the step ends, and the joules until the latest end so far."""
        end_s = self.units.take(step, cost.time_s, effect)
        self.active_j += cost.energy_j
        self.time_s = max(self.time_s, end_s)
        self.energy_j = self.active_j + self.idle_w * self.time_s
        return end_s, self.energy_j
