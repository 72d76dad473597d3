"""From a solved program to a plan."""

from __future__ import annotations

from .liveness import with_frees, with_late_page_outs
from .plan import Compute, PageIn, PageOut, Plan, Step
from .variables import Formulation, Term, value_of


def decode(form: Formulation) -> Plan:
    """The plan that the variables' values say; residency follows from runs and page-ins."""
    graph = form.problem.graph
    tensors = range(len(graph.tensors))
    steps: list[Step] = [
        PageOut(k) for k in tensors if graph.is_source(k) and _chosen(form.page_out[k][0])
    ]
    event = [0] * len(graph.tensors)
    for slot, place in enumerate(form.timeline.slots):
        op = graph.operators[place.operator]
        steps += (PageIn(k) for k in op.inputs if _chosen(form.page_in[k][event[k]]))
        if _chosen(form.run[slot]):
            steps.append(Compute(op.id))
        if place.is_first_run:
            steps += (PageOut(k) for k in op.outputs if _chosen(form.page_out[k][0]))
            for k in op.mutates:
                content = graph.mutators[k].index(op.id) + 1
                steps += (PageOut(k),) if _chosen(form.page_out[k][content]) else ()
        for k in (*op.inputs, *op.outputs):
            event[k] += 1
    steps += (PageIn(k) for k in tensors if _chosen(form.page_in[k][-1]))
    if form.problem.budget.page_store_bytes is not None:
        steps = list(with_late_page_outs(graph, steps))
    paged = tuple(k for k in tensors if graph.is_persistent(k) and not _chosen(form.home[k]))
    return Plan(
        graph_digest=graph.digest,
        budget=form.problem.budget,
        steps=with_frees(graph, steps, paged),
        paged_at_start=paged,
    )


def _chosen(term: Term) -> bool:
    return value_of(term) > 0.5
