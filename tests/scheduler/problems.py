"""Small problems with known answers, shared by the tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scheduler import (
    Budget,
    Cost,
    CostTable,
    Graph,
    Kind,
    Operator,
    Phase,
    Problem,
    Tensor,
    floor,
    keep_all,
    replay,
)


def chain(count: int = 5, page_s: float = 0.5) -> Problem:
    """A chain of forward operators and its backward pass, 10 bytes a tensor, slack RAM."""
    tensors, operators = [], []
    for i in range(2 * count):
        forward = i < count
        kind = Kind.ACTIVATION if forward else Kind.GRADIENT
        tensors.append(Tensor(id=i, name=f"t{i}", size_bytes=10, kind=kind))
        saved = () if forward else (2 * count - 1 - i,)
        inputs = tuple(dict.fromkeys(k for k in (i - 1, *saved) if k >= 0))
        phase = Phase.FORWARD if forward else Phase.BACKWARD
        operators.append(Operator(id=i, name=f"op{i}", inputs=inputs, outputs=(i,), phase=phase))
    graph = Graph(operators=tuple(operators), tensors=tuple(tensors))
    return with_unit_costs(graph, page_s)


def training_step() -> Problem:
    """One layer: batch and weight in, loss out, the weight updated in place with its momentum."""
    tensors = (
        Tensor(id=0, name="batch", size_bytes=8, kind=Kind.INPUT),
        Tensor(id=1, name="weight", size_bytes=4, kind=Kind.PARAMETER),
        Tensor(id=2, name="momentum", size_bytes=4, kind=Kind.OPTIMIZER_STATE),
        Tensor(id=3, name="hidden", size_bytes=6, kind=Kind.ACTIVATION),
        Tensor(id=4, name="loss", size_bytes=1, kind=Kind.ACTIVATION),
        Tensor(id=5, name="gradient", size_bytes=4, kind=Kind.GRADIENT),
    )
    operators = (
        Operator(id=0, name="layer", inputs=(0, 1), outputs=(3,)),
        Operator(id=1, name="loss", inputs=(3,), outputs=(4,), recomputable=False),
        Operator(id=2, name="backward", inputs=(0, 3), outputs=(5,), phase=Phase.BACKWARD),
        Operator(
            id=3,
            name="update",
            inputs=(1, 5, 2),
            outputs=(),
            mutates=(1, 2),
            phase=Phase.UPDATE,
            recomputable=False,
            workspace_bytes=2,
        ),
    )
    return with_unit_costs(Graph(operators=operators, tensors=tensors, results=(4,)), 0.5)


def with_unit_costs(graph: Graph, page_s: float) -> Problem:
    """Every operator takes 1 s and 1 J, every transfer `page_s` and 0.25 J."""
    cost, page = Cost(time_s=1.0, energy_j=1.0), Cost(time_s=page_s, energy_j=0.25)
    costs = CostTable(
        operators=(cost,) * len(graph.operators),
        page_in=(page,) * len(graph.tensors),
        page_out=(page,) * len(graph.tensors),
    )
    return Problem(graph=graph, costs=costs, budget=Budget(ram_bytes=10**6))


def tangled(seed: int = 0) -> Problem:
    """Forty operators with skips, uneven sizes and costs, and a tight budget: no proof within a minute."""
    random, count = np.random.default_rng(seed), 20
    tensors, operators = [], []
    for i in range(2 * count):
        forward = i < count
        size_bytes = int(random.integers(50, 1000))
        kind = Kind.ACTIVATION if forward else Kind.GRADIENT
        tensors.append(Tensor(id=i, name=f"t{i}", size_bytes=size_bytes, kind=kind))
        saved = () if forward else (2 * count - 1 - i, 2 * count - 2 - i)
        skip = (int(random.integers(i)),) if i > 2 and random.random() < 0.5 else ()
        inputs = tuple(dict.fromkeys(k for k in (i - 1, *saved, *skip) if 0 <= k < i))
        phase = Phase.FORWARD if forward else Phase.BACKWARD
        operators.append(Operator(id=i, name=f"op{i}", inputs=inputs, outputs=(i,), phase=phase))

    def costs(most_j: float) -> tuple[Cost, ...]:
        pairs = random.uniform((0.5, 1.0), (2.0, most_j), (2 * count, 2))
        return tuple(Cost(time_s=float(t), energy_j=float(e)) for t, e in pairs)

    problem = Problem(
        graph=Graph(operators=tuple(operators), tensors=tuple(tensors)),
        costs=CostTable(operators=costs(10.0), page_in=costs(8.0), page_out=costs(8.0)),
        budget=Budget(ram_bytes=10**9),
    )
    least, most = floor(problem).ram_bytes, replay(keep_all(problem), problem).peak_bytes
    ram_bytes = least + (most - least) // 7
    return replace(problem, budget=Budget(ram_bytes=ram_bytes))
