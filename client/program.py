"""What runs for each operator of a graph: plain Python functions over tensors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from scheduler.graph import Graph, Phase

from .binding import binding
from .dataflow import Dataflow, Node
from .flat import Function as Function  # part of this module too
from .flat import flat
from .grouping import Unit, copies_left_out
from .layout import Layout
from .setting import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """Functions from an operator's inputs to its outputs, in the order of the graph's operator.

    `first` changes running statistics in place where the model does; `again` recomputes the outputs
    and leaves them as they are. `grad_mode` is what it was in eager training: on in the forward pass,
    which some kernels look at. Nothing here requires a gradient.
    """

    first: Function
    again: Function
    grad_mode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterUpdate:
    """The optimizer's update of one parameter; numbers are tensor ids of the graph.

    `gradient` derives the gradient from its tensor (it may be a view); with `copies_gradient` the
    optimizer gets a copy, because it changes gradients and others may read this one. `state` maps the
    optimizer's names to tensors.
    """

    name: str
    parameter: int
    source: int
    gradient: Function
    copies_gradient: bool
    state: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One operator of phase update: the updates of one parameter or several."""

    parameters: tuple[ParameterUpdate, ...]


Body = Computation | Update

# What torch.set_grad_enabled calls, without an object around it.
set_grad_mode = torch._C._set_grad_enabled  # noqa: SLF001


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Code and layouts for a graph, by operator id and tensor id.

    `parameters`, `buffers`, `batch`, `loss` and `constants` say which tensor is what; `loss_of`
    derives the 0-d loss from its tensor. `random` says whether anything draws random numbers.
    `threads` is how many torch used when the operators' workspace was measured: it depends on that.
    `setting` is what else the trace took for granted of module and optimizer. `scratch` is the tensor
    that stands for what a device's libraries keep, if they do: no operator reads it.
    """

    bodies: tuple[Body, ...]
    layouts: tuple[Layout, ...]
    parameters: tuple[tuple[str, int], ...]
    buffers: tuple[tuple[str, int], ...]
    constants: tuple[tuple[int, Tensor], ...]
    batch: tuple[tuple[str, int], ...]
    loss: int
    loss_of: Function
    random: bool
    threads: int
    setting: Setting
    scratch: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and everything is computed."""
        return self.layouts[self.parameters[0][1]].device

    @property
    def updates(self) -> tuple[ParameterUpdate, ...]:
        """Every parameter's update, in the order they run."""
        return tuple(p for b in self.bodies if isinstance(b, Update) for p in b.parameters)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A graph to plan with and the program that runs its operators."""

    graph: Graph
    program: Program


def compile_unit(flow: Dataflow, unit: Unit, outputs: tuple[fx.Node, ...]) -> Computation:
    """Functions for the nodes of a unit; inputs are `unit.reads`, outputs as given."""
    needed = set(outputs)
    again: list[Node] = []
    for node in reversed(unit.nodes):
        if needed.intersection(node.makes):
            again.insert(0, node)
            needed.update(node.reads)
    in_place = copies_left_out(unit, outputs)
    return Computation(
        first=_Compiler(flow, unit.reads, in_place).compile(unit.nodes, outputs),
        again=_Compiler(flow, unit.reads, in_place).compile(again, outputs, rerun=True),
        grad_mode=unit.phase is Phase.FORWARD,
    )


def compile_view(flow: Dataflow, base: fx.Node, view: fx.Node) -> Function:
    """A function from a base to one of its views."""
    return _Compiler(flow, (base,), {}).compile((), (view,))


def compile_step(
    flow: Dataflow, inputs: tuple[fx.Node, ...], outputs: tuple[fx.Node, ...]
) -> Function:
    """A function for all nodes, in order, from sources to bases or views of them.

    It sets grad mode as eager training has it, on in the forward pass and off after, which some kernels
    look at; whoever calls it sets it back.
    """
    in_place = copies_left_out(Unit(nodes=flow.nodes), tuple(flow.base[n] for n in outputs))
    compiler = _Compiler(flow, inputs, in_place)
    graph = compiler.graph_of(flow.nodes, outputs, grad_modes=True)
    values = flow.captured.values
    calls: dict[fx.Node, Function] = {}
    with flow.captured.mode:
        for node, copy in compiler.made.items():
            # Where several nodes have one copy, it is the first one's.
            if copy not in calls and isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
                calls[copy] = binding(node, values)
    return flat(graph, calls)


class _Compiler:
    """Generates a function that drops every tensor after its last use."""

    def __init__(
        self, flow: Dataflow, inputs: tuple[fx.Node, ...], in_place: dict[fx.Node, fx.Node]
    ) -> None:
        self.flow, self.in_place = flow, in_place
        self.graph = fx.Graph()
        self.made = {b: self.graph.placeholder(b.name) for b in inputs}

    def compile(
        self, nodes: Sequence[Node], outputs: tuple[fx.Node, ...], *, rerun: bool = False
    ) -> Function:
        """The function of `graph_of`."""
        graph = self.graph_of(nodes, outputs, rerun=rerun)
        return fx.GraphModule(torch.nn.Module(), graph).forward

    def graph_of(
        self,
        nodes: Sequence[Node],
        outputs: tuple[fx.Node, ...],
        *,
        rerun: bool = False,
        grad_modes: bool = False,
    ) -> fx.Graph:
        """With `rerun`, batch norm does not get the module's running statistics to change."""
        phase: Phase | None = None
        for item in nodes:
            node = item.node
            if grad_modes and item.phase is not phase:
                phase = item.phase
                self.graph.call_function(set_grad_mode, (phase is Phase.FORWARD,))
            copied = self._value(node)
            if rerun and item.writes:
                copied.args = (*copied.args[:3], None, None, *copied.args[5:])
            for user in node.users:
                if user.target is operator.getitem:
                    self._value(user)
        self.graph.output(tuple(self._value(n) for n in outputs))
        return self.graph

    def _value(self, node: fx.Node) -> fx.Node:
        """The node's copy, made where it is first needed: views and copies of storages come along."""
        if node not in self.made:
            old = self.in_place.get(node)
            if old is None and node.target is torch.ops.aten.detach.default:
                (old,) = node.all_input_nodes  # nothing here requires a gradient
            self.made[node] = self._value(old) if old else self.graph.node_copy(node, self._value)
        return self.made[node]
