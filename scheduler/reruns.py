"""Which reruns a program offers: all of them for the proof, few for finding a good plan soon."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .graph import Graph, Phase
from .problem import Cost, Problem
from .timeline import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How many operators back reruns go, and how dear a chain of them may be beside paging."""

    depth: int
    dearest: float


# The chains that are often worth it.
NEAR = Reach(depth=4, dearest=1.0)


def all_reruns(graph: Graph) -> frozenset[Slot]:
    """Every rerun whose output a later run, or the end of the step, could use."""
    useful_until = _useful_until(graph)
    return frozenset(
        Slot(stage, op.id)
        for op in graph.operators
        for stage in range(op.id + 1, useful_until[op.id] + 1)
        if graph.can_rerun(op.id, stage)
    )


def worthwhile_reruns(problem: Problem) -> frozenset[Slot]:
    """Every rerun but those for which paging its outputs out and in would do: some best plan has no other.

    Takes it that the page store has room. What is beside compute in time is not compared with it.
    """
    graph, costs = problem.graph, problem.costs
    if costs.overlap:
        return all_reruns(graph)
    last_use = _last_uses(graph)

    def is_worth_it(slot: Slot) -> bool:
        outputs = [k for k in graph.operators[slot.operator].outputs if last_use[k] >= slot.stage]
        if not all(graph.tensors[k].pageable for k in outputs):
            return True
        there_and_back = [c for k in outputs for c in (costs.page_out[k], costs.page_in[k])]
        run = costs.operators[slot.operator]
        return any(price(run) < sum(map(price, there_and_back)) for price in _prices(problem))

    return frozenset(filter(is_worth_it, all_reruns(graph)))


def near_reruns(problem: Problem, reach: Reach) -> frozenset[Slot]:
    """Reruns in the stage that needs them, at most `depth` operators away from that stage's own.

    A chain of reruns that takes more energy than `dearest` times moving the tensor it computes to the
    page store and back (and, with a deadline, more time too) is left out, and so is, in the forward
    phase, what was in use just before.
    """
    graph = problem.graph
    found: set[Slot] = set()
    last_touch = [-1] * len(graph.tensors)
    for stage in graph.operators:
        for k in stage.inputs:
            if stage.phase is not Phase.FORWARD or last_touch[k] < stage.id - 1:
                for price in _prices(problem):
                    behind = _behind(problem, stage.id, k, price, reach)
                    found.update(Slot(stage.id, i) for i in behind)
        for k in (*stage.inputs, *stage.outputs):
            last_touch[k] = stage.id
    return frozenset(found)


def _prices(problem: Problem) -> tuple[Callable[[Cost], float], ...]:
    """What a plan has to be sparing with."""
    if problem.budget.time_s is None:
        return (problem.costs.total_j,)
    return problem.costs.total_j, lambda cost: cost.time_s


def _behind(
    problem: Problem,
    stage: int,
    tensor: int,
    price: Callable[[Cost], float],
    reach: Reach,
) -> Iterator[int]:
    """Operators on chains of reruns that end in `tensor`, each chain within price and depth."""
    graph, costs = problem.graph, problem.costs
    most = reach.dearest * (price(costs.page_in[tensor]) + price(costs.page_out[tensor]))
    least: dict[tuple[int, int], float] = {}
    waiting = [(0.0, 0, tensor)]
    while waiting:
        spent, length, k = heapq.heappop(waiting)
        operator = graph.producer.get(k)
        if operator is None or length == reach.depth or not graph.can_rerun(operator, stage):
            continue
        spent += price(costs.operators[operator])
        if spent > most or spent >= least.get((operator, length), math.inf):
            continue
        least[operator, length] = spent
        yield operator
        for i in graph.operators[operator].inputs:
            heapq.heappush(waiting, (spent, length + 1, i))


def _last_uses(graph: Graph) -> list[int]:
    """The last stage in which each tensor may be read, by a first run or a useful rerun, or is a result."""
    until, results = _useful_until(graph), set(graph.results)
    last = [len(graph.operators) - 1 if t.id in results else -1 for t in graph.tensors]
    for k, users in enumerate(graph.users):
        last[k] = max([last[k], *users, *(until[user] for user in users)])
    return last


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
