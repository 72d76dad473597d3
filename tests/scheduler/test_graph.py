"""Graphs and cost tables refuse what does not fit together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler import Budget, Cost, Graph, Kind, Operator, Problem, Tensor
from scheduler.errors import BadGraph, BadInput
from tests.scheduler.problems import training_step

GRAPH = training_step().graph


def with_operator(number: int, **changes: Any) -> Graph:
    operators = list(GRAPH.operators)
    operators[number] = replace(operators[number], **changes)
    return replace(GRAPH, operators=tuple(operators))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 0, "inputs": (0, 9)}, "names tensor 9"),
        ({"number": 0, "inputs": (0, 5)}, "before any operator computed it"),
        ({"number": 1, "outputs": (3,)}, "exists already"),
        ({"number": 1, "inputs": (3, 3)}, "twice in inputs"),
        ({"number": 3, "mutates": (0,)}, "not among its inputs"),
        ({"number": 2, "workspace_bytes": -1}, "negative"),
        ({"number": 2, "outputs": ()}, "before any operator|no operator computes"),
        ({"number": 0, "id": 1}, "ids count from 0"),
    ],
)
def test_bad_operators_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadGraph, match=message):
        with_operator(**changes)


def test_bad_tensors_and_results_are_refused() -> None:
    lonely = Tensor(id=6, name="lonely", size_bytes=1, kind=Kind.ACTIVATION)
    with pytest.raises(BadGraph, match="no operator computes 'lonely'"):
        replace(GRAPH, tensors=(*GRAPH.tensors, lonely))
    with pytest.raises(BadGraph, match="results name"):
        replace(GRAPH, results=(7,))
    with pytest.raises(BadGraph, match="at least one operator"):
        Graph(operators=(), tensors=())
    negative = replace(GRAPH.tensors[0], size_bytes=-1)
    with pytest.raises(BadGraph, match="-1 bytes"):
        replace(GRAPH, tensors=(negative, *GRAPH.tensors[1:]))


def test_costs_and_budgets_are_numbers_that_make_sense() -> None:
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadGraph):
            Cost(time_s=bad, energy_j=0.0)
        with pytest.raises(BadInput):
            Budget(ram_bytes=1, time_s=bad)
    problem = training_step()
    with pytest.raises(BadGraph, match="cost table"):
        Problem(
            graph=problem.graph,
            costs=replace(problem.costs, page_in=problem.costs.page_in[1:]),
            budget=problem.budget,
        )


def test_digests_tell_graphs_apart() -> None:
    assert GRAPH.digest == training_step().graph.digest
    assert with_operator(2, workspace_bytes=1).digest != GRAPH.digest
    problem = training_step()
    assert replace(problem, budget=Budget(ram_bytes=1)).digest != problem.digest


def test_an_operator_reruns_only_on_what_it_read_at_first() -> None:
    assert GRAPH.can_rerun(0, 2)
    assert GRAPH.can_rerun(0, 3)
    assert not GRAPH.can_rerun(1, 3)  # marked as running once
    after = Operator(id=4, name="after", inputs=(1,), outputs=(6,))
    tensor = Tensor(id=6, name="next", size_bytes=1, kind=Kind.ACTIVATION)
    longer = replace(GRAPH, operators=(*GRAPH.operators, after), tensors=(*GRAPH.tensors, tensor))
    assert not longer.can_rerun(0, 4)  # the weight was updated in between
