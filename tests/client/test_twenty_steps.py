"""Twenty steps, bit for bit those of plain PyTorch: accumulated, mixed, frozen, tied, and a last batch of
another size, within a budget below what keeping everything takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as fn

from benchmarks.outcomes import outcome, recording
from client.executor import plan_step
from client.measure import with_workspace
from client.trace import trace
from scheduler.errors import BadInput, Infeasible, Untraceable
from tests.client.models import Convolutional, Mlp, OwnBuffers, Recurrent, Tied
from tests.client.random_plans import random_plan, uses
from tests.client.twins import LOSS, Twin, require_same

CLASSES = 5


class Language(nn.Module):
    """Tokens; a frozen layer, dropout, and an embedding that is the output's weights too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(8, CLASSES, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x):
        hidden = torch.relu(self.frozen(self.norm(self.embedding(x))))
        return self.out(self.drop(hidden)).mean(1)

    @staticmethod
    def x(rows):
        return torch.randint(0, CLASSES, (rows, 6))


class Mixed(nn.Module):
    """Computes in bfloat16 under autocast, and uses one layer twice: it is cast once."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.norm = nn.LayerNorm(8)
        self.convolution = nn.Conv1d(1, 4, 3)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.twice(fn.gelu(self.twice(x)))
            x = self.norm(self.frozen(x) + x)
            x = self.head(torch.tanh(self.convolution(x[:, None])).flatten(1))
        return x.float()

    @staticmethod
    def x(rows):
        return torch.randn(rows, 8)


class Half(Mlp):
    """Parameters, gradients and optimizer state in bfloat16."""

    def __init__(self):
        super().__init__()
        self.to(torch.bfloat16)

    @staticmethod
    def x(rows):
        return torch.randn(rows, 12).bfloat16()


class Pictures(Convolutional):
    """Batch norm's statistics and dropout, which go on once per micro-batch."""

    @staticmethod
    def x(rows):
        return torch.randn(rows, 1, 8, 8)


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
}


def made(kind, name):
    torch.manual_seed(3)
    module = kind().train()
    optimizer_kind, options = OPTIMIZERS[name]
    optimizer = recording(optimizer_kind)([*module.parameters()], **options)
    torch.manual_seed(7)
    return module, optimizer


def data(kind, sizes):
    torch.manual_seed(5)
    return [(kind.x(rows), torch.randint(0, CLASSES, (rows,))) for rows in sizes]


def plainly(module, optimizer, batches, accumulate):
    losses = []
    torch.manual_seed(7)
    for x, y in batches:
        optimizer.zero_grad()
        total = None
        for xc, yc in zip(x.chunk(accumulate), y.chunk(accumulate), strict=True):
            loss = LOSS(module(xc), yc)
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        optimizer.step()
        losses.append(total.item())
    return noted(module, optimizer, losses)


def noted(module, optimizer, losses):
    found = outcome(module, optimizer, losses)
    found.gradients = list(getattr(optimizer, "notes", ()))
    return found


def planned(module, optimizer, batches, accumulate, part=0.3):
    """A step in a little more than the least RAM: 0 is the floor, 1 is what keeping everything takes."""

    def plan(ram):
        return plan_step(
            module, LOSS, optimizer, batches[0], ram=ram, accumulate=accumulate, time_limit_s=1.0
        )

    most = plan(10**9).predicted_peak_bytes
    with pytest.raises(Infeasible) as raised:
        plan(1)
    least = raised.value.floor_bytes
    step = plan(round(least + part * (most - least)))
    step.plan(batches[-1])
    return step


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", [Language, Mixed, Half, Pictures])
def test_twenty_steps(kind, optimizer, accumulate, tmp_path):
    batches = data(kind, [12] * 19 + [7])
    plain = plainly(*made(kind, optimizer), batches, accumulate)
    module, chosen = made(kind, optimizer)
    step = planned(module, chosen, batches, accumulate)
    chosen.notes.clear()  # Planning tries the optimizer out.
    torch.manual_seed(7)
    with step:
        losses = [step(b) for b in batches]
    require_same(plain, noted(module, chosen, losses))


@pytest.mark.parametrize("kind", [Convolutional, OwnBuffers, Recurrent, Tied])
def test_micro_batches_under_random_plans(kind, tmp_path):
    """With reruns: what a micro-batch changed must not reach back into an earlier one."""
    twin = Twin.of(kind, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), steps=2)
    x, y = zip(*twin.batches, strict=True)
    batches = [(torch.cat(x), torch.cat(y)), (torch.cat(x[::-1]), torch.cat(y[::-1]))]
    module, optimizer = twin.fresh()
    traced = trace(module, LOSS, optimizer, batches[0], accumulate=2)
    twin = replace(twin, batches=batches, traced=with_workspace(traced, module, optimizer))
    module, optimizer = twin.fresh()
    plain = plainly(module, optimizer, batches, 2)
    reruns = 0
    for seed in range(3):
        plan = random_plan(twin.problem(), seed)
        reruns += uses(plan, twin.traced.graph)[0]
        require_same(plain, twin.by_plan(plan, tmp_path))
    assert reruns


def test_a_layer_used_twice_under_autocast_is_cast_once():
    """Without autocast's cache its gradient would be the sum of two rounded ones."""
    batches = data(Mixed, [6] * 3)
    plain = plainly(*made(Mixed, "sgd"), batches, 1)
    module, optimizer = made(Mixed, "sgd")
    with plan_step(module, LOSS, optimizer, batches[0], ram="1MB") as step:
        optimizer.notes.clear()
        losses = [step(b) for b in batches]
    require_same(plain, noted(module, optimizer, losses))


def test_micro_batches_need_less_than_one_batch():
    module, optimizer = made(Pictures, "sgd")
    batches = data(Pictures, [32])
    floors = []
    for accumulate in (1, 4):
        with pytest.raises(Infeasible) as raised:
            plan_step(module, LOSS, optimizer, batches[0], ram=1, accumulate=accumulate)
        floors.append(raised.value.floor_bytes)
    assert floors[1] < floors[0] / 2


def test_micro_batches_that_cannot_be_cut():
    module, optimizer = made(Half, "sgd")
    x, y = data(Half, [6])[0]
    with pytest.raises(Untraceable, match="as many rows"):
        plan_step(module, LOSS, optimizer, (x, y[:4]), ram="1MB", accumulate=2)
    with pytest.raises(BadInput, match="at least 1"):
        plan_step(module, LOSS, optimizer, (x, y), ram="1MB", accumulate=0)


def test_autocast_around_planning_is_refused():
    module, optimizer = made(Half, "sgd")
    with torch.autocast("cpu"), pytest.raises(Untraceable, match="forward"):
        plan_step(module, LOSS, optimizer, data(Half, [6])[0], ram="1MB")
