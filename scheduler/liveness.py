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


def with_late_page_outs(graph: Graph, steps: Iterable[Step]) -> tuple[Step, ...]:
    """Page out no earlier than right after the last use before the tensor comes back.

    Copies take room in the page store for a shorter time, and tensors no more in RAM. A page-out that
    nothing comes back from stays where it is. `steps` are as in `with_frees`.
    """
    later: dict[int, list[Step]] = {}
    use: dict[int, int] = {}
    comes_back: dict[int, bool] = {}
    moves = tuple(steps)
    for position in range(len(moves) - 1, -1, -1):
        step = moves[position]
        match step:
            case Compute(operator):
                op = graph.operators[operator]
                for k in (*op.inputs, *op.outputs):
                    use.setdefault(k, position)
            case PageIn(k):
                use.pop(k, None)
                comes_back[k] = True
            case PageOut(k):
                last = use.pop(k, position) if comes_back.get(k) else position
                later.setdefault(last, []).append(step)
    return tuple(
        step
        for position, move in enumerate(moves)
        for step in (*(() if isinstance(move, PageOut) else (move,)), *later.get(position, ()))
    )


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
