"""Train two copies of a model, one with plain PyTorch and one by a plan, and compare every bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from client.interpreter import Interpreter
from client.measure import with_workspace
from client.page_store import PageStore
from client.program import Traced
from client.trace import trace
from scheduler import Budget, Plan, Problem, cost_table, keep_all, load_device, replay

Batch = tuple[Tensor, Tensor]
Builder = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
LOSS = nn.functional.cross_entropy
PLENTY = 10**9


def recording(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The optimizer class, changed to note every gradient that it is given."""

    class Recording(kind):  # type: ignore[valid-type, misc]
        notes: list[Tensor] = []  # noqa: RUF012

        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self.notes.append(parameter.grad.clone())
            return super().step(closure)

    return Recording


@dataclass
class Outcome:
    """Everything a few training steps leave behind."""

    losses: list[float] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    generator: Tensor = field(default_factory=lambda: torch.empty(0))
    peaks: list[int] = field(default_factory=list)


def outcome(module: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> Outcome:
    names = {p: n for n, p in module.named_parameters()}
    state = {
        f"{names[p]} {key}": value.clone() if isinstance(value, Tensor) else value
        for p, held in optimizer.state.items()
        for key, value in held.items()
    }
    tensors = {k: v.clone() for k, v in module.state_dict().items()}
    return Outcome(
        losses=losses, tensors=tensors, state=state, generator=torch.get_rng_state().clone()
    )


def train_plainly(
    module: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch]
) -> Outcome:
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = LOSS(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return outcome(module, optimizer, losses)


@dataclass
class Twin:
    """A model before training, its optimizer, its batches, and the traced step."""

    module: nn.Module
    build: Builder
    batches: list[Batch]
    traced: Traced
    seed: int = 7

    @classmethod
    def of(cls, kind: type[nn.Module], build: Builder, steps: int = 3) -> Twin:
        from tests.client.models import batch

        torch.manual_seed(3)
        module = kind()
        module.train()
        generator = torch.Generator().manual_seed(5)
        batches = [batch(kind.shape, generator) for _ in range(steps)]  # type: ignore[attr-defined]
        optimizer = build(module.parameters())
        traced = trace(module, LOSS, optimizer, batches[0])
        traced = with_workspace(traced, module, optimizer)
        return cls(module=module, build=build, batches=batches, traced=traced)

    def problem(self, ram_bytes: int = PLENTY) -> Problem:
        costs = cost_table(self.traced.graph, load_device("raspberry-pi-4b"))
        return Problem(graph=self.traced.graph, costs=costs, budget=Budget(ram_bytes=ram_bytes))

    def fitted(self, plan: Plan, spare_bytes: int = 0) -> tuple[Problem, Plan]:
        """The plan with the least budget that allows it, and some to spare."""
        problem = self.problem(replay(plan, self.problem()).peak_bytes + spare_bytes)
        return problem, replace(plan, budget=problem.budget)

    def plainly(self) -> Outcome:
        module, optimizer = self.fresh()
        return train_plainly(module, optimizer, self.batches)

    def by_plan(
        self, plan: Plan, folder: Path, traced: Traced | None = None, spare_bytes: int = 0
    ) -> Outcome:
        problem, plan = self.fitted(plan, spare_bytes)
        module, optimizer = self.fresh()
        losses, peaks = [], []
        with (
            PageStore(folder / "pages") as store,
            Interpreter(
                traced or self.traced, problem, plan, store, module, optimizer, measure_every=True
            ) as step,
        ):
            for x, y in self.batches:
                step.measured_peak_bytes = 0
                losses.append(step(x, y))
                peaks.append(step.measured_peak_bytes)
        found = outcome(module, optimizer, losses)
        found.peaks = peaks
        return found

    def fresh(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        module = copy.deepcopy(self.module)
        optimizer = self.build(module.parameters())
        torch.manual_seed(self.seed)
        return module, optimizer

    def keep_all(self) -> Plan:
        return keep_all(self.problem())


def require_same(one: Outcome, other: Outcome) -> None:
    assert one.losses == other.losses
    assert torch.equal(one.generator, other.generator)
    for left, right in ((one.tensors, other.tensors), (one.state, other.state)):
        assert left.keys() == right.keys()
        for name, value in left.items():
            same = torch.equal if isinstance(value, Tensor) else (lambda a, b: a == b)
            assert same(value, right[name]), name
