"""Other solvers, through PuLP: CBC, SCIP and Gurobi by name, any other of PuLP's with fewer promises."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np
import pulp

from ..errors import UnknownName
from .base import Backend, Outcome, Report, Verdict
from .highs import Highs
from .program import Floats, Program, model_of

# How a solver says that it ended, and its proven bound where it has one.
_Ended: TypeAlias = tuple[Verdict, float | None]

# Gurobi's own numbers: OPTIMAL, INFEASIBLE and INF_OR_UNBD (every variable has bounds), INFINITY.
_GUROBI_OPTIMAL = 2
_GUROBI_INFEASIBLE = (3, 4)
_GUROBI_INFINITY = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manner:
    """How a solver is made, and how it says what it found; `package` is whose version it has.

    `optimum_is_bound`: it proves its optimum within the gap it was given, so that gives a bound.
    """

    package: str
    is_there: Callable[[], bool]
    make: Callable[..., Any]
    gap: Callable[[float], Mapping[str, float | bool]]
    ended: Callable[[pulp.LpProblem], _Ended]
    optimum_is_bound: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PulpSolver:
    """`solver` is cbc, scip, gurobi or PuLP's name of another. Raises UnknownName if it is not there."""

    solver: str

    def __post_init__(self) -> None:
        if not _manner(self.solver).is_there():
            raise UnknownName("solver", self.solver, installed())

    @property
    def name(self) -> str:
        """Name and version for the record."""
        package = _manner(self.solver).package
        through = " through PuLP" if package == "pulp" else ""
        return f"{self.solver}{through} {version(package)}"

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
        """Minimize the program; a solver that fails, for want of a licence say, has found nothing."""
        manner = _manner(self.solver)
        if relaxed:  # not every solver can be told to relax a program
            program = replace(program, integer=np.zeros_like(program.integer))
        model, variables = model_of(program)
        if start is not None:
            # PuLP refuses a value that misses a bound by rounding.
            inside = np.clip(start, program.lower, program.upper)
            for variable, value in zip(variables, inside.tolist(), strict=True):
                variable.setInitialValue(value)
        options: dict[str, Any] = {"msg": False, "timeLimit": time_limit_s, **manner.gap(gap)}
        if start is not None:
            options["warmStart"] = True
        try:
            model.solve(manner.make(**options))
            verdict, bound = manner.ended(model)
        except Exception as error:  # noqa: BLE001 (every solver raises errors of its own kind)
            why = f"{self.solver} failed: {type(error).__name__}: {error}"
            return Outcome(verdict=Verdict.UNKNOWN, bound=None, cut_short=why)
        if verdict not in (Verdict.OPTIMAL, Verdict.FEASIBLE):
            return Outcome(verdict=verdict, bound=bound)
        values = np.array([v.varValue for v in variables], dtype=np.float64)
        if not program.admits(values):  # NaN for a variable without a value, too
            return Outcome(verdict=Verdict.UNKNOWN, bound=bound)
        if bound is None and verdict is Verdict.OPTIMAL and manner.optimum_is_bound:
            bound = float(np.dot(program.cost, values)) - gap
        return Outcome(verdict=verdict, bound=bound, values=tuple(values.tolist()))


def installed() -> tuple[str, ...]:
    """Names of the solvers that can be used here, best known first."""
    known = tuple(name for name, manner in _MANNERS.items() if manner.is_there())
    ours = {"PULP_CBC_CMD", "COIN_CMD", "SCIP_PY", "GUROBI", "HiGHS"}
    return ("highs", *known, *(n for n in pulp.listSolvers(onlyAvailable=True) if n not in ours))


def backend_named(name: str) -> Backend:
    """The solver of that name: highs, cbc, scip, gurobi or PuLP's name of another.

    Raises UnknownName with the names of those that are installed.
    """
    return Highs() if name.lower() == "highs" else PulpSolver(solver=name)


# ---- how each solver is asked and what it tells


def _bundled_cbc() -> str | None:
    """The CBC inside PuLP 3; PuLP 4 has none, and finds the one that `pip install pulp[cbc]` brings."""
    return getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)


def _make_cbc(**options: Any) -> Any:
    return pulp.COIN_CMD(path=_bundled_cbc(), **options)


def _cbc_is_there() -> bool:
    return bool(_make_cbc(msg=False).available())


def _found_by(package: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(package) is not None


def _cbc_ended(model: pulp.LpProblem) -> _Ended:
    """CBC's "Integer infeasible" reaches us as a status only."""
    if model.status == pulp.LpStatusInfeasible:
        return Verdict.INFEASIBLE, None
    return _pulp_ended(model)


def _scip_ended(model: pulp.LpProblem) -> _Ended:
    """Every variable has bounds, so "infeasible or unbounded" is infeasible."""
    scip: Any = model.solverModel
    if scip.getStatus() in ("infeasible", "inforunbd"):
        return Verdict.INFEASIBLE, None
    bound = scip.getDualbound()
    known = bound if abs(bound) < scip.infinity() else None
    if scip.getNSols() == 0:
        return Verdict.UNKNOWN, known
    done = scip.getStatus() in ("optimal", "gaplimit")
    return Verdict.OPTIMAL if done else Verdict.FEASIBLE, known


def _gurobi_ended(model: pulp.LpProblem) -> _Ended:
    """PuLP 3.3 calls an incumbent at the time limit "not solved"; Gurobi itself knows better."""
    gurobi: Any = model.solverModel
    if gurobi.Status in _GUROBI_INFEASIBLE:
        return Verdict.INFEASIBLE, None
    optimal = gurobi.Status == _GUROBI_OPTIMAL
    bound = gurobi.ObjBound if gurobi.IsMIP or optimal else -_GUROBI_INFINITY
    known = bound if abs(bound) < _GUROBI_INFINITY else None
    if gurobi.SolCount == 0:
        return Verdict.UNKNOWN, known
    return Verdict.OPTIMAL if optimal else Verdict.FEASIBLE, known


def _pulp_ended(model: pulp.LpProblem) -> _Ended:
    """`sol_status`, not `status`, tells an incumbent from an optimum."""
    told = {
        pulp.LpSolutionOptimal: Verdict.OPTIMAL,
        pulp.LpSolutionIntegerFeasible: Verdict.FEASIBLE,
        pulp.LpSolutionInfeasible: Verdict.INFEASIBLE,
    }
    return told.get(model.sol_status, Verdict.UNKNOWN), None


_MANNERS: Mapping[str, _Manner] = {
    "cbc": _Manner(
        package="pulp",
        is_there=_cbc_is_there,
        make=_make_cbc,
        gap=lambda gap: {"gapAbs": gap, "gapRel": 0.0},
        ended=_cbc_ended,
    ),
    "scip": _Manner(
        package="pyscipopt",
        is_there=_found_by("pyscipopt"),
        make=pulp.SCIP_PY,
        gap=lambda gap: {"gapAbs": gap, "gapRel": 0.0},
        ended=_scip_ended,
    ),
    "gurobi": _Manner(
        package="gurobipy",
        is_there=_found_by("gurobipy"),
        make=pulp.GUROBI,
        # PuLP leaves out a relative gap of 0, so it goes by Gurobi's own name.
        gap=lambda gap: {"MIPGapAbs": gap, "MIPGap": 0.0, "manageEnv": True},
        ended=_gurobi_ended,
    ),
}


def _manner(solver: str) -> _Manner:
    """Of a solver that is not known here, nothing is known of its gap: its optimum gives no bound."""
    return _MANNERS.get(solver.lower()) or _Manner(
        package="pulp",
        is_there=lambda: solver in pulp.listSolvers(onlyAvailable=True),
        make=lambda **options: _make_other(solver, options),
        gap=lambda _: {},
        ended=_pulp_ended,
        optimum_is_bound=False,
    )


def _make_other(solver: str, options: dict[str, Any]) -> Any:
    """With the options that it takes: some know nothing of a start, a few of no time limit."""
    takes = inspect.signature(type(pulp.getSolver(solver, msg=False)).__init__).parameters
    return pulp.getSolver(solver, **{name: o for name, o in options.items() if name in takes})
