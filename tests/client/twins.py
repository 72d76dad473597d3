"""Train two copies of a model, one with plain PyTorch and one by a plan, and compare every bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.outcomes import Outcome, differences, outcome
from client.host_store import HostStore
from client.interpreter import EVERY_STEP, Interpreter
from client.measure import with_workspace
from client.page_store import PageStore
from client.program import Traced
from client.trace import trace
from scheduler import Budget, Plan, Problem, cost_table, keep_all, load_device, replay

Batch = tuple[Tensor, Tensor]
Builder = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
LOSS = nn.functional.cross_entropy
PLENTY = 10**9


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
        self,
        plan: Plan,
        folder: Path,
        traced: Traced | None = None,
        spare_bytes: int = 0,
        pages: PageStore | HostStore | None = None,
    ) -> Outcome:
        problem, plan = self.fitted(plan, spare_bytes)
        module, optimizer = self.fresh()
        losses, peaks = [], []
        with (
            pages or PageStore(folder / "pages") as store,
            Interpreter(
                traced or self.traced,
                problem,
                plan,
                store,
                module,
                optimizer,
                measured_steps=EVERY_STEP,
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
    assert list(differences(one, other)) == []
