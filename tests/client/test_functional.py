"""In-place operators stay what they are; copies are made only where the old content is needed."""

from __future__ import annotations

import torch
from torch import nn

from client.capture import capture
from client.dataflow import Dataflow
from client.grouping import Unit, copies_left_out
from client.program import compile_unit

X, Y = torch.arange(6.0).reshape(2, 3), torch.zeros(2, dtype=torch.int64)


class Changing(nn.Module):
    """`before` reads what `add_` then changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        made = x * 2
        before = made.cos()
        made.add_(1)
        return made * self.weight + before


def flow_of(module):
    return Dataflow(capture(module, lambda out, y: out.sum(), ("weight",), (X, Y)))


def node(flow, name):
    return next(n for n in flow.nodes if n.node.name == name)


def test_the_in_place_operator_itself_runs():
    targets = [str(n.node.target) for n in flow_of(Changing()).nodes]
    assert "aten.add_.Tensor" in targets


def test_old_content_is_copied_if_it_is_read_after_the_change():
    flow = flow_of(Changing())
    make, read, change = node(flow, "mul"), node(flow, "cos"), node(flow, "add_")
    outputs = (*read.makes, *change.makes)
    in_order, swapped = Unit((make, read, change)), Unit((make, change, read))
    assert copies_left_out(in_order, outputs) == {change.makes[0]: make.makes[0]}
    assert copies_left_out(swapped, outputs) == {}
    for unit in (in_order, swapped):
        before, after = compile_unit(flow, unit, outputs).first(X)
        assert torch.equal(before, (X * 2).cos())
        assert torch.equal(after, X * 2 + 1)


def test_old_content_that_leaves_the_unit_is_not_changed():
    flow = flow_of(Changing())
    make, change = node(flow, "mul"), node(flow, "add_")
    old, new = compile_unit(flow, Unit((make, change)), (*make.makes, *change.makes)).first(X)
    assert torch.equal(old, X * 2)
    assert torch.equal(new, X * 2 + 1)


def test_inputs_are_never_changed():
    flow = flow_of(Changing())
    change = node(flow, "add_")
    given = X.clone()
    (new,) = compile_unit(flow, Unit((change,)), change.makes).first(given)
    assert torch.equal(given, X)
    assert torch.equal(new, X + 1)
