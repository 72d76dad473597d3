"""Quick ways to call operators call nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode

from client.binding import binding
from client.capture import capture
from tests.client.models import Convolutional, Encoder, Recurrent, batch

aten = torch.ops.aten


def of_one(target: Any, *args: Any) -> Any:
    """The binding of an operator for these arguments, of which tensors become fakes."""
    graph, mode, values = fx.Graph(), FakeTensorMode(), {}
    given = []
    for k, arg in enumerate(args):
        if isinstance(arg, torch.Tensor):
            given.append(graph.placeholder(f"x{k}"))
            values[given[-1]] = mode.from_tensor(arg)
        else:
            given.append(arg)
    with mode:
        return binding(graph.call_function(target, tuple(given)), values)


def test_a_function_of_torch_is_taken_where_it_is_the_same_call():
    x = torch.ones(2, 3)
    assert of_one(aten.t.default, x) is torch._C.TensorBase.t
    assert of_one(aten.addmm.default, torch.ones(2), x, x.t()) is torch._C.TensorBase.addmm


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.add.Scalar, (torch.ones(2), 2)),  # torch's function calls add.Tensor
        (aten.nll_loss_forward.default, (torch.zeros(2, 3), torch.tensor([0, 1]), None, 1, -100)),
    ],
)
def test_where_it_is_another_call_or_there_is_none_the_operator_is_called_itself(target, args):
    found = of_one(target, *args)
    assert found is target._op
    assert found not in (torch.add, torch._C.TensorBase.add)


@pytest.mark.parametrize("kind", [Convolutional, Encoder, Recurrent])
def test_every_operator_of_a_step_gives_the_same_through_its_binding(kind):
    module = kind().train()
    names = tuple(n for n, _ in module.named_parameters())
    generator = torch.Generator().manual_seed(1)
    captured = capture(
        module, torch.nn.functional.cross_entropy, names, batch(kind.shape, generator)
    )
    quick = 0
    for node in captured.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        with captured.mode:
            found = binding(node, captured.values)
        if found is node.target._op or node.target._schema.is_mutable:
            continue
        quick += 1
        real = {n: _real(captured.values[n]) for n in node.all_input_nodes}
        args, kwargs = fx.map_arg((node.args, node.kwargs), real.__getitem__)
        results = []
        for call in (found, node.target):
            torch.manual_seed(2)
            results.append(call(*args, **kwargs))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0, equal_nan=True)
    assert quick > 5


def _real(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return made.random_(2) if not value.is_floating_point() else made.uniform_(0.1, 1)
