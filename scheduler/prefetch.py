"""Reorder a plan so that paging hides behind compute, on devices where it can."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .overlap import Effect, Units
from .plan import Compute, Free, PageIn, PageOut, Plan, cost_of
from .problem import Problem
from .replay import effects, replay

# How early a page-in starts and how late a Free comes, in multiples of the time that the transfers
# take. What one transfer holds another cannot have, so that no single value is best.
HASTES = (1.0, 1.5, math.inf)
# The first round takes compute to run without a pause; each later one knows the pauses of the best.
ROUNDS = 3


def prefetch(plan: Plan, problem: Problem) -> Plan:
    """The plan with page-ins earlier, and Frees that wait for page-outs later, as RAM allows.

    The steps are the same, and all but those stand in the same order. What comes back takes no more
    time than the given plan, and no more RAM than its budget; where nothing is gained, and on devices
    without overlap, it is the given plan. The plan must be valid.
    """
    if not problem.costs.overlap or not any(isinstance(s, PageIn | PageOut) for s in plan.steps):
        return plan
    given = _Given.of(plan, problem)
    best = list(range(len(plan.steps)))
    best_ends_s = given.ends_s(best)
    clock_s = given.clock_without_pauses_s()
    for _ in range(ROUNDS):
        before_s = max(best_ends_s)
        for haste, frees_first in product(HASTES, (False, True)):
            if max(best_ends_s) <= given.least_s:
                break
            order = _Moves(given, clock_s, haste).order(frees_first)
            ends_s = given.ends_s(order)
            if max(ends_s) < max(best_ends_s):
                best, best_ends_s = order, ends_s
        if max(best_ends_s) == before_s:
            break
        clock_s = given.clock_s(best, best_ends_s)
    if best == sorted(best):
        return plan
    return replace(plan, steps=tuple(plan.steps[n] for n in best))


def least_j(plan: Plan, problem: Problem) -> float:
    """Joules below which no order of the plan's steps comes: the busiest unit never pauses."""
    costs = problem.costs
    time_s, energy_j = dict.fromkeys((Compute, PageIn, PageOut, Free), 0.0), 0.0
    for step in plan.steps:
        cost = cost_of(step, costs)
        time_s[type(step)] += cost.time_s
        energy_j += cost.energy_j
    together_s = max(time_s.values()) if costs.overlap else sum(time_s.values())
    return energy_j + costs.idle_w * together_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The given plan and what its moves depend on, step by step.

    `ram_bytes[n]` is held before or while step n runs, whichever is more. `before[n]` and `after[n]`
    are the steps nearest to a transfer or Free n that touch the same tensor, -1 and the number of
    steps where there is none. `least_s` is the time of the busiest unit.
    """

    plan: Plan
    graph: Graph
    limit_bytes: int
    size_bytes: tuple[int, ...]
    time_s: tuple[float, ...]
    effects: tuple[Effect, ...]
    ram_bytes: NDArray[np.int64]
    before: tuple[int, ...]
    after: tuple[int, ...]
    least_s: float

    @classmethod
    def of(cls, plan: Plan, problem: Problem) -> _Given:
        graph, steps = problem.graph, plan.steps
        touched = [
            (*graph.operators[s.operator].inputs, *graph.operators[s.operator].outputs)
            if isinstance(s, Compute)
            else (s.tensor,)
            for s in steps
        ]
        time_s = tuple(cost_of(s, problem.costs).time_s for s in steps)
        units = (
            sum(t for s, t in zip(steps, time_s, strict=True) if isinstance(s, kind))
            for kind in (Compute, PageIn, PageOut)
        )
        return cls(
            plan=plan,
            graph=graph,
            limit_bytes=min(plan.budget.ram_bytes, problem.budget.ram_bytes),
            size_bytes=tuple(t.size_bytes for t in graph.tensors),
            time_s=time_s,
            effects=effects(plan, graph),
            ram_bytes=_ram_bytes(plan, problem),
            before=_nearest(touched, range(len(steps)), nothing=-1),
            after=_nearest(touched, range(len(steps) - 1, -1, -1), nothing=len(steps)),
            least_s=max(units),
        )

    def clock_without_pauses_s(self) -> NDArray[np.float64]:
        """When compute gets to each step if it never waits; the last number is when it ends."""
        compute_s = [
            t if isinstance(s, Compute) else 0.0
            for s, t in zip(self.plan.steps, self.time_s, strict=True)
        ]
        return np.concatenate(([0.0], np.cumsum(compute_s)))

    def ends_s(self, order: list[int]) -> list[float]:
        """When the steps end in another order, as `replay` has it.

        What a step takes and gives stays as it is, since the steps of one tensor keep their order.
        """
        units, steps = Units(self.graph), self.plan.steps
        return [units.take(steps[n], self.time_s[n], self.effects[n]) for n in order]

    def clock_s(self, order: list[int], ends_s: list[float]) -> NDArray[np.float64]:
        """When compute gets to each step of the given plan, if the steps run in another order."""
        clock_s = np.zeros(len(order) + 1)
        for n, end_s in zip(order, ends_s, strict=True):
            if isinstance(self.plan.steps[n], Compute):
                clock_s[n + 1] = end_s
        return np.maximum.accumulate(clock_s)


class _Moves:
    """New places for steps: step n is to stand in front of step `place[n]` of the given plan.

    A tensor that stays longer adds to `ram` at every step that it is now there for, so that a move is
    judged by all moves before it. The page store needs no such care: a copy goes earlier, never later.
    """

    def __init__(self, given: _Given, clock_s: NDArray[np.float64], haste: float) -> None:
        self.given, self.clock_s, self.haste = given, clock_s, haste
        self.ram = given.ram_bytes.copy()
        self.place: dict[int, int] = {}

    def order(self, frees_first: bool) -> list[int]:
        """The given plan's step numbers in their new order."""
        if frees_first:
            self._delay_frees()
        self._advance_page_ins()
        if not frees_first:
            self._delay_frees()
        steps = self.given.plan.steps

        def key(n: int) -> tuple[int, int, int]:
            if n not in self.place:
                return n, 2, n
            # Of the steps that move to one place, Frees make room for the page-ins.
            return self.place[n], 0 if isinstance(steps[n], Free) else 1, n

        return sorted(range(len(steps)), key=key)

    def _advance_page_ins(self) -> None:
        given = self.given
        earliest = 0
        for n, wanted in self._in_time():
            left = given.before[n]
            # The read channel works in plan order: what is needed later must not get ahead.
            first = max(wanted, earliest, self.place.get(left, left + 1))
            size = given.size_bytes[_tensor(given.plan, n)]
            full = np.flatnonzero(self.ram[first:n] > given.limit_bytes - size)
            first += int(full[-1]) + 1 if full.size else 0
            if first < n:
                self.ram[first:n] += size
                self.place[n] = first
                earliest = first

    def _in_time(self) -> list[tuple[int, int]]:
        """Each page-in and the last step that it may stand in front of to end before its first use."""
        given = self.given
        found = []
        next_s = math.inf
        for n in reversed(range(len(given.plan.steps))):
            if isinstance(given.plan.steps[n], PageIn):
                takes_s = given.time_s[n] * self.haste if given.time_s[n] else 0.0
                next_s = min(float(self.clock_s[given.after[n]]), next_s) - takes_s
                place = int(np.searchsorted(self.clock_s[:-1], next_s, side="right")) - 1
                found.append((n, max(0, place)))
        return found[::-1]

    def _delay_frees(self) -> None:
        """Let each Free wait for its page-out, the last one written first.

        Where RAM runs out, it is the oldest page-out that is waited for: it ends first.
        """
        for n, end_s in reversed(self._written()):
            self._delay(n, end_s)

    def _written(self) -> list[tuple[int, float]]:
        """Each Free of a page-out under way, and when that ends if writes do not pause."""
        given = self.given
        channel_s = 0.0
        ends_s: dict[int, float] = {}
        found = []
        for n, step in enumerate(given.plan.steps):
            now_s = float(self.clock_s[n])
            if isinstance(step, PageOut):
                channel_s = max(channel_s, now_s) + given.time_s[n]
                ends_s[step.tensor] = channel_s
            elif isinstance(step, Free) and ends_s.get(step.tensor, 0.0) > now_s:
                found.append((n, now_s + (ends_s.pop(step.tensor) - now_s) * self.haste))
        return found

    def _delay(self, n: int, end_s: float) -> None:
        given = self.given
        right = given.after[n]
        last = min(int(np.searchsorted(self.clock_s, end_s)), self.place.get(right, right))
        size = given.size_bytes[_tensor(given.plan, n)]
        full = np.flatnonzero(self.ram[n + 1 : last] > given.limit_bytes - size)
        last = n + 1 + int(full[0]) if full.size else last
        if last > n + 1:
            self.ram[n + 1 : last] += size
            self.place[n] = last


def _tensor(plan: Plan, n: int) -> int:
    step = plan.steps[n]
    if isinstance(step, Compute):
        raise TypeError(f"step {n} is a Compute; only transfers and Frees have a tensor")
    return step.tensor


def _ram_bytes(plan: Plan, problem: Problem) -> NDArray[np.int64]:
    used = replay(plan, problem)
    found, held = [], used.start_bytes
    for step, ram_bytes in zip(used.steps, used.ram_bytes, strict=True):
        found.append(max(held, ram_bytes))
        held = ram_bytes
        if isinstance(step, Compute):
            held -= problem.graph.operators[step.operator].workspace_bytes
    return np.array(found, dtype=np.int64)


def _nearest(touched: list[tuple[int, ...]], walk: Iterable[int], nothing: int) -> tuple[int, ...]:
    """The step last seen on the walk that touches the tensor of each step that touches only one."""
    found = [nothing] * len(touched)
    seen: dict[int, int] = {}
    for n in walk:
        if len(touched[n]) == 1:
            found[n] = seen.get(touched[n][0], nothing)
        seen.update(dict.fromkeys(touched[n], n))
    return tuple(found)
