"""The least RAM with which a step can be planned at all, and what sets it."""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Graph, Kind
from .problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """No budget below `ram_bytes` has a plan; `operator` names what is resident together then."""

    ram_bytes: int
    operator: str


def floor(problem: Problem) -> Floor:
    """The most that any single moment of the step needs, whatever is paged or recomputed.

    `page_all` reaches it when every tensor is pageable and the page store is large enough; otherwise
    the least feasible budget may be higher.
    """
    graph = problem.graph
    size = [t.size_bytes for t in graph.tensors]
    pinned = _pinned(graph)
    inputs = {t.id for t in graph.tensors if t.kind is Kind.INPUT}

    def held(tensors: set[int]) -> int:
        return sum(size[k] for k in tensors | pinned)

    moments = [
        Floor(ram_bytes=held(inputs), operator="the input batch"),
        Floor(ram_bytes=held(set(graph.results)), operator="the results of the step"),
    ]
    return max((*moments, *operator_floors(problem)), key=lambda moment: moment.ram_bytes)


def operator_floors(problem: Problem) -> tuple[Floor, ...]:
    """What each operator needs beside nothing but the persistent tensors that may not be paged."""
    graph = problem.graph
    size = [t.size_bytes for t in graph.tensors]
    pinned = _pinned(graph)
    return tuple(
        Floor(
            ram_bytes=graph.need_bytes(op.id) + sum(size[k] for k in pinned.difference(op.inputs)),
            operator=op.name,
        )
        for op in graph.operators
    )


def _pinned(graph: Graph) -> set[int]:
    return {t.id for t in graph.tensors if not t.pageable and graph.is_persistent(t.id)}
