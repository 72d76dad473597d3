"""A plan by search over what is in RAM and in the page store, for limits that let copies come only in turn.

Programs count a page copy for longer than a plan must hold it, and the other ways to a plan do not look
at the store. This one follows the law move by move, and where a graph is small it tries all there is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from .check import TIME_TOLERANCE
from .liveness import with_frees
from .plan import Compute, Free, PageIn, PageOut, Plan, Step, cost_of
from .problem import Problem
from .replay import resident_at_end, resident_at_start

# With more tensors that may live in the page store, only the largest of them are tried there.
MOST_HOMES = 8
# A place takes about a kilobyte: no search goes on past so many.
MOST_PLACES = 200_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a plan stands: sets of tensors are bits.

    `stage` first runs are done, and since the last the reruns up to operator `rerun`. `copies` are valid,
    `stale` ones take room without being so; those `gone` are not made again, since a copy counts from when
    it is first made until it is last read. `homes` live in the page store.
    """

    homes: int
    stage: int
    rerun: int
    resident: int
    copies: int
    stale: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """The plan found. Where there is none, `all_seen` says that all plans were tried."""

    plan: Plan | None
    all_seen: bool


def explore(problem: Problem, is_over: Callable[[], bool]) -> Explored:
    """The first plan found, or the end of the search: everything was tried, or `is_over` said so.

    Of all places the one is left first that has most first runs done, then the one that lacks least bytes
    for the next, then the soonest. Plans run each operator at most once more between two first runs, in
    graph order.
    """
    maze = _Maze(problem)
    waiting = [(*maze.rank(at), 0.0, n, at) for n, at in enumerate(maze.begins())]
    heapq.heapify(waiting)
    came: dict[Place, tuple[Place, Step | None] | None] = {at: None for *_, at in waiting}
    least_s = dict.fromkeys(came, 0.0)
    pushed = len(waiting)
    timed = problem.budget.time_s is not None
    while waiting and len(came) < MOST_PLACES and not is_over():
        *_, time_s, _, at = heapq.heappop(waiting)
        if maze.is_end(at):
            return Explored(plan=_plan(problem, came, at), all_seen=False)
        for step, to in maze.ways(at):
            later_s = time_s + (cost_of(step, problem.costs).time_s if step else 0.0)
            if maze.is_late(later_s) or (to in came and not (timed and later_s < least_s[to])):
                continue
            least_s[to], came[to], pushed = later_s, (at, step), pushed + 1
            heapq.heappush(waiting, (*maze.rank(to), later_s, pushed, to))
    return Explored(plan=None, all_seen=not waiting and maze.has_all_homes)


class _Maze:
    """The places of a problem and the steps between them."""

    def __init__(self, problem: Problem) -> None:
        graph = problem.graph
        self.problem, self.graph, self.budget = problem, graph, problem.budget
        self.size = [t.size_bytes for t in graph.tensors]
        self.inputs = [_bits(op.inputs) for op in graph.operators]
        self.outputs = [_bits(op.outputs) for op in graph.operators]
        self.changed = [_bits(op.mutates) for op in graph.operators]
        self.pageable = _bits(t.id for t in graph.tensors if t.pageable)
        self.wanted = _bits(resident_at_end(graph, ()))
        self.has_all_homes = len(graph.may_live_paged) <= MOST_HOMES

    def begins(self) -> Iterator[Place]:
        """Where plans may begin: with each choice of what lives in the page store, or some of many."""
        may = sorted(self.graph.may_live_paged, key=lambda k: -self.size[k])
        counts = range(len(may) + 1)
        every = (homes for count in counts for homes in combinations(may, count))
        largest = (tuple(may[:count]) for count in counts)
        for homes in every if self.has_all_homes else largest:
            at = _bits(homes)
            resident = _bits(resident_at_start(self.graph, homes))
            if self._fits_ram(resident) and self._fits_store(at):
                yield Place(at, 0, -1, resident, at)

    def is_end(self, at: Place) -> bool:
        """Whether the step is done; what is resident beyond that can be freed."""
        wanted = self.wanted & ~at.homes
        done = at.stage == len(self.graph.operators)
        return done and not wanted & ~at.resident and not at.homes & at.stale

    def is_late(self, time_s: float) -> bool:
        """Whether the deadline has passed: never on devices that page beside compute, where steps overlap."""
        limit_s = self.budget.time_s
        if limit_s is None or self.problem.costs.overlap:
            return False
        return time_s > limit_s * (1 + TIME_TOLERANCE)

    def rank(self, at: Place) -> tuple[int, int]:
        """First runs to go, and the bytes to bring and to give up for the next: less comes first."""
        left = len(self.graph.operators) - at.stage
        if not left:
            return 0, self._bytes(self.wanted & ~at.homes & ~at.resident)
        missing = self._bytes(self.inputs[at.stage] & ~at.resident)
        needed = self.inputs[at.stage] | self.outputs[at.stage] | at.resident
        workspace = self.graph.operators[at.stage].workspace_bytes
        excess = self._bytes(needed) + workspace - self.budget.ram_bytes
        return left, missing + max(excess, 0)

    def ways(self, at: Place) -> Iterator[tuple[Step | None, Place]]:
        """Each step that a plan may take next, and dropping a copy, which is no step."""
        yield from self._runs(at)
        for k in range(len(self.size)):
            bit = 1 << k
            if (at.copies | at.stale) & bit & ~at.homes:
                dropped = replace(at, copies=at.copies & ~bit, stale=at.stale & ~bit)
                yield None, replace(dropped, gone=at.gone | bit)
            if at.resident & bit:
                yield Free(k), replace(at, resident=at.resident & ~bit)
                room = self._fits_store(at.copies | at.stale | bit)
                if self.pageable & bit and not (at.copies | at.gone) & bit and room:
                    made = replace(at, copies=at.copies | bit, stale=at.stale & ~bit)
                    yield PageOut(k), made
            elif at.copies & bit and self._fits_ram(at.resident | bit):
                yield PageIn(k), replace(at, resident=at.resident | bit)

    def _runs(self, at: Place) -> Iterator[tuple[Step, Place]]:
        for op in self.graph.operators[at.rerun + 1 : at.stage + 1]:
            is_first = op.id == at.stage
            if not is_first and not self.graph.can_rerun(op.id, at.stage):
                continue
            if self.inputs[op.id] & ~at.resident or self.outputs[op.id] & at.resident:
                continue
            resident = at.resident | self.outputs[op.id]
            if not self._fits_ram(resident, op.workspace_bytes):
                continue
            if not is_first:
                yield Compute(op.id), replace(at, rerun=op.id, resident=resident)
                continue
            stale = at.copies & self.changed[op.id]
            yield (
                Compute(op.id),
                replace(
                    at,
                    stage=at.stage + 1,
                    rerun=-1,
                    resident=resident,
                    copies=at.copies & ~stale,
                    stale=at.stale | stale,
                ),
            )

    def _bytes(self, tensors: int) -> int:
        total = 0
        while tensors:
            lowest = tensors & -tensors
            total += self.size[lowest.bit_length() - 1]
            tensors ^= lowest
        return total

    def _fits_ram(self, tensors: int, workspace_bytes: int = 0) -> bool:
        return self._bytes(tensors) + workspace_bytes <= self.budget.ram_bytes

    def _fits_store(self, tensors: int) -> bool:
        limit = self.budget.page_store_bytes
        return limit is None or self._bytes(tensors) <= limit


def _bits(tensors: Iterable[int]) -> int:
    return sum(1 << k for k in set(tensors))


def _plan(
    problem: Problem, came: dict[Place, tuple[Place, Step | None] | None], end: Place
) -> Plan:
    """The steps that led to the end, without page-outs that nothing comes back from."""
    graph, steps, at = problem.graph, [], end
    homes = tuple(k for k in range(len(graph.tensors)) if end.homes >> k & 1)
    comes_back = set(homes)
    while (before := came[at]) is not None:
        at, step = before
        if isinstance(step, PageIn):
            comes_back.add(step.tensor)
        useless = isinstance(step, PageOut) and step.tensor not in comes_back
        if step is not None and not isinstance(step, Free) and not useless:
            steps.append(step)
    return Plan(
        graph_digest=graph.digest,
        budget=problem.budget,
        steps=with_frees(graph, reversed(steps), homes),
        paged_at_start=homes,
    )
