"""Measure on this machine what the operators of a traced step need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from scheduler.errors import Untraceable
from scheduler.graph import Operator

from .allocator import AllocatorTrace
from .layout import Layout
from .memory import content
from .optimizer import ParameterOptimizer, parameter_optimizers
from .program import Computation, Function, Program, Traced, Update
from .update import run_update


def with_workspace(traced: Traced, module: nn.Module, optimizer: torch.optim.Optimizer) -> Traced:
    """The same step with every operator's workspace as torch's allocator shows it.

    Runs each operator alone on made-up data of the right layout, so it takes the memory of one
    operator at a time. The first run and a rerun are both measured and the larger counts. Module,
    optimizer and generators stay as they are. Raises Untraceable if an operator fails or its outputs
    lie in memory otherwise than traced.
    """
    graph, program = traced.graph, traced.program
    names = [u.name for u in program.updates]
    optimizers = parameter_optimizers(names, module, optimizer)
    generator_state = torch.get_rng_state()
    try:
        with torch.no_grad():
            operators = tuple(
                replace(op, workspace_bytes=_workspace_bytes(op, program, optimizers))
                for op in graph.operators
            )
    finally:
        torch.set_rng_state(generator_state)
    return replace(traced, graph=replace(graph, operators=operators))


def _workspace_bytes(
    op: Operator, program: Program, optimizers: Mapping[str, ParameterOptimizer]
) -> int:
    body = program.bodies[op.id]
    try:
        if isinstance(body, Update):
            return _update_bytes(op, body, program, optimizers)
        return _computation_bytes(op, body, program)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Untraceable(
            f"operator {op.name} fails on data of the traced shapes: {line}"
        ) from error


def _computation_bytes(op: Operator, body: Computation, program: Program) -> int:
    runs = (body.first, body.again) if op.recomputable else (body.first,)
    return max(_run_bytes(op, run, body.grad_mode, program) for run in runs)


def _run_bytes(op: Operator, run: Function, grad_mode: bool, program: Program) -> int:
    inputs = [_made_up(program.layouts[k]) for k in op.inputs]
    with torch.set_grad_enabled(grad_mode), AllocatorTrace() as trace:
        outputs = run(*inputs)
    _require_as_traced(op, program, inputs, outputs)
    made = sum(t.untyped_storage().nbytes() for t in outputs)
    return max(0, trace.usage.peak_bytes - made)


def _update_bytes(
    op: Operator, body: Update, program: Program, optimizers: Mapping[str, ParameterOptimizer]
) -> int:
    """The first update creates the state, which the graph counts among the inputs already."""
    tensors: dict[int, Tensor | None] = dict.fromkeys(op.inputs)
    for update in body.parameters:
        for k in (update.parameter, update.source):
            tensors[k] = _made_up(program.layouts[k])
    with AllocatorTrace() as trace:
        created = run_update(body, tensors, optimizers)
    made = sum(t.untyped_storage().nbytes() for t in created.values())
    first = trace.usage.peak_bytes - made
    with AllocatorTrace() as trace:
        run_update(body, {**tensors, **created}, optimizers)
    return max(0, first, trace.usage.peak_bytes)


def _made_up(layout: Layout) -> Tensor:
    """Floats from (0, 1]; zeros otherwise, which are valid as class, index and count."""
    tensor = layout.new()
    content(tensor)[:] = bytes(layout.storage_bytes)
    if tensor.dtype.is_floating_point:
        tensor.uniform_(0.1, 1.0, generator=torch.Generator().manual_seed(0))
    return tensor


def _require_as_traced(
    op: Operator, program: Program, inputs: list[Tensor], outputs: tuple[Tensor, ...]
) -> None:
    taken = {t.untyped_storage().data_ptr() for t in inputs}
    for k, tensor in zip(op.outputs, outputs, strict=True):
        if not isinstance(tensor, Tensor):
            raise Untraceable(
                f"operator {op.name} gives nothing where a tensor was traced; use another operator"
            )
        storage = tensor.untyped_storage()
        if storage.nbytes() != program.layouts[k].storage_bytes or storage.data_ptr() in taken:
            raise Untraceable(
                f"operator {op.name} keeps {storage.nbytes()} bytes for an output traced with "
                f"{program.layouts[k].storage_bytes}, or shares them; use another operator"
            )
        taken.add(storage.data_ptr())
