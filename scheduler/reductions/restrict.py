"""Reductions that take away one of the two means: what is left is another scheduler's problem."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..graph import Graph
from ..plan import Plan
from ..problem import Budget, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The graph and budget that a plan is to be for."""

    graph_digest: str
    budget: Budget


@dataclass(frozen=True, slots=True)
class WithoutPaging:
    """No tensor may be paged: what is left is keeping and recomputing."""

    def apply(self, problem: Problem) -> tuple[Problem, Original]:
        """The problem with every tensor bound to RAM."""
        tensors = tuple(replace(t, pageable=False) for t in problem.graph.tensors)
        return _with_graph(problem, replace(problem.graph, tensors=tensors))

    def invert(self, plan: Plan, inverse: Original) -> Plan:
        """The same steps, for the original graph."""
        return _for_original(plan, inverse)


@dataclass(frozen=True, slots=True)
class WithoutRecomputing:
    """No operator may run twice: what is left is keeping and paging."""

    def apply(self, problem: Problem) -> tuple[Problem, Original]:
        """The problem with every operator bound to run once."""
        operators = tuple(replace(op, recomputable=False) for op in problem.graph.operators)
        return _with_graph(problem, replace(problem.graph, operators=operators))

    def invert(self, plan: Plan, inverse: Original) -> Plan:
        """The same steps, for the original graph."""
        return _for_original(plan, inverse)


def _with_graph(problem: Problem, graph: Graph) -> tuple[Problem, Original]:
    original = Original(graph_digest=problem.graph.digest, budget=problem.budget)
    return replace(problem, graph=graph), original


def _for_original(plan: Plan, original: Original) -> Plan:
    return replace(plan, graph_digest=original.graph_digest, budget=original.budget)
