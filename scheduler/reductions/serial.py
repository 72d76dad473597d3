"""For devices that page beside compute: a problem in which paging takes less time, and takes it alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..floor import floor
from ..plan import Plan
from ..problem import Cost, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial:
    """Charge the `exposed` share of each transfer's time one after another; the rest hides behind compute.

    How much hides depends on the order of the whole plan, which `prefetch` settles afterwards. It needs
    RAM to bring tensors back early: of what the budget has above the floor, only the share `room` is
    left to the reduced problem. With the right shares that problem's best plan is a good plan of the
    original. Plans are the same plans; their time is not, so that one which meets the reduced deadline
    may miss the real one. The identity where paging takes its time alone anyway.
    """

    exposed: float
    room: float

    def apply(self, problem: Problem) -> tuple[Problem, None]:
        """The problem without overlap."""
        costs, budget = problem.costs, problem.budget
        if not costs.overlap:
            return problem, None
        page_in = tuple(self._shorter(c) for c in costs.page_in)
        page_out = tuple(self._shorter(c) for c in costs.page_out)
        serial = replace(costs, page_in=page_in, page_out=page_out, overlap=False)
        least_bytes = floor(problem).ram_bytes
        ram_bytes = least_bytes + round(self.room * max(budget.ram_bytes - least_bytes, 0))
        return replace(problem, costs=serial, budget=replace(budget, ram_bytes=ram_bytes)), None

    def invert(self, plan: Plan, inverse: None) -> Plan:  # noqa: ARG002
        """The same plan."""
        return plan

    def _shorter(self, cost: Cost) -> Cost:
        return Cost(time_s=cost.time_s * self.exposed, energy_j=cost.energy_j)
