"""Plain PyTorch in place of a plan: the same bits, and the plan's RAM, time and energy charged."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field

import torch

from scheduler import Plan

from .batch import Batch, tensors_in
from .charge import StepCharge, step_charge
from .node import Node, PlanKey, plan_key
from .recorded import RecordedStep
from .trainer import TrainReport, report

Layouts = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
"""Shape, strides and type of a batch's tensors."""

Charges = MutableMapping[PlanKey, StepCharge]
"""What a step costs on each kind of device, by what its plan depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plainly:
    """Trains with plain PyTorch, for simulations: a plan decides when things are computed, never what.

    A node whose charge is not among `charges` plans, and its charge is kept there. `steps` are the
    training steps that this process has recorded.
    """

    charges: Charges = field(default_factory=dict)
    steps: MutableMapping[tuple[str, Layouts], RecordedStep] = field(default_factory=dict)

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
        losses: list[float] = []
        layouts: Layouts = ()
        for batch in batches:
            tensors = _tensors(batch)
            if layouts != (layouts := _layouts(tensors)):
                step = self._recorded(node, model, optimizer, batch).bind(model)
                update = step.update(optimizer)
            loss, gradients = step(tensors)
            update(gradients)
            losses.append(loss.item())
        return report(self.charges[plan_key(node.settings)], losses)

    def _recorded(
        self, node: Node, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch
    ) -> RecordedStep:
        key = node.settings.workload, _layouts(_tensors(batch))
        if key not in self.steps:
            self.steps[key] = RecordedStep(model, node.workload.loss, optimizer, batch)
        return self.steps[key]


def _tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
    x, y = batch
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return x, y
    return tuple(tensors_in(batch).values())


def _layouts(tensors: Iterable[torch.Tensor]) -> Layouts:
    return tuple([(t.shape, t.stride(), t.dtype) for t in tensors])
