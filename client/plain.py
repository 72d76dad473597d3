"""Plain PyTorch in place of a plan: the same bits, and the plan's RAM, time and energy charged."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field

import torch

from scheduler import Plan

from .batch import Batch
from .capture import Loss
from .charge import StepCharge, step_charge
from .node import Node, PlanKey, plan_key
from .trainer import TrainReport, report

Charges = MutableMapping[PlanKey, StepCharge]
"""What a step costs on each kind of device, by what its plan depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plainly:
    """Trains with plain PyTorch, for simulations: a plan decides when things are computed, never what.

    A node whose charge is not among `charges` plans, and its charge is kept there.
    """

    charges: Charges = field(default_factory=dict)

    def ready(self, node: Node, known: Plan | None) -> Plan | None:
        """Plan unless the charge is known."""
        key = plan_key(node.settings)
        if key in self.charges:
            return None
        prepared = node.prepare(known)
        self.charges[key] = step_charge(prepared)
        return prepared.solution.plan

    def run(
        self,
        node: Node,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Batch],
    ) -> TrainReport:
        """Train without a budget, and charge the plan's."""
        losses = train_plainly(node.workload.loss, model, optimizer, batches)
        return report(self.charges[plan_key(node.settings)], losses)


def train_plainly(
    loss_of: Loss,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
) -> list[float]:
    """One plain training step per batch; returns their losses."""
    losses: list[float] = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses
