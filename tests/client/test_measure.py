"""The instrument, and the workspace it finds."""

from __future__ import annotations

import gc
import itertools

import pytest
import torch
from torch import nn

from client import measure
from client.allocator import AllocatorTrace
from client.measure import with_workspace
from client.trace import trace
from scheduler import Phase
from scheduler.errors import FedpoetError
from tests.client.models import MODELS
from tests.client.twins import LOSS, Twin


def test_the_instrument_sees_every_allocation():
    kept = []
    with AllocatorTrace() as watched:
        for size in (1000, 3000, 2000):
            kept.append(torch.empty(size, dtype=torch.uint8))
            torch.empty(5000, dtype=torch.uint8)
        del kept[1]
    assert watched.usage.peak_bytes == 1000 + 3000 + 2000 + 5000
    assert watched.usage.kept_bytes == 3000


def test_freeing_what_an_earlier_trace_saw_counts():
    with AllocatorTrace():
        held = torch.empty(4000, dtype=torch.uint8)
    with AllocatorTrace() as watched:
        del held
        again = torch.empty(1000, dtype=torch.uint8)
    assert watched.usage.kept_bytes == 1000 - 4000
    assert again.numel() == 1000


def test_garbage_from_elsewhere_is_not_collected_meanwhile():
    with AllocatorTrace():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_profiler_of_the_user_is_not_disturbed():
    with (
        torch.autograd.profiler.profile(use_kineto=False),
        pytest.raises(FedpoetError, match="stop it"),
    ):
        AllocatorTrace().__enter__()


@pytest.mark.parametrize("kind", MODELS)
def test_workspace_repeats_exactly_and_leaves_no_trace(kind):
    twin = Twin.of(kind, torch.optim.Adam)
    module, optimizer = twin.fresh()
    state = torch.get_rng_state()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    again = with_workspace(twin.traced, module, optimizer)
    assert again.graph == twin.traced.graph
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not optimizer.state


def test_workspace_is_what_eager_training_knows_nothing_of():
    """Adam needs two temporaries of a parameter's size, and more when its state is made."""
    module = nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.Adam(module.parameters())
    traced = trace(module, LOSS, optimizer, (torch.zeros(2, 64), torch.zeros(2, dtype=torch.long)))
    measured = with_workspace(traced, module, optimizer)
    (update,) = (op for op in measured.graph.operators if op.phase is Phase.UPDATE)
    assert 64 * 64 * 4 <= update.workspace_bytes <= 3 * 64 * 64 * 4


def test_equal_layers_are_measured_once_and_differing_ones_are_not(monkeypatch):
    def stack(*widths):
        pairs = itertools.pairwise(widths)
        layers = [m for a, b in pairs for m in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 5))

    tried = []
    genuine = measure._tried
    monkeypatch.setattr(measure, "_tried", lambda op, *a: tried.append(op.id) or genuine(op, *a))
    counts = []
    for widths in ((8,) * 4, (8,) * 8, range(8, 16)):
        module, batch = stack(*widths), (torch.zeros(2, 8), torch.zeros(2, dtype=torch.long))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        tried.clear()
        with_workspace(trace(module, LOSS, optimizer, batch), module, optimizer)
        counts.append(len(tried))
    assert counts[0] == counts[1] < counts[2]
