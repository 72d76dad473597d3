"""What a backend is asked and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeAlias

import numpy as np
import pulp

from .program import Floats, Program, program_of


class Verdict(StrEnum):
    """What a solver found out about a program."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A verdict, a proven bound on the objective where the solver tells, and the best values found.

    `cut_short` says why the solver ended before its time, where it did: it crashed, hung or was
    interrupted. `interrupted` means that the user wants the best plan now: call no solver again.
    """

    verdict: Verdict
    bound: float | None
    values: tuple[float, ...] | None = None
    cut_short: str | None = None
    interrupted: bool = False

    def joined(self, news: Outcome) -> Outcome:
        """Both together; of two solutions the newer one, since solvers report improving ones."""
        bounds = [b for b in (self.bound, news.bound) if b is not None]
        values = self.values if news.values is None else news.values
        unproven = values is not None and news.verdict is Verdict.UNKNOWN
        verdict = Verdict.FEASIBLE if unproven else news.verdict
        return replace(news, verdict=verdict, bound=max(bounds, default=None), values=values)


# Called while a solver runs, with what it has just found: better values, a better bound or both.
Report: TypeAlias = Callable[[Outcome], None]


class Backend(Protocol):
    """A solver of programs."""

    @property
    def name(self) -> str:
        """Name and version for the record."""
        ...

    def run(
        self,
        program: Program,
        *,
        start: Floats | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool = False,
        report: Report | None = None,
    ) -> Outcome:
        """Minimize; `start` is a known solution, `gap` an absolute distance to the bound to stop at.

        With `relaxed`, variables need not be whole: the optimum is then a bound and no plan.
        """
        ...


def minimize(
    backend: Backend,
    model: pulp.LpProblem,
    *,
    start: Mapping[pulp.LpVariable, float] | None,
    time_limit_s: float,
    gap: float,
    relaxed: bool = False,
) -> Outcome:
    """Run a backend on a program written in PuLP; the values found are left in its variables.

    Writing it as arrays counts towards the time limit.
    """
    began_s = time.monotonic()
    variables = model.variables()
    program = program_of(model, variables)
    if not variables:
        return _judged(program)
    known = None if start is None else np.array([start.get(v, 0.0) for v in variables], dtype=float)
    outcome = backend.run(
        program,
        start=known,
        time_limit_s=max(time_limit_s - (time.monotonic() - began_s), 0.0),
        gap=gap,
        relaxed=relaxed,
    )
    for variable, value in zip(variables, outcome.values or (None,) * len(variables), strict=True):
        variable.varValue = value
    return outcome


def _judged(program: Program) -> Outcome:
    """Solvers disagree on programs without variables, so none is asked: each row holds or it does not."""
    if np.all(program.row_lower <= 0.0) and np.all(program.row_upper >= 0.0):
        return Outcome(verdict=Verdict.OPTIMAL, bound=0.0, values=())
    return Outcome(verdict=Verdict.INFEASIBLE, bound=None)
