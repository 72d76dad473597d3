"""Frees, from what a plan computes and moves: every tensor goes as soon as nothing needs it."""

from __future__ import annotations

from collections.abc import Iterable

from .graph import Graph
from .plan import Compute, Free, PageIn, PageOut, Step
from .replay import resident_at_end, resident_at_start


def with_frees(
    graph: Graph, steps: Iterable[Step], paged_at_start: tuple[int, ...] = ()
) -> tuple[Step, ...]:
    """Insert a Free right after the last use of each stay in RAM.

    `steps` holds Compute, PageIn and PageOut only. A stay begins at the start of the step, with a
    PageIn, or with the Compute of the tensor, and ends before the next one of the same tensor.
    """
    moves = tuple(steps)
    needed = resident_at_end(graph, paged_at_start)
    dying: list[list[int]] = [[] for _ in moves]
    for position in range(len(moves) - 1, -1, -1):
        begins, uses = _begins_and_uses(graph, moves[position])
        for k in sorted({*begins, *uses}):
            if k not in needed:
                dying[position].append(k)
        needed.update(uses)
        needed.difference_update(begins)
    unused = sorted(resident_at_start(graph, paged_at_start) - needed)
    result: list[Step] = [Free(k) for k in unused]
    for move, dead in zip(moves, dying, strict=True):
        result.append(move)
        result.extend(Free(k) for k in dead)
    return tuple(result)


def _begins_and_uses(graph: Graph, step: Step) -> tuple[tuple[int, ...], tuple[int, ...]]:
    match step:
        case Compute(operator):
            op = graph.operators[operator]
            return op.outputs, op.inputs
        case PageIn(tensor):
            return (tensor,), ()
        case PageOut(tensor):
            return (), (tensor,)
        case Free(tensor):
            raise ValueError(f"tensor {tensor} is freed already: pass steps without Free")
