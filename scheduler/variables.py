"""The variables of POET's program. FORMULATION.md explains them.

Named after the letters of the paper:
    run[s]          R      slot s runs (1 for every first run)
    keep[k][e]      S      tensor k is resident between its events e-1 and e
    page_in[k][e]   M_in   tensor k is paged in right before its event e
    paged[k][e]     P      tensor k is resident between its events e-1 and e, and came from its page copy
    page_out[k][v]  M_out  content v of tensor k is paged out as soon as it exists
    copy[k][e]             a page copy of tensor k is held between its events e-1 and e
    came[k][e]             tensor k was paged in before its event e-1 or right before it
    home[k]                persistent tensor k lives in RAM between steps
    time            T      how long the step takes, in multiples of computing everything once
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pulp

from .graph import Graph
from .problem import Problem
from .timeline import Timeline

Term: TypeAlias = pulp.LpVariable | int


@dataclass(frozen=True, kw_only=True)
class Formulation:
    """The program and its variables; a Term is a variable or a constant 0 or 1.

    The objective counts all energy but that of the first runs, relative to computing everything once
    (`energy_of`).
    """

    problem: Problem
    timeline: Timeline
    model: pulp.LpProblem
    run: tuple[Term, ...]
    keep: tuple[tuple[Term, ...], ...]
    page_in: tuple[tuple[Term, ...], ...]
    paged: tuple[tuple[Term, ...], ...]
    page_out: tuple[tuple[Term, ...], ...]
    copy: tuple[tuple[Term, ...], ...]
    came: tuple[tuple[Term, ...], ...]
    home: tuple[Term, ...]
    time: pulp.LpVariable


def value_of(term: Term) -> float:
    """What the solver chose; 0 for a variable that stands in no row."""
    return float(term) if isinstance(term, int) else term.varValue or 0.0


def variables_of(problem: Problem, line: Timeline) -> Formulation:
    """A program without rows or objective."""
    graph, model = problem.graph, pulp.LpProblem("poet", pulp.LpMinimize)
    run: tuple[Term, ...] = tuple(
        1 if s.is_first_run else _binary(model, f"R_{s.stage}_{s.operator}") for s in line.slots
    )
    home: tuple[Term, ...] = tuple(
        _binary(model, f"H_{t.id}") if graph.is_persistent(t.id) and t.pageable else 1
        for t in graph.tensors
    )
    tensors = range(len(graph.tensors))
    page_in = tuple(_page_in(model, graph, line, k) for k in tensors)
    return Formulation(
        problem=problem,
        timeline=line,
        model=model,
        run=run,
        keep=tuple(_keep(model, graph, line, k) for k in tensors),
        page_in=page_in,
        paged=tuple(_paged(model, graph, k, page_in[k]) for k in tensors),
        page_out=tuple(_page_out(model, graph, k) for k in tensors),
        copy=_held(model, "C", problem, page_in, _binary),
        came=_held(model, "I", problem, page_in, share),
        home=home,
        time=model.add_variable("T", 1 if problem.compute_once.time_s else 0),
    )


def _binary(model: pulp.LpProblem, name: str) -> pulp.LpVariable:
    return model.add_variable(name, cat=pulp.LpBinary)


def share(model: pulp.LpProblem, name: str) -> pulp.LpVariable:
    """Binary in every solution that matters, because the binaries leave it no choice."""
    return model.add_variable(name, 0, 1)


def _keep(model: pulp.LpProblem, graph: Graph, line: Timeline, k: int) -> tuple[Term, ...]:
    """One term per gap between events, before the first and after the last included."""
    count = len(line.events[k])
    first: Term = share(model, f"S_{k}_0") if graph.is_source(k) else 0
    between = [share(model, f"S_{k}_{e}") for e in range(1, count)]
    last: list[Term] = (
        [share(model, f"S_{k}_{count}") if needed_at_end(graph, k) else 0] if count else []
    )
    return (first, *between, *last)


def _page_in(model: pulp.LpProblem, graph: Graph, line: Timeline, k: int) -> tuple[Term, ...]:
    """One term per event that reads the tensor, and one for the end of the step."""
    tensor = graph.tensors[k]
    producer = graph.producer.get(k)

    def term(e: int, reads: bool) -> Term:
        return _binary(model, f"Min_{k}_{e}") if tensor.pageable and reads else 0

    reading = [line.slots[s].operator != producer for s in line.events[k]]
    return (
        *(term(e, r) for e, r in enumerate(reading)),
        term(len(reading), needed_at_end(graph, k)),
    )


def _paged(
    model: pulp.LpProblem, graph: Graph, k: int, page_in: tuple[Term, ...]
) -> tuple[Term, ...]:
    """One term per gap between events: 0 before the first page-in, and after the last event if dead."""
    after = page_in if needed_at_end(graph, k) else page_in[:-1]
    terms: list[Term] = [0]
    for e in range(1, len(after)):
        came_before = any(not isinstance(term, int) for term in after[:e])
        terms.append(share(model, f"P_{k}_{e}") if came_before else 0)
    return tuple(terms + [0] * (len(page_in) - len(terms)))


def _page_out(model: pulp.LpProblem, graph: Graph, k: int) -> tuple[Term, ...]:
    """One term per content the tensor has during the step: at first, and after each in-place change."""
    if not graph.tensors[k].pageable:
        return (0,) * (1 + len(graph.mutators[k]))
    return tuple(share(model, f"Mout_{k}_{v}") for v in range(1 + len(graph.mutators[k])))


def _held(
    model: pulp.LpProblem,
    name: str,
    problem: Problem,
    page_in: tuple[tuple[Term, ...], ...],
    variable: Callable[[pulp.LpProblem, str], pulp.LpVariable],
) -> tuple[tuple[Term, ...], ...]:
    """One term per gap between events, the end's included; 0 where nothing limits the page store."""
    if problem.budget.page_store_bytes is None:
        return tuple((0,) * len(terms) for terms in page_in)
    return tuple(
        tuple(
            variable(model, f"{name}_{k}_{e}") if problem.graph.tensors[k].pageable else 0
            for e in range(len(terms))
        )
        for k, terms in enumerate(page_in)
    )


def needed_at_end(graph: Graph, k: int) -> bool:
    """Whether something is wanted of the tensor when the step ends."""
    return graph.is_persistent(k) or k in graph.results
