"""A plain training step as a flat list of kernels: what eager training runs, without the way it gets there.

For a small model most of an eager step is not arithmetic but modules, autograd and dispatch. The record of
one step (`capture`) has the very kernels, in the same order and on tensors laid out alike, so that the
numbers are the same bit for bit; there is no plan and no budget here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from .batch import Batch
from .capture import Capture, Loss, capture
from .dataflow import Dataflow
from .optimizer import as_accumulated
from .program import Function, compile_step, set_grad_mode
from .setting import trained

Update = Callable[[Sequence[Tensor]], object]
"""An optimizer's step, given the gradients of the parameters that a step trains."""


class RecordedStep:
    """Forward and backward pass of a module for batches of one layout.

    It fits every module that is built like the one recorded. Raises Untraceable.
    """

    def __init__(
        self, module: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, batch: Batch
    ) -> None:
        captured = self._captured = capture(module, loss, tuple(trained(module, optimizer)), batch)
        flow = Dataflow(captured)
        sources = (
            *captured.parameters.values(),
            *captured.buffers.values(),
            *captured.constants,
            *captured.batch.values(),
        )
        self._run = compile_step(flow, sources, (captured.loss, *captured.gradients.values()))
        self._odd = _odd_gradients(flow, captured)

    def bind(self, module: nn.Module) -> BoundStep:
        """The step of a module, whose parameters and buffers it uses in place."""
        return BoundStep(self._captured, self._run, self._odd, module)


class BoundStep:
    """Call it with the tensors of a batch: it gives the loss before the update, and the gradients."""

    def __init__(
        self, captured: Capture, run: Function, odd: frozenset[int], module: nn.Module
    ) -> None:
        self._run, self._odd = run, odd
        named, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        self._parameters = [named[name] for name in captured.parameters]
        self._fixed = [buffers[name] for name in captured.buffers]
        self._fixed += captured.constants.values()
        self._trained = [named[name] for name in captured.gradients]
        self._pointers: list[int] = []
        self._held: list[Tensor] = []

    def __call__(self, batch: Iterable[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss, 0-d, and a gradient for each parameter that is trained, laid out as eager ones."""
        mode = torch.is_grad_enabled()
        try:
            loss, *gradients = self._run(*self._lasting(), *batch)
        finally:
            set_grad_mode(mode)
        for k in self._odd:
            gradients[k] = as_accumulated(gradients[k].clone(), self._trained[k])
        return loss, gradients

    def update(self, optimizer: torch.optim.Optimizer) -> Update:
        """The optimizer's step for the gradients that a call gives."""
        return _stateless_sgd(optimizer, self._trained) or partial(_step, optimizer, self._trained)

    def _lasting(self) -> list[Tensor]:
        """Parameters, buffers and constants; an optimizer may give a parameter other memory."""
        pointers = [parameter.data_ptr() for parameter in self._parameters]
        if pointers != self._pointers:
            self._pointers = pointers
            self._held = [*(parameter.detach() for parameter in self._parameters), *self._fixed]
        return self._held


def _step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    step: Any = type(optimizer).step
    if getattr(step, "hooked", False):
        step.__wrapped__(optimizer)  # without the profiler's record, which is half a small step
    else:
        optimizer.step()


def _stateless_sgd(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Update | None:
    """SGD in torch's own functional form, if this is SGD that keeps nothing between steps."""
    group = optimizer.param_groups[0]
    if (
        type(optimizer) is not torch.optim.SGD
        or len(optimizer.param_groups) > 1
        or isinstance(group["lr"], Tensor)
        or any(group[option] for option in ("momentum", "foreach", "fused", "differentiable"))
    ):
        return None
    options = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
    return partial(
        _functional_sgd,
        [parameter.detach() for parameter in parameters],
        [None] * len(parameters),
        {option: group[option] for option in options},
    )


def _functional_sgd(
    parameters: list[Tensor],
    momentum: list[Tensor | None],
    options: Mapping[str, Any],
    gradients: list[Tensor],
) -> None:
    sgd(parameters, gradients, momentum, foreach=False, fused=False, **options)


def _odd_gradients(flow: Dataflow, captured: Capture) -> frozenset[int]:
    """Places of gradients that autograd would copy: laid out unlike their parameter, or sharing memory."""
    bases = [flow.base[node] for node in captured.gradients.values()]
    odd: set[int] = set()
    for k, (name, node) in enumerate(captured.gradients.items()):
        value, parameter = captured.values[node], captured.values[captured.parameters[name]]
        own = bases.count(bases[k]) == 1 and bases[k].op == "call_function"
        if not own or value.stride() != parameter.stride():
            odd.add(k)
    return frozenset(odd)
