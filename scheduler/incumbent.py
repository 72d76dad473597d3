"""The best plan so far and the best bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .check import check
from .errors import InvalidPlan
from .plan import Plan
from .prefetch import least_j, prefetch
from .problem import Problem


@dataclass(slots=True, kw_only=True)
class Incumbent:
    """The best checked plan so far and the best bound; `reduced` is the problem that programs are of."""

    problem: Problem
    reduced: Problem
    invert: Callable[[Plan], Plan]
    on_plan: Callable[[Plan], None]
    plan: Plan | None = None
    start: Plan | None = None
    energy_j: float = float("inf")
    bound_j: float = field(init=False)

    def __post_init__(self) -> None:
        self.bound_j = self.problem.compute_once.energy_j

    def offer(self, plan: Plan) -> bool:
        """Take a plan of either problem if it is valid and better; says whether it was."""
        is_reduced = plan.graph_digest == self.reduced.graph.digest
        plan = replace(plan, budget=self.problem.budget)
        own = self.invert(plan) if is_reduced else plan
        try:
            check(own, without_deadline(self.problem))
            if least_j(own, self.problem) >= self.energy_j:
                return False
            own = prefetch(own, self.problem)
            energy_j = check(own, self.problem).energy_j
        except InvalidPlan:
            return False
        if energy_j >= self.energy_j:
            return False
        self.plan, self.energy_j = own, energy_j
        self.start = plan if is_reduced else None
        self.on_plan(own)
        return True

    def raise_bound(self, bound_j: float) -> None:
        """Note a proven bound."""
        self.bound_j = max(self.bound_j, bound_j)

    def start_for(self, problem: Problem) -> Plan | None:
        """The best plan as one of this problem, the original or the reduced one."""
        same = self.plan is not None and self.plan.graph_digest == problem.graph.digest
        return self.plan if same else self.start

    def is_within(self, gap: float) -> bool:
        """Whether the plan is proven to be this good."""
        return self.plan is not None and self.energy_j - self.bound_j <= gap * self.energy_j


def without_deadline(problem: Problem) -> Problem:
    """The problem with all the time that it takes."""
    return replace(problem, budget=replace(problem.budget, time_s=None))
