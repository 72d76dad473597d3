"""Trace any torch module with its loss and optimizer into the graph of one training step."""

from __future__ import annotations

import torch
from torch import nn

from scheduler.errors import Untraceable

from .capture import Batch, Loss, capture
from .lower import lower
from .optimizer import Group, probe, require_separable
from .program import Traced


def trace(module: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, batch: Batch) -> Traced:
    """The graph of one training step: forward, loss, backward, and the update of every parameter.

    `loss` takes the module's output and y and returns a 0-d tensor; `batch` is (x, y), of which only
    shapes and types matter. Training or evaluation mode is the module's. Workspace is 0 until
    `with_workspace` measures it. A parameter that is frozen, not in the optimizer or without a
    gradient gets no update. Module, parameters, gradients, optimizer and generators stay as they are.

    Raises Untraceable with the cause in one line.
    """
    groups = _trained(module, optimizer)
    require_separable(optimizer)
    captured = capture(module, loss, tuple(groups), batch)
    parameters = dict(module.named_parameters())
    probes = {
        name: probe(optimizer, groups[name], name, parameters[name].detach())
        for name in captured.gradients
    }
    return lower(captured, probes, type(module).__name__)


def _trained(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Group]:
    """The optimizer's group of every parameter that gets a gradient and is trained."""
    names = {p: n for n, p in module.named_parameters()}
    found: dict[str, Group] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in names:
                raise Untraceable(
                    "the optimizer holds a parameter that is not the module's; build it from "
                    "module.parameters()"
                )
            hooks = ("_backward_hooks", "_post_accumulate_grad_hooks")
            if any(getattr(parameter, h) for h in hooks):
                raise Untraceable(f"{names[parameter]} has a gradient hook; remove it")
            if parameter.requires_grad:
                found[names[parameter]] = group
    if not found:
        raise Untraceable("the optimizer trains no parameter of the module")
    return {n: found[n] for n in names.values() if n in found}
