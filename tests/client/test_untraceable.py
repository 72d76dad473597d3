"""What cannot be traced ends with one line that names the cause and says what to do."""

from __future__ import annotations

import inspect
import random
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as fn
from torch.utils.checkpoint import checkpoint

from client.trace import trace
from scheduler.errors import BadInput, Untraceable
from tests.client.twins import LOSS

X, Y = torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)


class Line(nn.Module):
    """A linear layer after `change`, a function of this module and x."""

    def __init__(self, change) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.table = torch.zeros(6)
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("other", torch.zeros(1))
        self.listed = [self.linear.weight]
        self.alias = self.linear.weight.detach()[1]
        self.calls = 0
        self.change = change

    def forward(self, x):
        return self.linear(self.change(self, x))


def branch(_, x):
    return x + 1 if x.sum() > 0 else x - 1


def item(_, x):
    return x * x.max().item()


def shapes(_, x):
    return x[x.sum(1) > 0]


def through_numpy(_, x):
    return torch.from_numpy(np.sin(x.detach().numpy()))


def python_draw(_, x):
    return x * random.random()


def numpy_draw(_, x):
    return x * float(np.random.rand())  # noqa: NPY002


def change_parameter(module, x):
    with torch.no_grad():
        module.linear.weight.mul_(0.9)
    return x


def change_plain_tensor(module, x):
    module.table.add_(1)
    return x + module.table


def checkpointed(module, x):
    return checkpoint(fn.dropout, x * module.linear.weight.sum(), use_reentrant=False)


def own_generator(_, x):
    return x + torch.rand(6, generator=torch.Generator())


def grow_buffer(module, x):
    module.count = torch.cat([module.count, module.count])
    return x


def swap_buffers(module, x):
    module.count, module.other = module.other, module.count
    return x


def listed_parameter(module, x):
    return x + module.listed[0][0]


def alias(module, x):
    return x + module.alias


def count_in_python(module, x):
    module.calls += 1
    return x * module.calls


def remember(module, x):
    module.table, before = x.mean(0), module.table
    return x + before


def conditional(_, x):
    return torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,))


def lists(_, x):
    parts = [x.clone(), x.clone()]
    torch._foreach_add_(parts, 1.0)
    return parts[0] + parts[1]


MODULES = {
    conditional: "code inside an operator",
    lists: "list of tensors",
    branch: "control flow",
    item: "Python number",
    shapes: "fixed shape",
    through_numpy: "numpy",
    python_draw: "Python's random",
    numpy_draw: "numpy.random",
    change_parameter: "linear.weight",
    change_plain_tensor: "register_buffer",
    checkpointed: "activation checkpointing",
    own_generator: "Generator",
    grow_buffer: "keep its shape",
    swap_buffers: "clone()",
    listed_parameter: "uses linear.weight past the module",
    alias: "uses linear.weight past the module",
    count_in_python: "in Python between steps",
    remember: "in Python between steps",
}


def line_of(raised) -> int:
    """The line of this file that the message names."""
    name = str(Path(__file__).relative_to(Path.cwd()))
    return int(re.search(rf"{re.escape(name)}:(\d+): ", str(raised.value))[1])


def lines_of(function) -> range:
    lines, first = inspect.getsourcelines(function)
    return range(first, first + len(lines))


def one_line(raised) -> str:
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


@pytest.mark.parametrize("change", MODULES)
def test_modules(change, capfd):
    module = Line(change)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    generator = torch.get_rng_state()
    with pytest.raises(Untraceable) as raised:
        trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), (X, Y))
    assert MODULES[change] in one_line(raised)
    if change is not swap_buffers:  # It leaves no operator behind; the message names the buffer.
        assert str(raised.value).startswith("the model (Line), ")
        assert line_of(raised) in lines_of(change)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert capfd.readouterr() == ("", "")


class Attention(nn.Module):
    """Looks at its data; the helper that does so has a line of its own."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def forward(self, x):
        return x * self.look(x)


class Encoder(nn.Module):
    """Attention three modules down, between modules of torch alone."""

    def __init__(self, attention, width=6):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(6, width), attention if n == 1 else nn.ReLU()) for n in range(2)
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def traced(module, loss=LOSS):
    return trace(module, loss, torch.optim.SGD(module.parameters(), lr=0.1), (X, Y))


def test_messages_name_the_module_by_its_place_in_the_model():
    module = nn.Sequential(nn.Linear(6, 6), Encoder(Attention(lambda x: x.max().item())))
    with pytest.raises(Untraceable) as raised:
        traced(module)
    assert "1.layers.1.1 (Attention), " in one_line(raised)
    assert line_of(raised) in lines_of(test_messages_name_the_module_by_its_place_in_the_model)


def test_errors_in_torchs_modules_name_these_and_the_users_line():
    with pytest.raises(Untraceable) as raised:
        traced(Encoder(nn.Identity(), width=5))
    assert "layers.1.0 (Linear), " in one_line(raised)
    assert line_of(raised) in lines_of(Encoder.forward)


class Rounded(torch.autograd.Function):
    """Looks at its data in the backward pass, where no module is at work any more."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * gradient.max().item()


def test_errors_in_a_backward_pass_of_the_users_name_its_line():
    module = nn.Sequential(nn.Linear(6, 6), Attention(Rounded.apply))
    with pytest.raises(Untraceable) as raised:
        traced(module)
    assert line_of(raised) in lines_of(Rounded.backward)


def test_errors_in_the_loss_name_its_line():
    def loss(out, y):
        return LOSS(out, y) * (2 if y.sum() > 3 else 1)

    with pytest.raises(Untraceable) as raised:
        traced(nn.Linear(6, 6), loss)
    assert one_line(raised).startswith("the loss, ")
    assert line_of(raised) in lines_of(loss)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda out, y: out, "0-d"),
        (lambda out, y: 1.0, "0-d"),
        (lambda out, y: out.detach().sum(), "does not depend"),
        (lambda out, y: LOSS(out[:, :, 0], y), "IndexError"),
    ],
)
def test_losses(loss, says):
    module = nn.Linear(6, 6)
    with pytest.raises(Untraceable) as raised:
        trace(module, loss, torch.optim.SGD(module.parameters(), lr=0.1), (X, Y))
    assert says in one_line(raised)


def test_a_loss_that_reads_the_parameters():
    """Its share of the gradient would be lost without a word."""
    module = nn.Linear(6, 6)

    def loss(out, y):
        return LOSS(out, y) + module.weight.pow(2).sum()

    with pytest.raises(Untraceable) as raised:
        trace(module, loss, torch.optim.SGD(module.parameters(), lr=0.1), (X, Y))
    assert "uses weight past the module" in one_line(raised)


def test_a_loss_that_counts_its_calls():
    module, calls = nn.Linear(6, 6), iter(range(1, 9))
    with pytest.raises(Untraceable) as raised:
        trace(
            module,
            lambda out, y: LOSS(out, y) * next(calls),
            torch.optim.SGD(module.parameters(), lr=0.1),
            (X, Y),
        )
    assert "in Python between steps" in one_line(raised)


class Clipping(torch.optim.SGD):
    """Divides every gradient by the norm of all: parameters depend on each other."""

    def step(self, closure=None):
        parameters = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        nn.utils.clip_grad_norm_(parameters, 0.1)
        return super().step(closure)


class Stubborn(torch.optim.SGD):
    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.1)


def hooked(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def half(module):
    return torch.optim.SGD([*module.parameters(), nn.Parameter(torch.zeros(2))], lr=0.1)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda m: torch.optim.LBFGS(m.parameters()), "closure"),
        (lambda m: Clipping(m.parameters(), lr=0.1), "another one's gradient"),
        (Stubborn, "constructor"),
        (half, "not the module's"),
        (hooked, "hook on its step"),
        (lambda m: torch.optim.SparseAdam(m.parameters()), "SparseAdam"),
        (lambda m: torch.optim.SGD(m.requires_grad_(False).parameters(), lr=0.1), "trains no"),
    ],
)
def test_optimizers(build, says):
    module = nn.Linear(6, 6)
    with pytest.raises(Untraceable) as raised:
        trace(module, LOSS, build(module), (X, Y))
    assert says in one_line(raised)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (((X, None), Y), "x[1] must be a dense tensor, not NoneType"),
        ((X, [0, 1, 2, 3]), "y[0] must be a dense tensor, not int"),
        (({}, ()), "the batch holds no tensor"),
        ((X[:1].expand(4, 6), Y), "contiguous"),
    ],
)
def test_batches(batch, says):
    module = nn.Linear(6, 6)
    with pytest.raises((BadInput, Untraceable)) as raised:
        trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), batch)
    assert says in one_line(raised)


def test_gradient_hooks():
    module = nn.Linear(6, 6)
    module.weight.register_hook(lambda g: g * 2)
    with pytest.raises(Untraceable, match=r"weight.*hook"):
        trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), (X, Y))


def test_sparse_gradients_name_their_parameter():
    module = nn.Sequential(nn.Embedding(5, 6, sparse=True), nn.Flatten(), nn.Linear(36, 6))
    batch = torch.zeros(4, 6, dtype=torch.int64), Y
    with pytest.raises(Untraceable, match=r"0\.weight gets a sparse gradient"):
        trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), batch)


def test_parameters_in_one_memory():
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    module[1].weight = nn.Parameter(module[0].weight.detach())
    with pytest.raises(Untraceable, match="share memory"):
        trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), (X, Y))


def test_a_module_that_cannot_be_copied():
    module = nn.Sequential(nn.Linear(6, 6))
    module[0].lock = threading.Lock()
    with pytest.raises(Untraceable, match=r"0 \(Linear\).*lock"):
        trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), (X, Y))
