"""HiGHS, the default: called in process, with a start, and telling what it finds while it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import highspy
import numpy as np

from .base import Outcome, Report, Verdict
from .program import Floats, Program

_ENDED = {
    highspy.HighsModelStatus.kOptimal: Verdict.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: Verdict.INFEASIBLE,
    highspy.HighsModelStatus.kUnboundedOrInfeasible: Verdict.INFEASIBLE,
}


# Sums of a solution's costs differ by so much, at most, from what HiGHS says.
_ROUNDING = 1e-6


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
        program: Program,
        *,
        start: Floats | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool = False,
        report: Report | None = None,
    ) -> Outcome:
        """Minimize the program; once more without the start where HiGHS has misread it.

        HiGHS 1.16 may take a start for cheaper than it is, and then stops at once and calls it optimal.
        """
        outcome, took_s = self._run(program, start, time_limit_s, gap, relaxed, report)
        left_s = time_limit_s - took_s
        if start is None or left_s <= 0.0 or not _contradicts_itself(program, outcome, gap):
            return outcome
        again, _ = self._run(program, None, left_s, gap, relaxed, report)
        return again if again.values is not None else outcome

    def _run(
        self,
        program: Program,
        start: Floats | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool,
        report: Report | None,
    ) -> tuple[Outcome, float]:
        """The outcome, and the seconds it took."""
        highs = highspy.Highs()  # type: ignore[no-untyped-call]
        options: dict[str, Any] = {
            "output_flag": self.log,
            "time_limit": time_limit_s,
            "mip_abs_gap": gap,
            "mip_rel_gap": 0.0,
            "random_seed": self.seed,
        }
        if self.threads is not None:
            options["threads"] = self.threads
        for option, value in options.items():
            highs.setOptionValue(option, value)
        highs.passModel(_lp(program, relaxed))
        if start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = start.tolist()
            highs.setSolution(solution)
        if report is not None and not relaxed:
            _subscribe(highs, report)
        highs.run()
        outcome = _relaxed_outcome(highs) if relaxed else _outcome(highs)
        return outcome, highs.getRunTime()


def _contradicts_itself(program: Program, outcome: Outcome, gap: float) -> bool:
    """Whether a solution is called optimal that is farther from its own bound than the gap."""
    if outcome.verdict is not Verdict.OPTIMAL or outcome.values is None or outcome.bound is None:
        return False
    cost = float(np.dot(program.cost, outcome.values))
    return cost - outcome.bound > gap + _ROUNDING * max(1.0, abs(cost))


def _lp(program: Program, relaxed: bool) -> highspy.HighsLp:
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = program.columns, program.rows
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = program.cost, program.lower, program.upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = program.row_start
    lp.a_matrix_.index_ = program.column
    lp.a_matrix_.value_ = program.factor
    if not relaxed:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[whole] for whole in program.integer.tolist()]
    return lp


def _subscribe(highs: highspy.Highs, report: Report) -> None:
    """Have HiGHS report each better solution and each better bound."""
    best = -math.inf

    def improved(event: Any) -> None:
        values = tuple(np.asarray(event.data_out.mip_solution).tolist())
        report(Outcome(verdict=Verdict.FEASIBLE, bound=None, values=values))

    def went_on(event: Any) -> None:
        nonlocal best
        bound = event.data_out.mip_dual_bound
        if bound > best and math.isfinite(bound):
            best = bound
            report(Outcome(verdict=Verdict.UNKNOWN, bound=bound))

    highs.cbMipImprovingSolution.subscribe(improved)
    # Called some hundred times a second, and never for the smaller programs that heuristics solve.
    highs.cbMipInterrupt.subscribe(went_on)


def _relaxed_outcome(highs: highspy.Highs) -> Outcome:
    ended = _ENDED.get(highs.getModelStatus(), Verdict.UNKNOWN)
    if ended is not Verdict.OPTIMAL:
        return Outcome(verdict=ended, bound=None)
    values = tuple(highs.getSolution().col_value)
    return Outcome(verdict=ended, bound=highs.getObjectiveValue(), values=values)


def _outcome(highs: highspy.Highs) -> Outcome:
    """A solution exists or not, whatever HiGHS says of how it ended."""
    ended = _ENDED.get(highs.getModelStatus())
    info = highs.getInfo()
    bound = _finite(float(info.mip_dual_bound))
    if ended is Verdict.INFEASIBLE:
        return Outcome(verdict=ended, bound=None)
    if info.primal_solution_status != int(highspy.SolutionStatus.kSolutionStatusFeasible):
        return Outcome(verdict=Verdict.UNKNOWN, bound=bound)
    values = tuple(highs.getSolution().col_value)
    return Outcome(verdict=ended or Verdict.FEASIBLE, bound=bound, values=values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
