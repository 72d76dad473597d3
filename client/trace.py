"""Trace any torch module with its loss and optimizer into the graph of one training step."""

from __future__ import annotations

import torch
from torch import nn

from .batch import Batch
from .capture import Loss, capture
from .grouping import MAX_OPERATORS
from .lower import lower
from .optimizer import probe, require_separable
from .program import Traced
from .setting import Setting, trained


def trace(
    module: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    accumulate: int = 1,
    max_operators: int = MAX_OPERATORS,
) -> Traced:
    """The graph of one training step: forward, loss, backward, and the update of every parameter.

    `loss` takes the module's output and y and returns a 0-d tensor; `batch` is (x, y), of which only
    shapes and types matter. Training or evaluation mode is the module's. Workspace is 0 until
    `with_workspace` measures it. A parameter that is frozen, not in the optimizer or without a
    gradient gets no update. With `accumulate`, the batch goes through the model in so many parts, as
    torch.chunk cuts it; their gradients are added, and so are their losses. If forward and backward
    pass have more than `max_operators`, operators are joined where that loses least. Module,
    parameters, gradients, optimizer and generators stay as they are.

    Raises Untraceable with the cause in one line, which names module and line where it can.
    """
    groups = trained(module, optimizer)
    require_separable(optimizer)
    captured = capture(module, loss, tuple(groups), batch, accumulate)
    parameters = dict(module.named_parameters())
    probes = {
        name: probe(optimizer, groups[name], name, parameters[name].detach())
        for name in captured.gradients
    }
    return lower(
        captured, probes, Setting.of(module, optimizer), type(module).__name__, max_operators
    )
