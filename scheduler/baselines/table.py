"""Every baseline by name. Apart from the package's `__init__`, because two of them call `solve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from ..check import is_valid
from ..plan import Plan
from ..problem import Problem
from .capuchin import capuchin
from .checkmate import checkmate
from .chen import chen
from .dtr import dtr
from .paging import paging
from .plain import keep_all, page_all
from .pofo import pofo


class Baseline(Protocol):
    """A plan that passes `check`, or None where this way of planning finds none within the budget."""

    def __call__(self, problem: Problem, *, time_limit_s: float = 60.0) -> Plan | None:
        """`time_limit_s` is for those that call a solver."""
        ...


def _checked(make: Callable[[Problem], Plan | None]) -> Baseline:
    """The baseline of a function that calls no solver."""

    def baseline(problem: Problem, *, time_limit_s: float = 60.0) -> Plan | None:
        del time_limit_s
        plan = make(problem)
        return plan if plan is not None and is_valid(plan, problem) else None

    return baseline


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "keep-all": _checked(keep_all),
        "page-all": _checked(page_all),
        "chen": _checked(chen),
        "checkmate": checkmate,
        "paging": paging,
        "dtr": _checked(dtr),
        "capuchin": _checked(capuchin),
        "pofo": _checked(pofo),
    }
)
