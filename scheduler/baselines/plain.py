"""Plain training, and its opposite: two plans that need neither solver nor search."""

from __future__ import annotations

from ..graph import Kind
from ..liveness import with_frees
from ..plan import Compute, PageIn, PageOut, Plan, Step
from ..problem import Problem


def keep_all(problem: Problem) -> Plan:
    """Plain training: everything stays in RAM until its last use. No plan takes less energy."""
    graph = problem.graph
    steps = with_frees(graph, (Compute(op.id) for op in graph.operators))
    return Plan(graph_digest=graph.digest, budget=problem.budget, steps=steps)


def page_all(problem: Problem) -> Plan:
    """Between operators nothing pageable stays in RAM: the least RAM when everything is pageable."""
    graph = problem.graph
    pageable = [t.pageable for t in graph.tensors]
    paged = graph.may_live_paged
    # A tensor is worth a page copy as long as an operator, or the end of the step, still reads it.
    last_use = [max(users, default=-1) for users in graph.users]
    for k in graph.results:
        last_use[k] = len(graph.operators)
    batch = [
        t.id for t in graph.tensors if t.kind is Kind.INPUT and t.pageable and last_use[t.id] >= 0
    ]
    steps: list[Step] = [PageOut(k) for k in batch]
    for op in graph.operators:
        steps += (PageIn(k) for k in op.inputs if pageable[k])
        steps.append(Compute(op.id))
        steps += (PageOut(k) for k in op.outputs if pageable[k] and last_use[k] > op.id)
        steps += (PageOut(k) for k in op.mutates if k in paged)
    steps += (PageIn(k) for k in graph.results if pageable[k] and k not in paged)
    return Plan(
        graph_digest=graph.digest,
        budget=problem.budget,
        steps=with_frees(graph, steps, paged),
        paged_at_start=paged,
    )
