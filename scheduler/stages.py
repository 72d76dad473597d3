"""The relaxation that proves: POET's program, with RAM counted at first runs alone.

Inside a stage RAM is not counted, so that what is resident at a stage's begin stays so until its first
run for nothing, and one term for each tensor and stage that may touch it is enough. That is a third of
the whole program's terms, its relaxation is as good to six digits, and it takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pulp

from .charges import objective
from .constraints import (
    deadline,
    homes,
    page_copies,
    retention_from_page,
    row,
    step_time,
)
from .graph import Graph
from .problem import Problem
from .timeline import Slot, Timeline, timeline
from .variables import Formulation, Term, variables_of

# Terms and the bytes that each holds, and the bytes that are left for them.
Held = tuple[list[tuple[Term, int]], int]


def relaxation(problem: Problem, reruns: Iterable[Slot]) -> Formulation:
    """A program whose linear relaxation bounds that of `formulate` from below; its solutions are no plans.

    Of its timeline, `events` are the last slots of the stages that touch a tensor.
    """
    line = timeline(problem.graph, reruns)
    return _program(problem, line, line.slots)


def relaxation_without_chains(problem: Problem) -> Formulation:
    """A much smaller one: reruns need no inputs, and come in the stage that reads what they compute.

    It bounds all plans: with nothing to wait for, a rerun may as well come when its outputs are next read
    by a first run, and one whose outputs are read by reruns alone is not needed.
    """
    graph = problem.graph
    reruns = [
        Slot(op.id, graph.producer[k])
        for op in graph.operators
        for k in op.inputs
        if k in graph.producer
    ]
    reruns += [
        Slot(len(graph.operators) - 1, graph.producer[k])
        for k in graph.results
        if k in graph.producer
    ]
    offered = {slot for slot in reruns if graph.operators[slot.operator].recomputable}
    line = timeline(graph, offered, reruns_read=False)
    return _program(problem, line, (slot for slot in line.slots if slot.is_first_run))


def _program(problem: Problem, line: Timeline, reading: Iterable[Slot]) -> Formulation:
    """The relaxation in which the runs in these slots need their inputs."""
    form = variables_of(problem, _by_stage(line))
    for rows in (
        _inputs_resident(form, reading),
        _retention(form),
        retention_from_page(form),
        page_copies(form),
        homes(form),
        _ram(form),
        step_time(form),
        deadline(form),
    ):
        for one in rows:
            form.model.addConstraint(one)
    form.model.setObjective(objective(form, False))
    return form


def _by_stage(line: Timeline) -> Timeline:
    last = ({line.slots[slot].stage: slot for slot in slots} for slots in line.events)
    return replace(line, events=tuple(tuple(slots.values()) for slots in last))


def _stage(form: Formulation, slot: int) -> int:
    return form.timeline.slots[slot].stage


def _runs(form: Formulation) -> dict[Slot, Term]:
    return dict(zip(form.timeline.slots, form.run, strict=True))


def _made(graph: Graph, runs: dict[Slot, Term], k: int, stage: int) -> list[tuple[Term, float]]:
    """The run, in this stage, of the operator that computes tensor k; nothing if there can be none."""
    run = runs.get(Slot(stage, graph.producer.get(k, -1)), 0)
    return [(run, 1.0)]


def _inputs_resident(form: Formulation, reading: Iterable[Slot]) -> Iterable[pulp.LpConstraint]:
    """A run needs its inputs: kept from an earlier stage, paged in or computed in this one."""
    graph, runs = form.problem.graph, _runs(form)
    event = [{_stage(form, s): e for e, s in enumerate(slots)} for slots in form.timeline.events]
    for slot in reading:
        run = runs[slot]
        for k in graph.operators[slot.operator].inputs:
            e = event[k][slot.stage]
            came = [(form.keep[k][e], 1.0), (form.page_in[k][e], 1.0)]
            came += _made(graph, runs, k, slot.stage)
            yield from row([(run, 1.0), *((term, -f) for term, f in came)], 0.0)


def _retention(form: Formulation) -> Iterable[pulp.LpConstraint]:
    """What did not come from the page copy grows by runs alone; where it is changed in place, all of it."""
    graph, runs = form.problem.graph, _runs(form)
    for k, slots in enumerate(form.timeline.events):
        for e, slot in enumerate(slots):
            place = form.timeline.slots[slot]
            if place.is_first_run and place.operator in graph.mutators[k]:
                continue
            terms: list[tuple[Term, float]] = [
                (form.keep[k][e + 1], 1.0),
                (form.paged[k][e + 1], -1.0),
                (form.keep[k][e], -1.0),
                (form.paged[k][e], 1.0),
            ]
            made = _made(graph, runs, k, place.stage)
            yield from row([*terms, *((term, -f) for term, f in made)], 0.0)


def _ram(form: Formulation) -> Iterable[pulp.LpConstraint]:
    scale = float(max(form.problem.budget.ram_bytes, 1))
    for held, left in held_at_first_runs(form):
        yield from row([(term, size / scale) for term, size in held], left / scale)


def held_at_first_runs(form: Formulation) -> Iterator[Held]:
    """What is beside each operator when it first runs; what there is at the start and at the end."""
    graph, budget = form.problem.graph, form.problem.budget.ram_bytes
    tensors = range(len(graph.tensors))
    size = [t.size_bytes for t in graph.tensors]
    yield [(form.home[k], size[k]) for k in tensors if graph.is_source(k)], budget
    gap = [0] * len(size)
    for op in graph.operators:
        touched = {*op.inputs, *op.outputs}
        for k in tensors:
            slots = form.timeline.events[k]
            gap[k] += gap[k] < len(slots) and _stage(form, slots[gap[k]]) == op.id
        beside = [(form.keep[k][gap[k]], size[k]) for k in tensors if k not in touched]
        yield beside, budget - graph.need_bytes(op.id)
    at_end = [(t, size[k]) for k in tensors for t in (form.keep[k][-1], form.page_in[k][-1])]
    yield at_end, budget
