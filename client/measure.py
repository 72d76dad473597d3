"""Measure on this machine what the operators of a traced step need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from scheduler.errors import Untraceable
from scheduler.graph import Kind, Operator
from scheduler.graph import Tensor as Item

from .allocator import LibraryScratch, allocator_trace, require_exact
from .generators import generators_now
from .layout import Layout, ram_bytes, raw
from .optimizer import ParameterOptimizer, parameter_optimizers
from .program import Computation, Function, Program, Traced, Update
from .update import run_update


def with_workspace(traced: Traced, module: nn.Module, optimizer: torch.optim.Optimizer) -> Traced:
    """The same step with every operator's workspace as torch's allocator shows it.

    Runs each operator alone on made-up data of the right layout, so it takes the memory of one
    operator at a time. The first run and a rerun are both measured and the larger counts. Sizes that
    tracing got wrong (private memory that a kernel passes on) are put right. Module, optimizer and
    generators stay as they are. On a device, what its libraries keep from then on is a tensor of the
    graph too, which never leaves. Raises Untraceable if an operator fails or shares memory, BadInput if
    the device's allocator cannot be predicted.
    """
    graph, program = traced.graph, traced.program
    require_exact(program.device)
    scratch = LibraryScratch(program.device)
    names = [u.name for u in program.updates]
    trial = _Trial(program, parameter_optimizers(names, module, optimizer))
    put_generators_back = generators_now(program.device)
    try:
        with torch.no_grad():
            operators = tuple(
                replace(op, workspace_bytes=trial.workspace_bytes(op)) for op in graph.operators
            )
    finally:
        put_generators_back()
    layouts = tuple(trial.layouts)
    tensors = tuple(replace(t, size_bytes=layouts[t.id].ram_bytes) for t in graph.tensors)
    measured = Traced(
        graph=replace(graph, operators=operators, tensors=tensors),
        program=replace(program, layouts=layouts, threads=torch.get_num_threads()),
    )
    return with_scratch(measured, scratch.bytes())


def with_scratch(traced: Traced, scratch_bytes: int) -> Traced:
    """The same step with so many bytes that are always taken, whatever a plan does."""
    graph, program = traced.graph, traced.program
    if program.scratch is not None or not scratch_bytes:
        return traced
    layout = Layout(
        device=program.device,
        dtype=torch.uint8,
        shape=(scratch_bytes,),
        stride=(1,),
        offset=0,
        storage_bytes=scratch_bytes,
    )
    item = Item(
        id=len(graph.tensors),
        name="what the device's libraries keep",
        size_bytes=layout.ram_bytes,
        kind=Kind.BUFFER,
        pageable=False,
    )
    return Traced(
        graph=replace(graph, tensors=(*graph.tensors, item)),
        program=replace(program, layouts=(*program.layouts, layout), scratch=item.id),
    )


class _Trial:
    """Runs operators in graph order; `layouts` are those that their outputs really have.

    What has run before on inputs of the same layouts, as in a stack of equal layers, is not run again.
    """

    def __init__(self, program: Program, optimizers: Mapping[str, ParameterOptimizer]) -> None:
        self.program, self.optimizers = program, optimizers
        self.layouts = list(program.layouts)
        self._known: dict[object, tuple[int, tuple[Layout, ...]]] = {}

    def workspace_bytes(self, op: Operator) -> int:
        body = self.program.bodies[op.id]
        try:
            if isinstance(body, Update):
                return self._update_bytes(op, body)
            return self._computation_bytes(op, body)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Untraceable(
                f"operator {op.name} fails on data of the traced shapes: {line}"
            ) from error

    def _computation_bytes(self, op: Operator, body: Computation) -> int:
        runs = (body.first, body.again) if op.recomputable else (body.first,)
        return max(self._run_bytes(op, run, body.grad_mode) for run in runs)

    def _run_bytes(self, op: Operator, run: Function, grad_mode: bool) -> int:
        layouts = tuple(self.layouts[k] for k in op.inputs)
        key = (signature(run), layouts, grad_mode)
        if key not in self._known:
            self._known[key] = _tried(op, run, layouts, grad_mode, self.program.device)
        workspace_bytes, made = self._known[key]
        for k, layout in zip(op.outputs, made, strict=True):
            self.layouts[k] = layout
        return workspace_bytes

    def _update_bytes(self, op: Operator, body: Update) -> int:
        """The first update creates the state, which the graph counts among the inputs already."""
        tensors: dict[int, Tensor | None] = dict.fromkeys(op.inputs)
        for update in body.parameters:
            for k in (update.parameter, update.source):
                tensors[k] = made_up(self.layouts[k])
        device = self.program.device
        with allocator_trace(device) as trace:
            created = run_update(body, tensors, self.optimizers)
        made = sum(ram_bytes(t) for t in created.values() if t.device == device)
        first = trace.usage.peak_bytes - made
        with allocator_trace(device) as trace:
            run_update(body, {**tensors, **created}, self.optimizers)
        return max(0, first, trace.usage.peak_bytes)


def _tried(
    op: Operator,
    run: Function,
    layouts: tuple[Layout, ...],
    grad_mode: bool,
    device: torch.device,
) -> tuple[int, tuple[Layout, ...]]:
    """Workspace of one run, and the layouts of what it makes."""
    inputs = [made_up(layout) for layout in layouts]
    with torch.set_grad_enabled(grad_mode):
        if device.type != "cpu":
            run(*inputs)  # libraries allocate what they keep in their first run
        with allocator_trace(device) as trace:
            outputs = run(*inputs)
    _require_own_memory(op, inputs, outputs)
    made = tuple(map(Layout.of, outputs))
    made_bytes = sum(one.ram_bytes for one in made if one.device == device)
    return max(0, trace.usage.peak_bytes - made_bytes), made


def signature(run: Function) -> str:
    """What a function does, whatever its nodes are called."""
    nodes = list(run.__self__.graph.nodes)  # type: ignore[attr-defined]
    number = {n: f"%{i}" for i, n in enumerate(nodes)}
    return "\n".join(
        f"{n.op if n.op == 'placeholder' else n.target} "
        f"{fx.map_arg(n.args, number.__getitem__)} {fx.map_arg(n.kwargs, number.__getitem__)}"
        for n in nodes
    )


def made_up(layout: Layout) -> Tensor:
    """Floats from (0, 1]; zeros otherwise, which are valid as class, index and count."""
    tensor = layout.new()
    raw(tensor).zero_()
    if tensor.dtype.is_floating_point:
        tensor.uniform_(0.1, 1.0, generator=torch.Generator(layout.device).manual_seed(0))
    return tensor


def _require_own_memory(
    op: Operator, inputs: list[Tensor], outputs: tuple[Tensor | None, ...]
) -> None:
    taken = {t.untyped_storage().data_ptr() for t in inputs}
    for tensor in outputs:
        storage = None if tensor is None else tensor.untyped_storage()
        if storage is None or (storage.nbytes() and storage.data_ptr() in taken):
            raise Untraceable(
                f"operator {op.name} gives nothing, or the memory of another tensor, where a new "
                "tensor was traced; use another operator"
            )
        taken.add(storage.data_ptr())
