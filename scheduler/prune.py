"""Leave out of a plan what nothing uses."""

from __future__ import annotations

from .graph import Graph
from .plan import Compute, Free, PageIn, PageOut, Step
from .replay import resident_at_end


def without_useless(
    graph: Graph, steps: tuple[Step, ...], paged_at_start: tuple[int, ...]
) -> tuple[Step, ...]:
    """Leave out page-outs, page-ins and reruns whose result nothing uses. `steps` holds no Free."""
    while True:
        again = _without_second_copies(graph, steps, paged_at_start)
        again = _without_unused(graph, again, paged_at_start)
        if again == steps:
            return steps
        steps = again


def _without_second_copies(
    graph: Graph, steps: tuple[Step, ...], paged_at_start: tuple[int, ...]
) -> tuple[Step, ...]:
    valid = set(paged_at_start)
    stage, kept = 0, []
    for step in steps:
        if isinstance(step, Compute) and step.operator == stage:
            valid.difference_update(graph.operators[stage].mutates)
            stage += 1
        if isinstance(step, PageOut):
            if step.tensor in valid:
                continue
            valid.add(step.tensor)
        kept.append(step)
    return tuple(kept)


def _without_unused(
    graph: Graph, steps: tuple[Step, ...], paged_at_start: tuple[int, ...]
) -> tuple[Step, ...]:
    """Backwards: `needed` in RAM, and `wanted` in the page store, by what comes later."""
    needed = resident_at_end(graph, paged_at_start)
    wanted = set(paged_at_start)
    first = {s.operator: n for n, s in reversed([*enumerate(steps)]) if isinstance(s, Compute)}
    kept: list[Step] = []
    for position in range(len(steps) - 1, -1, -1):
        step = steps[position]
        match step:
            case Compute(operator):
                op = graph.operators[operator]
                is_first = first[operator] == position
                if not is_first and needed.isdisjoint(op.outputs):
                    continue
                needed.difference_update(op.outputs)
                needed.update(op.inputs)
                if is_first:
                    wanted.difference_update(op.mutates)
            case PageIn(tensor):
                if tensor not in needed:
                    continue
                needed.discard(tensor)
                wanted.add(tensor)
            case PageOut(tensor):
                if tensor not in wanted:
                    continue
                wanted.discard(tensor)
                needed.add(tensor)
            case Free(_):
                continue
        kept.append(step)
    return tuple(reversed(kept))
