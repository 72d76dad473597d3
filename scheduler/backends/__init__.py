"""Solvers of mixed-integer programs. Nothing outside this folder imports a solver package."""

from .base import Backend, Outcome, Report, Verdict, minimize
from .highs import Highs
from .isolated import Isolated, opened
from .other import PulpSolver, backend_named, installed
from .program import Program

__all__ = [
    "Backend",
    "Highs",
    "Isolated",
    "Outcome",
    "Program",
    "PulpSolver",
    "Report",
    "Verdict",
    "backend_named",
    "installed",
    "minimize",
    "opened",
]
