"""Ways to train a network on a GPU: plainly, by a plan, and by what others have for it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import Step
from benchmarks.outcomes import Outcome, outcome
from benchmarks.rivals import names_within
from client.allocator import AllocatorTrace, clear_scratch
from client.interpreter import Interpreter
from client.prepare import Posed
from client.stores import store_for
from client.timing import Clock
from scheduler import Budget, solve

# Steps before anything is timed; what they leave behind and their peak are compared.
WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A network that all ways train on a device, its batch in RAM, and its planning problem."""

    step: Step
    here: torch.device
    x: Tensor
    y: Tensor
    posed: Posed
    clock: Clock
    steps: int
    plan_s: float

    def built(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network on the device, the same every time, and its optimizer."""
        torch.manual_seed(0)
        module = self.step.build().train().to(self.here)
        return module, self.step.optimizer(module.parameters())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A way to train that is open: a step, and what its first steps came to."""

    run: Callable[[], float]
    peak_bytes: int
    found: Outcome


# Makes the network another one, and what is open around the forward pass.
Change = Callable[[nn.Module, Tensor], nn.Module]
Around = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def rival(game: Contest, change: Change, around: Around) -> Iterator[Trained]:
    """A training loop as everybody writes it."""
    clear_scratch(game.here)
    with _watched(game.here) as peak_bytes:
        module, optimizer = game.built()
        changed = change(module, game.x.to(game.here))

        def run() -> float:
            x, y = game.x.to(game.here), game.y.to(game.here)
            optimizer.zero_grad()
            with around():
                loss = game.step.loss(changed(x), y)
            loss.backward()
            optimizer.step()
            return float(loss.item())

        losses = [run() for _ in range(WARM_UP)]
    yield Trained(
        run=run,
        peak_bytes=peak_bytes(),
        found=names_within(outcome(module, optimizer, losses)),
    )


@contextlib.contextmanager
def planned(game: Contest, budget_bytes: int) -> Iterator[Trained]:
    """Training by a plan within so many bytes."""
    clear_scratch(game.here)
    posed = game.posed
    problem = replace(posed.problem, budget=Budget(ram_bytes=budget_bytes))
    plan = solve(problem, time_limit_s=game.plan_s, gap=0.01).plan
    module, optimizer = game.built()
    with tempfile.TemporaryDirectory() as folder:
        store = store_for(game.here, Path(folder) / "pages")
        losses: list[float] = []
        with store, Interpreter(posed.traced, problem, plan, store, module, optimizer) as step:
            peak_bytes = _peak_of(game.here)
            losses += [step(game.x, game.y) for _ in range(WARM_UP)]
            peak = peak_bytes() or step.measured_peak_bytes
        found = outcome(module, optimizer, losses)
        with (
            store_for(game.here, Path(folder) / "again") as again,
            Interpreter(posed.traced, problem, plan, again, module, optimizer) as step,
        ):
            yield Trained(run=lambda: step(game.x, game.y), peak_bytes=peak, found=found)


def _peak_of(here: torch.device) -> Callable[[], int]:
    """The most that is allocated on a GPU from now on; 0 where there is none."""
    if here.type != "cuda":
        return lambda: 0
    gc.collect()
    torch.cuda.reset_peak_memory_stats(here)
    return partial(torch.cuda.max_memory_allocated, here)


@contextlib.contextmanager
def _watched(here: torch.device) -> Iterator[Callable[[], int]]:
    """The peak of what is trained inside, from before the network exists."""
    if here.type == "cuda":
        yield _peak_of(here)
        return
    with AllocatorTrace() as trace:
        yield lambda: trace.usage.peak_bytes


def unchanged(module: nn.Module, _x: Tensor) -> nn.Module:
    """The network as it is."""
    return module


def eager(game: Contest) -> contextlib.AbstractContextManager[Trained]:
    """Plain training."""
    return rival(game, unchanged, contextlib.nullcontext)


def rockmate(budget_bytes: int, module: nn.Module, x: Tensor) -> nn.Module:
    """Rockmate's version of a network, within a budget for its activations."""
    made: nn.Module = importlib.import_module("rockmate").Rockmate(module, x, budget_bytes)
    return made
