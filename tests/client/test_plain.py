"""Plain training in place of a plan: every bit of the update, and the plan's figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.charge import step_charge
from client.node import BY_PLAN, Node, Settings, plan_key
from client.outbox import Update
from client.plain import Plainly
from client.prepare import pose
from client.state import initial_arrays
from client.workload import Examples, Workload, load_workload
from scheduler import keep_all, load_device, page_all, replay
from scheduler.errors import BadInput, Infeasible
from tests.client.models import Convolutional, Encoder, Mlp, OneDimensional, Recurrent, batch

DEVICE = "raspberry-pi-4b"
MEASURED = "measured-peak-bytes"


def workload_of(kind) -> Workload:
    def data(partition):
        generator = torch.Generator().manual_seed(partition)
        x, y = batch((3 * kind.shape[0], *kind.shape[1:]), generator)
        return Examples(x=x, y=y)

    return Workload(
        name=kind.__name__,
        model=kind,
        loss=torch.nn.functional.cross_entropy,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
        partitions=4,
        data=data,
        test=lambda: data(4),
        batch_size=kind.shape[0],
        local_epochs=2,
    )


def tight(workload) -> int:
    """A budget half-way from the least to what keeping everything takes."""
    problem = pose(workload, load_device(DEVICE)).problem
    return sum(replay(p, problem).peak_bytes for p in (keep_all(problem), page_all(problem))) // 2


def update(workload, training, ram_bytes, cache) -> Update:
    settings = Settings(
        workload=workload.name,
        plan_time_limit_s=1.0,
        device=DEVICE,
        ram_bytes=ram_bytes,
        partition=1,
        seed=3,
    )
    node = Node(settings, cache, lambda _: workload, training=training)
    return node.train(initial_arrays(workload, 1), 2)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


OWN = [workload_of(k) for k in (Mlp, Convolutional, OneDimensional, Encoder, Recurrent)]


@pytest.mark.parametrize("workload", [*OWN, load_workload("digits")], ids=lambda w: w.name)
def test_the_update_is_that_of_the_plan_bit_for_bit(workload):
    cache, plainly = {}, Plainly()
    budget = tight(workload)
    planned = update(workload, BY_PLAN, budget, cache)
    plain = update(workload, plainly, budget, cache)
    (ready,) = cache.values()
    used = replay(ready.solution.plan, ready.problem)
    assert used.page_in_bytes or used.recomputed  # or else the comparison says little
    assert planned.arrays.keys() == plain.arrays.keys()
    for name, value in planned.arrays.items():
        assert value.tobytes() == plain.arrays[name].tobytes(), name
    figures = dict(planned.metrics)
    assert 0 < figures.pop(MEASURED) <= figures["predicted-peak-bytes"] <= budget
    assert plain.metrics == figures  # nothing was measured, all else is the plan's


def test_a_known_charge_needs_no_plan():
    workload = load_workload("digits")
    cache, plainly = {}, Plainly()
    first = update(workload, plainly, 180_000, cache)
    assert set(plainly.charges) == set(cache)
    told = Plainly(charges=dict(plainly.charges))
    nothing: dict = {}
    again = update(workload, told, 180_000, nothing)
    assert nothing == {}  # not planned
    assert again.metrics == first.metrics
    assert all(np.array_equal(again.arrays[k], v) for k, v in first.arrays.items())


def test_a_charge_is_what_the_interpreter_predicts():
    settings = Settings(workload="digits", device=DEVICE, ram_bytes=180_000)
    plainly = Plainly()
    node = Node(settings, {}, training=plainly)
    assert node.ready() == node.prepare().solution.plan
    assert node.ready() is None
    charge = plainly.charges[plan_key(settings)]
    assert charge == step_charge(node.prepare())
    used = replay(node.prepare().solution.plan, node.prepare().problem)
    assert charge.predicted_peak_bytes == used.peak_bytes + charge.undo_ram_bytes


def test_a_budget_below_the_floor_has_no_update_either():
    with pytest.raises(Infeasible, match="floor"):
        update(load_workload("digits"), Plainly(), 1000, {})


def test_no_batch_is_bad_input():
    workload = load_workload("digits")
    plainly = Plainly()
    node = Node(Settings(workload="digits", device=DEVICE), {}, training=plainly)
    node.ready()
    model = workload.model()
    with pytest.raises(BadInput, match="no batch"):
        plainly.run(node, model, workload.optimizer(model.parameters()), iter(()))
