"""Hypothesis strategies, all in one place."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from hypothesis import assume
from hypothesis import strategies as st

from client.device.policy import Facts, Hours, Policy
from protos.blobs import Blob
from protos.tasks import Task
from scheduler import (
    Budget,
    Cost,
    CostTable,
    Graph,
    Kind,
    Operator,
    Phase,
    Plan,
    Problem,
    Tensor,
    floor,
    keep_all,
    page_all,
    replay,
)
from scheduler.blocks import Block
from simulations.fleet import ALWAYS, Fleet, Habits, Window
from tests.client.random_plans import random_plan
from tests.simulations.fleets import fleet_with, kind_of


def nested(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Leaves by themselves, or in lists, tuples and dictionaries of each other."""
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    )


@st.composite
def graphs(draw: st.DrawFn, max_operators: int = 6, all_pageable: bool = False) -> Graph:
    """Small training graphs: sources, operators with one or two outputs, in-place changes."""
    tensors: list[Tensor] = []
    operators: list[Operator] = []

    def tensor(kind: Kind) -> int:
        k = len(tensors)
        pageable = all_pageable or draw(st.integers(0, 9)) > 0
        size = draw(st.integers(1, 9))
        tensors.append(Tensor(id=k, name=f"t{k}", size_bytes=size, kind=kind, pageable=pageable))
        return k

    sources = [tensor(Kind.INPUT) for _ in range(draw(st.integers(0, 1)))]
    persistent = [tensor(Kind.PARAMETER) for _ in range(draw(st.integers(0, 2)))]
    available = sources + persistent
    for i in range(
        draw(st.sampled_from([n for n in (1, 2, 3, 4, 5, 5, 6, 6, 6) if n <= max_operators]))
    ):
        # A chain whose operators also read older tensors, as a backward pass does: only such graphs
        # have something to page or recompute.
        newest = operators[-1].outputs[:1] if operators else ()
        older = [k for k in available if k not in newest]
        read = draw(st.lists(st.sampled_from(older), max_size=2, unique=True)) if older else []
        inputs = [*newest, *read] if draw(st.integers(0, 7)) else read
        mutates = [k for k in inputs if k in persistent and draw(st.integers(0, 2)) == 0]
        room = max(0, 8 - len(tensors))
        fewest = 0 if mutates or not room else 1
        most = 1 if draw(st.integers(0, 3)) else 2
        outputs = [
            tensor(Kind.ACTIVATION) for _ in range(draw(st.integers(fewest, min(most, room))))
        ]
        operators.append(
            Operator(
                id=i,
                name=f"op{i}",
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                mutates=tuple(mutates),
                workspace_bytes=draw(st.sampled_from((0, 0, 1, 3))),
                phase=Phase.FORWARD,
                recomputable=draw(st.integers(0, 5)) > 0,
            )
        )
        available += outputs
    results = [k for k in operators[-1].outputs[:1] if draw(st.booleans())]
    return Graph(operators=tuple(operators), tensors=tuple(tensors), results=tuple(results))


@st.composite
def problems(
    draw: st.DrawFn,
    max_operators: int = 6,
    all_pageable: bool = False,
    with_deadline: bool = True,
    binding: bool = False,
) -> Problem:
    """Small problems with budgets from just below the floor to more than keep-all needs.

    With `binding` the budget lies between the floor and one byte less than keep-all needs, and half
    of the problems make paging dear and computing cheap, so that plans recompute.
    """
    graph = draw(graphs(max_operators=max_operators, all_pageable=all_pageable))
    dear = draw(st.booleans())

    def some(count: int, most_j: int) -> tuple[Cost, ...]:
        cost = st.builds(
            Cost,
            time_s=st.integers(0, 8).map(float),
            energy_j=st.integers(1, most_j).map(float),
        )
        return tuple(draw(cost) for _ in range(count))

    costs = CostTable(
        operators=some(len(graph.operators), 3 if dear else 20),
        page_in=some(len(graph.tensors), 20),
        page_out=some(len(graph.tensors), 20),
        idle_w=float(draw(st.integers(0, 2))),
    )
    problem = Problem(graph=graph, costs=costs, budget=Budget(ram_bytes=0))
    lowest = floor(problem).ram_bytes
    highest = replay(keep_all(problem), problem).peak_bytes
    if binding:
        assume(lowest < highest)
        ram_bytes = draw(st.integers(lowest, highest - 1))
    else:
        ram_bytes = draw(st.integers(max(lowest - 1, 0), highest + 1))
    time_s = None
    if with_deadline and draw(st.booleans()):
        time_s = problem.compute_once.time_s + draw(st.integers(0, 30))
    return replace(problem, budget=Budget(ram_bytes=ram_bytes, time_s=time_s))


@st.composite
def planned(draw: st.DrawFn, overlap: bool = False, spare: bool = False) -> tuple[Problem, Plan]:
    """A problem and a valid plan of any make; the RAM budget is what the plan uses.

    With `spare` the budget may be larger than that.
    """
    posed = draw(problems(with_deadline=False))
    wide = replace(
        posed,
        costs=replace(posed.costs, overlap=overlap),
        budget=Budget(ram_bytes=10**9),
    )
    makers = (keep_all, page_all, *(partial(random_plan, seed=s) for s in range(8)))
    plan = draw(st.sampled_from(makers))(wide)
    used = replay(plan, wide)
    extra = draw(st.integers(0, 30)) if spare else 0
    budget = Budget(ram_bytes=used.peak_bytes + extra, page_store_bytes=used.page_store_peak_bytes)
    return replace(wide, budget=budget), replace(plan, budget=budget)


@st.composite
def blocks(draw: st.DrawFn, most: int) -> list[Block]:
    """Blocks of a few bytes over a few moments; some leave and come back at the end."""
    found = []
    for _ in range(draw(st.integers(1, most))):
        first, last = sorted((draw(st.integers(0, 9)), draw(st.integers(0, 9))))
        spans: tuple[tuple[int, int], ...] = ((first, last),)
        if draw(st.integers(0, 4)) == 0 and last < 9:
            spans = ((0, first), (last + 1, 9))
        found.append(Block(size_bytes=draw(st.integers(1, 9)), spans=spans))
    return found


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Windows of any length and place, sure and chancy, steady and not, short ones too."""
    hours = draw(st.sampled_from([1.0, 8.0, 24.0]) | st.floats(0.001, 24.0))
    spreads = st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0.0, 12.0)
    return Window(
        start_h=draw(st.sampled_from([0.0, 22.5]) | st.floats(0.0, 23.999)),
        hours=hours,
        share=draw(st.sampled_from([1.0, 1.0, 0.5, 0.0]) | st.floats(0.0, 1.0)),
        device_spread_h=draw(spreads),
        day_spread_h=draw(spreads),
    )


@st.composite
def habitual_fleets(draw: st.DrawFn) -> Fleet:
    """Small fleets of up to three kinds with up to three windows a state, on batteries or on mains."""
    several = st.lists(windows(), max_size=3).map(tuple) | st.just(ALWAYS)
    habits = st.builds(Habits, online=several, charging=several, idle=several, unmetered=several)
    watts = st.sampled_from([0.0, 0.5]) | st.floats(0.0, 10.0)
    kinds = [
        kind_of(draw(habits), name=f"kind {k}", own_w=draw(watts))
        for k in range(draw(st.integers(1, 3)))
    ]
    count = draw(st.integers(1, 4))
    return fleet_with(
        kinds,
        count,
        seed=draw(st.integers(0, 2**63 - 1)),
        utc_offset_s=draw(st.sampled_from([0.0, -8 * 3600.0, 5.75 * 3600.0])),
        battery_j=draw(st.sampled_from([math.inf, 1000.0, 50_000.0])),
        charge_w=draw(watts),
    )


def tasks() -> st.SearchStrategy[Task]:
    """Tasks of the device service, with every type of setting."""
    digests = st.binary(min_size=32, max_size=32)
    settings = (
        st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False)
        | st.text(max_size=5)
        | st.binary(max_size=5)
    )
    times = st.floats(0, 4e9)
    return st.builds(
        Task,
        task_id=st.binary(min_size=16, max_size=16),
        device_id=st.integers(1, 2**63 - 1),
        run_id=st.integers(0, 2**64 - 1),
        kind=st.sampled_from(["train", "query"]),
        round_number=st.integers(0, 2**32 - 1),
        workload=st.text(max_size=10),
        workload_digest=digests,
        config=st.dictionaries(st.text(max_size=5), settings, max_size=4),
        model=st.builds(Blob, digest=digests, size_bytes=st.integers(1, 2**60)),
        plan_hints=st.binary(max_size=10),
        issued_at_s=times,
        expires_at_s=times,
    )


def facts() -> st.SearchStrategy[Facts]:
    """What may be so on a device, known or not."""
    known = st.none() | st.booleans()
    return st.builds(
        Facts,
        charging=known,
        battery=st.none() | st.floats(0, 1),
        idle=known,
        unmetered=known,
        minute=st.integers(0, 24 * 60 - 1),
    )


def policies() -> st.SearchStrategy[Policy]:
    """What an owner may ask for."""
    minutes = st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda m: m[0] != m[1])
    hours = minutes.map(lambda m: Hours(start_minute=m[0], end_minute=m[1]))
    return st.builds(
        Policy,
        charging=st.booleans(),
        idle=st.booleans(),
        unmetered=st.booleans(),
        least_battery=st.floats(0, 1),
        quiet_hours=st.lists(hours, max_size=2).map(tuple),
    )
