"""Hypothesis strategies, all in one place."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

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


@st.composite
def graphs(draw: st.DrawFn, max_operators: int = 6, all_pageable: bool = False) -> Graph:
    """Small training graphs: sources, operators with one or two outputs, in-place changes."""
    tensors: list[Tensor] = []
    operators: list[Operator] = []

    def tensor(kind: Kind) -> int:
        k = len(tensors)
        pageable = all_pageable or draw(st.integers(0, 5)) > 0
        size = draw(st.integers(1, 9))
        tensors.append(Tensor(id=k, name=f"t{k}", size_bytes=size, kind=kind, pageable=pageable))
        return k

    sources = [tensor(Kind.INPUT) for _ in range(draw(st.integers(0, 1)))]
    persistent = [tensor(Kind.PARAMETER) for _ in range(draw(st.integers(0, 2)))]
    available = sources + persistent
    count = draw(st.integers(1, max_operators))
    for i in range(count):
        inputs = (
            draw(st.lists(st.sampled_from(available), max_size=3, unique=True)) if available else []
        )
        newest = operators[-1].outputs if operators else ()
        # Chains make rematerialization interesting, so most operators read the one before.
        if newest and not set(inputs) & set(newest) and draw(st.integers(0, 2)) > 0:
            inputs.append(newest[0])
        mutates = [k for k in inputs if k in persistent and draw(st.integers(0, 2)) == 0]
        room = max(0, 8 - len(tensors))
        fewest = 0 if mutates or not room else 1
        outputs = [tensor(Kind.ACTIVATION) for _ in range(draw(st.integers(fewest, min(2, room))))]
        operators.append(
            Operator(
                id=i,
                name=f"op{i}",
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                mutates=tuple(mutates),
                workspace_bytes=draw(st.integers(0, 3)),
                phase=Phase.FORWARD,
                recomputable=draw(st.integers(0, 3)) > 0,
            )
        )
        available += outputs
    results = [k for k in operators[-1].outputs[:1] if draw(st.booleans())]
    return Graph(operators=tuple(operators), tensors=tuple(tensors), results=tuple(results))


@st.composite
def problems(
    draw: st.DrawFn, max_operators: int = 6, all_pageable: bool = False, with_deadline: bool = True
) -> Problem:
    """Small problems with budgets from just below the floor to more than keep-all needs."""
    graph = draw(graphs(max_operators=max_operators, all_pageable=all_pageable))
    cost = st.builds(
        Cost,
        time_s=st.integers(0, 8).map(float),
        energy_j=st.integers(0, 20).map(float),
    )

    def some(count: int) -> tuple[Cost, ...]:
        return tuple(draw(cost) for _ in range(count))

    costs = CostTable(
        operators=some(len(graph.operators)),
        page_in=some(len(graph.tensors)),
        page_out=some(len(graph.tensors)),
        idle_w=float(draw(st.integers(0, 2))),
    )
    problem = Problem(graph=graph, costs=costs, budget=Budget(ram_bytes=0))
    lowest = floor(problem).ram_bytes
    highest = replay(keep_all(problem), problem).peak_bytes
    ram_bytes = draw(st.integers(max(lowest - 1, 0), highest + 1))
    time_s = None
    if with_deadline and draw(st.booleans()):
        time_s = problem.compute_once.time_s + draw(st.integers(0, 30))
    return replace(problem, budget=Budget(ram_bytes=ram_bytes, time_s=time_s))
