"""HiGHS, the default: called in process through PuLP, with a start and its proven bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import highspy
import pulp

from .base import Outcome, Verdict

# HiGHS's own word for how it ended, beside PuLP's sol_status, which tells whether a solution exists.
_ENDED = {
    highspy.HighsModelStatus.kOptimal: Verdict.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: Verdict.INFEASIBLE,
    highspy.HighsModelStatus.kUnboundedOrInfeasible: Verdict.INFEASIBLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Highs:
    """`threads` is fixed at the first solve of a process: HiGHS cannot change it afterwards."""

    threads: int | None = None
    seed: int = 0
    log: bool = False

    @property
    def name(self) -> str:
        """Name and version for the record."""
        return f"HiGHS {version('highspy')}"

    def run(
        self,
        model: pulp.LpProblem,
        *,
        start: Mapping[pulp.LpVariable, float] | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool = False,
    ) -> Outcome:
        """Minimize the program."""
        solver = _StartedHiGHS(
            start,
            mip=not relaxed,
            msg=self.log,
            threads=self.threads,
            timeLimit=time_limit_s,
            gapAbs=gap,
            gapRel=0.0,
            random_seed=self.seed,
        )
        model.solve(solver)
        highs: Any = model.solverModel
        ended = _ENDED.get(highs.getModelStatus())
        info = highs.getInfo()
        if relaxed:
            optimal = ended is Verdict.OPTIMAL
            return Outcome(
                verdict=ended or Verdict.UNKNOWN,
                bound=highs.getObjectiveValue() if optimal else None,
            )
        bound = float(info.mip_dual_bound)
        known = bound if math.isfinite(bound) else None
        if ended is Verdict.INFEASIBLE:
            return Outcome(verdict=ended, bound=None)
        if info.primal_solution_status != int(highspy.SolutionStatus.kSolutionStatusFeasible):
            return Outcome(verdict=Verdict.UNKNOWN, bound=known)
        return Outcome(verdict=ended or Verdict.FEASIBLE, bound=known)


class _StartedHiGHS(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS with a known solution handed over before the run, which PuLP 3.3 does not offer."""

    def __init__(self, start: Mapping[pulp.LpVariable, float] | None, **options: Any) -> None:
        super().__init__(**options)
        self._start = start

    def callSolver(self, lp: pulp.LpProblem) -> None:  # noqa: N802 (PuLP's name)
        if self._start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = [float(self._start.get(v, 0.0)) for v in lp.variables()]
            lp.solverModel.setSolution(solution)
        super().callSolver(lp)
