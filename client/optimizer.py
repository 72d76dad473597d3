"""The user's optimizer, applied to one parameter at a time."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scheduler.errors import Untraceable

from .layout import Layout, copy_storage

Group = dict[str, Any]
State = dict[str, Tensor]


class ParameterOptimizer:
    """An optimizer of the user's class and hyperparameters for a single parameter.

    Between steps it holds no tensor. State that is not a tensor (a number, a flag) stays in `plain`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, group: Group, like: Tensor) -> None:
        self._group = group
        self._parameter = nn.Parameter(torch.empty(0, dtype=like.dtype, device=like.device))
        self._clone = clone_of(optimizer, group, [self._parameter])
        self._clone.state.clear()
        self.plain: dict[str, Any] = {}

    def step(self, parameter: Tensor, gradient: Tensor, state: State) -> State:
        """Change parameter and state in place as the user's optimizer would; return the state after.

        The gradient is given in the layout that eager training would give it. The optimizer may
        change it: whoever gives it must not need it any more.
        """
        own, clone = self._parameter, self._clone
        nothing = own.data
        clone.param_groups[0].update({k: v for k, v in self._group.items() if k != "params"})
        own.data = parameter
        own.grad = as_accumulated(gradient, parameter)
        clone.state[own] = {**self.plain, **state}
        try:
            clone.step()
            after = clone.state[own]
            self.plain = {k: v for k, v in after.items() if not isinstance(v, Tensor)}
            return {k: v for k, v in after.items() if isinstance(v, Tensor)}
        finally:
            own.grad = None
            own.data = nothing
            clone.state.clear()


def clone_of(
    optimizer: torch.optim.Optimizer, group: Group, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """A new optimizer of the same class with a group's hyperparameters. Raises Untraceable."""
    kind = type(optimizer)
    accepted = inspect.signature(kind).parameters
    options = {k: v for k, v in group.items() if k in accepted and k != "params"}
    try:
        clone = kind(parameters, **options)
    except Exception as error:
        raise Untraceable(
            f"{kind.__name__} cannot be built for one parameter ({error}); its constructor must "
            "take the parameters and the options of a parameter group"
        ) from error
    clone.param_groups[0].update({k: v for k, v in group.items() if k != "params"})
    return clone


def as_accumulated(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with the strides that autograd gives a parameter's .grad.

    The rule is that of torch/csrc/autograd/functions/accumulate_grad.h: strides are the parameter's
    if it is dense, else contiguous.
    """
    if torch.ops.aten.is_non_overlapping_and_dense.default(parameter):
        if same_strides(gradient, parameter.stride()):
            return gradient
        same = torch.empty_strided(
            parameter.shape, parameter.stride(), dtype=gradient.dtype, device=gradient.device
        )
        return same.copy_(gradient)
    return gradient.contiguous()


def same_strides(one: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether the strides that matter are these."""
    return all(a == b for a, b, n in zip(one.stride(), stride, one.shape, strict=True) if n != 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What an optimizer does to one parameter: the state it keeps, and whether it changes gradients."""

    state: dict[str, Layout]
    changes_gradient: bool


def probe(optimizer: torch.optim.Optimizer, group: Group, name: str, parameter: Tensor) -> Probe:
    """Step a clone twice on a throw-away copy of the parameter, which is all the memory this takes.

    Raises Untraceable if the optimizer cannot step this parameter alone.
    """
    own = ParameterOptimizer(optimizer, group, parameter)
    value = copy_storage(parameter).fill_(0.5)
    state: State = {}
    changes = False
    for _ in range(2):
        gradient = torch.ones_like(value)
        try:
            state = own.step(value, gradient, state)
        except Exception as error:
            raise Untraceable(
                f"{type(optimizer).__name__} cannot step {name} alone ({error}); use an optimizer "
                "that needs no closure and updates every parameter from its own gradient"
            ) from error
        changes |= not bool((gradient == 1).all())
    layouts = {k: Layout.of(v) for k, v in state.items()}
    pointers = [t.untyped_storage().data_ptr() for t in (value, *state.values()) if t.numel()]
    if len(set(pointers)) < len(pointers):
        raise Untraceable(f"{type(optimizer).__name__} keeps state of {name} that shares memory")
    return Probe(state=layouts, changes_gradient=changes)


def require_separable(optimizer: torch.optim.Optimizer) -> None:
    """Raise Untraceable if the optimizer's update of one parameter depends on another.

    Found by stepping clones on two small parameters, together and apart.
    """
    for group in optimizer.param_groups:
        generator = torch.Generator().manual_seed(0)
        device = group["params"][0].device
        values = [torch.rand(s, generator=generator).to(device) for s in ((3, 2), (2, 4))]
        gradients = [torch.rand(v.shape, generator=generator).to(device) for v in values]
        together = [nn.Parameter(v.clone()) for v in values]
        apart = [nn.Parameter(v.clone()) for v in values]
        clones = [clone_of(optimizer, group, together)]
        clones += [clone_of(optimizer, group, [p]) for p in apart]
        for clone in (*clones, *clones):
            for parameters in (together, apart):
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient.clone()
            _step(clone)
        if not all(torch.equal(a, b) for a, b in zip(together, apart, strict=True)):
            raise Untraceable(
                f"{type(optimizer).__name__} updates a parameter from another one's gradient; use "
                "an optimizer that updates every parameter from its own gradient"
            )


def _step(clone: torch.optim.Optimizer) -> None:
    try:
        clone.step()
    except Exception as error:
        raise Untraceable(
            f"{type(clone).__name__} cannot step ({error}); use an optimizer that needs no closure, "
            "such as SGD or Adam"
        ) from error


def parameter_optimizers(
    names: Iterable[str], module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, ParameterOptimizer]:
    """One optimizer for each named parameter of the module, with its own group's options."""
    parameters = dict(module.named_parameters())
    groups = {p: g for g in optimizer.param_groups for p in g["params"]}
    return {n: ParameterOptimizer(optimizer, groups[parameters[n]], parameters[n]) for n in names}
