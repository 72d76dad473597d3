"""Time operators of a traced step one by one, on made-up data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from scheduler.graph import Graph, Operator

from .layout import copy_storage, raw
from .measure import made_up, signature
from .optimizer import parameter_optimizers
from .program import Computation, Function, Traced, Update
from .timing import Clock, Effort, median_s
from .update import run_update

# More than most processors' caches hold; what was used longer ago is in RAM.
CACHE_BYTES = 32 * 2**20
# What was used within so few bytes is in the nearest cache, and as little is there in no time.
NEAR_BYTES = 64 * 1024


class Stopwatch:
    """Times operators, which must come in graph order; those that are equal only once."""

    def __init__(
        self,
        traced: Traced,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        clock: Clock,
        effort: Effort,
    ) -> None:
        self._program = traced.program
        names = [u.name for u in traced.program.updates]
        self._optimizers = parameter_optimizers(names, module, optimizer)
        group_of = {p: n for n, g in enumerate(optimizer.param_groups) for p in g["params"]}
        self._groups = {n: group_of[p] for n, p in module.named_parameters() if n in names}
        self._clock, self._effort = clock, effort
        self._caches = Caches(traced.graph, traced.program.device)
        self._known: dict[object, float] = {}

    def time_s(self, op: Operator) -> float:
        """Seconds of one run; of a first run and a rerun the longer."""
        body = self._program.bodies[op.id]
        if isinstance(body, Update):
            time_s = self._update_s(op, body)
        else:
            time_s = self._run_s(op, body.first, body, frozenset(op.mutates))
            if op.recomputable:
                time_s = max(time_s, self._run_s(op, body.again, body, frozenset()))
        self._caches.use(op)
        return time_s

    def _run_s(
        self, op: Operator, function: Function, body: Computation, changed: frozenset[int]
    ) -> float:
        layouts = tuple(self._program.layouts[k] for k in op.inputs)
        ages = self._caches.ages(op)
        key = (signature(function), layouts, ages, body.grad_mode, bool(changed))
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

            self._known[key] = self._median_s(run, inputs, ages)
        return self._known[key]

    def _update_s(self, op: Operator, body: Update) -> float:
        """Of an update after the first, which alone creates the optimizer's state."""
        layouts, ages = self._program.layouts, self._caches.ages(op)
        groups = tuple(self._groups[u.name] for u in body.parameters)
        copies = tuple((signature(u.gradient), u.copies_gradient) for u in body.parameters)
        key = (tuple(layouts[k] for k in op.inputs), ages, groups, copies)
        if key not in self._known:
            tensors: dict[int, Tensor | None] = dict.fromkeys(op.inputs)
            for update in body.parameters:
                for k in (update.parameter, update.source):
                    tensors[k] = made_up(layouts[k])
            tensors.update(run_update(body, tensors, self._optimizers))
            kept = _Kept(t for k in op.mutates if (t := tensors[k]) is not None)

            def run() -> None:
                kept.copy()
                run_update(body, tensors, self._optimizers)

            self._known[key] = self._median_s(run, [tensors[k] for k in op.inputs], ages)
        return self._known[key]

    def _median_s(
        self, run: Callable[[], object], inputs: Sequence[Tensor | None], ages: Sequence[int]
    ) -> float:
        before = self._caches.aging(inputs, ages)
        return median_s(run, self._clock, self._effort, before)


class Caches:
    """Brings tensors to where they are in the caches when their operator runs in training.

    The age of a tensor is how many bytes of other tensors the step has used since its last use; a
    cache keeps what is younger than its size. `aging` uses tensors and other memory in such an order
    that each tensor gets its age. Ages are rounded to powers of two, so that equal layers are equal.
    Tensors below NEAR_BYTES count as new: it takes less to fetch them than to fetch the code that so
    much other memory pushes out too.
    """

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self._sizes = [t.size_bytes for t in graph.tensors]
        self._used: dict[int, None] = {}  # in order of their last use
        for op in graph.operators:
            self.use(op)
        room = min(CACHE_BYTES, sum(self._sizes) + NEAR_BYTES)
        self._elsewhere = torch.zeros(room, dtype=torch.uint8, device=device)

    def use(self, op: Operator) -> None:
        """The operator has run."""
        for k in (*op.inputs, *op.outputs):
            self._used.pop(k, None)
            self._used[k] = None

    def ages(self, op: Operator) -> tuple[int, ...]:
        """Bytes, per input; CACHE_BYTES stands for anything beyond."""
        found = {k: 0 for k in op.inputs if self._sizes[k] < NEAR_BYTES}
        wanted, passed = set(op.inputs) - set(found), 0
        for k in reversed(self._used):
            if passed >= CACHE_BYTES or not wanted:
                break
            if k in wanted:
                wanted.remove(k)
                found[k] = _rounded(passed)
            passed += self._sizes[k]
        return tuple(found.get(k, CACHE_BYTES) for k in op.inputs)

    def aging(self, tensors: Sequence[Tensor | None], ages: Sequence[int]) -> Callable[[], None]:
        """A function that gives every tensor its age; what does not exist has none."""
        order = sorted(
            ((age, t) for age, t in zip(ages, tensors, strict=True) if t is not None),
            key=lambda pair: -pair[0],
        )
        left = [*(age for age, _ in order), 0][1:]
        contents = [raw(t) for _, t in order]
        walks = [
            self._elsewhere[: age - next_age]
            for (age, _), next_age in zip(order, left, strict=True)
        ]

        def age_all() -> None:
            for content, walk in zip(contents, walks, strict=True):
                content.sum()
                walk.add_(1)

        return age_all


class _Kept:
    """Copies of what an operator changes, as the interpreter makes them while RAM is to spare."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._pairs = [(t.untyped_storage(), copy_storage(t).untyped_storage()) for t in tensors]

    def copy(self) -> None:
        for old, copy in self._pairs:
            copy.copy_(old)


def _rounded(age_bytes: int) -> int:
    """0 where it makes no difference, else the power of two below, up to CACHE_BYTES."""
    if age_bytes < NEAR_BYTES:
        return 0
    return min(CACHE_BYTES, 1 << (age_bytes.bit_length() - 1))
