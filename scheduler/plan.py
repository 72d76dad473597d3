"""The plan: what is shipped and executed, one instruction after another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from .graph import digest
from .problem import Budget, Cost, CostTable

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Compute:
    """Run an operator: its inputs are resident, its outputs are not and become so."""

    operator: int


@dataclass(frozen=True, slots=True)
class Free:
    """Give up the tensor's RAM."""

    tensor: int


@dataclass(frozen=True, slots=True)
class PageOut:
    """Copy a resident tensor to the page store; it stays resident."""

    tensor: int


@dataclass(frozen=True, slots=True)
class PageIn:
    """Bring a tensor back from its copy in the page store; the copy stays valid."""

    tensor: int


Step = Compute | Free | PageOut | PageIn


NOTHING = Cost(time_s=0.0, energy_j=0.0)


def cost_of(step: Step, costs: CostTable) -> Cost:
    """What a step takes by itself."""
    # Plans have thousands of steps, and matching patterns takes three times as long.
    if isinstance(step, Free):
        return NOTHING
    if isinstance(step, Compute):
        return costs.operators[step.operator]
    return (costs.page_in if isinstance(step, PageIn) else costs.page_out)[step.tensor]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps of one training step for one graph and budget.

    `paged_at_start` are the persistent tensors that live in the page store between steps: they are
    there when the step begins and again when it ends. Every other persistent tensor and every input
    is resident when the step begins. A page copy of any other tensor is dropped after the plan's
    last PageIn of it.
    """

    graph_digest: str
    budget: Budget
    steps: tuple[Step, ...]
    paged_at_start: tuple[int, ...] = ()
    version: int = PLAN_VERSION

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan in hex."""
        steps = [
            [type(s).__name__, s.operator if isinstance(s, Compute) else s.tensor]
            for s in self.steps
        ]
        return digest(
            {
                "graph": self.graph_digest,
                "budget": self.budget,
                "steps": steps,
                "paged_at_start": self.paged_at_start,
                "version": self.version,
            }
        )


class Status(StrEnum):
    """OPTIMAL: no plan of this problem costs less, within the gap asked for. FEASIBLE: not proven."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A checked plan with its proof: `lower_bound_j` <= energy of any plan; `gap` is relative to the cost.

    `cut_short` says why the search ended before its time, where it did: Ctrl-C, a solver that crashed.
    """

    status: Status
    plan: Plan
    cost: Cost
    lower_bound_j: float
    gap: float
    wall_s: float
    backend: str
    cut_short: str | None = None
