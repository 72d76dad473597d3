"""A bound for graphs of any size: what a single moment of the step forces out of RAM must come back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .problem import Cost, Problem

Floats = NDArray[np.float64]


def moment_bound_j(problem: Problem) -> float:
    """Joules that no plan can go below, from the worst moment alone.

    While an operator runs for the first time, its inputs and outputs are resident; of the other tensors
    that are needed later (or live in RAM between steps) only some fit beside them. Each that does not
    costs at least a page-in or its share of a rerun. Which ones those are is a knapsack; its relaxation
    in fractions is solved by giving up bytes in order of their price, so the sum is a bound.
    """
    graph, budget = problem.graph, problem.budget.ram_bytes
    size = np.array([t.size_bytes for t in graph.tensors], dtype=np.float64)
    price_j = np.array([_price_j(problem, k) for k in range(len(size))])
    born, last = _spans(graph)
    order = np.argsort(price_j / np.maximum(size, 1.0), kind="stable")
    most_j = 0.0
    for op in graph.operators:
        beside = (born < op.id) & (last > op.id)
        beside[[*op.inputs, *op.outputs]] = False
        excess = float(size[beside].sum()) + graph.need_bytes(op.id) - budget
        if excess > 0:
            chosen = order[beside[order]]
            most_j = max(most_j, _least_j(size[chosen], price_j[chosen], excess))
    return problem.compute_once.energy_j + most_j


def _least_j(size: Floats, price_j: Floats, excess_bytes: float) -> float:
    """The least price of giving up so many bytes; tensors come in order of price per byte."""
    before = np.cumsum(size) - size
    part = np.clip((excess_bytes - before) / np.maximum(size, 1.0), 0.0, 1.0)
    given_up = part > 0
    cost_j = float(np.sum(price_j[given_up] * part[given_up]))
    # Where something must go that has no way back, no plan exists, and any bound is true: give none.
    return cost_j if np.isfinite(cost_j) else 0.0


def _spans(graph: Graph) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Operators after which, and before which, a tensor has to be there for somebody."""
    end = len(graph.operators)
    born = [graph.producer.get(k, -1) for k in range(len(graph.tensors))]
    last = [max(users, default=-1) for users in graph.users]
    for k in range(len(graph.tensors)):
        if k in graph.results or graph.is_persistent(k):
            last[k] = end
    return np.array(born, dtype=np.int64), np.array(last, dtype=np.int64)


def _price_j(problem: Problem, k: int) -> float:
    """The least that not being resident at one moment costs; infinite where there is no way back."""
    graph = problem.graph
    if graph.is_persistent(k):
        return _home_price_j(problem, k)
    ways = []
    if graph.tensors[k].pageable:
        ways.append(_j(problem, problem.costs.page_in[k]) + _j(problem, problem.costs.page_out[k]))
    producer = graph.producer.get(k)
    if producer is not None and graph.operators[producer].recomputable:
        # A rerun brings back all outputs of the operator: each bears its share of the bytes.
        outputs = graph.operators[producer].outputs
        whole = sum(graph.tensors[o].size_bytes for o in outputs)
        share = graph.tensors[k].size_bytes / whole if whole else 0.0
        ways.append(share * _j(problem, problem.costs.operators[producer]))
    return min(ways, default=float("inf"))


def _home_price_j(problem: Problem, k: int) -> float:
    """A persistent tensor away from RAM is paged in at least once if it is used, and out if it changes."""
    graph = problem.graph
    if not graph.tensors[k].pageable:
        return float("inf")
    if not graph.users[k]:
        return 0.0
    out_j = _j(problem, problem.costs.page_out[k]) if graph.mutators[k] else 0.0
    return _j(problem, problem.costs.page_in[k]) + out_j


def _j(problem: Problem, cost: Cost) -> float:
    """Joules of a step; beside compute it may take no time of its own, and so no idle power."""
    return cost.energy_j if problem.costs.overlap else problem.costs.total_j(cost)
