"""What a reduction is."""

from __future__ import annotations

from typing import Protocol, TypeVar

from ..plan import Plan
from ..problem import Problem

Inverse = TypeVar("Inverse")


class Reduction(Protocol[Inverse]):
    """One change of a problem and the way back; a frozen dataclass without state.

    For every valid plan of the problem that `apply` returns, `invert` returns a plan that is valid for
    the original problem.
    """

    def apply(self, problem: Problem) -> tuple[Problem, Inverse]:
        """The reduced problem, and what `invert` needs to know about the original."""
        ...

    def invert(self, plan: Plan, inverse: Inverse) -> Plan:
        """The plan of the original problem that a plan of the reduced problem stands for."""
        ...
