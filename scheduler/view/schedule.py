"""A plan over time: RAM, what runs, and where each tensor is. What pictures are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..graph import Graph, Phase
from ..handling import Decision
from ..plan import Compute, Free, PageIn, PageOut, Plan, Step, cost_of
from ..problem import Problem
from ..replay import Replay, replay, resident_at_start

PHASES = {Phase.FORWARD: "forward", Phase.BACKWARD: "backward", Phase.UPDATE: "update"}
RUNS = (*PHASES.values(), "again")
"""What an operator run is, by the name of its colour."""

Span = tuple[float, float]  # start and duration in seconds


@dataclass(slots=True)
class Row:
    """One tensor: when it is in RAM, in the page store only, on its way, or there by a rerun."""

    resident: list[Span] = field(default_factory=list)
    stored: list[Span] = field(default_factory=list)
    moving: list[Span] = field(default_factory=list)
    again: list[Span] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        """When the tensor first comes into RAM."""
        return min((start for start, _ in (*self.resident, *self.again)), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Rows by tensor, and the stretches of time in which operators run and in which tensors move.

    A run comes with its colour. Where paging runs beside compute, stretches lie over each other.
    """

    rows: dict[int, Row]
    runs: list[tuple[Span, str]]
    moves: list[Span]
    end_s: float


def most_telling(decided: Sequence[Decision], graph: Graph, count: int) -> tuple[int, ...]:
    """The tensors that a plan spends most energy on, then the largest."""
    size = [t.size_bytes for t in graph.tensors]
    by_weight = sorted(decided, key=lambda d: (-d.energy_j, -size[d.tensor], d.tensor))
    return tuple(d.tensor for d in by_weight[:count])


def ram_curve(used: Replay) -> tuple[list[float], list[int]]:
    """Times, and the RAM held up to each of them since the one before; in the order of the plan."""
    times, ram = [0.0], [used.start_bytes]
    for frame in used.frames:
        times.append(max(times[-1], frame.time_s))
        ram.append(frame.ram_bytes)
    return times, ram


def schedule(plan: Plan, problem: Problem) -> Schedule:
    """Follow a plan with a clock; a tensor that ends up in the store only is shown as stored."""
    walk = _Walk(plan, problem)
    used = replay(plan, problem)
    for frame in used.frames:
        end_s = frame.time_s
        walk.take(frame.step, max(0.0, end_s - cost_of(frame.step, problem.costs).time_s), end_s)
    walk.end(used.time_s)
    return Schedule(rows=walk.rows, runs=walk.runs, moves=walk.moves, end_s=used.time_s)


class _Walk:
    """`since` when a tensor is in RAM, `stored_since` when in the page store only."""

    def __init__(self, plan: Plan, problem: Problem) -> None:
        self.graph = problem.graph
        self.rows = {t.id: Row() for t in self.graph.tensors}
        self.runs: list[tuple[Span, str]] = []
        self.moves: list[Span] = []
        self.since = dict.fromkeys(resident_at_start(self.graph, plan.paged_at_start), 0.0)
        self.stored_since = dict.fromkeys(plan.paged_at_start, 0.0)
        self.in_store = set(plan.paged_at_start)
        self.remade: set[int] = set()
        self.ran: set[int] = set()

    def take(self, step: Step, start_s: float, end_s: float) -> None:
        match step:
            case Compute(operator):
                self._compute(operator, start_s, end_s)
            case Free(tensor):
                self._leaves(tensor, end_s)
                if tensor in self.in_store:
                    self.stored_since[tensor] = end_s
            case PageOut(tensor):
                self.in_store.add(tensor)
                self._moves(tensor, start_s, end_s)
            case PageIn(tensor):
                if (since_s := self.stored_since.pop(tensor, None)) is not None:
                    self.rows[tensor].stored.append((since_s, start_s - since_s))
                self.since[tensor] = start_s
                self.remade.discard(tensor)
                self._moves(tensor, start_s, end_s)

    def end(self, end_s: float) -> None:
        for tensor in list(self.since):
            self._leaves(tensor, end_s)
        for tensor, since_s in self.stored_since.items():
            if self.graph.is_persistent(tensor):
                self.rows[tensor].stored.append((since_s, end_s - since_s))

    def _compute(self, operator: int, start_s: float, end_s: float) -> None:
        op = self.graph.operators[operator]
        again = operator in self.ran
        for k in op.outputs:
            if k not in self.since:
                self.since[k] = start_s
                (self.remade.add if again else self.remade.discard)(k)
        self.in_store.difference_update(op.mutates)
        self.runs.append(((start_s, end_s - start_s), "again" if again else PHASES[op.phase]))
        self.ran.add(operator)

    def _leaves(self, tensor: int, end_s: float) -> None:
        if (start_s := self.since.pop(tensor, None)) is not None:
            row = self.rows[tensor]
            spans = row.again if tensor in self.remade else row.resident
            spans.append((start_s, end_s - start_s))

    def _moves(self, tensor: int, start_s: float, end_s: float) -> None:
        self.rows[tensor].moving.append((start_s, end_s - start_s))
        self.moves.append((start_s, end_s - start_s))
