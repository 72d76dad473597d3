"""The proximal term of FedProx: the gradient that its loss has, and traced and planned like any optimizer."""

from __future__ import annotations

import copy

import pytest
import torch

from client.proximal import proximal
from scheduler import page_all
from scheduler.errors import BadInput
from tests.client.models import Convolutional, Mlp, batch
from tests.client.twins import LOSS, Twin, require_same

MU = 0.3
BUILDERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_it_is_the_gradient_of_the_proximal_loss(name):
    torch.manual_seed(0)
    ours = Mlp().double()
    theirs, start = copy.deepcopy(ours), [p.detach().clone() for p in ours.parameters()]
    drawn, plain = (
        proximal(BUILDERS[name](ours.parameters()), MU),
        BUILDERS[name](theirs.parameters()),
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x, y = batch(Mlp.shape, generator)
        drawn.zero_grad()
        LOSS(ours(x.double()), y).backward()
        drawn.step()
        plain.zero_grad()
        pull = sum(((p - s) ** 2).sum() for p, s in zip(theirs.parameters(), start, strict=True))
        (LOSS(theirs(x.double()), y) + MU / 2 * pull).backward()
        plain.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [Mlp, Convolutional])
@pytest.mark.parametrize("name", BUILDERS)
def test_by_a_plan_it_gives_the_same_bits(kind, name, tmp_path):
    twin = Twin.of(kind, lambda p: proximal(BUILDERS[name](p), MU))
    states = [t for t in twin.traced.graph.tensors if "proximal_start" in t.name]
    assert len(states) == sum(1 for _ in twin.module.parameters())
    require_same(twin.plainly(), twin.by_plan(page_all(twin.problem()), tmp_path))


def test_what_it_cannot_be():
    parameters = [torch.nn.Parameter(torch.ones(2))]
    plain = torch.optim.Adam(parameters)
    assert proximal(plain, 0.0) is plain
    assert type(proximal(plain, 0.1)) is type(proximal(torch.optim.Adam(parameters), 0.2))
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="proximal-mu"):
            proximal(plain, bad)
