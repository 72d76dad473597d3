"""Training by a plan is bit for bit plain training: the promise that everything else rests on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.outcomes import recording
from client.program import Computation
from scheduler import page_all, replay, solve
from tests.client.models import MODELS, Convolutional, Encoder, Mlp, Residual
from tests.client.random_plans import random_plan, uses
from tests.client.twins import Twin, require_same


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1)


OPTIMIZERS = (
    sgd,
    adam,
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    lambda p: torch.optim.AdamW(p, amsgrad=True),
    lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5),
    torch.optim.NAdam,
    torch.optim.Adagrad,
    torch.optim.Rprop,
)


@pytest.mark.parametrize("build", [sgd, adam])
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_under_every_kind_of_plan(kind, build, tmp_path):
    twin = Twin.of(kind, build)
    plain = twin.plainly()
    problem = twin.problem()
    plans = [twin.keep_all(), page_all(problem), *(random_plan(problem, s) for s in range(3))]
    for plan in plans:
        planned = twin.by_plan(plan, tmp_path)
        require_same(plain, planned)
        predicted = replay(plan, problem).peak_bytes
        # The first step runs before the optimizer's state exists.
        assert planned.peaks[0] <= predicted
        assert planned.peaks[1:] == [predicted] * (len(plain.losses) - 1)


class Decaying(torch.optim.SGD):
    """Changes the gradients that it is given, as old optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.data.add_(p.data, alpha=0.1)
        return super().step(closure)


class Shared(nn.Module):
    """Two parameters whose gradient is one tensor, which the backward pass then reads too."""

    shape = (4, 5)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.one = nn.Parameter(torch.ones(4, 5))
        self.other = nn.Parameter(torch.full((4, 5), 2.0))

    def forward(self, x):
        return torch.tanh(self.linear(x)) + self.one + self.other


@pytest.mark.parametrize("kind", [Mlp, Shared])
def test_an_optimizer_that_changes_gradients(kind, tmp_path):
    twin = Twin.of(kind, lambda p: Decaying(p, lr=0.1))
    require_same(twin.plainly(), twin.by_plan(twin.keep_all(), tmp_path))


@pytest.mark.parametrize("build", OPTIMIZERS)
def test_every_optimizer_is_its_own(build, tmp_path):
    twin = Twin.of(Mlp, build, steps=4)
    require_same(twin.plainly(), twin.by_plan(page_all(twin.problem()), tmp_path))


@pytest.mark.parametrize("kind", [Mlp, Convolutional, Residual, Encoder])
def test_solved_plans_at_budgets_down_to_the_floor(kind, tmp_path):
    twin = Twin.of(kind, sgd, steps=2)
    plain = twin.plainly()
    most = replay(twin.keep_all(), twin.problem()).peak_bytes
    least = replay(page_all(twin.problem()), twin.problem()).peak_bytes
    for part in (0.0, 0.4):
        problem = twin.problem(round(least + part * (most - least)))
        plan = solve(problem, time_limit_s=2.0).plan
        planned = twin.by_plan(plan, tmp_path)
        require_same(plain, planned)
        assert max(planned.peaks) <= problem.budget.ram_bytes


def test_many_random_plans_recompute_and_page(tmp_path):
    twin = Twin.of(Convolutional, adam, steps=2)
    plain = twin.plainly()
    repeated = paged = 0
    for seed in range(25):
        plan = random_plan(twin.problem(), seed)
        runs, ins = uses(plan, twin.traced.graph)
        repeated, paged = repeated + runs, paged + ins
        require_same(plain, twin.by_plan(plan, tmp_path))
    assert repeated > 100
    assert paged > 500


def test_gradients_are_those_that_eager_training_gives_the_optimizer(tmp_path):
    kind = recording(torch.optim.SGD)
    twin = Twin.of(Residual, lambda p: kind(p, lr=0.1))
    kind.notes.clear()
    twin.plainly()
    plain, kind.notes = kind.notes, []
    twin.by_plan(twin.keep_all(), tmp_path, spare_bytes=10**6)
    assert len(kind.notes) == len(plain) == 3 * len(list(twin.module.parameters()))
    # The order differs: updates run where their gradient is ready.
    assert sorted(kind.notes) == sorted(plain)


def test_a_wrong_operator_is_noticed(tmp_path):
    """The comparison itself can fail: one operator's output is off by the smallest amount."""
    twin = Twin.of(Mlp, sgd)
    plain = twin.plainly()
    for number, body in enumerate(twin.traced.program.bodies):
        if not isinstance(body, Computation) or number == 3:
            continue
        wrong = replace(body, first=_off_by_one_bit(body.first))
        bodies = list(twin.traced.program.bodies)
        bodies[number] = wrong
        traced = replace(twin.traced, program=replace(twin.traced.program, bodies=tuple(bodies)))
        with pytest.raises(AssertionError):
            require_same(plain, twin.by_plan(twin.keep_all(), tmp_path, traced, spare_bytes=10**6))


def _off_by_one_bit(function):
    def wrong(*inputs):
        outputs = function(*inputs)
        first = outputs[0].view(-1)
        first.copy_(torch.nextafter(first, torch.full_like(first, torch.inf)))
        return outputs

    return wrong
