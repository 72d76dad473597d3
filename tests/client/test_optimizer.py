"""One optimizer per parameter does what the user's does to all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client.optimizer import as_accumulated, probe
from client.trace import trace
from scheduler.errors import BadInput
from tests.client.faults import changed, require_retry_is_exact
from tests.client.models import Mlp
from tests.client.random_plans import random_plan
from tests.client.twins import LOSS, Twin, require_same


@pytest.mark.parametrize(
    "parameter",
    [
        torch.rand(4, 3),
        torch.rand(3, 4).t(),
        torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.rand(4, 6)[:, ::2],
        torch.rand(3).expand(4, 3),
        torch.rand(1, 3, 1),
    ],
)
@pytest.mark.parametrize("spread", [False, True])
def test_gradients_lie_as_autograd_lets_them_lie(parameter, spread):
    leaf = nn.Parameter(parameter)
    weights = torch.rand(parameter.shape)
    # Autograd's own gradient: contiguous, or one number for all elements.
    (leaf.sum() if spread else (leaf * weights).sum()).backward()
    raw = torch.ones(()).expand(parameter.shape) if spread else weights
    mine = as_accumulated(raw, parameter)
    assert torch.equal(mine, leaf.grad)
    assert mine.stride() == leaf.grad.stride()


def test_state_is_found_by_stepping():
    parameter = torch.rand(3, 5)
    optimizer = torch.optim.AdamW([nn.Parameter(parameter)], amsgrad=True)
    before = parameter.clone()
    found = probe(optimizer, optimizer.param_groups[0], "p", parameter)
    sizes = {k: v.storage_bytes for k, v in found.state.items()}
    assert sizes == {"step": 4, "exp_avg": 60, "exp_avg_sq": 60, "max_exp_avg_sq": 60}
    assert not found.changes_gradient
    assert torch.equal(parameter, before)
    assert not optimizer.state


def test_a_parameter_without_elements(tmp_path):
    class Empty(Mlp):
        def __init__(self):
            super().__init__()
            self.extra = torch.nn.Parameter(torch.empty(0))

        def forward(self, x):
            return super().forward(x) + self.extra.sum()

    twin = Twin.of(Empty, torch.optim.Adam)
    require_same(twin.plainly(), twin.by_plan(twin.keep_all(), tmp_path))


def test_groups_keep_their_own_options(tmp_path):
    def build(parameters):
        first, *rest = list(parameters)
        groups = [{"params": [first], "lr": 0.5}, {"params": rest, "momentum": 0.9}]
        return torch.optim.SGD(groups, lr=0.01, weight_decay=0.1)

    twin = Twin.of(Mlp, build)
    require_same(twin.plainly(), twin.by_plan(random_plan(twin.problem(), 0), tmp_path))


class Counting(torch.optim.SGD):
    """Keeps a number that is no tensor, on which its update depends."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    count = self.state[p]["count"] = self.state[p].get("count", 0) + 1
                    p.add_(p.grad, alpha=-0.1 / count)


def test_state_that_is_no_tensor_is_kept_and_undone(tmp_path):
    twin = Twin.of(Mlp, lambda p: Counting(p, lr=0.1))
    require_same(twin.plainly(), twin.by_plan(twin.keep_all(), tmp_path))
    # The last operator but the update of the first layer fails after other updates.
    number = len(twin.traced.program.bodies) - 2
    body = twin.traced.program.bodies[number]
    fails = iter([False, True, False, False])

    def first(*inputs):
        if next(fails):
            raise RuntimeError("broken")
        return body.first(*inputs)

    traced = changed(twin.traced, number, first=first)
    require_retry_is_exact(twin, traced, RuntimeError, tmp_path)


class Late(torch.optim.SGD):
    """Makes state in its third step."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad, alpha=-0.1)
                    state = self.state[p]
                    state["count"] = state.get("count", 0) + 1
                    if state["count"] == 3:
                        state["slow"] = p.clone()


def test_state_that_comes_late_is_not_lost_in_silence(tmp_path):
    twin = Twin.of(Mlp, lambda p: Late(p, lr=0.1))
    with pytest.raises(BadInput, match="did not make in its first two steps"):
        twin.by_plan(twin.keep_all(), tmp_path)


def test_tracing_takes_no_hyperparameter_for_granted():
    """The rate is read at every step, so a schedule works; nothing of it is in the graph."""
    graphs = []
    for rate in (0.1, 0.2):
        torch.manual_seed(0)
        module = Mlp()
        optimizer = torch.optim.SGD(module.parameters(), lr=rate)
        batch = torch.zeros(Mlp.shape), torch.zeros(Mlp.shape[0], dtype=torch.int64)
        graphs.append(trace(module, LOSS, optimizer, batch).graph.digest)
    assert graphs[0] == graphs[1]
