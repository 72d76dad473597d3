"""A plain training step as a flat list of kernels: what eager training runs, without the way it gets there.

For a small model most of an eager step is not arithmetic but modules, autograd and dispatch. The record of
one step (`capture`) has the very kernels, in the same order and on tensors laid out alike, so that the
numbers are the same bit for bit; there is no plan and no budget here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from scheduler.graph import Phase

from .batch import Batch, tensors_in
from .capture import Capture, Loss, capture
from .dataflow import Dataflow, Node
from .grouping import Unit
from .optimizer import as_accumulated
from .program import Function, compile_nodes
from .setting import trained


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Forward or backward pass: a function from bases to bases, or to the step's results."""

    run: Function
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    grad_mode: bool  # what it is in eager training, which some kernels look at


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
    """Call it with a batch: it sets every parameter's .grad and returns the loss."""

    def __init__(
        self,
        captured: Capture,
        parts: tuple[_Part, ...],
        odd: frozenset[int],
        module: nn.Module,
    ) -> None:
        self._parts, self._odd, self._batch = parts, odd, captured.batch
        named, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        self._sources = [(node, named[name]) for name, node in captured.parameters.items()]
        self._fixed = dict(captured.constants)
        self._fixed |= {node: buffers[name] for name, node in captured.buffers.items()}
        self._with_gradient = tuple(named[name] for name in captured.gradients)
        self._pointers: list[int] = []
        self._held: Mapping[fx.Node, Tensor] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """The loss, 0-d, before the update; gradients of the step before are replaced."""
        tensors = tensors_in(batch)
        values = {**self._parameters(), **{n: tensors[name] for name, n in self._batch.items()}}
        for part in self._parts:
            with torch.set_grad_enabled(part.grad_mode):
                results = part.run(*[values[base] for base in part.inputs])
            values.update(zip(part.outputs, results, strict=True))
        loss, *gradients = results
        for k, (parameter, gradient) in enumerate(zip(self._with_gradient, gradients, strict=True)):
            if k in self._odd:
                gradient = as_accumulated(gradient.clone(), parameter)
            parameter.grad = gradient
        return loss

    def _parameters(self) -> Mapping[fx.Node, Tensor]:
        """What lasts from step to step; an optimizer may give a parameter other memory."""
        pointers = [parameter.data_ptr() for _, parameter in self._sources]
        if pointers != self._pointers:
            self._pointers = pointers
            self._held = self._fixed | {node: p.detach() for node, p in self._sources}
        return self._held


def _parts(flow: Dataflow, results: tuple[fx.Node, ...]) -> tuple[_Part, ...]:
    """The nodes in runs of one phase; the last part gives the results."""
    runs = [tuple(nodes) for _, nodes in itertools.groupby(flow.nodes, key=lambda n: n.phase)]
    parts: list[_Part] = []
    last_bases = dict.fromkeys(flow.base[n] for n in results)
    for k, nodes in enumerate(runs):
        unit, later = Unit(nodes=nodes), runs[k + 1 :]
        is_last = not later
        inputs, outputs = unit.reads, _read_later(unit, later, tuple(last_bases))
        if is_last:
            inputs = tuple(dict.fromkeys((*inputs, *(b for b in last_bases if b not in unit.makes))))
            outputs = results
        run = compile_nodes(flow, nodes, inputs, outputs)
        forward = unit.phase is Phase.FORWARD
        parts.append(_Part(run=run, inputs=inputs, outputs=outputs, grad_mode=forward))
    return tuple(parts)


def _read_later(
    unit: Unit, later: list[tuple[Node, ...]], results: tuple[fx.Node, ...]
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
