"""A plan over time: RAM, what runs, and where each tensor is. What pictures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..graph import Phase
from ..plan import Compute, Free, PageIn, PageOut, Plan
from ..problem import Problem
from ..replay import Replay, replay, resident_at_start

PHASES = {Phase.FORWARD: "forward", Phase.BACKWARD: "backward", Phase.UPDATE: "update"}
RUNS = (*PHASES.values(), "again", "paging")
"""What a stretch of time goes to, by the name of its colour."""

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
    """Rows by tensor, and the stretches of time with the colour of what runs in them."""

    rows: dict[int, Row]
    runs: list[tuple[Span, str]]
    end_s: float


def ram_curve(used: Replay) -> tuple[list[float], list[int]]:
    """Times, and the RAM held up to each of them since the one before."""
    times, ram = [0.0], [used.start_bytes]
    for frame in used.frames:
        times.append(frame.time_s)
        ram.append(frame.ram_bytes)
    return times, ram


def schedule(plan: Plan, problem: Problem) -> Schedule:
    """Follow a plan with a clock; a tensor that ends up in the store only is shown as stored."""
    graph = problem.graph
    rows = {t.id: Row() for t in graph.tensors}
    since = dict.fromkeys(resident_at_start(graph, plan.paged_at_start), 0.0)
    stored_since = dict.fromkeys(plan.paged_at_start, 0.0)
    in_store = set(plan.paged_at_start)
    remade: set[int] = set()
    ran: set[int] = set()
    runs: list[tuple[Span, str]] = []
    before = 0.0

    def leaves(tensor: int, now: float) -> None:
        if (start := since.pop(tensor, None)) is not None:
            spans = rows[tensor].again if tensor in remade else rows[tensor].resident
            spans.append((start, now - start))

    for frame in replay(plan, problem).frames:
        now = frame.time_s
        match frame.step:
            case Compute(operator):
                op = graph.operators[operator]
                again = operator in ran
                for k in op.outputs:
                    if k not in since:
                        since[k] = before
                        (remade.add if again else remade.discard)(k)
                in_store.difference_update(op.mutates)
                runs.append(((before, now - before), "again" if again else PHASES[op.phase]))
                ran.add(operator)
            case Free(tensor):
                leaves(tensor, now)
                if tensor in in_store:
                    stored_since[tensor] = now
            case PageOut(tensor):
                in_store.add(tensor)
                rows[tensor].moving.append((before, now - before))
                runs.append(((before, now - before), "paging"))
            case PageIn(tensor):
                if (start := stored_since.pop(tensor, None)) is not None:
                    rows[tensor].stored.append((start, before - start))
                since[tensor] = before
                remade.discard(tensor)
                rows[tensor].moving.append((before, now - before))
                runs.append(((before, now - before), "paging"))
        before = now
    for tensor in list(since):
        leaves(tensor, before)
    for tensor, start in stored_since.items():
        if graph.is_persistent(tensor):
            rows[tensor].stored.append((start, before - start))
    return Schedule(rows=rows, runs=runs, end_s=before)
