"""From a model to a trained model within a device's budget."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from client.meter import NoMeter
from client.prepare import planned, pose, pose_step
from client.trainer import train
from client.workload import Examples, Workload
from scheduler import PlanCache, Status, check, keep_all, load_device, page_all, replay
from scheduler.errors import BadInput, Infeasible, InvalidPlan
from tests.client.models import CLASSES, Convolutional, Mlp, batch
from tests.client.twins import LOSS, outcome, require_same, train_plainly

DEVICE = load_device("raspberry-pi-4b")


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def batches(kind, count):
    generator = torch.Generator().manual_seed(2)
    return [batch(kind.shape, generator) for _ in range(count)]


def prepared(kind=Mlp, plan=None, cache=None, **options):
    torch.manual_seed(0)
    module = kind()
    module.train()
    posed = pose_step(module, LOSS, sgd(module), batches(kind, 1)[0], device=DEVICE, **options)
    return planned(posed, time_limit_s=5, plan=plan, cache=cache)


def fresh(kind=Mlp):
    torch.manual_seed(1)
    module = kind()
    return module, sgd(module)


@pytest.fixture(scope="module")
def mlp():
    return prepared()


def between(ready):
    """A budget half-way from the least to what keeping everything takes."""
    problem = ready.problem
    plans = keep_all(problem), page_all(problem)
    return sum(replay(p, problem).peak_bytes for p in plans) // 2


@pytest.mark.parametrize("kind", [Mlp, Convolutional])
def test_training_within_a_budget(kind, tmp_path):
    budget = between(prepared(kind))
    ready = prepared(kind, ram_bytes=budget, deadline_factor=1000.0)
    data = batches(kind, 4)
    seen = []
    module, optimizer = fresh(kind)
    report = train(
        ready,
        module,
        optimizer,
        iter(data),
        tmp_path / "pages",
        on_step=lambda number, loss: seen.append((number, loss)),
    )
    after = outcome(module, optimizer, [loss for _, loss in seen])
    module, optimizer = fresh(kind)
    require_same(train_plainly(module, optimizer, data), after)
    used = replay(ready.solution.plan, ready.problem)
    assert report.measured_peak_bytes == report.predicted_peak_bytes <= budget
    assert report.predicted_peak_bytes == used.peak_bytes + report.undo_ram_bytes
    assert (report.steps, report.examples) == (4, 4 * kind.shape[0])
    assert report.ram_budget_bytes == budget
    assert report.mean_loss == math.fsum(after.losses) / 4
    assert report.last_loss == after.losses[-1]
    assert [n for n, _ in seen] == [1, 2, 3, 4]
    assert report.time_s == 4 * used.time_s <= 4 * ready.problem.budget.time_s
    assert report.energy_j == 4 * used.energy_j
    assert report.paged_in_bytes == 4 * used.page_in_bytes
    assert report.paged_out_bytes == 4 * used.page_out_bytes
    assert report.recomputed == len(used.recomputed)
    assert report.paged_in_bytes or report.recomputed
    assert list(tmp_path.iterdir()) == []


def test_one_prepared_step_fits_every_model_of_its_shapes(mlp, tmp_path):
    for seed in range(2):
        torch.manual_seed(seed)
        module = Mlp()
        train(mlp, module, sgd(module), batches(Mlp, 2), tmp_path / "pages")


def test_a_deadline_is_a_multiple_of_computing_once(mlp):
    once_s = mlp.problem.compute_once.time_s
    assert mlp.problem.budget.time_s is None
    assert prepared(deadline_factor=1.5).problem.budget.time_s == pytest.approx(1.5 * once_s)


def test_the_default_budget_is_what_the_device_leaves(mlp):
    assert mlp.problem.budget.ram_bytes == DEVICE.trainable_bytes
    assert mlp.problem.budget.page_store_bytes < DEVICE.page_store_bytes


def test_a_known_plan_is_checked_and_not_solved_again(mlp, monkeypatch):
    monkeypatch.setattr("client.prepare.cached_solve", None)
    again = prepared(plan=mlp.solution.plan)
    assert again.solution.plan == mlp.solution.plan
    assert again.solution.status is Status.FEASIBLE
    assert again.solution.lower_bound_j <= again.solution.cost.energy_j
    with pytest.raises(InvalidPlan):
        prepared(Convolutional, plan=mlp.solution.plan)


def test_a_budget_below_the_floor_names_the_floor():
    with pytest.raises(Infeasible, match="floor") as raised:
        prepared(ram_bytes=500)
    assert raised.value.floor_bytes > 500
    assert raised.value.operator


def test_a_loss_that_is_not_finite_is_reported(mlp, tmp_path):
    data = batches(Mlp, 2)
    data[0] = (torch.full_like(data[0][0], math.nan), data[0][1])
    module, optimizer = fresh()
    report = train(mlp, module, optimizer, data, tmp_path / "pages")
    assert math.isnan(report.last_loss)
    assert math.isnan(report.mean_loss)
    assert report.steps == 2


def test_no_batch_and_a_wrong_batch(mlp, tmp_path):
    module, optimizer = fresh()
    with pytest.raises(BadInput, match="no batch"):
        train(mlp, module, optimizer, [], tmp_path / "pages")
    x, y = batches(Mlp, 1)[0]
    with pytest.raises(BadInput, match="the plan was made for"):
        train(mlp, module, optimizer, [(x, y), (x[:2], y[:2])], tmp_path / "pages")
    assert all(p.numel() for p in module.parameters())
    assert list(tmp_path.iterdir()) == []


def test_the_page_store_of_a_small_device_leaves_room_for_the_way_back(tmp_path):
    """A device with little storage trains if the plan fits, undoing included, and never overruns it."""
    module, optimizer = fresh()
    data = batches(Mlp, 2)
    device = replace(DEVICE, page_store_bytes=64 * 1024, page_block_bytes=512)
    posed = pose_step(module, LOSS, optimizer, data[0], device=device)
    assert 0 < posed.problem.budget.page_store_bytes < 64 * 1024
    plan = page_all(posed.problem)
    check(plan, posed.problem)
    ready = planned(posed, plan=plan)
    assert train(ready, module, optimizer, data, tmp_path / "pages").steps == 2


def workload(examples):
    return Workload(
        name="toy",
        model=Mlp,
        loss=LOSS,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        partitions=1,
        data=lambda _: examples,
        test=lambda: examples,
        batch_size=4,
        local_epochs=1,
    )


def test_a_workload_poses_a_problem():
    examples = Examples(x=torch.zeros(8, 12), y=torch.full((8,), CLASSES - 1))
    generator = torch.get_rng_state()
    posed = pose(workload(examples), DEVICE)
    assert torch.equal(torch.get_rng_state(), generator)
    double = pose(replace(workload(examples), batch_size=8), DEVICE, ram_bytes=10**6)
    assert double.problem.budget.ram_bytes == 10**6
    x = next(t for t in double.problem.graph.tensors if t.name == "x")
    assert x.size_bytes == 8 * 12 * 4
    assert posed.problem.graph.digest != double.problem.graph.digest
    with pytest.raises(BadInput, match="fewer than a batch of 9"):
        pose(replace(workload(examples), batch_size=9), DEVICE)


def test_a_step_seen_before_is_traced_but_not_solved_again(mlp, tmp_path):
    cache = PlanCache(folder=tmp_path / "plans")
    budget = between(mlp)
    first = prepared(ram_bytes=budget, cache=cache)
    again = prepared(ram_bytes=budget, cache=cache)
    assert "cache" not in first.solution.backend
    assert again.solution.backend == f"{first.solution.backend} (from the cache)"
    assert again.solution.plan == first.solution.plan
    assert "cache" not in prepared(ram_bytes=budget + 1, cache=cache).solution.backend


class Counting:
    """A meter that has counted 2 J more at each reading."""

    name = "made-up meter"

    def __init__(self, readings=1000):
        self.total_j, self.left = 0.0, readings

    def joules(self):
        self.left -= 1
        if self.left < 0:
            raise OSError("gone")
        self.total_j += 2.0
        return self.total_j


@pytest.mark.parametrize(
    ("meter", "joules", "source"),
    [
        (Counting(), 8.0, "made-up meter"),
        (Counting(readings=3), None, "the estimate of profile raspberry-pi-4b (no meter: made-up"),
        (NoMeter(reason="none"), None, "the estimate of profile raspberry-pi-4b (no meter: none)"),
    ],
)
def test_the_report_says_whose_energy_it_has(mlp, tmp_path, meter, joules, source):
    module, optimizer = fresh()
    report = train(mlp, module, optimizer, batches(Mlp, 4), tmp_path / "pages", None, meter)
    assert report.metered_energy_j == joules
    assert report.energy_source.startswith(source)
    used = replay(mlp.solution.plan, mlp.problem)
    assert report.energy_j == pytest.approx(4 * used.energy_j)
