"""Lower a capture to the scheduler's graph and the program that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from scheduler.graph import Graph, Kind, Operator, Phase
from scheduler.graph import Tensor as Item

from .capture import Capture
from .dataflow import Dataflow
from .grouping import SMALL_PART, Grouping, Unit
from .layout import Layout
from .optimizer import Probe
from .program import (
    Body,
    ParameterUpdate,
    Program,
    Traced,
    Update,
    compile_unit,
    compile_view,
)
from .setting import Setting

# How many node names an operator's name is made of at most.
NAMED_NODES = 3


def lower(
    captured: Capture, probes: dict[str, Probe], setting: Setting, name: str, max_operators: int
) -> Traced:
    """Number tensors and operators; `probes` says what the optimizer does to each parameter."""
    return _Lowering(captured, probes, setting).run(name, max_operators)


@dataclass(frozen=True, eq=False)
class _UpdateUnit:
    """Updates of parameters that run as one operator."""

    names: tuple[str, ...]


class _Lowering:
    def __init__(self, captured: Capture, probes: dict[str, Probe], setting: Setting) -> None:
        self.captured, self.probes, self.setting = captured, probes, setting
        self.flow = Dataflow(captured)
        self.gradient = {n: self.flow.base[captured.gradients[n]] for n in probes}
        self.loss = self.flow.base[captured.loss]
        self.items: list[Item] = []
        self.layouts: list[Layout] = []
        self.ids: dict[fx.Node, int] = {}
        self._add_sources()
        self.state_ids = {n: self._add_states(n, p.state) for n, p in probes.items()}

    def run(self, name: str, max_operators: int) -> Traced:
        kept = frozenset({self.loss, *self.gradient.values()})
        grouping = Grouping(self.flow.nodes, self.flow.size_bytes, kept)
        units = self._with_updates(grouping.join(max_operators), grouping.limit_bytes)
        operators: list[Operator] = []
        bodies: list[Body] = []
        for unit in units:
            if isinstance(unit, Unit):
                operator, body = self._computation(len(operators), unit, grouping.outputs(unit))
            else:
                operator, body = self._update(len(operators), unit)
            operators.append(operator)
            bodies.append(body)
        graph = Graph(
            operators=tuple(operators),
            tensors=tuple(self.items),
            results=(self.ids[self.loss],),
            name=name,
        )
        return Traced(graph=graph, program=self._program(tuple(bodies)))

    def _add(self, name: str, kind: Kind, layout: Layout) -> int:
        number, size = len(self.items), layout.ram_bytes
        self.items.append(Item(id=number, name=name, size_bytes=size, kind=kind, pageable=size > 0))
        self.layouts.append(layout)
        return number

    def _add_base(self, base: fx.Node, name: str, kind: Kind) -> None:
        self.ids[base] = self._add(name, kind, Layout.of(self.captured.values[base]))

    def _add_sources(self) -> None:
        captured = self.captured
        for name, node in captured.parameters.items():
            self._add_base(node, name, Kind.PARAMETER)
        for name, node in captured.buffers.items():
            self._add_base(node, name, Kind.BUFFER)
        for node in captured.constants:
            self._add_base(node, f"constant {node.name}", Kind.BUFFER)
        for name, node in captured.batch.items():
            self._add_base(node, name, Kind.INPUT)

    def _add_states(self, parameter: str, kept: dict[str, Layout]) -> tuple[tuple[str, int], ...]:
        return tuple(
            (key, self._add(f"{parameter} {key}", Kind.OPTIMIZER_STATE, layout))
            for key, layout in kept.items()
        )

    def _with_updates(self, units: Sequence[Unit], limit_bytes: int) -> list[Unit | _UpdateUnit]:
        """Every update right after the last reader of the old parameter and the gradient's operator.

        Updates at the same place are joined as long as no single node needs more. A small one (a
        bias) waits for the next place with updates.
        """
        waiting: dict[int, list[str]] = {}
        for name, source in self.gradient.items():
            parameter = self.captured.parameters[name]
            after = [i for i, u in enumerate(units) if parameter in u.reads or source in u.makes]
            waiting.setdefault(max(after, default=len(units) - 1), []).append(name)
        placed: list[Unit | _UpdateUnit] = []
        late: list[str] = []
        for i, unit in enumerate(units):
            placed.append(unit)
            late += waiting.pop(i, [])
            small = self._update_bytes(late) * SMALL_PART <= limit_bytes
            if late and not (small and waiting):
                placed.extend(self._joined_updates(late, limit_bytes))
                late = []
        return placed

    def _joined_updates(self, names: list[str], limit_bytes: int) -> list[_UpdateUnit]:
        joined: list[list[str]] = []
        for name in names:
            if joined and self._update_bytes([*joined[-1], name]) <= limit_bytes:
                joined[-1].append(name)
            else:
                joined.append([name])
        return [_UpdateUnit(tuple(group)) for group in joined]

    def _update_bytes(self, names: list[str]) -> int:
        tensors = {k for n in names for k in self._update_mutates(n)}
        sources = {self.gradient[n] for n in names}
        return sum(self.items[k].size_bytes for k in tensors) + sum(
            map(self.flow.size_bytes, sources)
        )

    def _update_mutates(self, name: str) -> tuple[int, ...]:
        states = (k for _, k in self.state_ids[name])
        return self.ids[self.captured.parameters[name]], *states

    def _computation(
        self, number: int, unit: Unit, outputs: tuple[fx.Node, ...]
    ) -> tuple[Operator, Body]:
        gradients = set(self.gradient.values())
        for base in outputs:
            kind = Kind.GRADIENT if base in gradients else Kind.ACTIVATION
            self._add_base(base, base.name, kind)
        operator = Operator(
            id=number,
            name=_unit_name(unit),
            inputs=tuple(self.ids[b] for b in unit.reads),
            outputs=tuple(self.ids[b] for b in outputs),
            mutates=tuple(self.ids[b] for b in unit.reads if b in unit.writes),
            flops=sum(n.flops for n in unit.nodes),
            phase=unit.phase,
            recomputable=bool(outputs) and not unit.random,
        )
        return operator, compile_unit(self.flow, unit, outputs)

    def _update(self, number: int, unit: _UpdateUnit) -> tuple[Operator, Body]:
        mutates = tuple(k for n in unit.names for k in self._update_mutates(n))
        sources = tuple(dict.fromkeys(self.ids[self.gradient[n]] for n in unit.names))
        operator = Operator(
            id=number,
            name=f"update {', '.join(unit.names)}",
            inputs=tuple(dict.fromkeys((*mutates, *sources))),
            outputs=(),
            mutates=mutates,
            # One operation per element of parameter and state that it changes.
            flops=sum(self.items[k].size_bytes // self.layouts[k].dtype.itemsize for k in mutates),
            phase=Phase.UPDATE,
            recomputable=False,
        )
        updates = tuple(
            ParameterUpdate(
                name=name,
                parameter=self.ids[self.captured.parameters[name]],
                source=self.ids[self.gradient[name]],
                gradient=compile_view(
                    self.flow, self.gradient[name], self.captured.gradients[name]
                ),
                copies_gradient=self.probes[name].changes_gradient,
                state=self.state_ids[name],
            )
            for name in unit.names
        )
        return operator, Update(parameters=updates)

    def _program(self, bodies: tuple[Body, ...]) -> Program:
        captured, ids = self.captured, self.ids
        return Program(
            bodies=bodies,
            layouts=tuple(self.layouts),
            parameters=tuple((n, ids[p]) for n, p in captured.parameters.items()),
            buffers=tuple((n, ids[b]) for n, b in captured.buffers.items()),
            constants=tuple((ids[n], t) for n, t in captured.constants.items()),
            batch=tuple((n, ids[t]) for n, t in captured.batch.items()),
            loss=ids[self.loss],
            loss_of=compile_view(self.flow, self.loss, captured.loss),
            random=any(n.random for n in self.flow.nodes),
            threads=torch.get_num_threads(),
            setting=self.setting,
        )


def _unit_name(unit: Unit) -> str:
    names = [n.node.name for n in unit.nodes]
    shown = "+".join(names[:NAMED_NODES])
    return shown if len(names) <= NAMED_NODES else f"{shown}+{len(names) - NAMED_NODES}"
