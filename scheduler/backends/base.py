"""What a backend is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import pulp


class Verdict(StrEnum):
    """What a solver found out about a program."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A verdict and, where the solver tells, a proven bound on the objective (minimization)."""

    verdict: Verdict
    bound: float | None


class Backend(Protocol):
    """A solver; values of the best solution found are left in the program's variables."""

    @property
    def name(self) -> str:
        """Name and version for the record."""
        ...

    def run(
        self,
        model: pulp.LpProblem,
        *,
        start: Mapping[pulp.LpVariable, float] | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool = False,
    ) -> Outcome:
        """Minimize; `start` is a known solution, `gap` an absolute distance to the bound to stop at.

        With `relaxed`, variables need not be whole: the optimum is then a bound and no plan.
        """
        ...
