"""For devices that page beside compute: a problem in which paging takes less time, and takes it alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..plan import Plan
from ..problem import Cost, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial:
    """Charge the `exposed` share of each transfer's time one after another; the rest hides behind compute.

    How much hides depends on the order of the whole plan, which `prefetch` settles afterwards: with the
    right share the reduced problem's best plan is a good plan of the original. Plans are the same plans;
    their time is not, so that one which meets the reduced deadline may miss the real one. The identity
    where paging takes its time alone anyway.
    """

    exposed: float

    def apply(self, problem: Problem) -> tuple[Problem, None]:
        """The problem without overlap."""
        costs = problem.costs
        if not costs.overlap:
            return problem, None
        page_in = tuple(self._shorter(c) for c in costs.page_in)
        page_out = tuple(self._shorter(c) for c in costs.page_out)
        serial = replace(costs, page_in=page_in, page_out=page_out, overlap=False)
        return replace(problem, costs=serial), None

    def invert(self, plan: Plan, inverse: None) -> Plan:  # noqa: ARG002
        """The same plan."""
        return plan

    def _shorter(self, cost: Cost) -> Cost:
        return Cost(time_s=cost.time_s * self.exposed, energy_j=cost.energy_j)
