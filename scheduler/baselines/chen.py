"""Segments of the forward pass, each computed again in the backward pass.

Chen, Xu, Zhang, Guestrin: *Training Deep Nets with Sublinear Memory Cost*, 2016, arXiv:1604.06174.
"""

from __future__ import annotations

import math
from itertools import pairwise

from ..graph import Graph, Phase
from ..plan import Plan
from ..problem import Problem
from .walk import NoWayBackError, Walk, cheapest, droppable

# Numbers of segments that are tried besides the published one, as multiples of it.
TRIED = (0.2, 0.35, 0.5, 0.7, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)


def chen(problem: Problem) -> Plan | None:
    """The valid plan of least energy among several numbers of segments.

    The published rule is sqrt(n) segments of as many operators each, whatever the budget. In its favour
    other numbers are tried too, and cuts moved to where fewest bytes cross them, up to half a
    segment away.
    """
    forward = [op.id for op in problem.graph.operators if op.phase is Phase.FORWARD]
    root = math.sqrt(len(forward))
    counts = {1, *(round(root * factor) for factor in (1.0, *TRIED))}
    crossing = _crossing_bytes(problem.graph, forward)
    cuts = set()
    for count in counts:
        even = _even(forward, count)
        cuts |= {even, _moved(even, forward, crossing)}
    return cheapest(problem, (segmented(problem, ends) for ends in sorted(cuts)))


def segmented(problem: Problem, ends: tuple[int, ...]) -> Plan | None:
    """A plan that drops at the end of each segment what no later segment reads, but for the last one.

    The paper has chains; on a general graph several tensors may cross a cut, and all of them are kept.
    So are results that cannot be computed again. None where even that leaves a tensor with no way back.
    """
    graph, walk = problem.graph, Walk(problem)
    may_go, _ = droppable(graph)
    drops = dict(_drops(graph, may_go, ends))
    try:
        for op in graph.operators:
            walk.first_run(op.id)
            for k in drops.get(op.id, ()):
                walk.drop(k)
        return walk.finish()
    except NoWayBackError:
        return None


def _drops(
    graph: Graph, may_go: frozenset[int], ends: tuple[int, ...]
) -> list[tuple[int, tuple[int, ...]]]:
    """For the last operator of each segment: what goes after it."""
    forward = [op for op in graph.operators if op.phase is Phase.FORWARD]
    dropped = []
    for begin, end in pairwise((-1, *ends)):
        made = [k for op in forward if begin < op.id <= end for k in op.outputs]
        crossing = {k for op in forward if op.id > end for k in op.inputs}
        dropped.append((end, tuple(k for k in made if k in may_go and k not in crossing)))
    return dropped


def _even(forward: list[int], count: int) -> tuple[int, ...]:
    """Last operators of all segments but the last, of as many operators each as can be."""
    size = max(1, math.ceil(len(forward) / max(1, count)))
    return tuple(forward[n - 1] for n in range(size, len(forward), size))


def _moved(ends: tuple[int, ...], forward: list[int], crossing: dict[int, int]) -> tuple[int, ...]:
    """The cuts, each moved to where fewest bytes cross, nearest first, within half a segment."""
    place = {operator: n for n, operator in enumerate(forward)}
    reach = (place[ends[0]] + 1) // 2 if ends else 0
    moved = set()
    for end in ends:
        near = forward[max(0, place[end] - reach) : min(len(forward) - 1, place[end] + reach + 1)]
        moved.add(min(near, key=lambda c: (crossing[c], abs(place[c] - place[end]))))
    return tuple(sorted(moved))


def _crossing_bytes(graph: Graph, forward: list[int]) -> dict[int, int]:
    """Bytes of forward results that a forward operator after each forward operator still reads."""
    ours = set(forward)
    change = [0] * (len(graph.operators) + 1)
    for k, maker in graph.producer.items():
        last = max((u for u in graph.users[k] if u in ours), default=maker)
        change[maker] += graph.tensors[k].size_bytes
        change[last] -= graph.tensors[k].size_bytes
    total, found = 0, {}
    for operator in range(len(graph.operators)):
        total += change[operator]
        found[operator] = total
    return found
