"""A plain training step as a flat list of kernels: what eager training runs, without the way it gets there.

For a small model most of an eager step is not arithmetic but modules, autograd and dispatch. The record of
one step (`capture`) has the very kernels, in the same order and on tensors laid out alike, so that the
numbers are the same bit for bit; there is no plan and no budget here.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from scheduler.graph import Phase

from .batch import Batch
from .capture import Capture, Loss, capture
from .dataflow import Dataflow, Node
from .grouping import Unit
from .optimizer import as_accumulated
from .program import Function, compile_nodes
from .setting import trained


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Forward or backward pass: a function of some of the tensors so far, which adds tensors to them."""

    run: Function
    inputs: Callable[[list[Tensor]], tuple[Tensor, ...]]
    backward: bool  # eager training runs it without grad mode, which some kernels look at


class RecordedStep:
    """Forward and backward pass of a module for batches of one layout.

    It fits every module that is built like the one recorded. Raises Untraceable.
    """

    def __init__(
        self, module: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, batch: Batch
    ) -> None:
        self._captured = capture(module, loss, tuple(trained(module, optimizer)), batch)
        flow = Dataflow(self._captured)
        gradients = self._captured.gradients
        self._parts = _parts(flow, (self._captured.loss, *gradients.values()))
        self._odd = _odd_gradients(flow, self._captured)

    def bind(self, module: nn.Module) -> BoundStep:
        """The step of a module, whose parameters and buffers it uses in place."""
        return BoundStep(self._captured, self._parts, self._odd, module)


class BoundStep:
    """Call it with the tensors of a batch: it sets every parameter's .grad and returns the loss."""

    def __init__(
        self, captured: Capture, parts: tuple[_Part, ...], odd: frozenset[int], module: nn.Module
    ) -> None:
        self._parts, self._odd = parts, odd
        named, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        self._parameters = [named[name] for name in captured.parameters]
        self._fixed = [buffers[name] for name in captured.buffers]
        self._fixed += captured.constants.values()
        self._trained = [named[name] for name in captured.gradients]
        self._pointers: list[int] = []
        self._held: list[Tensor] = []

    def __call__(self, batch: Iterable[Tensor]) -> Tensor:
        """The loss, 0-d, before the update; gradients of the step before are replaced."""
        values = [*self._lasting(), *batch]
        for part in self._parts:
            if part.backward:
                with torch.no_grad():
                    results = part.run(*part.inputs(values))
            else:
                results = part.run(*part.inputs(values))
            values += results
        loss, *gradients = results
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient
        for k in self._odd:
            parameter, gradient = self._trained[k], gradients[k]
            parameter.grad = as_accumulated(gradient.clone(), parameter)
        return loss

    def _lasting(self) -> list[Tensor]:
        """Parameters, buffers and constants; an optimizer may give a parameter other memory."""
        pointers = [parameter.data_ptr() for parameter in self._parameters]
        if pointers != self._pointers:
            self._pointers = pointers
            self._held = [*(parameter.detach() for parameter in self._parameters), *self._fixed]
        return self._held


def _parts(flow: Dataflow, results: tuple[fx.Node, ...]) -> tuple[_Part, ...]:
    """The nodes in runs of one phase; the last part gives the results."""
    captured = flow.captured
    so_far: list[fx.Node] = [
        *captured.parameters.values(),
        *captured.buffers.values(),
        *captured.constants,
        *captured.batch.values(),
    ]
    wanted = dict.fromkeys(flow.base[n] for n in results)
    runs = [tuple(nodes) for _, nodes in itertools.groupby(flow.nodes, key=lambda n: n.phase)]
    parts: list[_Part] = []
    for k, nodes in enumerate(runs):
        unit = Unit(nodes=nodes)
        inputs, outputs = unit.reads, _read_later(unit, runs[k + 1 :], wanted)
        if k == len(runs) - 1:
            outputs = results
            inputs = (*inputs, *(b for b in wanted if b not in unit.makes and b not in inputs))
        parts.append(
            _Part(
                run=compile_nodes(flow, nodes, inputs, outputs),
                inputs=_picker([so_far.index(base) for base in inputs]),
                backward=unit.phase is Phase.BACKWARD,
            )
        )
        so_far += outputs
    return tuple(parts)


def _picker(places: list[int]) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:
    if len(places) > 1:
        return operator.itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)


def _read_later(
    unit: Unit, later: list[tuple[Node, ...]], results: Iterable[fx.Node]
) -> tuple[fx.Node, ...]:
    wanted = {b for nodes in later for n in nodes for b in n.reads} | set(results)
    return tuple(sorted(wanted & unit.makes, key=lambda base: base.name))


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
