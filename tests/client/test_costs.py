"""Measured costs: whose they are and what they leave alone. How long things take is not tested."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from client import costs
from client.costs import interpreter_s, measured_costs, profile_costs
from client.measure import with_workspace
from client.prepare import pose_step
from client.trace import trace
from scheduler import cost_table, load_device
from tests.client.models import MODELS
from tests.client.twins import LOSS, Twin

PI = load_device("raspberry-pi-4b")


@pytest.fixture
def nothing_added(monkeypatch):
    monkeypatch.setattr(costs, "interpreter_s", lambda _clock: 0.0)


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
    genuine = costs.median_s
    monkeypatch.setattr(costs, "median_s", lambda *a: timed.append(1) or genuine(*a))
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
    assert math.isfinite(interpreter_s())
    assert interpreter_s() >= 0
    assert interpreter_s(itertools.count().__next__) == 0


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
