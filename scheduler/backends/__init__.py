"""Solvers of mixed-integer programs. Nothing outside this folder imports a solver package."""

from .base import Backend, Outcome, Verdict
from .highs import Highs
from .other import PulpSolver

__all__ = ["Backend", "Highs", "Outcome", "PulpSolver", "Verdict"]
