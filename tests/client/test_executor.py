"""The executor in a user's own loop: what is trained, and whose the memory is when."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from client.costs import measured_costs
from client.executor import plan_step
from scheduler import PlanCache
from scheduler.errors import BadInput, Infeasible
from tests.client.models import Convolutional, Mlp, batch
from tests.client.twins import LOSS, outcome, require_same, train_plainly

ROWS = 6


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1)


def made(kind=Mlp, build=adam):
    """A model and its optimizer, the same at every call."""
    torch.manual_seed(3)
    module = kind().train()
    optimizer = build(module.parameters())
    torch.manual_seed(7)
    return module, optimizer


def data(kind=Mlp, steps=4, rows=ROWS):
    generator = torch.Generator().manual_seed(rows)
    return [batch((rows, *kind.shape[1:]), generator) for _ in range(steps)]


def planned(module, optimizer, first, part=0.2, **options):
    """A step in so much RAM: 0 is the floor, 1 is what keeping everything takes."""
    most = plan_step(module, LOSS, optimizer, first, ram=10**9).predicted_peak_bytes
    with pytest.raises(Infeasible) as raised:
        plan_step(module, LOSS, optimizer, first, ram=1)
    least = raised.value.floor_bytes
    ram = round(least + part * (most - least))
    return plan_step(module, LOSS, optimizer, first, ram=ram, time_limit_s=1.0, **options)


def plainly(batches, kind=Mlp):
    return train_plainly(*made(kind), batches)


def everything(module, optimizer):
    return copy.deepcopy((module.state_dict(), optimizer.state_dict()))


def test_twenty_steps_within_the_budget_and_a_last_batch_of_another_size(tmp_path):
    batches = [*data(Convolutional, 19, 8), *data(Convolutional, 1, 5)]
    module, optimizer = made(Convolutional)
    step = planned(module, optimizer, batches[0], folder=tmp_path)
    first = step.solution
    torch.manual_seed(7)
    with step:
        losses = [step(b) for b in batches[:2]]
        budget_bytes = step.solution.plan.budget.ram_bytes
        assert 0 < step.measured_peak_bytes <= step.predicted_peak_bytes <= budget_bytes
        losses += [step(b) for b in batches[2:]]
        assert step.measured_peak_bytes <= budget_bytes
    require_same(plainly(batches, Convolutional), outcome(module, optimizer, losses))
    assert step.solution.plan.graph_digest != first.plan.graph_digest
    assert step.predicted_peak_bytes <= first.plan.budget.ram_bytes
    assert list(tmp_path.iterdir()) == []


def test_ram_as_text_is_ram_in_bytes():
    module, optimizer = made()
    budgets = {
        plan_step(module, LOSS, optimizer, data()[0], ram=ram).solution.plan.budget.ram_bytes
        for ram in ("64KiB", 65536)
    }
    assert budgets == {65536}


def test_shapes_may_alternate_and_each_is_planned_once():
    small, large = data(rows=3), data(rows=6)
    batches = [b for pair in zip(small, large, strict=True) for b in pair]
    module, optimizer = made()
    with planned(module, optimizer, large[0]) as step:
        solutions = []
        for b in batches:
            step(b)
            solutions.append(step.solution)
    assert len({id(s) for s in solutions}) == 2
    require_same(plainly(batches), outcome(module, optimizer, plainly(batches).losses))


def test_a_batch_that_does_not_fit_names_its_floor_and_changes_nothing():
    module, optimizer = made()
    with planned(module, optimizer, data()[0]) as step:
        step(data()[0])
        before = everything(module, optimizer)
        with pytest.raises(Infeasible, match=r"x \(600, 12\)") as raised:
            step(data(rows=600)[0])
        assert raised.value.floor_bytes > step.solution.plan.budget.ram_bytes
        assert str(raised.value.floor_bytes) in str(raised.value).replace(",", "")
        assert str(everything(module, optimizer)) == str(before)
        step(data()[1])
    require_same(plainly(data()[:2]), outcome(module, optimizer, plainly(data()[:2]).losses))


def test_learning_rate_schedulers_and_evaluation_in_between():
    """Neither needs anything of the user; torch's warning of a wrong order would be an error here."""

    def train(module, optimizer, step):
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)
        losses, scores = [], []
        for number, b in enumerate(data(Convolutional, 8)):
            losses.append(step(b))
            schedule.step()
            if number % 3 == 0:
                module.eval()
                with torch.no_grad():
                    scores.append(LOSS(module(b[0]), b[1]).item())
                module.train()
        return losses, scores

    module, optimizer = made(Convolutional)

    def eager(b):
        optimizer.zero_grad()
        loss = LOSS(module(b[0]), b[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    losses, plain_scores = train(module, optimizer, eager)
    plain = outcome(module, optimizer, losses)
    module, optimizer = made(Convolutional)
    step = planned(module, optimizer, data(Convolutional)[0])
    torch.manual_seed(7)
    with step:
        losses, scores = train(module, optimizer, step)
    require_same(plain, outcome(module, optimizer, losses))
    assert scores == plain_scores


@pytest.mark.parametrize("part", ["state_dict", "named_child"])
def test_saving_while_open_saves_everything(part):
    module, optimizer = made()
    with planned(module, optimizer, data()[0], 0.0) as step:
        assert step.solution.plan.paged_at_start
        step(data()[0])
        assert any(p.numel() == 0 for p in module.parameters())
        saved = module.state_dict() if part == "state_dict" else module[2].state_dict()
        state = optimizer.state_dict()
    plain_module, plain_optimizer = made()
    train_plainly(plain_module, plain_optimizer, data()[:1])
    plain = plain_module if part == "state_dict" else plain_module[2]
    assert str(saved) == str(plain.state_dict())
    assert str(state) == str(plain_optimizer.state_dict())


def test_loading_while_open_replaces_everything():
    module, optimizer = made()
    start = everything(module, optimizer)
    with planned(module, optimizer, data()[0]) as step:
        step(data()[0])
        optimizer.load_state_dict(start[1])
        module.load_state_dict(start[0])
        losses = [step(b) for b in data()]
    require_same(plainly(data()), outcome(module, optimizer, losses))


def test_plain_steps_in_between():
    """Whoever runs the model has its memory back, gradients that plain steps leave do no harm."""
    module, optimizer = made()
    losses = []
    with planned(module, optimizer, data()[0], 0.0) as step:
        for number, b in enumerate(data()):
            if number % 2 == 0:
                losses.append(step(b))
            else:
                losses += train_plainly(module, optimizer, [b]).losses
    require_same(plainly(data()), outcome(module, optimizer, losses))


def test_closing_gives_everything_back_at_any_time():
    module, optimizer = made()
    step = planned(module, optimizer, data()[0])
    losses = []
    for b in data():
        losses.append(step(b))
        step.close()
        assert all(p.numel() for p in module.parameters())
        step.close()
    require_same(plainly(data()), outcome(module, optimizer, losses))
    assert not module._forward_pre_hooks


def test_forgetting_to_close_is_safe(tmp_path):
    module, optimizer = made()
    step = planned(module, optimizer, data()[0], folder=tmp_path)
    losses = [step(b) for b in data()]
    del step
    gc.collect()
    assert all(p.numel() for p in module.parameters())
    require_same(plainly(data()), outcome(module, optimizer, losses))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_step_changes_nothing_and_the_next_one_goes_on():
    module, optimizer = made()
    with planned(module, optimizer, data()[0]) as step:
        losses = [step(data()[0])]
        x, y = data()[1]
        with pytest.raises((IndexError, RuntimeError)):
            step((x, y + 100))
        losses += [step(b) for b in data()[1:]]
    require_same(plainly(data()), outcome(module, optimizer, losses))


def test_plans_come_from_the_cache(tmp_path):
    module, optimizer = made()
    cache = PlanCache(folder=tmp_path)
    plans = [
        planned(module, optimizer, data()[0], cache=cache, folder=tmp_path).solution
        for _ in range(2)
    ]
    assert plans[0].plan == plans[1].plan
    assert "cache" in plans[1].backend


def test_a_deadline_is_kept():
    module, optimizer = made()
    step = planned(module, optimizer, data()[0], 0.8, deadline_factor=10**4)
    assert step.solution.cost.time_s <= step.solution.plan.budget.time_s


@pytest.mark.parametrize("wrong", [None, (1, 2), ((data()[0][0], 1), data()[0][1])])
def test_batches_that_are_none(wrong):
    module, optimizer = made()
    with pytest.raises(BadInput, match=r"pair|dense"):
        plan_step(module, LOSS, optimizer, wrong, ram="1MB")


def test_a_call_under_autocast_is_refused():
    module, optimizer = made()
    step = planned(module, optimizer, data()[0])
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(BadInput, match="autocast"):
        step(data()[0])


def test_costs_measured_on_this_machine_change_no_result():
    module, optimizer = made()
    with planned(module, optimizer, data()[0], costing=measured_costs) as step:
        losses = [step(b) for b in data()]
    require_same(plainly(data()), outcome(module, optimizer, losses))
