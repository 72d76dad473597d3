"""Run training steps exactly as a plan says, within its RAM budget."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from scheduler import check
from scheduler.errors import BadInput, BudgetExceeded, FedpoetError, InvalidPlan
from scheduler.plan import Compute, Free, PageIn, PageOut, Plan
from scheduler.problem import Problem

from .allocator import allocator_trace, known_blocks, profiler_is_running
from .batch import Part, tensors_in
from .generators import generators_now
from .host_store import HostStore
from .layout import ram_bytes
from .memory import Memory
from .optimizer import same_strides
from .ownership import Ownership
from .page_store import PageStore
from .pager import Pager, Transfers
from .program import Traced, Update
from .undo import Undo, changed_in_ram
from .update import run_update

# Steps whose memory is measured; the first one runs before the optimizer's state exists.
MEASURED_STEPS = 2
EVERY_STEP = sys.maxsize


class Interpreter:
    """Trains a module by a plan; a context manager that is called once per step.

    Where the module is on a CUDA device, its memory is the RAM of the plan, and pages go to a HostStore.

    While open it owns the memory of the module's parameters and buffers and of the optimizer's
    state; what is paged out is empty in the module. On exit module and optimizer hold the final
    values. A step gives bit for bit what zero_grad, forward, backward and optimizer.step() give,
    except that it leaves the parameters' .grad alone.

    The budget is a hard limit on the bytes of all tensors: before an operator runs, what is resident
    plus its outputs and workspace must fit. A step that raises leaves module, optimizer and torch's
    generator as they were before it.

    `measured_peak_bytes` is the most that torch's allocator really held in the first `measured_steps`
    so far (the first creates the optimizer's state). It stays 0 while a torch profiler of the caller's
    runs. Noting every allocation takes some megabytes beside the budget, unless those steps are 0.

    Raises InvalidPlan if the plan breaks a rule, BadInput if the module or the number of torch's
    threads is not that of the trace.
    """

    def __init__(
        self,
        traced: Traced,
        problem: Problem,
        plan: Plan,
        store: PageStore | HostStore,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        measured_steps: int = MEASURED_STEPS,
    ) -> None:
        if traced.graph.digest != problem.graph.digest:
            raise InvalidPlan("same-graph", "the problem was made from another trace: plan again")
        used = check(plan, problem)
        if (threads := torch.get_num_threads()) != traced.program.threads:
            raise BadInput(
                f"torch uses {threads} threads, memory was measured with {traced.program.threads}: "
                f"call torch.set_num_threads({traced.program.threads}) or prepare the step again"
            )
        self._graph, self._program = traced.graph, traced.program
        home_paged, budget_bytes = frozenset(plan.paged_at_start), problem.budget.ram_bytes
        self._device = traced.program.device
        self._pager: Transfers = Pager(store) if isinstance(store, PageStore) else store
        self._memory = Memory(traced.graph, home_paged, self._pager, budget_bytes)
        self._undo = Undo(
            self._memory,
            changed_in_ram(traced.graph, home_paged),
            traced.program.layouts,
            spare_bytes=budget_bytes - used.peak_bytes,
        )
        self.predicted_peak_bytes = used.peak_bytes + self._undo.ram_bytes
        self._ownership = Ownership(traced, self._memory, module, optimizer)
        self._instructions = tuple(self._resolve(plan))
        self._measured_steps = measured_steps
        self._is_open = self._usable = False
        self._steps = 0
        self.measured_peak_bytes = 0

    def __enter__(self) -> Self:
        if self._is_open:
            raise FedpoetError("the interpreter is open already; enter it once")
        self._ownership.take()
        self._undo.open()
        self._is_open = True
        self._usable = True
        return self

    def __exit__(self, *_: object) -> None:
        self._usable = self._is_open = False
        self._undo.close()
        try:
            self._ownership.give_back()
        finally:
            self._pager.close()

    @property
    def undo_ram_bytes(self) -> int:
        """RAM beyond the plan, within the budget, for copies by which a step can be undone."""
        return self._undo.ram_bytes

    @property
    def undo_written_bytes(self) -> int:
        """Bytes written to the page store so far, beyond the plan, so that a step can be undone."""
        return self._undo.written_bytes

    def __call__(self, x: Part, y: Part) -> float:
        """One training step on a batch of the traced names and shapes; returns the loss.

        The batch is copied into memory that the plan may free or page; the caller's tensors are the
        data's source and do not count. Raises BadInput, BudgetExceeded or PageStoreError.
        """
        if not self._usable:
            raise FedpoetError("the interpreter is closed, or a failed step could not be undone")
        batch = tensors_in((x, y))
        self._require_like_traced(batch)
        self._ownership.begin_step()
        put_generators_back = generators_now(self._device) if self._program.random else None
        try:
            loss = self._measured(batch)
        except BaseException as error:
            self._usable = False
            # The failed operator's frames would hold its tensors while the old ones come back.
            traceback.clear_frames(error.__traceback__)
            with known_blocks():
                self._undo.roll_back()
            self._ownership.undo_step()
            if put_generators_back is not None:
                put_generators_back()
            self._usable = True
            raise
        self._undo.commit()
        self._steps += 1
        return loss

    def _measured(self, batch: dict[str, Tensor]) -> float:
        if self._steps >= self._measured_steps or profiler_is_running():
            return self._run(batch)
        start_bytes = self._memory.resident_bytes
        with allocator_trace(self._device) as trace:
            loss = self._run(batch)
        peak = start_bytes + trace.usage.peak_bytes
        self.measured_peak_bytes = max(self.measured_peak_bytes, peak)
        self._memory.require_peak(peak)
        return loss

    def _run(self, batch: dict[str, Tensor]) -> float:
        program, memory = self._program, self._memory
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            for name, k in program.batch:
                layout = program.layouts[k]
                memory.require_room(layout.ram_bytes, "the batch")
                memory.hold(k, layout.new().copy_(batch[name]))
            self._undo.begin()
            for instruction in self._instructions:
                instruction()
            (loss,) = program.loss_of(memory[program.loss])
            value = float(loss.item())
            memory.finish()
            return value

    def _require_like_traced(self, batch: dict[str, Tensor]) -> None:
        if batch.keys() != (traced := dict(self._program.batch)).keys():
            raise BadInput(
                f"the batch has {', '.join(batch)}, the plan was made for {', '.join(traced)}: give "
                "batches of these tensors or plan again"
            )
        for name, k in traced.items():
            want, got = self._program.layouts[k], batch[name]
            if (tuple(got.shape), got.dtype) != (want.shape, want.dtype):
                raise BadInput(
                    f"{name} has shape {tuple(got.shape)} and {got.dtype}, the plan was made for "
                    f"{want.shape} and {want.dtype}: give batches of that shape or plan again"
                )
            if not same_strides(got, want.stride):
                raise BadInput(
                    f"{name} has strides {got.stride()}, traced were {want.stride}, and kernels round "
                    "otherwise: lay every batch out alike, e.g. with contiguous()"
                )

    def _resolve(self, plan: Plan) -> Iterator[Callable[[], None]]:
        """The plan's steps as functions; what a step needs to know is looked up once, here."""
        last_page_in = {s.tensor: n for n, s in enumerate(plan.steps) if isinstance(s, PageIn)}
        done: set[int] = set()
        for position, step in enumerate(plan.steps):
            match step:
                case Compute(operator):
                    yield self._compute(operator, position, first=operator not in done)
                    done.add(operator)
                case Free(tensor):
                    yield partial(self._memory.release, tensor)
                case PageOut(tensor):
                    yield partial(self._memory.page_out, tensor)
                case PageIn(tensor):
                    lasting = tensor in plan.paged_at_start or last_page_in[tensor] != position
                    yield partial(self._page_in, tensor, f"step {position}", lasting)

    def _page_in(self, tensor: int, where: str, lasting: bool) -> None:
        item = self._graph.tensors[tensor]
        self._memory.require_room(item.size_bytes, f"{where} (page in {item.name})")
        self._memory.page_in(tensor, drop=not lasting)

    def _compute(self, operator: int, position: int, *, first: bool) -> Callable[[], None]:
        op, memory, undo = self._graph.operators[operator], self._memory, self._undo
        body, optimizers = self._program.bodies[operator], self._ownership.optimizers
        sizes = [self._graph.tensors[k].size_bytes for k in op.outputs]
        extra_bytes = sum(sizes) + op.workspace_bytes
        where = f"step {position} ({op.name})"

        def run() -> None:
            memory.require_room(extra_bytes, where)
            if first:
                for k in op.mutates:
                    undo.protect(k)
            if isinstance(body, Update):
                after = run_update(body, memory, optimizers)
                for k, tensor in after.items():
                    self._require_size(k, self._graph.tensors[k].size_bytes, tensor, where)
                    memory.hold(k, tensor)
                return
            function = body.first if first else body.again
            with torch.set_grad_enabled(body.grad_mode):
                outputs = function(*[memory[k] for k in op.inputs])
            for k, size, tensor in zip(op.outputs, sizes, outputs, strict=True):
                self._require_size(k, size, tensor, where)
                memory.hold(k, tensor)

        return run

    def _require_size(self, k: int, size: int, tensor: Tensor, where: str) -> None:
        got = ram_bytes(tensor)
        if got != size:
            raise BudgetExceeded(
                f"{where}: {self._graph.tensors[k].name} takes {got} bytes, the plan counts on "
                f"{size}: trace, measure and plan again"
            )
