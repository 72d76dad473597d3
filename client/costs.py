"""What the operators of a traced step cost: by a device's profile, or measured on this very machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from scheduler import DeviceProfile, cost_table
from scheduler.graph import Operator
from scheduler.problem import Cost, CostTable

from .layout import copy_storage
from .measure import made_up, signature
from .optimizer import ParameterOptimizer, parameter_optimizers
from .overhead import step_s, tiny_step
from .program import Computation, Function, Program, Traced, Update
from .timing import Clock, Effort, median_s
from .update import run_update

# Caches hold no more than this of the tensors that other operators use between two runs of one.
SWEEP_BYTES = 32 * 2**20


Costing: TypeAlias = Callable[[Traced, nn.Module, torch.optim.Optimizer, DeviceProfile], CostTable]


def profile_costs(
    traced: Traced, _module: nn.Module, _optimizer: torch.optim.Optimizer, device: DeviceProfile
) -> CostTable:
    """Costs of any device from its profile: operators by their flops."""
    return cost_table(traced.graph, device)


def measured_costs(
    traced: Traced,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: DeviceProfile,
    *,
    clock: Clock = time.perf_counter,
    limit_s: float = 60.0,
    on_operator: Callable[[int, int], None] = lambda _done, _all: None,
) -> CostTable:
    """Measured seconds of every operator; transfers and power are those of the device's profile.

    Each operator runs alone on made-up data, as the interpreter runs it and with as many threads as
    torch uses now; equal ones are measured once. In training, other operators' tensors push an
    operator's own out of the caches: between runs as many bytes as the step has are walked through,
    up to SWEEP_BYTES, then what the operator before has just used is looked at again. Where the first
    run and a rerun differ, the longer time counts. What the interpreter adds is in the times: its own
    work, and a copy in RAM of what the operator changes, so that a failed step can be undone (where RAM
    is short that copy is a page, which takes longer).

    `limit_s` is for all operators together, though each runs a few times in any case. `on_operator`
    gets how many are done, and how many there are. Module, optimizer and torch's generator stay as
    they are.
    """
    graph = traced.graph
    sweep_bytes = min(SWEEP_BYTES, sum(t.size_bytes for t in graph.tensors))
    effort = Effort(limit_s=min(0.1, limit_s / max(1, len(graph.operators))))
    watch = _stopwatch(traced, module, optimizer, sweep_bytes, clock, effort)
    added_s = interpreter_s(clock)
    costs: list[Cost] = []
    state = torch.get_rng_state()
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for op in graph.operators:
                time_s = watch.time_s(op) + added_s
                costs.append(Cost(time_s=time_s, energy_j=time_s * device.compute_w))
                on_operator(len(costs), len(graph.operators))
    finally:
        torch.set_rng_state(state)
    return replace(cost_table(graph, device), operators=tuple(costs))


def interpreter_s(clock: Clock = time.perf_counter) -> float:
    """Seconds per operator that a step takes beyond its operators' own.

    Measured on a step of many operators that have next to nothing to do.
    """
    traced, module, optimizer = tiny_step()
    watch = _stopwatch(traced, module, optimizer, 1, clock, Effort(most=100))
    operators = traced.graph.operators
    with torch.no_grad():
        own_s = math.fsum(map(watch.time_s, operators))
    return max(0.0, step_s(traced, module, optimizer, clock) - own_s) / len(operators)


def _stopwatch(
    traced: Traced,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    sweep_bytes: int,
    clock: Clock,
    effort: Effort,
) -> _Stopwatch:
    names = [u.name for u in traced.program.updates]
    group_of = {p: n for n, g in enumerate(optimizer.param_groups) for p in g["params"]}
    return _Stopwatch(
        traced.program,
        parameter_optimizers(names, module, optimizer),
        {n: group_of[p] for n, p in module.named_parameters() if n in names},
        sweep_bytes=sweep_bytes,
        clock=clock,
        effort=effort,
    )


class _Stopwatch:
    """Times operators, which must come in graph order."""

    def __init__(
        self,
        program: Program,
        optimizers: Mapping[str, ParameterOptimizer],
        groups: Mapping[str, int],
        *,
        sweep_bytes: int,
        clock: Clock,
        effort: Effort,
    ) -> None:
        self._program, self._optimizers, self._groups = program, optimizers, groups
        self._clock, self._effort = clock, effort
        self._elsewhere = torch.zeros(sweep_bytes, dtype=torch.uint8)
        self._recent: frozenset[int] = frozenset()
        self._known: dict[object, float] = {}

    def time_s(self, op: Operator) -> float:
        """Seconds of one run."""
        body = self._program.bodies[op.id]
        if isinstance(body, Update):
            time_s = self._update_s(op, body)
        else:
            time_s = self._run_s(op, body.first, body, frozenset(op.mutates))
            if op.recomputable:
                time_s = max(time_s, self._run_s(op, body.again, body, frozenset()))
        self._recent = frozenset((*op.inputs, *op.outputs))
        return time_s

    def _run_s(
        self, op: Operator, function: Function, body: Computation, changed: frozenset[int]
    ) -> float:
        layouts = tuple(self._program.layouts[k] for k in op.inputs)
        recent = tuple(k in self._recent for k in op.inputs)
        key = (signature(function), layouts, recent, body.grad_mode, bool(changed))
        if key not in self._known:
            inputs = [made_up(layout) for layout in layouts]
            kept = _Kept(inputs[n] for n, k in enumerate(op.inputs) if k in changed)

            def run() -> None:
                kept.copy()
                with torch.set_grad_enabled(body.grad_mode):
                    outputs = function(*inputs)
                # What the interpreter asks of every output; they are freed on return, as by a Free.
                for tensor in outputs:
                    tensor.untyped_storage().nbytes()

            warm = [tensor for tensor, hot in zip(inputs, recent, strict=True) if hot]
            self._known[key] = self._median_s(run, warm)
        return self._known[key]

    def _update_s(self, op: Operator, body: Update) -> float:
        """Of an update after the first, which alone creates the optimizer's state."""
        layouts = self._program.layouts
        recent = tuple(k in self._recent for k in op.inputs)
        groups = tuple(self._groups[u.name] for u in body.parameters)
        copies = tuple((signature(u.gradient), u.copies_gradient) for u in body.parameters)
        key = (tuple(layouts[k] for k in op.inputs), recent, groups, copies)
        if key not in self._known:
            tensors: dict[int, Tensor | None] = dict.fromkeys(op.inputs)
            for update in body.parameters:
                for k in (update.parameter, update.source):
                    tensors[k] = made_up(layouts[k])
            tensors.update(run_update(body, tensors, self._optimizers))
            warm = [t for k in op.inputs if k in self._recent and (t := tensors[k]) is not None]
            kept = _Kept(t for k in op.mutates if (t := tensors[k]) is not None)

            def run() -> None:
                kept.copy()
                run_update(body, tensors, self._optimizers)

            self._known[key] = self._median_s(run, warm)
        return self._known[key]

    def _median_s(self, run: Callable[[], object], warm: Iterable[Tensor]) -> float:
        def before() -> None:
            self._elsewhere.add_(1)
            for tensor in warm:
                torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).sum()

        return median_s(run, self._clock, self._effort, before)


class _Kept:
    """Copies of what an operator changes, as the interpreter makes them while RAM is to spare."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._pairs = [(t.untyped_storage(), copy_storage(t).untyped_storage()) for t in tensors]

    def copy(self) -> None:
        for old, copy in self._pairs:
            copy.copy_(old)
