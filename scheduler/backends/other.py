"""Any other solver that PuLP can drive, by PuLP's name for it."""

from __future__ import annotations

from dataclasses import dataclass

import pulp

from ..errors import UnknownName
from .base import Outcome, Report, Verdict
from .program import Floats, Program, model_of

# `sol_status`, not `status`, tells an incumbent from an optimum.
_VERDICTS = {
    pulp.LpSolutionOptimal: Verdict.OPTIMAL,
    pulp.LpSolutionIntegerFeasible: Verdict.FEASIBLE,
    pulp.LpSolutionInfeasible: Verdict.INFEASIBLE,
    pulp.LpSolutionNoSolutionFound: Verdict.UNKNOWN,
    pulp.LpSolutionUnbounded: Verdict.UNKNOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PulpSolver:
    """PuLP reports no bound for these solvers, so only a proven optimum gives one."""

    solver: str

    @property
    def name(self) -> str:
        """Name for the record."""
        return self.solver

    def run(
        self,
        program: Program,
        *,
        start: Floats | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool = False,
        report: Report | None = None,  # noqa: ARG002 (PuLP tells nothing before the end)
    ) -> Outcome:
        """Minimize the program to the solver's own gap; a start is used where the solver takes one."""
        available = tuple(pulp.listSolvers(onlyAvailable=True))
        if self.solver not in available:
            raise UnknownName("solver", self.solver, available)
        model, variables = model_of(program)
        if start is not None:
            for variable, value in zip(variables, start.tolist(), strict=True):
                variable.setInitialValue(value)
        solver = pulp.getSolver(
            self.solver,
            mip=not relaxed,
            msg=False,
            timeLimit=time_limit_s,
            warmStart=start is not None,
        )
        model.solve(solver)
        verdict = _VERDICTS[model.sol_status]
        bound = pulp.value(model.objective) - gap if verdict is Verdict.OPTIMAL else None
        found = verdict in (Verdict.OPTIMAL, Verdict.FEASIBLE)
        values = tuple(float(v.varValue) for v in variables) if found else None
        return Outcome(verdict=verdict, bound=bound, values=values)
