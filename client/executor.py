"""The executor as a library of its own: plan the step of a training loop, then call it.

docs/executor.md has an example and says what is promised.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from scheduler import DeviceProfile, PlanCache, Solution, load_device, replay
from scheduler.errors import BadInput, Infeasible
from scheduler.units import parse_bytes

from .batch import Batch, tensors_in
from .capture import Loss, device_of
from .costs import Costing, profile_costs
from .interpreter import Interpreter
from .prepare import Prepared, planned, pose_step
from .session import Session

__all__ = ["Interpreter", "PlannedStep", "plan_step"]

# Whose time and energy a plan is made for where nobody says, by where the model is: a small computer
# with a memory card, or a large GPU.
DEFAULT_DEVICES = {"cpu": "raspberry-pi-4b", "cuda": "nvidia-h100-sxm"}


def plan_step(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    ram: str | int,
    accumulate: int = 1,
    device: DeviceProfile | str | None = None,
    deadline_factor: float | None = None,
    costing: Costing = profile_costs,
    time_limit_s: float = 60.0,
    folder: Path | str | None = None,
    cache: PlanCache | None = None,
) -> PlannedStep:
    """Plan one training step of a model within `ram`; call what is returned once per batch.

    `loss` takes the model's output and y and returns a 0-d tensor. `batch` is (x, y), of which only
    shapes and types matter. Each is a tensor, or several in tuples, lists or dicts: y as `loss` takes
    it; x as what the model is called with, a tuple's items one after the other, a dict's by name.
    `ram` is in bytes or text such as "1GiB", and includes parameters, gradients, optimizer state,
    buffers and the batch. With `accumulate`, a batch goes through the model in so many micro-batches:
    see PlannedStep. `device` is a profile or its name; it decides which of the fitting plans is best
    (its time and energy), and how large the page store may get, never a result; None stands for a
    small computer or, for a model on a GPU, a large one (DEFAULT_DEVICES). A deadline is
    `deadline_factor` times computing everything once on it. With `client.costs.measured_costs` as
    `costing`, operators take as long as on this machine, measured now.
    `time_limit_s` is what planning may take. The page store lies in `folder`, by default the system's
    folder for temporary files: name one on a disk where that is RAM. With `cache`, plans found before
    are looked up.

    Raises Untraceable, which names the module and the line; Infeasible with the floor; NoPlanInTime;
    BadInput.
    """
    ram_bytes = parse_bytes(ram) if isinstance(ram, str) else ram
    if accumulate < 1:
        raise BadInput(f"accumulate is a number of micro-batches, at least 1, not {accumulate}")
    here = device_of(dict(model.named_parameters()))
    named = DEFAULT_DEVICES[here.type] if device is None else device
    profile = load_device(named) if isinstance(named, str) else named

    def planner(batch: Batch) -> Prepared:
        posed = pose_step(
            model,
            loss,
            optimizer,
            batch,
            device=profile,
            ram_bytes=ram_bytes,
            accumulate=accumulate,
            deadline_factor=deadline_factor,
            costing=costing,
        )
        return planned(posed, time_limit_s=time_limit_s, cache=cache)

    step = PlannedStep(model, optimizer, planner, None if folder is None else Path(folder))
    step.plan(batch)
    return step


class PlannedStep:
    """A planned training step: call it with a batch (x, y), get the loss; `plan_step` makes it.

    A call gives bit for bit what optimizer.zero_grad(), loss(model(x), y).backward() and
    optimizer.step() give, except that it leaves the parameters' .grad alone. A tuple x goes in as
    model(*x), a dict as model(**x). With `accumulate=k` the backward pass is

        for xc, yc in zip(x.chunk(k), y.chunk(k)):
            loss(model(xc), yc).backward()

    where every tensor of x and y is cut alike, and the call returns the sum of the k losses: whoever
    wants means divides in `loss`. A batch of another shape or type is planned at first sight, within
    the same RAM.

    Between calls the step owns the memory of model and optimizer: what is paged out is empty in the
    model. `close()` gives everything back, and so do running the model, and saving or loading it or
    the optimizer, by themselves; the next call takes it over again. Whoever reads parameters in
    another way closes first. As a context manager it closes at the end.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        planner: Callable[[Batch], Prepared],
        folder: Path | None,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._planner, self._folder = planner, folder
        self._prepared: dict[object, Prepared] = {}
        self._newest: Prepared | None = None
        self._session: Session | None = None
        self._finalizer: weakref.finalize[[], PlannedStep] | None = None
        self._peak_bytes = self._predicted_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, batch: Batch) -> float:
        """Train on one batch; returns the loss. A call that raises changes nothing.

        Raises what `plan_step` raises for a batch of a new shape, BadInput, BudgetExceeded or
        PageStoreError.
        """
        prepared = self._planned(batch)
        if torch.is_autocast_enabled(prepared.traced.program.device.type):
            raise BadInput(
                "the step is called under torch.autocast; put that into the model's forward"
            )
        if self._session is None or not self._session.runs(prepared):
            self.close()
            self._session = Session(prepared, self._model, self._optimizer, self._folder)
            # Who forgets to close finds everything in model and optimizer once the step is gone.
            self._finalizer = weakref.finalize(self, self._session.close)
            self._finalizer.atexit = False
            self._predicted_bytes = self._session.interpreter.predicted_peak_bytes
        loss = self._session.interpreter(*batch)
        # Schedulers of the learning rate look here to warn of steps in the wrong order.
        self._optimizer._opt_called = True  # type: ignore[attr-defined]  # noqa: SLF001
        return loss

    def plan(self, batch: Batch) -> Solution:
        """Plan for batches of this shape and type now, rather than at the first call with one.

        Raises what `plan_step` raises.
        """
        return self._planned(batch).solution

    def close(self) -> None:
        """Give the memory back to model and optimizer, which then are complete; a call reopens.

        Raises DamagedPage if a page is not what was written.
        """
        if self._finalizer is not None:
            self._finalizer.detach()
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._peak_bytes = max(self._peak_bytes, session.interpreter.measured_peak_bytes)

    @property
    def solution(self) -> Solution:
        """The newest batch's plan, its cost and how good it is proven to be."""
        return self._current.solution

    @property
    def predicted_peak_bytes(self) -> int:
        """RAM that a step on the newest batch's shape takes at most; never more than the budget.

        From the first call on with the copies by which a failed step can be undone, which take what the
        plan leaves of the budget.
        """
        plan_bytes = replay(self._current.solution.plan, self._current.problem).peak_bytes
        return max(plan_bytes, self._predicted_bytes)

    @property
    def measured_peak_bytes(self) -> int:
        """The most that torch's allocator really held in a step, of those that were measured.

        The first two after opening are. 0 before the first, or while a torch profiler runs.
        """
        now = 0 if self._session is None else self._session.interpreter.measured_peak_bytes
        return max(self._peak_bytes, now)

    @property
    def _current(self) -> Prepared:
        assert self._newest is not None  # noqa: S101
        return self._newest

    def _planned(self, batch: Batch) -> Prepared:
        tensors = tensors_in(batch)
        key = frozenset((name, *_key(t)) for name, t in tensors.items())
        if key not in self._prepared:
            self.close()
            try:
                self._prepared[key] = self._planner(batch)
            except Infeasible as error:
                shapes = (f"{name} {tuple(t.shape)} {t.dtype}" for name, t in tensors.items())
                raise Infeasible(
                    f"{error} (for a batch of {', '.join(shapes)})",
                    floor_bytes=error.floor_bytes,
                    operator=error.operator,
                    least_time_s=error.least_time_s,
                ) from error
        if self._newest is not self._prepared[key]:
            self._newest, self._predicted_bytes = self._prepared[key], 0
        return self._newest


def _key(tensor: Tensor) -> tuple[object, ...]:
    """What must be the same for a plan to serve; kernels round by strides too."""
    strides = tuple(s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1)
    return tuple(tensor.shape), tensor.dtype, strides
