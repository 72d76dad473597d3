"""Page first, then recompute.

Peng et al.: *Capuchin: Tensor-based GPU Memory Management for Deep Learning*, ASPLOS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from ..check import is_valid
from ..plan import Compute, Plan
from ..problem import Problem
from ..replay import Replay, replay, resident_at_end
from .walk import NoWayBackError, Walk, cheapest, homes


def capuchin(problem: Problem) -> Plan | None:
    """Where the step needs most RAM, give up tensors that lie idle then, until everything fits.

    As published: first those are paged whose idle interval is longest beyond the time of moving them
    out and in; when no transfer fits its interval any more, tensors go by bytes saved per cost,
    recomputed or paged, whichever costs less. Where computing again itself needs too much RAM, those
    tensors are paged instead.

    Departures: accesses come from the graph instead of a measured first step; a transfer counts as
    hidden only on a device with overlap, elsewhere a tensor is paged first only if that costs no more
    than recomputing; costs are joules, which is what plans are compared by; persistent tensors are
    tensors like others, and several homes are tried for them.
    """
    plans = (_Capuchin(problem, home).plan() for home in homes(problem.graph))
    return cheapest(problem, plans)


@dataclass(frozen=True, slots=True, order=True)
class _Idle:
    """Tensor k is not accessed between operators `begin` and `end` (-1: the start; n: the end)."""

    k: int
    begin: int
    end: int


class _Capuchin:
    def __init__(self, problem: Problem, home: tuple[int, ...]) -> None:
        self.problem, self.graph, self.costs = problem, problem.graph, problem.costs
        self.home = home
        self.size = [t.size_bytes for t in self.graph.tensors]
        self.idle = tuple(self._intervals())
        # What was decided: True pages the tensor over the interval, False drops and recomputes it.
        self.paged: dict[_Idle, bool] = {}
        self.copied_at: list[list[int]] = [[] for _ in self.graph.tensors]
        self.last_use = [max(users, default=-1) for users in self.graph.users]
        self.began_s = [0.0]
        for cost in self.costs.operators:
            self.began_s.append(self.began_s[-1] + cost.time_s)

    def plan(self) -> Plan | None:
        """Decide until the plan fits; None when nothing is left to give up."""
        for i in self.idle:
            if i.k in self.home and (i.begin < 0 or i.end > self.last_use[i.k]):
                self._decide(i, paged=True)
        while True:
            try:
                plan = self._written()
            except NoWayBackError:
                return None
            used = replay(plan, self.problem)
            if used.peak_bytes <= self.problem.budget.ram_bytes:
                return plan if is_valid(plan, self.problem) else None
            if not self._give_up(used):
                return None

    def _decide(self, interval: _Idle, *, paged: bool) -> None:
        self.paged[interval] = paged
        if paged:
            self.copied_at[interval.k].append(interval.begin)

    def _intervals(self) -> Iterator[_Idle]:
        end = len(self.graph.operators)
        needed = resident_at_end(self.graph, ())
        for tensor in self.graph.tensors:
            k = tensor.id
            first = -1 if self.graph.is_source(k) else self.graph.producer[k]
            last = [end] if k in needed else []
            for a, b in pairwise((first, *self.graph.users[k], *last)):
                if b > a + 1:
                    yield _Idle(k, a, b)

    def _written(self) -> Plan:
        """The plan of the decisions so far."""
        walk = Walk(self.problem, self.home)
        starting: dict[int, list[_Idle]] = {}
        for interval in self.paged:
            starting.setdefault(interval.begin, []).append(interval)
        # Where the interval of a paged tensor ends.
        away: dict[int, int] = {}
        for stage in range(-1, len(self.graph.operators)):
            if stage >= 0:
                walk.first_run(stage)
            for interval in sorted(starting.get(stage, ())):
                if self.paged[interval]:
                    away[interval.k] = interval.end
                    if interval.k in walk.resident:
                        walk.page_out(interval.k)
                walk.drop(interval.k)
            # What is recomputed for another tensor stays, as in the paper; what is paged goes again.
            for k in [k for k in walk.resident if away.get(k, -1) > stage + 1]:
                walk.drop(k)
        return walk.finish()

    def _give_up(self, used: Replay) -> bool:
        """Decide on idle tensors for every stage with too much in RAM, the fullest first.

        False if nothing more can be given up.
        """
        budget = self.problem.budget.ram_bytes
        over = {s: ram - budget for s, ram in self._peaks(used).items() if ram > budget}
        chosen: list[_Idle] = []
        for stage in sorted(over, key=lambda s: (-over[s], s)):
            excess = over[stage] - sum(self.size[i.k] for i in chosen if i.begin < stage < i.end)
            if excess > 0:
                chosen += self._choose(stage, excess)
        return bool(chosen)

    def _peaks(self, used: Replay) -> dict[int, int]:
        """Most RAM of each stage; -1 is the moment before all."""
        peaks, ran = {-1: used.start_bytes}, 0
        for frame in used.frames:
            peaks[ran] = max(peaks.get(ran, 0), frame.ram_bytes)
            if isinstance(frame.step, Compute) and frame.step.operator == ran:
                ran += 1
        return peaks

    def _choose(self, stage: int, excess: int) -> list[_Idle]:
        """Idle tensors of that stage, as many as hold `excess` bytes: hidden transfers first."""
        crossing = [i for i in self.idle if i.begin < stage < i.end]
        usable = [i for i in crossing if i not in self.paged and self.size[i.k]]
        hidden = [i for i in usable if self._free_s(i) >= 0 and self._page_first(i)]
        hidden.sort(key=lambda i: (-self._free_s(i), i))
        others = {*usable}.difference(hidden)
        taken = []
        for interval in (*hidden, *self._by_saving(sorted(others))):
            if excess <= 0:
                break
            # The most saving for the least cost comes first; each is given up in its cheaper way.
            self._decide(interval, paged=self._page_first(interval))
            taken.append(interval)
            excess -= self.size[interval.k]
        return taken or self._page_instead(stage)

    def _page_instead(self, stage: int) -> list[_Idle]:
        """What was to be computed again at that stage is paged, since computing it needs too much RAM."""
        turned = [
            i
            for i, paged in self.paged.items()
            if i.begin < stage <= i.end and not paged and self.graph.tensors[i.k].pageable
        ]
        for interval in turned:
            self._decide(interval, paged=True)
        return turned

    def _by_saving(self, candidates: list[_Idle]) -> list[_Idle]:
        """By bytes saved per joule, best first; without those that have no way back."""
        cost_j = {i: min(self._page_j(i), self._recompute_j(i)) for i in candidates}
        usable = [i for i in candidates if math.isfinite(cost_j[i])]
        return sorted(usable, key=lambda i: (cost_j[i] / self.size[i.k], i))

    def _page_first(self, interval: _Idle) -> bool:
        """Whether the tensor is paged rather than recomputed."""
        page_j = self._page_j(interval)
        hidden = self.costs.overlap and self._free_s(interval) >= 0
        return math.isfinite(page_j) and (hidden or page_j <= self._recompute_j(interval))

    def _free_s(self, interval: _Idle) -> float:
        """Time of the interval that is left when the transfers are done."""
        between_s = self.began_s[interval.end] - self.began_s[interval.begin + 1]
        return between_s - self._out_s(interval) - self.costs.page_in[interval.k].time_s

    def _out_s(self, interval: _Idle) -> float:
        return 0.0 if self._has_copy(interval) else self.costs.page_out[interval.k].time_s

    def _page_j(self, interval: _Idle) -> float:
        if not self.graph.tensors[interval.k].pageable:
            return math.inf
        out = self.costs.page_out[interval.k]
        there_j = 0.0 if self._has_copy(interval) else self.costs.total_j(out)
        return there_j + self.costs.total_j(self.costs.page_in[interval.k])

    def _has_copy(self, interval: _Idle) -> bool:
        """Whether the page store holds the content already."""
        k, begin = interval.k, interval.begin
        changed = max((m for m in self.graph.mutators[k] if m <= begin), default=-1)
        return k in self.home or any(changed <= b < begin for b in self.copied_at[k])

    def _recompute_j(self, interval: _Idle) -> float:
        """Joules of computing the tensor again at the interval's end, after what was decided."""
        if interval.k not in self.graph.producer:
            return math.inf
        away = {i.k: paged for i, paged in self.paged.items() if i.begin < interval.end <= i.end}
        queue, seen, total_j = [self.graph.producer[interval.k]], set[int](), 0.0
        while queue:
            operator = queue.pop()
            if operator in seen:
                continue
            seen.add(operator)
            if not self.graph.can_rerun(operator, interval.end):
                return math.inf
            total_j += self.costs.total_j(self.costs.operators[operator])
            for k in self.graph.operators[operator].inputs:
                if away.get(k):
                    total_j += self.costs.total_j(self.costs.page_in[k])
                elif k in self.graph.producer and (k in away or self.last_use[k] < interval.end):
                    queue.append(self.graph.producer[k])
        return total_j
