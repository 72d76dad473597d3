"""Measured costs: whose they are and what they leave alone. How long things take is not tested."""

from __future__ import annotations

import itertools
import math
import time

import pytest
import torch
from torch import nn

from client import costs, stopwatch
from client.costs import expected_step_s, interpreter_s, measured_costs, profile_costs
from client.measure import with_workspace
from client.prepare import pose_step
from client.stopwatch import CACHE_BYTES, Caches
from client.trace import trace
from scheduler import (
    Budget,
    Graph,
    Kind,
    Operator,
    Phase,
    Problem,
    Tensor,
    cost_table,
    keep_all,
    load_device,
    replay,
)
from tests.client.models import MODELS
from tests.client.twins import LOSS, Twin

PI = load_device("raspberry-pi-4b")


@pytest.fixture
def nothing_added(monkeypatch):
    monkeypatch.setattr(costs, "interpreter_s", lambda _clock, _device: 0.0)


@pytest.mark.usefixtures("nothing_added")
@pytest.mark.parametrize("kind", MODELS)
def test_every_operator_is_timed_and_nothing_is_changed(kind):
    twin = Twin.of(kind, torch.optim.Adam)
    module, optimizer = twin.fresh()
    state = torch.get_rng_state()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    table = measured_costs(twin.traced, module, optimizer, PI, limit_s=0.0)
    known = cost_table(twin.traced.graph, PI)
    assert (table.page_in, table.page_out) == (known.page_in, known.page_out)
    assert (table.idle_w, table.overlap) == (PI.idle_w, PI.overlap)
    for cost in table.operators:
        assert cost.time_s > 0
        assert cost.energy_j == pytest.approx(cost.time_s * PI.compute_w)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not optimizer.state


def stack(width: int, depth: int):
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.Tanh())]
    module = nn.Sequential(*layers, nn.Linear(width, 5))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batch = torch.zeros(2, width), torch.zeros(2, dtype=torch.long)
    traced = trace(module, LOSS, optimizer, batch)
    return with_workspace(traced, module, optimizer), module, optimizer


@pytest.mark.usefixtures("nothing_added")
def test_equal_operators_are_timed_once(monkeypatch):
    timed = []
    genuine = stopwatch.median_s
    monkeypatch.setattr(stopwatch, "median_s", lambda *a: timed.append(1) or genuine(*a))
    counts = []
    for depth in (4, 9):
        timed.clear()
        measured_costs(*stack(8, depth), PI, limit_s=0.0)
        counts.append(len(timed))
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("nothing_added")
def test_seconds_are_those_of_the_clock_and_progress_is_told():
    traced, module, optimizer = stack(8, 2)
    told = []
    table = measured_costs(
        traced,
        module,
        optimizer,
        PI,
        clock=itertools.count(step=3).__next__,
        on_operator=lambda done, total: told.append((done, total)),
    )
    count = len(traced.graph.operators)
    assert {c.time_s for c in table.operators} == {3.0}
    assert told == [(n + 1, count) for n in range(count)]


def test_the_interpreter_s_own_work_is_finite_and_not_negative():
    cpu = torch.device("cpu")
    assert math.isfinite(interpreter_s(time.perf_counter, cpu))
    assert interpreter_s(time.perf_counter, cpu) >= 0
    assert interpreter_s(itertools.count().__next__, cpu) == 0


@pytest.mark.usefixtures("nothing_added")
def test_a_step_is_posed_with_the_costs_that_are_asked_for():
    module = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batch = torch.zeros(2, 8), torch.zeros(2, dtype=torch.long)
    posed = pose_step(module, LOSS, optimizer, batch, device=PI)
    again = pose_step(
        module, LOSS, optimizer, batch, device=PI, costing=measured_costs, deadline_factor=2.0
    )
    assert again.problem.graph == posed.problem.graph
    assert posed.problem.costs == profile_costs(posed.traced, module, optimizer, PI)
    assert again.problem.costs != posed.problem.costs
    # The deadline is in the same seconds.
    assert again.problem.budget.time_s == pytest.approx(2 * again.problem.compute_once.time_s)


def graph_of(sizes, uses):
    """Forward operators that each use some inputs and make nothing that matters."""
    tensors = [
        Tensor(id=k, name=f"t{k}", size_bytes=n, kind=Kind.PARAMETER) for k, n in enumerate(sizes)
    ]
    operators = [
        Operator(id=n, name=f"op{n}", inputs=use, outputs=(), phase=Phase.FORWARD)
        for n, use in enumerate(uses)
    ]
    return Graph(operators=tuple(operators), tensors=tuple(tensors))


def test_a_tensor_is_as_old_as_what_was_used_since():
    mib = 2**20
    graph = graph_of([mib, 2 * mib, 1000, 40 * mib], [(0,), (1,), (0, 2), (3,)])
    caches = Caches(graph, torch.device("cpu"))
    # From the step before: everything else has been used since.
    assert caches.ages(graph.operators[0]) == (CACHE_BYTES,)
    caches.use(graph.operators[0])
    caches.use(graph.operators[1])
    # Two MiB since; small tensors are fetched in no time.
    assert caches.ages(graph.operators[2]) == (2 * mib, 0)
    caches.use(graph.operators[2])
    assert caches.ages(graph.operators[2]) == (0, 0)


def test_aging_uses_every_tensor_and_changes_none():
    graph = graph_of([2**20, 2**18], [(0,), (1,)])
    tensors = [torch.arange(2.0**18), None, torch.arange(2.0**16)]
    before = [None if t is None else t.clone() for t in tensors]
    Caches(graph, torch.device("cpu")).aging(tensors, (CACHE_BYTES, 0, 2**18))()
    for tensor, copy in zip(tensors, before, strict=True):
        assert tensor is copy is None or torch.equal(tensor, copy)


def test_the_way_back_counts_where_ram_is_short():
    traced, module, optimizer = stack(16, 2)
    costs_here = profile_costs(traced, module, optimizer, PI)
    problem = Problem(graph=traced.graph, costs=costs_here, budget=Budget(ram_bytes=2**30))
    plan = keep_all(problem)
    used = replay(plan, problem)
    assert expected_step_s(plan, problem) == pytest.approx(used.time_s)
    tight = Problem(graph=traced.graph, costs=costs_here, budget=Budget(ram_bytes=used.peak_bytes))
    changed = {k for op in traced.graph.operators for k in op.mutates}
    pages_s = sum(costs_here.page_out[k].time_s for k in changed)
    assert expected_step_s(plan, tight) == pytest.approx(used.time_s + pages_s)
