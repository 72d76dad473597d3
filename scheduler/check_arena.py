"""The law for addresses, stated without the code that finds them.

arena-cover     every stay of a tensor in RAM and every workspace has a place, and nothing else has
arena-size      a place has the size of what stands there, within the arena, at an aligned address
arena-overlap   no two places share a byte at the same step
arena-home      a persistent tensor that lives in RAM ends the step at the address where it began it
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter

from .arena import Arena, Placement
from .errors import InvalidPlan
from .graph import SOURCES, Graph
from .plan import Compute, Free, PageIn, Plan
from .problem import Problem

# What stands at a place (a tensor, or the operator whose workspace it is), and from when to when.
_Name = tuple[str, int, int, int]


def check_arena(arena: Arena, plan: Plan, problem: Problem) -> None:
    """Raise InvalidPlan with the first rule that the arena breaks. The plan must be valid."""
    graph = problem.graph
    _check_cover(arena, plan, graph)
    for slot in arena.slots:
        _check_size(slot, arena, graph)
    _check_overlap(arena, graph)
    _check_homes(arena, plan, graph)


def _check_cover(arena: Arena, plan: Plan, graph: Graph) -> None:
    wanted, given = Counter(_wanted(plan, graph)), Counter(map(_name, arena.slots))
    for name in wanted - given:
        raise InvalidPlan("arena-cover", f"{_words(name, graph)} has no place", name[2])
    for name in given - wanted:
        raise InvalidPlan(
            "arena-cover", f"{_words(name, graph)} has a place, but nothing stands there", name[2]
        )


def _wanted(plan: Plan, graph: Graph) -> list[_Name]:
    """What is in RAM, stay by stay: for each tensor, the steps at which it is there, cut in runs."""
    there = {t.id for t in graph.tensors if t.kind in SOURCES} - set(plan.paged_at_start)
    begun = dict.fromkeys(there, 0)
    found: list[_Name] = []
    for n, step in enumerate(plan.steps):
        if isinstance(step, Compute):
            op = graph.operators[step.operator]
            if op.workspace_bytes > 0:
                found.append(("operator", op.id, n, n))
            for k in op.outputs:
                begun[k] = n
        elif isinstance(step, PageIn):
            begun[step.tensor] = n
        elif isinstance(step, Free):
            found.append(("tensor", step.tensor, begun.pop(step.tensor), n))
    found += [("tensor", k, n, len(plan.steps) - 1) for k, n in begun.items()]
    return [f for f in found if f[0] == "operator" or graph.tensors[f[1]].size_bytes > 0]


def _check_size(slot: Placement, arena: Arena, graph: Graph) -> None:
    name = _name(slot)
    if slot.tensor is not None:
        size = graph.tensors[slot.tensor].size_bytes
    else:
        size = graph.operators[name[1]].workspace_bytes
    end = slot.offset_bytes + slot.size_bytes
    if slot.size_bytes != size:
        what = f"gets {slot.size_bytes} bytes and needs {size}"
    elif slot.offset_bytes < 0 or end > arena.total_bytes:
        what = f"stands at {slot.offset_bytes} to {end} of {arena.total_bytes} bytes"
    elif slot.offset_bytes % arena.align_bytes:
        what = f"stands at {slot.offset_bytes}, not at a multiple of {arena.align_bytes}"
    else:
        return
    raise InvalidPlan("arena-size", f"{_words(name, graph)} {what}", slot.first_step)


def _check_overlap(arena: Arena, graph: Graph) -> None:
    """Walk the steps with what stands there, by address: only neighbours can overlap."""
    begin: dict[int, list[Placement]] = {}
    end: dict[int, list[Placement]] = {}
    for slot in arena.slots:
        begin.setdefault(slot.first_step, []).append(slot)
        end.setdefault(slot.last_step + 1, []).append(slot)
    standing: list[tuple[int, int, _Name]] = []
    for n in sorted({*begin, *end}):
        for slot in end.get(n, ()):
            standing.remove((slot.offset_bytes, slot.offset_bytes + slot.size_bytes, _name(slot)))
        for slot in begin.get(n, ()):
            entry = (slot.offset_bytes, slot.offset_bytes + slot.size_bytes, _name(slot))
            at = bisect_left(standing, entry)
            for low, high, name in standing[max(0, at - 1) : at + 1]:
                if low < entry[1] and entry[0] < high:
                    raise InvalidPlan(
                        "arena-overlap",
                        f"{_words(entry[2], graph)} at {entry[0]} to {entry[1]} overlaps "
                        f"{_words(name, graph)} at {low} to {high}",
                        n,
                    )
            insort(standing, entry)


def _check_homes(arena: Arena, plan: Plan, graph: Graph) -> None:
    last = len(plan.steps) - 1
    stays = [s for s in arena.slots if s.tensor is not None and graph.is_persistent(s.tensor)]
    began = {
        s.tensor: s for s in stays if s.first_step == 0 and s.tensor not in plan.paged_at_start
    }
    for slot in stays:
        if slot.last_step != last or slot.tensor not in began:
            continue
        home = began[slot.tensor].offset_bytes
        if slot.offset_bytes != home:
            raise InvalidPlan(
                "arena-home",
                f"{_words(_name(slot), graph)} ends the step at {slot.offset_bytes} and began it at "
                f"{home}",
                slot.first_step,
            )


def _name(slot: Placement) -> _Name:
    if slot.tensor is not None:
        return "tensor", slot.tensor, slot.first_step, slot.last_step
    operator = -1 if slot.operator is None else slot.operator
    return "operator", operator, slot.first_step, slot.last_step


def _words(name: _Name, graph: Graph) -> str:
    kind, number, first, last = name
    if kind == "tensor":
        known = 0 <= number < len(graph.tensors)
        what = graph.tensors[number].name if known else f"tensor {number}"
    else:
        known = 0 <= number < len(graph.operators)
        what = f"the workspace of {graph.operators[number].name if known else number}"
    return f"{what} (steps {first} to {last})"
