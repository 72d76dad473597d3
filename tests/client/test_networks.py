"""The networks that planning is measured on, small: their steps by a plan are plain training's."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from benchmarks import models, networks
from client.measure import with_workspace
from client.trace import trace
from scheduler import Phase, page_all, replay
from tests.client.random_plans import random_plan
from tests.client.twins import LOSS, Twin, require_same


def pictures(generator):
    return torch.randn(3, 3, 32, 32, generator=generator), torch.arange(3)


def masks(generator):
    x = torch.randn(2, 3, 16, 16, generator=generator)
    return x, torch.randint(0, 3, (2, 16, 16), generator=generator)


def texts(generator):
    return torch.randint(0, 50, (3, 8), generator=generator), torch.arange(3) % 2


def sequences(generator, width=16):
    return torch.randn(3, 6, width, generator=generator), torch.arange(3)


ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2))
NETWORKS = (
    (partial(networks.resnet18, width=4), models.sgd, pictures),
    (partial(networks.vgg16, width=4), models.sgd, pictures),
    (partial(networks.mobilenet_v2, part=4, rows=ROWS), models.sgd, pictures),
    (partial(networks.UNet, 4, 3, levels=2), models.adam, masks),
    (partial(networks.Gru, 16, 7, 2, 4), models.adam, sequences),
    (partial(networks.bert, 2, 32, vocabulary=50, sequence=9, head_size=16), models.adamw, texts),
    (partial(networks.Stack, 2, 16, 2, 5), models.sgd, sequences),
)


def twin_of(build, optimizer, batch, max_operators=1000):
    torch.manual_seed(3)
    module = build()
    generator = torch.Generator().manual_seed(5)
    batches = [batch(generator) for _ in range(2)]
    own = optimizer(module.parameters())
    found = trace(module, LOSS, own, batches[0], max_operators=max_operators)
    found = with_workspace(found, module, own)
    return Twin(module=module, build=optimizer, batches=batches, traced=found)


@pytest.mark.parametrize(("build", "optimizer", "batch"), NETWORKS)
@pytest.mark.parametrize("max_operators", [1000, 20])
def test_every_network_trains_bit_for_bit_by_a_plan(
    build, optimizer, batch, max_operators, tmp_path
):
    twin = twin_of(build, optimizer, batch, max_operators)
    plain = twin.plainly()
    problem = twin.problem()
    for plan in (twin.keep_all(), page_all(problem), random_plan(problem, 1)):
        planned = twin.by_plan(plan, tmp_path)
        require_same(plain, planned)
        assert planned.peaks[1] == replay(plan, problem).peak_bytes


def test_the_steps_are_those_of_the_networks_they_name():
    """Parameters as published: torchvision's for MobileNetV2 with ten classes, BERT's and U-Net's."""
    counts = {s.name: sum(p.numel() for p in s.build().parameters()) for s in models.STEPS[:5]}
    assert counts["resnet18"] == 11_173_962
    assert counts["vgg16"] == 14_728_266
    assert counts["mobilenetv2"] == 2_236_682


def test_what_is_cheap_to_have_again_stays_apart_from_what_is_dear():
    """A GELU or ReLU that the backward pass needs is rerun alone, not with its matrix product."""
    for build, batch in (
        (partial(networks.Stack, 2, 64, 2, 5), sequences(torch.Generator(), 64)),
        (partial(networks.resnet18, width=16), pictures(torch.Generator())),
    ):
        module = build()
        graph = trace(module, LOSS, models.sgd(module.parameters()), batch).graph
        forward = [op for op in graph.operators if op.phase is Phase.FORWARD]
        cheap = [op for op in forward if "gelu" in op.name or "relu" in op.name]
        assert len(cheap) >= 2
        assert max(op.flops for op in cheap) < 0.01 * sum(op.flops for op in forward)
