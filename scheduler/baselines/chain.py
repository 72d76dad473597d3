"""A training graph as a chain of blocks, cut where a single tensor crosses the forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..graph import Graph, Phase
from ..problem import Problem
from .walk import droppable

# A tensor that crosses more than this share of the forward operators is not a chain's: it stays aside.
LONG_SPAN = 0.25
# Blocks at most; past that, the cuts with most bytes are given up.
MOST_BLOCKS = 48
# Ways of holding a block's results between its forward and its backward pass, at most.
MOST_HOLDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Which of a block's results wait in RAM for its backward pass; `cost_j` brings back the others."""

    kept: frozenset[int]
    paged: frozenset[int]
    held_bytes: int
    cost_j: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Forward operators between two cuts, and the operators of the other phases that go with them.

    `entry` and `exit` cross the cut before and after; `saved` is what other phases read of the block's
    results and of its entry. Of the forward operators, `pass_again` are those that run again for the
    exit, `save_again` for what is saved, `all_again` for both.
    """

    forward: tuple[int, ...]
    backward: tuple[int, ...]
    entry: frozenset[int]
    exit: frozenset[int]
    made: frozenset[int]
    saved: frozenset[int]
    pass_again: frozenset[int]
    save_again: frozenset[int]
    all_again: frozenset[int]
    holds: tuple[Hold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Blocks in forward order; only the results in `movable` are dropped or paged by the chain.

    `aside` are the other forward results that may be paged.
    """

    blocks: tuple[Block, ...]
    movable: frozenset[int]
    aside: frozenset[int]


def chain_of(problem: Problem) -> Chain:
    """Cut the forward pass where at most one movable tensor crosses."""
    graph = problem.graph
    forward = [op.id for op in graph.operators if op.phase is Phase.FORWARD]
    place = {operator: n for n, operator in enumerate(forward)}
    reach: dict[int, int] = {}
    for k in droppable(graph)[0]:
        made = place[graph.producer[k]]
        last = max((place[u] for u in graph.users[k] if u in place), default=made)
        if last - made <= max(1, LONG_SPAN * len(forward)):
            reach[k] = last
    movable = frozenset(reach)
    crossing: list[frozenset[int]] = []
    for n in range(len(forward)):
        made_by_now = (k for k in movable if place[graph.producer[k]] <= n)
        crossing.append(frozenset(k for k in made_by_now if reach[k] > n))
    crossing[-1:] = [frozenset()]
    ends = [n for n in range(len(forward) - 1) if len(crossing[n]) <= 1]
    ends.sort(key=lambda n: sum(graph.tensors[k].size_bytes for k in crossing[n]))
    ends = sorted(ends[: MOST_BLOCKS - 1])
    cuts = list(zip([-1, *ends], [*ends, len(forward) - 1], strict=True))
    operators = [tuple(forward[a + 1 : b + 1]) for a, b in cuts]
    entries = [crossing[a] if a >= 0 else frozenset[int]() for a, _ in cuts]
    exits = [crossing[b] for _, b in cuts]
    backward = _backward(graph, operators, exits, movable)
    blocks = [
        _block(problem, movable, *parts)
        for parts in zip(operators, backward, entries, exits, strict=True)
    ]
    rest = {k for o in forward for k in _outputs(graph, o)} - movable
    aside = frozenset(k for k in rest if graph.tensors[k].pageable)
    return Chain(blocks=tuple(blocks), movable=movable, aside=aside)


def run_j(problem: Problem, operators: frozenset[int]) -> float:
    """Joules of running each of them once."""
    return sum(problem.costs.total_j(problem.costs.operators[o]) for o in sorted(operators))


def _backward(
    graph: Graph,
    forward: list[tuple[int, ...]],
    exits: list[frozenset[int]],
    movable: frozenset[int],
) -> list[tuple[int, ...]]:
    """The operators of other phases, dealt to blocks from the last to the first, in graph order."""
    block_of = {k: n for n, ops in enumerate(forward) for o in ops for k in _outputs(graph, o)}
    for n, crossing in enumerate(exits):
        # The next block reads what crosses, and so does its backward pass, which comes first.
        block_of.update(dict.fromkeys(crossing, min(n + 1, len(forward) - 1)))
    dealt: list[list[int]] = [[] for _ in forward]
    level = len(forward) - 1
    for op in graph.operators:
        if op.phase is not Phase.FORWARD:
            level = min([level, *(block_of[k] for k in op.inputs if k in movable)])
            dealt[level].append(op.id)
    return [tuple(ops) for ops in dealt]


def _outputs(graph: Graph, operator: int) -> tuple[int, ...]:
    return graph.operators[operator].outputs


def _block(
    problem: Problem,
    movable: frozenset[int],
    forward: tuple[int, ...],
    backward: tuple[int, ...],
    entry: frozenset[int],
    exit_: frozenset[int],
) -> Block:
    graph = problem.graph
    made = frozenset(k for o in forward for k in _outputs(graph, o)) & movable
    others = {op.id for op in graph.operators if op.phase is not Phase.FORWARD}
    saved = frozenset(k for k in (made - exit_) | entry if others & {*graph.users[k]})
    return Block(
        forward=forward,
        backward=backward,
        entry=entry,
        exit=exit_,
        made=made,
        saved=saved,
        pass_again=_again(graph, made, exit_),
        save_again=_again(graph, made, saved & made),
        all_again=_again(graph, made, (exit_ | saved) & made),
        holds=_holds(problem, made, saved),
    )


def _again(
    graph: Graph, made: frozenset[int], wanted: frozenset[int], there: frozenset[int] = frozenset()
) -> frozenset[int]:
    """Operators that compute results of a block again, from its entry and what is `there`."""
    queue, seen = [graph.producer[k] for k in wanted - there], set[int]()
    while queue:
        operator = queue.pop()
        if operator not in seen:
            seen.add(operator)
            missing = (k for k in graph.operators[operator].inputs if k in made - there)
            queue.extend(graph.producer[k] for k in missing)
    return frozenset(seen)


def _holds(problem: Problem, made: frozenset[int], saved: frozenset[int]) -> tuple[Hold, ...]:
    """From everything kept to nothing kept, giving up the cheapest bytes first."""
    size = [t.size_bytes for t in problem.graph.tensors]
    kept, paged = saved, frozenset[int]()

    def cost_j(kept: frozenset[int], paged: frozenset[int]) -> float:
        moves = (problem.costs.page_out, problem.costs.page_in)
        moved_j = sum(problem.costs.total_j(costs[k]) for k in sorted(paged) for costs in moves)
        again = _again(problem.graph, made, (saved & made) - kept, kept | paged)
        return moved_j + run_j(problem, again)

    def hold() -> Hold:
        held = sum(size[k] for k in kept)
        return Hold(kept=kept, paged=paged, held_bytes=held, cost_j=cost_j(kept, paged))

    holds = [hold()]
    # Blocks with very many results give up several at a time.
    at_once = math.ceil(len(saved) / (4 * MOST_HOLDS))
    while kept:
        prices: dict[int, tuple[float, bool]] = {}
        for k in sorted(kept):
            ways = [(cost_j(kept - {k}, paged), False)] if k in made else []
            if problem.graph.tensors[k].pageable:
                ways.append((cost_j(kept - {k}, paged | {k}), True))
            if ways:
                total_j, by_paging = min(ways)
                prices[k] = ((total_j - holds[-1].cost_j) / max(size[k], 1), by_paging)
        cheapest = sorted(prices, key=lambda k: (prices[k][0], k))[:at_once]
        if not cheapest:
            break
        kept -= {*cheapest}
        paged |= {k for k in cheapest if prices[k][1]}
        holds.append(hold())
    return _spread(holds)


def _spread(holds: list[Hold]) -> tuple[Hold, ...]:
    """At most MOST_HOLDS of them, the first and the last included."""
    if len(holds) <= MOST_HOLDS:
        return tuple(holds)
    last = len(holds) - 1
    return tuple(holds[round(n * last / (MOST_HOLDS - 1))] for n in range(MOST_HOLDS))
